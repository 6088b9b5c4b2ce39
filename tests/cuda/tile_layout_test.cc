// The paged layout: every code has one place, conversion is exact, PRMT tables give the codebook.
#include "kernels/cuda/tile_layout.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

#include "base/rng.h"
#include "codec/trellis.h"
#include "kernels/cuda/byte_tables.h"
#include "kernels/cuda/tile_convert.h"
#include "kernels/cuda/token_words.h"

namespace turboquant::cuda {
namespace {

TEST(TileLayout, EveryNibbleHasItsOwnPlace) {
  for (const int d : {64, 128, 256}) {
    for (const bool value_side : {false, true}) {
      std::set<int> places;
      for (int token = 0; token < kTileTokens; ++token) {
        for (int dim = 0; dim < d; ++dim) {
          const NibblePlace p = PlaceOf(value_side, d, token, dim);
          ASSERT_LT(p.quad, d / 16);
          ASSERT_LT(p.lane, 32);
          places.insert(((p.quad * 32 + p.lane) * 4 + p.word) * 8 + p.nibble);
        }
      }
      EXPECT_EQ(places.size(), static_cast<size_t>(kTileTokens * d));
    }
  }
}

TEST(TileLayout, QuadsRoundTripAndDoNotOverlap) {
  for (const int bits : {2, 3, 4}) {
    for (const int d : {64, 128, 256}) {
      std::vector<uint32_t> area(static_cast<size_t>(bits * d * kTileTokens / 32));
      SplitMix64 random(static_cast<uint64_t>(bits * d));
      std::vector<uint32_t> want;
      const uint32_t mask = bits == 4 ? 0xFFFFFFFFu : bits == 3 ? 0x77777777u : 0x33333333u;
      for (int quad = 0; quad < d / 16; ++quad) {
        for (int lane = 0; lane < 32; ++lane) {
          uint32_t s[4];
          for (uint32_t& x : s) want.push_back(x = static_cast<uint32_t>(random.Next()) & mask);
          StoreQuad(bits, area.data(), d, quad, lane, s);
        }
      }
      size_t i = 0;
      for (int quad = 0; quad < d / 16; ++quad) {
        for (int lane = 0; lane < 32; ++lane) {
          uint32_t s[4];
          LoadQuad(bits, area.data(), d, quad, lane, s);
          for (const uint32_t x : s) EXPECT_EQ(x, want[i++]);
        }
      }
    }
  }
}

TEST(TileLayout, RecordsCostWhatRowsCost) {
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    for (const int bits : {2, 3, 4, 8}) {
      const RecordLayout r = MakeRecordLayout({bits, false}, {bits, false}, d);
      EXPECT_EQ(r.bytes, 2 * kTileTokens * (bits * d / 8 + 2));
      EXPECT_EQ(r.bytes % 16, 0);
      EXPECT_EQ(r.v_codes % 16, 0);
      EXPECT_EQ(r.k_scales % 16, 0);
    }
  }
}

TEST(TileLayout, RowsRoundTripAndKeepTheirNeighbours) {
  SplitMix64 random(3);
  for (const int d : {64, 80, 128, 192, 256}) {
    for (const TileFormat f : {TileFormat{2, false}, TileFormat{3, false}, TileFormat{4, false},
                               TileFormat{8, false}, TileFormat{3, true}}) {
      const RecordLayout layout = MakeRecordLayout(f, f, d);
      std::vector<uint8_t> record(static_cast<size_t>(layout.bytes), 0xFF);
      const size_t n = static_cast<size_t>(f.bits * d / 8);
      std::vector<std::vector<uint8_t>> rows;
      for (int i = 0; i < 2 * kTileTokens; ++i) {
        std::vector<uint8_t> codes(n);
        for (uint8_t& x : codes) x = static_cast<uint8_t>(random.Next());
        StoreTileRow(layout, record.data(), i % 2 == 1, i / 2, codes.data(),
                     static_cast<uint16_t>(1000 + i));
        rows.push_back(codes);
      }
      for (int i = 0; i < 2 * kTileTokens; ++i) {
        std::vector<uint8_t> codes(n);
        uint16_t scale;
        LoadTileRow(layout, record.data(), i % 2 == 1, i / 2, codes.data(), &scale);
        EXPECT_EQ(codes, rows[static_cast<size_t>(i)]);
        EXPECT_EQ(scale, 1000 + i);
      }
    }
  }
}

// Words as append.cu writes them, against the record that StoreTileRow writes.
template <int kDim, int kBits, bool kValues>
void ExpectTokenWords() {
  using Words = TokenWords<kDim, kBits, kValues>;
  const TileFormat f{kBits, false};
  const RecordLayout layout = MakeRecordLayout(f, f, kDim);
  SplitMix64 random(static_cast<uint64_t>(kBits * kDim));
  std::vector<uint32_t> before(static_cast<size_t>(layout.bytes / 4));
  for (uint32_t& x : before) x = static_cast<uint32_t>(random.Next());
  for (int token = 0; token < kTileTokens; ++token) {
    std::vector<uint8_t> codes(static_cast<size_t>(kBits * kDim / 8));
    alignas(4) uint8_t nibbles[kDim];
    for (uint8_t& x : codes) x = static_cast<uint8_t>(random.Next());
    for (int i = 0; i < kDim; ++i) {
      nibbles[i] =
          static_cast<uint8_t>(CodeToNibble(kBits, LoadCode(kBits, codes.data(), kDim, i)));
    }
    std::vector<uint32_t> want = before, got = before;
    StoreTileRow(layout, reinterpret_cast<uint8_t*>(want.data()), kValues, token, codes.data(), 7);
    uint32_t* area = got.data() + (kValues ? layout.v_codes / 4 : 0);
    const Words words{token};
    std::set<int> places;
    const auto store = [&](const WordPlace& p, uint32_t content) {
      EXPECT_EQ(content & ~p.mask, 0u);
      EXPECT_TRUE(places.insert(p.index).second) << "two lanes write one word";
      area[p.index] = (area[p.index] & ~p.mask) | content;
    };
    for (int w = 0; w < Words::kLow; ++w) store(words.Low(w), words.LowBits(w, nibbles));
    for (int w = 0; w < Words::kHigh; ++w) store(words.High(w), words.HighBits(w, nibbles));
    EXPECT_EQ(std::memcmp(got.data(), want.data(), static_cast<size_t>(layout.k_scales)), 0)
        << kBits << " " << kDim << " " << kValues << " " << token;
  }
}

template <int kDim>
void ExpectTokenWordsOfDim() {
  ExpectTokenWords<kDim, 2, false>();
  ExpectTokenWords<kDim, 2, true>();
  ExpectTokenWords<kDim, 3, false>();
  ExpectTokenWords<kDim, 3, true>();
  ExpectTokenWords<kDim, 4, false>();
  ExpectTokenWords<kDim, 4, true>();
}

TEST(TokenWords, AreThoseOfTheTokenAlone) {
  ExpectTokenWordsOfDim<64>();
  ExpectTokenWordsOfDim<128>();
  ExpectTokenWordsOfDim<256>();
}

TEST(ByteTables, GiveTheStepsOfTheCodebook) {
  for (const int bits : {2, 3, 4}) {
    const ByteTables tables = MakeByteTables(bits);
    EXPECT_EQ(tables.unit, CentroidUnit(bits));
    for (int code = 0; code < 1 << bits; ++code) {
      EXPECT_EQ(LookUp(tables, bits, CodeToNibble(bits, code)), CentroidSteps(bits)[code]);
      EXPECT_EQ(NibbleToCode(bits, CodeToNibble(bits, code)), code);
    }
  }
}

TEST(ByteTables, GiveTheStepsOfCanonicalRows) {
  for (const TileFormat f : {TileFormat{2, false}, {3, false}, {4, false}, {2, true}, {3, true}}) {
    const ByteTables tables = MakeRowTables(f);
    const int index_bits = f.bits + (f.trellis ? 1 : 0);
    const TrellisView trellis = Trellis(f.bits, TrellisMemory(f.bits));
    const signed char* steps = f.trellis ? trellis.steps : CentroidSteps(f.bits);
    EXPECT_EQ(tables.unit, f.trellis ? trellis.unit : CentroidUnit(f.bits));
    for (int code = 0; code < 1 << index_bits; ++code) {
      EXPECT_EQ(LookUp(tables, index_bits, code), steps[code]) << f.bits << f.trellis;
    }
  }
}

// The centroids of turbo8 as two bytes each: off by half a unit at most, and symmetric.
TEST(ByteTables, BytesOfTurbo8) {
  const float unit = MakeRowTables({8, false}).unit;
  for (int code = 0; code < 256; ++code) {
    const WideStep step = WideStepOf(Centroids(8)[code], 1.0f / unit);
    EXPECT_LE(std::abs(step.high), 127) << code;
    EXPECT_GE(step.low, -64) << code;
    EXPECT_LE(step.low, 63) << code;
    const int whole = 128 * step.high + step.low;
    EXPECT_NEAR(whole * unit, Centroids(8)[code], 0.501f * unit) << code;
    const WideStep mirrored = WideStepOf(Centroids(8)[255 - code], 1.0f / unit);
    EXPECT_EQ(128 * mirrored.high + mirrored.low, -whole) << code;
  }
}

}  // namespace
}  // namespace turboquant::cuda
