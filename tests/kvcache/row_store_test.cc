#include "kvcache/row_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"

namespace turboquant {
namespace {

constexpr uint32_t kSeed = 9;

StoreShape SmallShape() {
  StoreShape s;
  s.width = 128;
  s.head_dim = 64;
  s.cells = 512;
  s.format = Format::kTurbo4;
  s.sink = 4;
  s.tail = 64;
  s.page = 64;
  s.center = true;
  return s;
}

// A store with its own memory and rotation.
struct Owned {
  explicit Owned(const StoreShape& shape, uint32_t seed = kSeed,
                 const KernelTable* kernels = &BestKernels())
      : memory(RowStore::BlockBytes(shape) + 128, 0xEE), rotation(shape.head_dim, seed) {
    auto* base = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) &
                                            ~uintptr_t{63});
    begin = base;
    std::memset(base, 0, RowStore::BlockBytes(shape));
    store.Bind(shape, base, &rotation, seed, kernels);
  }
  std::vector<uint8_t> Block() const {
    return {begin, begin + RowStore::BlockBytes(store.shape())};
  }
  std::vector<uint8_t> memory;
  uint8_t* begin;
  Rotation rotation;
  RowStore store;
};

class Rows {
 public:
  explicit Rows(int width, uint64_t seed = 1) : width_(width), rng_(seed) {}
  // A random row with a strong common mean, as key-bias models have it.
  std::vector<uint16_t> Next(float mean = 4.0f) {
    std::vector<uint16_t> row(width_);
    for (int i = 0; i < width_; ++i) {
      row[i] = FloatToHalf(static_cast<float>(rng_.Normal() + mean * std::cos(1.3 * i)));
    }
    return row;
  }
  std::vector<std::vector<uint16_t>> Many(int n) {
    std::vector<std::vector<uint16_t>> rows;
    for (int i = 0; i < n; ++i) rows.push_back(Next());
    return rows;
  }

 private:
  int width_;
  SplitMix64 rng_;
};

void AppendFrom(RowStore* store, int first_cell, const std::vector<std::vector<uint16_t>>& rows,
                int chunk) {
  for (size_t i = 0; i < rows.size(); i += chunk) {
    std::vector<NewRow> batch;
    for (size_t j = i; j < std::min(rows.size(), i + chunk); ++j) {
      batch.push_back({first_cell + static_cast<int>(j), rows[j].data()});
    }
    store->Append(batch.data(), static_cast<int>(batch.size()));
  }
}

double RelativeError(const RowStore& store, int cell, const std::vector<uint16_t>& row) {
  std::vector<float> got(row.size());
  store.ReadRow(cell, got.data());
  double error = 0, norm = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double want = HalfToFloat(row[i]);
    error += (got[i] - want) * (got[i] - want);
    norm += want * want;
  }
  return error / norm;
}

bool IsExact(const RowStore& store, int cell, const std::vector<uint16_t>& row) {
  const uint16_t* values = store.ExactRow(cell);
  return values != nullptr && std::memcmp(values, row.data(), row.size() * 2) == 0;
}

TEST(RowStore, NewestAndFirstRowsStayExactTheOthersAreCoded) {
  for (int chunk : {1, 7, 64, 300}) {
    SCOPED_TRACE(chunk);
    Owned o(SmallShape());
    Rows source(128);
    const auto rows = source.Many(300);
    AppendFrom(&o.store, 0, rows, chunk);
    std::vector<NewRow> exact;
    o.store.ListExact(&exact);
    ASSERT_EQ(exact.size(), 4u + 64u);
    for (int c = 0; c < 300; ++c) {
      const bool want_exact = c < 4 || c >= 300 - 64;
      EXPECT_EQ(o.store.ExactRow(c) != nullptr, want_exact) << c;
      if (want_exact) {
        EXPECT_TRUE(IsExact(o.store, c, rows[c])) << c;
      } else {
        const double error = RelativeError(o.store, c, rows[c]);
        EXPECT_GT(error, 0.0) << c;
        EXPECT_LT(error, 0.01) << c;  // 4 bits, centred: well below 0.0096
      }
    }
  }
}

TEST(RowStore, CentringTakesTheCommonMeanOutOfTheError) {
  StoreShape shape = SmallShape();
  double error[2];
  for (bool center : {false, true}) {
    shape.center = center;
    Owned o(shape);
    Rows source(128);
    const auto rows = source.Many(300);
    AppendFrom(&o.store, 0, rows, 1);
    error[center] = 0;
    for (int c = 8; c < 200; ++c) error[center] += RelativeError(o.store, c, rows[c]) / 192;
  }
  // Energy 1 + 16/2 with the mean, 1 without: the error falls by that factor.
  EXPECT_LT(error[1], error[0] / 6);
}

TEST(RowStore, RowsAppendedOneByOneOrAtOnceGiveTheSameState) {
  // The mean of a page is taken from the rows at hand, so chunks change it; uncentred they cannot.
  StoreShape shape = SmallShape();
  shape.center = false;
  Owned a(shape), b(shape);
  Rows source(128);
  const auto rows = source.Many(300);
  AppendFrom(&a.store, 0, rows, 1);
  AppendFrom(&b.store, 0, rows, 300);
  std::vector<uint16_t> x(128), y(128);
  for (int c = 0; c < 300; ++c) {
    a.store.ReadRow(c, x.data());
    b.store.ReadRow(c, y.data());
    EXPECT_EQ(x, y) << c;
  }
}

TEST(RowStore, NeverWrittenCellsReadAsZeros) {
  Owned o(SmallShape());
  std::vector<float> row(128, 1.0f);
  o.store.ReadRow(77, row.data());
  for (float x : row) EXPECT_EQ(x, 0.0f);
  EXPECT_TRUE(o.store.EmptyCell(77));
}

TEST(RowStore, OverwritingACellReplacesItWhereverItIs) {
  Owned o(SmallShape());
  Rows source(128);
  auto rows = source.Many(300);
  AppendFrom(&o.store, 0, rows, 32);
  for (int cell : {2, 100, 295}) {  // a sink, a coded row, a row of the window
    rows[cell] = source.Next();
    const NewRow row{cell, rows[cell].data()};
    o.store.Append(&row, 1);
    EXPECT_TRUE(IsExact(o.store, cell, rows[cell])) << cell;
  }
  std::vector<NewRow> exact;
  o.store.ListExact(&exact);
  std::set<int> cells;
  for (const NewRow& e : exact) EXPECT_TRUE(cells.insert(e.cell).second) << "twice: " << e.cell;
  EXPECT_EQ(cells.size(), 68u);
}

TEST(RowStore, ACellTwiceInOneAppendKeepsTheLastRow) {
  for (int tail : {0, 64}) {
    StoreShape shape = SmallShape();
    shape.tail = tail;
    Owned o(shape);
    Rows source(128);
    const auto rows = source.Many(200);
    std::vector<NewRow> batch;
    for (int i = 0; i < 199; ++i) batch.push_back({10 + i, rows[i].data()});
    batch.push_back({12, rows[199].data()});  // has left the window by now
    o.store.Append(batch.data(), 200);
    EXPECT_LT(RelativeError(o.store, 12, rows[199]), 0.01);
  }
}

TEST(RowStore, RowsOutsideTheCacheAreIgnored) {
  Owned o(SmallShape());
  Rows source(128);
  const auto row = source.Next();
  const NewRow bad[] = {{-1, row.data()}, {512, row.data()}, {1 << 30, row.data()}};
  o.store.Append(bad, 3);
  std::vector<NewRow> exact;
  o.store.ListExact(&exact);
  EXPECT_TRUE(exact.empty());
}

TEST(RowStore, BareCodecCodesEverything) {
  StoreShape shape = SmallShape();
  shape.sink = shape.tail = 0;
  shape.center = false;
  Owned o(shape);
  Rows source(128);
  const auto rows = source.Many(40);
  AppendFrom(&o.store, 0, rows, 1);
  for (int c = 0; c < 40; ++c) {
    EXPECT_EQ(o.store.ExactRow(c), nullptr);
    EXPECT_LT(RelativeError(o.store, c, rows[c]), 0.013) << c;
  }
  // Exactly codes and scales, and the 64-byte header.
  EXPECT_EQ(RowStore::BlockBytes(shape), 64u + 512u * 2 * (2 + 32));
}

// Rows are encoded in batches; which ones share a batch, a table or a thread must not show.
TEST(RowStore, EveryFormatHasTheBytesOfTheScalarTableHoweverRowsArrive) {
  for (Format format : kFormats) {
    if (!IsCoded(format)) continue;
    StoreShape shape = SmallShape();
    shape.width = 192;  // three heads: a batch of four ends inside a row
    shape.format = format;
    Rows source(192);
    const auto rows = source.Many(180);
    Owned truth(shape, kSeed, &ScalarKernels());
    AppendFrom(&truth.store, 0, rows, 60);
    for (int chunk : {1, 7, 60, 180}) {
      Owned o(shape);
      AppendFrom(&o.store, 0, rows, chunk);
      if (chunk != 60) {  // a mean is taken from the rows at hand: others with other chunks
        Owned same(shape, kSeed, &ScalarKernels());
        AppendFrom(&same.store, 0, rows, chunk);
        ASSERT_EQ(o.Block(), same.Block()) << FormatName(format) << " by " << chunk;
      } else {
        ASSERT_EQ(o.Block(), truth.Block()) << FormatName(format);
      }
    }
  }
}

TEST(RowStore, JobsInAnyOrderGiveTheSameBlock) {
  StoreShape shape = SmallShape();
  shape.width = 192;
  shape.format = Format::kTurbo3t;
  Rows source(192);
  const auto rows = source.Many(180);
  std::vector<NewRow> batch;
  for (int c = 0; c < 180; ++c) batch.push_back({c, rows[c].data()});
  Owned forward(shape), backward(shape);
  forward.store.Append(batch.data(), 180);
  backward.store.PlanAppend(batch.data(), 180);
  ASSERT_EQ(backward.store.jobs(), (180 - 4 - 64) * 3 / 4);
  for (int j = backward.store.jobs() - 1; j >= 0; --j) backward.store.EncodeJob(j);
  backward.store.CommitAppend();
  EXPECT_EQ(forward.Block(), backward.Block());
}

// Their records have no room for whole bytes of a mean: it travels in half bytes, and stays exact.
TEST(RowStore, CentredRowsOfEightBitsTravelWithTheirMean) {
  StoreShape shape = SmallShape();
  shape.format = Format::kTurbo8;
  ASSERT_TRUE(SupportedShape(shape));
  Owned a(shape), foreign(shape, kSeed + 1);
  Rows source(128);
  const auto rows = source.Many(300);
  AppendFrom(&a.store, 0, rows, 16);
  std::vector<uint8_t> records(300 * 256);
  for (int c = 0; c < 300; ++c) a.store.ExportRow(c, &records[c * 256]);
  const auto average = [&rows](const RowStore& store) {
    double sum = 0;
    for (int c = 4; c < 230; ++c) sum += RelativeError(store, c, rows[c]);
    return sum / 226;
  };
  // Without the mean it would be that of the energy of the common part, nine times as much.
  EXPECT_LT(average(a.store), 1e-5);
  // Decoded by the record alone, then coded again with another rotation.
  ASSERT_TRUE(foreign.store.ImportRows(0, 300, records.data()).ok());
  EXPECT_LT(average(foreign.store), 2e-5);
}

TEST(RowStore, NonFiniteRowsBecomeZerosAndTouchNobody) {
  for (Format format : kFormats) {
    if (!IsCoded(format)) continue;
    StoreShape shape = SmallShape();
    shape.format = format;
    Owned o(shape);
    Rows source(128);
    auto rows = source.Many(300);
    rows[50][3] = 0x7C00;    // Inf in head 0
    rows[60][100] = 0x7E00;  // NaN in head 1
    AppendFrom(&o.store, 0, rows, 1);
    EXPECT_EQ(o.store.non_finite_rows(), 2u);
    std::vector<float> row(128);
    for (int c = 4; c < 230; ++c) {
      o.store.ReadRow(c, row.data());
      for (float x : row) ASSERT_TRUE(std::isfinite(x)) << c;
      if (c != 50 && c != 60) {
        const double limit = IndexBits(format) == 2 ? 0.2 : IndexBits(format) == 3 ? 0.06 : 0.02;
        EXPECT_LT(RelativeError(o.store, c, rows[c]), limit) << c;
      }
    }
  }
}

TEST(RowStore, StateRowsMoveBitExactlyIntoAnotherStore) {
  for (Format format : kFormats) {
    if (!IsCoded(format)) continue;
    SCOPED_TRACE(FormatName(format));
    StoreShape shape = SmallShape();
    shape.format = format;
    Owned a(shape), b(shape);
    Rows source(128);
    AppendFrom(&a.store, 0, source.Many(300), 16);
    std::vector<uint8_t> records(300 * 256);
    for (int c = 0; c < 300; ++c) a.store.ExportRow(c, &records[c * 256]);
    // Into other cells, so that pages do not line up.
    ASSERT_TRUE(b.store.ImportRows(101, 300, records.data()).ok());
    std::vector<uint8_t> record(256);
    std::vector<uint16_t> x(128), y(128);
    for (int c = 4; c < 300; ++c) {
      a.store.ReadRow(c, x.data());
      b.store.ReadRow(101 + c, y.data());
      ASSERT_EQ(x, y) << c;
      b.store.ExportRow(101 + c, record.data());
      ASSERT_EQ(std::memcmp(record.data(), &records[c * 256], 256), 0) << c;
      EXPECT_EQ(a.store.ExactRow(c) != nullptr, b.store.ExactRow(101 + c) != nullptr) << c;
    }
  }
}

TEST(RowStore, RestoringIntoTheSameCellsRestoresTheFuture) {
  Owned a(SmallShape()), b(SmallShape());
  Rows source(128);
  AppendFrom(&a.store, 0, source.Many(300), 1);
  std::vector<uint8_t> records(300 * 256);
  for (int c = 0; c < 300; ++c) a.store.ExportRow(c, &records[c * 256]);
  ASSERT_TRUE(b.store.ImportRows(0, 300, records.data()).ok());
  const auto more = source.Many(100);
  AppendFrom(&a.store, 300, more, 1);
  AppendFrom(&b.store, 300, more, 1);
  std::vector<uint8_t> x(256), y(256);
  for (int c = 0; c < 400; ++c) {
    a.store.ExportRow(c, x.data());
    b.store.ExportRow(c, y.data());
    ASSERT_EQ(x, y) << c;
  }
}

TEST(RowStore, PlainF16RowsImportAsNewRows) {
  Owned o(SmallShape());
  Rows source(128);
  const auto rows = source.Many(200);
  std::vector<uint8_t> records;
  for (const auto& row : rows) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(row.data());
    records.insert(records.end(), bytes, bytes + 256);
  }
  ASSERT_TRUE(o.store.ImportRows(0, 200, records.data()).ok());
  EXPECT_TRUE(IsExact(o.store, 199, rows[199]));
  EXPECT_EQ(o.store.ExactRow(50), nullptr);
  EXPECT_LT(RelativeError(o.store, 50, rows[50]), 0.01);
}

TEST(RowStore, EveryChangedByteOfARecordIsFound) {
  Owned a(SmallShape()), b(SmallShape());
  Rows source(128);
  AppendFrom(&a.store, 0, source.Many(200), 1);
  std::vector<uint8_t> record(256);
  a.store.ExportRow(50, record.data());
  const size_t used = 20 + 128 / 16 * 2 + 128 + 2 * 34;  // header, mean, two rows
  std::vector<float> row(128);
  for (size_t at = 0; at < used; ++at) {
    for (uint8_t flip : {0x01, 0x80, 0xFF}) {
      std::vector<uint8_t> damaged = record;
      damaged[at] ^= flip;
      const Status s = b.store.ImportRows(50, 1, damaged.data());
      ASSERT_FALSE(s.ok()) << at;
      EXPECT_EQ(s.code(), StatusCode::kCorrupt);
      b.store.ReadRow(50, row.data());
      for (float x : row) ASSERT_EQ(x, 0.0f);
    }
  }
  EXPECT_TRUE(b.store.ImportRows(50, 1, record.data()).ok());
}

TEST(RowStore, ADamagedRecordCostsItsRowAlone) {
  Owned a(SmallShape()), b(SmallShape());
  Rows source(128);
  AppendFrom(&a.store, 0, source.Many(200), 1);
  std::vector<uint8_t> records(100 * 256);
  for (int c = 0; c < 100; ++c) a.store.ExportRow(10 + c, &records[c * 256]);
  records[20 * 256 + 60] ^= 1;
  EXPECT_FALSE(b.store.ImportRows(10, 100, records.data()).ok());
  std::vector<uint16_t> x(128), y(128);
  for (int c = 10; c < 110; ++c) {
    a.store.ReadRow(c, x.data());
    b.store.ReadRow(c, y.data());
    EXPECT_EQ(x == y, c != 30) << c;
  }
}

TEST(RowStore, RecordsOfAnotherPolicyAreTranscoded) {
  StoreShape other = SmallShape();
  other.format = Format::kTurbo3;
  StoreShape plain = SmallShape();
  plain.center = false;
  Rows source(128);
  const auto rows = source.Many(200);
  Owned from(other), otherseed(SmallShape(), kSeed + 1);
  AppendFrom(&from.store, 0, rows, 1);
  AppendFrom(&otherseed.store, 0, rows, 1);
  for (Owned* a : {&from, &otherseed}) {
    for (const StoreShape& target : {SmallShape(), plain}) {
      Owned b(target);
      std::vector<uint8_t> records(200 * 256);
      for (int c = 0; c < 200; ++c) a->store.ExportRow(c, &records[c * 256]);
      ASSERT_TRUE(b.store.ImportRows(0, 200, records.data()).ok());
      EXPECT_EQ(b.store.foreign_rows(), 132u);  // the coded ones
      EXPECT_EQ(b.store.foreign_format(), a->store.shape().format);
      double error = 0;
      for (int c = 4; c < 136; ++c) error += RelativeError(b.store, c, rows[c]) / 132;
      EXPECT_LT(error, target.center ? 0.012 : 0.016);  // both codecs' errors together
    }
  }
}

TEST(RowStore, MeansRunOutGracefully) {
  // One row from each of many foreign pages: more means than the table holds.
  StoreShape shape = SmallShape();
  Owned b(shape);
  Rows source(128);
  std::map<int, std::vector<uint16_t>> want;
  std::vector<uint8_t> record(256);
  for (int i = 0; i < 100; ++i) {
    Owned a(shape);
    const auto rows = source.Many(70);
    AppendFrom(&a.store, 10, rows, 70);
    ASSERT_EQ(a.store.ExactRow(10), nullptr);
    a.store.ExportRow(10, record.data());
    ASSERT_TRUE(b.store.ImportRows(100 + i, 1, record.data()).ok());
    want[100 + i] = rows[0];
  }
  EXPECT_GT(want.size(), static_cast<size_t>(shape.mean_capacity()));
  for (const auto& [cell, row] : want) EXPECT_LT(RelativeError(b.store, cell, row), 0.02) << cell;
}

TEST(RowStore, RewriteTurnsTheMeanOfAPage) {
  Owned o(SmallShape());
  Rows source(128);
  auto rows = source.Many(300);
  AppendFrom(&o.store, 0, rows, 1);
  // All rows move: the common mean changes sign, as a rotation would turn it.
  std::vector<NewRow> changed;
  for (int c = 0; c < 300; ++c) {
    for (uint16_t& h : rows[c]) h ^= 0x8000;
    changed.push_back({c, rows[c].data()});
  }
  std::vector<NewRow> before;
  o.store.ListExact(&before);
  o.store.Rewrite(changed.data(), 300);
  std::vector<NewRow> after;
  o.store.ListExact(&after);
  ASSERT_EQ(before.size(), after.size());
  for (int c = 0; c < 300; ++c) {
    if (c < 4 || c >= 236) {
      EXPECT_TRUE(IsExact(o.store, c, rows[c])) << c;
    } else {
      EXPECT_LT(RelativeError(o.store, c, rows[c]), 0.01) << c;
    }
  }
}

TEST(RowStore, ClearEmptiesAndCopyBlockCopies) {
  Owned a(SmallShape()), b(SmallShape());
  const auto empty = a.Block();
  Rows source(128);
  AppendFrom(&a.store, 0, source.Many(300), 16);
  b.store.CopyBlock(a.store);
  EXPECT_EQ(a.Block(), b.Block());
  a.store.Clear();
  EXPECT_EQ(a.Block(), empty);
}

TEST(RowStore, NothingIsWrittenOutsideTheBlock) {
  Owned o(SmallShape());
  Rows source(128);
  AppendFrom(&o.store, 0, source.Many(512), 16);
  const size_t lead = o.begin - o.memory.data();
  for (size_t i = 0; i < lead; ++i) ASSERT_EQ(o.memory[i], 0xEE);
  for (size_t i = lead + RowStore::BlockBytes(o.store.shape()); i < o.memory.size(); ++i) {
    ASSERT_EQ(o.memory[i], 0xEE);
  }
}

TEST(RowStore, ShapesThatCannotBeStoredAreRefused) {
  StoreShape s = SmallShape();
  EXPECT_TRUE(SupportedShape(s));
  s.head_dim = 40;
  EXPECT_FALSE(SupportedShape(s));
  s = SmallShape();
  s.width = 100;
  EXPECT_FALSE(SupportedShape(s));
  s = SmallShape();
  s.width = s.head_dim = 16;  // a record would not fit into 32 bytes
  EXPECT_FALSE(SupportedShape(s));
  s = SmallShape();
  s.format = Format::kF16;
  EXPECT_FALSE(SupportedShape(s));
}

// Random commands against a plain map of rows.
TEST(RowStore, RandomCommandsAgreeWithAModel) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SplitMix64 rng(seed);
    StoreShape shape = SmallShape();
    shape.cells = 256;
    shape.tail = static_cast<int>(rng.Next() % 48);
    shape.sink = static_cast<int>(rng.Next() % 5);
    shape.center = rng.Next() % 2 == 0;
    Owned o(shape), other(shape);
    Rows source(128, seed);
    std::map<int, std::vector<uint16_t>> model;
    for (int step = 0; step < 60; ++step) {
      switch (rng.Next() % 6) {
        case 0:
        case 1:
        case 2: {  // write a run of cells
          const int n = 1 + static_cast<int>(rng.Next() % 40);
          const int first = static_cast<int>(rng.Next() % (256 - n));
          const auto rows = source.Many(n);
          AppendFrom(&o.store, first, rows, 1 + static_cast<int>(rng.Next() % 40));
          for (int i = 0; i < n; ++i) model[first + i] = rows[i];
          break;
        }
        case 3: {  // away and back
          std::vector<uint8_t> records(256 * 256);
          for (int c = 0; c < 256; ++c) o.store.ExportRow(c, &records[c * 256]);
          other.store.Clear();
          ASSERT_TRUE(other.store.ImportRows(0, 256, records.data()).ok());
          o.store.CopyBlock(other.store);
          break;
        }
        case 4: {  // rewrite some rows in place
          std::vector<NewRow> rows;
          for (auto& [cell, row] : model) {
            if (rng.Next() % 3 != 0) continue;
            row = source.Next();
            rows.push_back({cell, row.data()});
          }
          o.store.Rewrite(rows.data(), static_cast<int>(rows.size()));
          break;
        }
        case 5:
          if (rng.Next() % 8 == 0) {
            o.store.Clear();
            model.clear();
          }
          break;
      }
      for (const auto& [cell, row] : model) {
        if (o.store.ExactRow(cell) != nullptr) {
          ASSERT_TRUE(IsExact(o.store, cell, row)) << "seed " << seed << " step " << step;
        } else {
          ASSERT_LT(RelativeError(o.store, cell, row), 0.03) << "seed " << seed << " step " << step;
        }
      }
    }
  }
}

}  // namespace
}  // namespace turboquant
