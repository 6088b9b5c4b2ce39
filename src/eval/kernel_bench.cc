#include "eval/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "base/rng.h"
#include "eval/kernel_check.h"
#include "kernels/format_rows.h"
#include "math/rotation.h"

namespace turboquant {
namespace {

constexpr int kBlock = 128;     // rows of one call, as in attention
constexpr int kCodecRows = 64;  // rows that encoding takes turns with; of one call of decoding
constexpr int kMostBatch = 8;   // rows that one call encodes
constexpr size_t kDefaultCache = size_t{512} << 10;
constexpr size_t kMostMemory = size_t{1} << 30;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Clobber() { asm volatile("" : : : "memory"); }

// Where one thread's rows lie.
struct Rows {
  const uint8_t* codes;
  const uint16_t* scales;
  size_t count;  // walked round and round
};

// One figure in the making.
struct Cell {
  KernelFigure figure;
  size_t code_bytes = 0;
  size_t rows_per_call = 1;
  // Does `calls` calls over `rows` on one thread.
  std::function<void(int thread, const Rows& rows, size_t calls)> work;
  size_t calls = 1;
  std::vector<double> samples;

  bool memory() const { return figure.residence == Residence::kMemory; }
};

// Inputs and outputs of the kernels of one shape; every thread has outputs of its own.
struct Buffers {
  Buffers(const KernelTable& table, int d, int group, int threads, uint64_t seed)
      : rotation(d, seed) {
    SplitMix64 random(seed);
    const auto fill = [&](std::vector<float>* x, size_t n) {
      x->resize(n);
      for (float& v : *x) v = static_cast<float>(random.Normal());
    };
    fill(&rows, static_cast<size_t>(kCodecRows) * d);
    fill(&q, static_cast<size_t>(group) * d);
    fill(&p, static_cast<size_t>(group) * kBlock);
    for (float& w : p) w = std::fabs(w);
    const size_t bytes = static_cast<size_t>(group) * PreparedQueryBytes(d);
    prepared_memory.resize(bytes + 64);
    prepared = reinterpret_cast<uint8_t*>(
        (reinterpret_cast<uintptr_t>(prepared_memory.data()) + 63) & ~uintptr_t{63});
    table.prepare_queries(q.data(), d, group, prepared);
    out.resize(threads);
    for (auto& o : out)
      o.resize(static_cast<size_t>(std::max(group, kCodecRows)) * std::max(d, kBlock));
    codes.resize(static_cast<size_t>(d) * kMostBatch);
  }

  Rotation rotation;
  std::vector<float> rows, q, p;
  std::vector<uint8_t> prepared_memory;
  uint8_t* prepared;
  std::vector<std::vector<float>> out;  // [threads]
  std::vector<uint8_t> codes;           // of a few rows
};

class Bench {
 public:
  explicit Bench(const KernelBenchOptions& options) : options_(options), team_(options.threads) {}

  Result<KernelBenchResult> Run() {
    const auto start = std::chrono::steady_clock::now();
    if (Status s = CheckOptions(); !s.ok()) return s;
    if (Status s = MakeCells(); !s.ok()) return s;
    if (Status s = MakeMemory(); !s.ok()) return s;
    for (Cell& cell : cells_) Calibrate(&cell);
    for (int round = 0; round < options_.rounds; ++round) MeasureRound(round);
    Finish();
    result_.seconds = SecondsSince(start);
    return std::move(result_);
  }

 private:
  Status CheckOptions() const {
    for (int d : options_.head_dims) {
      if (!SupportedHeadDim(d)) {
        return InvalidArgument("rows of " + std::to_string(d) +
                               " values cannot be coded; use a multiple of 16, e.g. 64 or 128");
      }
    }
    for (int group : options_.groups) {
      if (group < 1 || group > 64) {
        return InvalidArgument("a group of " + std::to_string(group) + " query heads; use 1 to 64");
      }
    }
    return OkStatus();
  }

  // Checks every kernel, then lists what is to be timed.
  Status MakeCells() {
    for (const KernelTable* table : options_.tables) {
      for (int d : options_.head_dims) {
        for (int group : options_.groups) {
          if (Status s = AddAttention(*table, d, group); !s.ok()) return s;
        }
        AddCodecs(*table, d);
      }
    }
    return OkStatus();
  }

  Status AddAttention(const KernelTable& table, int d, int group) {
    auto buffers = std::make_shared<Buffers>(table, d, group, team_.threads(), options_.seed);
    for (Format format : options_.formats) {
      Report(0, std::string("checking ") + std::string(table.name));
      const Result<KernelErrors> errors = CheckKernels(table, format, d, group, options_.seed);
      if (!errors.ok()) return errors.status();
      AddKernel("scores", table, format, d, group, errors.value().scores,
                [&table, buffers, format, d, group](int thread, const Rows& rows, size_t calls) {
                  float* out = buffers->out[thread].data();
                  for (size_t c = 0, j = 0; c < calls; ++c, j = (j + kBlock) % rows.count) {
                    table.coded_scores(
                        {format, d, rows.codes, rows.scales, static_cast<int>(j), TileForm::kKeys},
                        buffers->prepared, group, kBlock, out, kBlock);
                    Clobber();
                  }
                });
      AddKernel("sums", table, format, d, group, errors.value().sums,
                [&table, buffers, format, d, group](int thread, const Rows& rows, size_t calls) {
                  float* out = buffers->out[thread].data();
                  for (size_t c = 0, j = 0; c < calls; ++c, j = (j + kBlock) % rows.count) {
                    table.coded_accumulate({format, d, rows.codes, rows.scales, static_cast<int>(j),
                                            TileForm::kValues},
                                           buffers->p.data(), kBlock, group, kBlock, out);
                    Clobber();
                  }
                });
    }
    const Result<KernelErrors> errors = CheckF16Kernels(table, d, group, options_.seed);
    if (!errors.ok()) return errors.status();
    // The kernels take f16 rows by their addresses, as the exact window has them.
    const auto point = [d](const Rows& rows, size_t j, const uint16_t** at) {
      const auto* half = reinterpret_cast<const uint16_t*>(rows.codes) + j * d;
      for (int i = 0; i < kBlock; ++i) at[i] = half + i * d;
    };
    AddKernel("scores", table, Format::kF16, d, group, errors.value().scores,
              [&table, point, buffers, d, group](int thread, const Rows& rows, size_t calls) {
                const uint16_t* at[kBlock];
                float* out = buffers->out[thread].data();
                for (size_t c = 0, j = 0; c < calls; ++c, j = (j + kBlock) % rows.count) {
                  point(rows, j, at);
                  table.half_scores(at, d, buffers->q.data(), group, kBlock, out, kBlock);
                  Clobber();
                }
              });
    AddKernel("sums", table, Format::kF16, d, group, errors.value().sums,
              [&table, point, buffers, d, group](int thread, const Rows& rows, size_t calls) {
                const uint16_t* at[kBlock];
                float* out = buffers->out[thread].data();
                for (size_t c = 0, j = 0; c < calls; ++c, j = (j + kBlock) % rows.count) {
                  point(rows, j, at);
                  table.half_accumulate(at, d, buffers->p.data(), kBlock, group, kBlock, out);
                  Clobber();
                }
              });
    return OkStatus();
  }

  // Adds a kernel of attention in the cache, and from memory on one thread and on all.
  void AddKernel(const char* kernel, const KernelTable& table, Format format, int d, int group,
                 double error, decltype(Cell::work) work) {
    Cell cell;
    cell.figure.kernel = kernel;
    cell.figure.table = table.name;
    cell.figure.format = FormatName(format);
    cell.figure.head_dim = d;
    cell.figure.group = group;
    cell.figure.bytes_per_row = static_cast<double>(RowBytes(format, d));
    cell.figure.error = error;
    cell.code_bytes = CodeBytes(format, d);
    cell.rows_per_call = kBlock;
    cell.work = std::move(work);
    cells_.push_back(cell);
    if (table.name == "scalar") return;  // far from any bound of memory
    cell.figure.residence = Residence::kMemory;
    cells_.push_back(cell);
    if (team_.threads() == 1) return;
    cell.figure.threads = team_.threads();
    cells_.push_back(cell);
  }

  void AddCodecs(const KernelTable& table, int d) {
    auto buffers = std::make_shared<Buffers>(table, d, 1, 1, options_.seed);
    for (Format format : options_.formats) {
      const int batch = EncodeBatch(format);
      AddCodec("encode", table, format, d, batch,
               [&table, buffers, format, batch, d](int, const Rows&, size_t calls) {
                 uint16_t scales[kCodecRows];
                 for (size_t c = 0, j = 0; c < calls; ++c, j = (j + batch) % kCodecRows) {
                   EncodeFormatRows(table, format, buffers->rotation.view(),
                                    buffers->rows.data() + j * d, batch, buffers->codes.data(),
                                    scales);
                   Clobber();
                 }
               });
      const size_t code_bytes = CodeBytes(format, d);
      AddCodec("decode", table, format, d, kCodecRows,
               [&table, buffers, format, d, code_bytes](int, const Rows& rows, size_t calls) {
                 float* out = buffers->out[0].data();
                 for (size_t c = 0, j = 0; c < calls; ++c, j = (j + kCodecRows) % rows.count) {
                   DecodeFormatRows(table, format, d, rows.codes + j * code_bytes, rows.scales + j,
                                    kCodecRows, out);
                   Clobber();
                 }
               });
    }
    AddCodec("encode", table, Format::kF16, d, 1,
             [&table, buffers, d](int, const Rows&, size_t calls) {
               auto* out = reinterpret_cast<uint16_t*>(buffers->codes.data());
               for (size_t c = 0; c < calls; ++c) {
                 table.float_to_half(buffers->rows.data() + c % kCodecRows * d, out, d);
                 Clobber();
               }
             });
    AddCodec("decode", table, Format::kF16, d, kCodecRows,
             [&table, buffers, d](int, const Rows& rows, size_t calls) {
               for (size_t c = 0, j = 0; c < calls; ++c, j = (j + kCodecRows) % rows.count) {
                 table.half_to_float(reinterpret_cast<const uint16_t*>(rows.codes) + j * d,
                                     buffers->out[0].data(), static_cast<size_t>(kCodecRows) * d);
                 Clobber();
               }
             });
  }

  void AddCodec(const char* kernel, const KernelTable& table, Format format, int d,
                size_t rows_per_call, decltype(Cell::work) work) {
    Cell cell;
    cell.figure.kernel = kernel;
    cell.figure.table = table.name;
    cell.figure.format = FormatName(format);
    cell.figure.head_dim = d;
    cell.figure.bytes_per_row = static_cast<double>(RowBytes(format, d));
    cell.code_bytes = CodeBytes(format, d);
    cell.rows_per_call = rows_per_call;
    cell.work = std::move(work);
    cells_.push_back(std::move(cell));
  }

  Status MakeMemory() {
    const Machine machine = ThisMachine();
    // A quarter of the second-level cache: its other contents do not push the codes out.
    size_t cache = machine.l2_bytes >= kDefaultCache ? machine.l2_bytes / 4 : kDefaultCache / 4;
    size_t memory = options_.memory_bytes;
    if (memory == 0) {
      // Several times what may stay in the last cache, within what the machine can spare.
      const size_t wanted = std::max(4 * machine.l3_bytes, size_t{256} << 20);
      memory = std::min({wanted, kMostMemory, machine.memory_bytes / 8});
    }
    memory = std::max(memory, 4 * cache);
    Report(0, "filling memory");
    arena_ = std::make_unique<Arena>(memory, options_.seed);
    // Rows of 16 code bytes, the shortest, have a scale of 2.
    scales_ = std::make_unique<Arena>(memory / 8, options_.seed + 1);
    cache_ = std::make_unique<Arena>(cache, options_.seed + 2);
    cache_scales_ = std::make_unique<Arena>(cache / 8, options_.seed + 3);
    if (arena_->size() == 0 || scales_->size() == 0 || cache_->size() == 0 ||
        cache_scales_->size() == 0) {
      return {StatusCode::kOutOfMemory, "no room for " + std::to_string(memory >> 20) +
                                            " MiB to read from; ask for less with --memory"};
    }
    result_.machine = machine;
    result_.cache_bytes = cache;
    result_.memory_bytes = arena_->size();
    return OkStatus();
  }

  // Rows of the cell in its cache-resident buffer: whole calls, at least one.
  Rows CacheRows(const Cell& cell) const {
    const size_t step = std::max<size_t>(cell.rows_per_call, kCodecRows);
    const size_t count = std::max(result_.cache_bytes / cell.code_bytes / step, size_t{1}) * step;
    return {cache_->data(), reinterpret_cast<const uint16_t*>(cache_scales_->data()), count};
  }

  double Sample(const Cell& cell) {
    const int threads = cell.figure.threads;
    if (!cell.memory()) {
      const Rows rows = CacheRows(cell);
      cell.work(0, rows, std::max(rows.count / cell.rows_per_call, size_t{1}));  // warm
      return team_.Time(1, [&](int) { cell.work(0, rows, cell.calls); });
    }
    const size_t share = cell.calls * cell.rows_per_call;  // rows of one thread
    const uint8_t* codes = arena_->Take(threads * share * cell.code_bytes);
    const auto* scales = reinterpret_cast<const uint16_t*>(scales_->Take(threads * share * 2));
    return team_.Time(threads, [&](int thread) {
      const Rows rows = {codes + thread * share * cell.code_bytes, scales + thread * share, share};
      cell.work(thread, rows, cell.calls);
    });
  }

  // Calls that fill a sample. The best of three samples counts: one that was interrupted would make
  // all later ones too short.
  void Calibrate(Cell* cell) {
    const size_t bytes = cell->rows_per_call * (cell->code_bytes + 2) * cell->figure.threads;
    const size_t most =
        cell->memory() ? std::max(arena_->size() / 4 / bytes, size_t{1}) : size_t{1} << 30;
    while (true) {
      const double seconds = std::min({Sample(*cell), Sample(*cell), Sample(*cell)});
      if (seconds >= options_.sample_seconds / 2 || cell->calls >= most) {
        const double wanted = static_cast<double>(cell->calls) * options_.sample_seconds / seconds;
        cell->calls = std::clamp(static_cast<size_t>(wanted), size_t{1}, most);
        return;
      }
      const double factor = seconds > 0 ? options_.sample_seconds / seconds : 8;
      cell->calls =
          std::min(most, cell->calls * static_cast<size_t>(std::clamp(factor, 2.0, 64.0)));
    }
  }

  void MeasureRound(int round) {
    clocks_.push_back(MeasureClock());
    cache_reads_.push_back(
        CacheBandwidth(&team_, cache_->data(), result_.cache_bytes, options_.sample_seconds));
    const size_t bytes = std::min(arena_->size() / 4, size_t{64} << 20);
    memory_reads_[0].push_back(ReadBandwidth(&team_, 1, arena_.get(), bytes));
    if (team_.threads() > 1) {
      memory_reads_[1].push_back(ReadBandwidth(&team_, team_.threads(), arena_.get(), bytes));
    }
    const double all = static_cast<double>(cells_.size()) * options_.rounds;
    for (size_t i = 0; i < cells_.size(); ++i) {
      Cell& cell = cells_[i];
      Report((round * static_cast<double>(cells_.size()) + static_cast<double>(i)) / all,
             cell.figure.table + " " + cell.figure.kernel + " " + cell.figure.format);
      const double rows =
          static_cast<double>(cell.calls * cell.rows_per_call) * cell.figure.threads;
      cell.samples.push_back(Sample(cell) / rows);
    }
  }

  void Finish() {
    result_.pinned = team_.pinned();
    result_.threads = team_.threads();
    result_.rounds = options_.rounds;
    result_.sample_seconds = options_.sample_seconds;
    result_.seed = options_.seed;
    result_.processor_share = team_.processor_share();
    result_.clock = Summarise(clocks_).median;
    // A bound is the best that any round has shown.
    result_.cache_bandwidth = Summarise(cache_reads_).max;
    result_.memory_bandwidth.resize(team_.threads());
    result_.memory_bandwidth[0] = Summarise(memory_reads_[0]).max;
    if (team_.threads() > 1) result_.memory_bandwidth.back() = Summarise(memory_reads_[1]).max;
    for (Cell& cell : cells_) {
      KernelFigure& f = cell.figure;
      f.seconds_per_row = Summarise(cell.samples);
      f.cycles_per_row = f.seconds_per_row.median * result_.clock * f.threads;
      if (f.group > 0) {
        f.bound_seconds = f.bytes_per_row / (cell.memory() ? result_.memory_bandwidth[f.threads - 1]
                                                           : result_.cache_bandwidth);
      }
      result_.figures.push_back(std::move(f));
    }
  }

  void Report(double done, const std::string& what) const {
    if (options_.progress) options_.progress(done, what);
  }

  const KernelBenchOptions& options_;
  WorkTeam team_;
  std::unique_ptr<Arena> arena_, scales_, cache_, cache_scales_;
  std::vector<Cell> cells_;
  std::vector<double> clocks_, cache_reads_, memory_reads_[2];
  KernelBenchResult result_;
};

}  // namespace

std::vector<Format> CodedFormats() {
  std::vector<Format> formats;
  for (Format format : kFormats) {
    if (IsCoded(format)) formats.push_back(format);
  }
  return formats;
}

std::vector<const KernelTable*> AvailableTables() {
  std::vector<const KernelTable*> tables;
  for (const KernelTable* table : AllKernels()) {
    if (table != nullptr) tables.push_back(table);
  }
  return tables;
}

Result<const KernelTable*> FindTable(const std::string& name) {
  if (const KernelTable* table = FindKernels(name)) return table;
  std::string known;
  for (const KernelTable* t : AvailableTables()) known.append(" ").append(t->name);
  return Unsupported("no kernels '" + name + "' on this processor; it has" + known);
}

Result<KernelBenchResult> BenchKernels(const KernelBenchOptions& options) {
  return Bench(options).Run();
}

}  // namespace turboquant
