#include "codec/trellis_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "codec/trellis.h"
#include "tests/codec/reference.h"
#include "tests/codec/theory.h"
#include "tools/trellis_training.h"

namespace turboquant {
namespace {

std::vector<float> GaussRow(int d, SplitMix64* random) {
  std::vector<float> y(d);
  for (float& v : y) v = static_cast<float>(random->Normal());
  return y;
}

TEST(Trellis, TablesAreAscendingAndSymmetric) {
  for (int bits : {2, 3, 4}) {
    for (int memory = kTrellisMinMemory; memory <= kTrellisMaxMemory; ++memory) {
      const TrellisView trellis = Trellis(bits, memory);
      const int entries = 2 << bits;
      for (int i = 0; i < entries; ++i) {
        EXPECT_EQ(trellis.alphabet[i], -trellis.alphabet[entries - 1 - i]);
        if (i > 0) {
          EXPECT_LT(trellis.alphabet[i - 1], trellis.alphabet[i]);
        }
      }
      // Both polynomials fit the window, and the newest and the oldest bit take part.
      EXPECT_LT(trellis.h0 | trellis.h1, 2u << memory);
      EXPECT_EQ((trellis.h0 | trellis.h1) & 1u, 1u);
      EXPECT_NE((trellis.h0 | trellis.h1) & (1u << memory), 0u);
    }
  }
}

// Ungerboeck's rules: the two branches out of a state, and the two into one, carry the subsets
// {0, 2} or {1, 3}, whose members lie farthest apart.
TEST(Trellis, BranchesOfAStateCarryDistantSubsets) {
  for (int memory = kTrellisMinMemory; memory <= kTrellisMaxMemory; ++memory) {
    const TrellisView trellis = Trellis(3, memory);
    for (int w = 0; w < 1 << memory; ++w) {
      EXPECT_EQ(TrellisSubset(trellis, 2 * w) ^ TrellisSubset(trellis, 2 * w + 1), 2) << memory;
      EXPECT_EQ(TrellisSubset(trellis, w) ^ TrellisSubset(trellis, w + (1 << memory)), 2) << memory;
    }
  }
}

// The byte grid: every entry is its step times the unit, a step fits a signed byte with room for
// one more.
TEST(Trellis, TablesLieOnTheByteGrid) {
  for (int bits : {2, 3, 4}) {
    for (int memory = kTrellisMinMemory; memory <= kTrellisMaxMemory; ++memory) {
      const TrellisView trellis = Trellis(bits, memory);
      EXPECT_GT(trellis.unit, 0.0f);
      EXPECT_GE(trellis.steps[(2 << bits) - 1], 64);
      for (int i = 0; i < 2 << bits; ++i) {
        EXPECT_EQ(trellis.alphabet[i], trellis.unit * static_cast<float>(trellis.steps[i]));
        EXPECT_LE(std::abs(trellis.steps[i]), kMaxGridStep);
      }
    }
  }
}

// Training from scratch gives the committed alphabets, up to the grid. Another libm may differ in
// the last digits of the sample, hence the rest of the tolerance.
TEST(Trellis, TrainsToTheCommittedTable) {
  for (const auto& [bits, memory] : {std::pair{2, 2}, std::pair{3, 3}}) {
    const std::vector<float> trained = TrainTrellisAlphabet(bits, memory);
    ASSERT_EQ(trained.size(), size_t{2} << bits);
    for (size_t i = 0; i < trained.size(); ++i) {
      const TrellisView committed = Trellis(bits, memory);
      EXPECT_NEAR(trained[i], committed.alphabet[i], 0.5 * committed.unit + 2e-4)
          << bits << " " << memory;
    }
  }
}

// Every committed alphabet is a fixed point of the training on rows it has not seen, up to the grid
// and the sampling error of a cell's mean.
TEST(Trellis, CommittedTablesAreFixedPoints) {
  const std::vector<float> set = TrellisTrainingSet(600, 4242);
  for (int bits : {2, 3, 4}) {
    for (int memory = kTrellisMinMemory; memory <= kTrellisMaxMemory; ++memory) {
      const TrellisView trellis = Trellis(bits, memory);
      std::vector<float> moved(trellis.alphabet, trellis.alphabet + (2 << bits));
      const double error = TrellisTrainingStep(bits, memory, set, 1.0, &moved);
      const double spread = 5 * std::sqrt(error * (2 << bits) / static_cast<double>(set.size()));
      for (int i = 2; i + 2 < 2 << bits; ++i) {
        EXPECT_NEAR(moved[i], trellis.alphabet[i], 2 * spread + 0.5 * trellis.unit)
            << bits << " " << memory;
      }
      EXPECT_LT(error, 0.8 * testing::ExpectedDistortion(bits, 128)) << bits << " " << memory;
    }
  }
}

// Against exhaustive search over all paths of a short row: no path is better than the one found.
TEST(Trellis, SearchFindsTheBestPath) {
  SplitMix64 random(3);
  TrellisScratch scratch;
  constexpr int kLength = 16;
  for (int bits : {2, 3, 4}) {
    for (int memory : {2, 3, 4}) {
      const TrellisView trellis = Trellis(bits, memory);
      for (int trial = 0; trial < 3; ++trial) {
        const std::vector<float> y = GaussRow(kLength, &random);
        std::vector<uint8_t> planes(bits * kLength / 8, 0);
        SearchTrellis(trellis, y.data(), kLength, 1.0f, &scratch, planes.data());
        double found = 0;
        for (int t = 0; t < kLength; ++t) {
          const int index = LoadTrellisIndex(trellis, planes.data(), kLength, t);
          found += std::pow(y[t] - static_cast<double>(trellis.alphabet[index]), 2);
        }
        double best = 1e30;
        for (unsigned path = 0; path < 1u << kLength; ++path) {
          double cost = 0;
          for (int t = 0; t < kLength && cost < best; ++t) {
            unsigned window = 0;
            for (int k = 0; k <= memory && k <= t; ++k) window |= ((path >> (t - k)) & 1u) << k;
            const int subset = TrellisSubset(trellis, static_cast<int>(window));
            double least = 1e30;
            for (int i = subset; i < 2 << bits; i += 4) {
              least = std::min(least, std::pow(y[t] - static_cast<double>(trellis.alphabet[i]), 2));
            }
            cost += least;
          }
          best = std::min(best, cost);
        }
        EXPECT_NEAR(found, best, 1e-5) << bits << " bits, memory " << memory;
      }
    }
  }
}

// The parity planes of a whole row by shifts and XORs of its path plane, as vector kernels take
// them, for a row of 128 values.
TEST(Trellis, ParityPlanesGiveTheSameIndices) {
  using Plane = unsigned __int128;
  SplitMix64 random(4);
  TrellisScratch scratch;
  constexpr int kDim = 128;
  for (int bits : {2, 3, 4}) {
    for (int memory = kTrellisMinMemory; memory <= kTrellisMaxMemory; ++memory) {
      const TrellisView trellis = Trellis(bits, memory);
      const std::vector<float> y = GaussRow(kDim, &random);
      std::vector<uint8_t> planes(bits * kDim / 8);
      uint16_t scale;
      ASSERT_TRUE(EncodeTrellisRow(trellis, ScaleRule::kLeastSquares, y.data(), kDim, &scratch,
                                   planes.data(), &scale));
      Plane path;
      std::memcpy(&path, planes.data(), sizeof(path));
      Plane high = 0;
      Plane low = 0;
      for (int k = 0; k <= memory; ++k) {
        if ((trellis.h0 >> k) & 1u) high ^= path << k;
        if ((trellis.h1 >> k) & 1u) low ^= path << k;
      }
      for (int t = 0; t < kDim; ++t) {
        int index = static_cast<int>((low >> t) & 1) | static_cast<int>((high >> t) & 1) << 1;
        for (int p = 0; p < bits - 1; ++p) {
          index |= GetBit(planes.data() + (1 + p) * kDim / 8, t) << (2 + p);
        }
        ASSERT_EQ(index, LoadTrellisIndex(trellis, planes.data(), kDim, t));
      }
    }
  }
}

// Ties go as the header says: a row of zeros with an outlier far away, whose values sit exactly
// between +-alphabet, encodes to the same bytes each time and never reads outside.
TEST(Trellis, TiesAreDefined) {
  TrellisScratch scratch;
  const TrellisView trellis = Trellis(3, 3);
  std::vector<float> y(16, 0.0f);
  y[15] = 1.0f;
  std::vector<uint8_t> planes(6);
  uint16_t scale;
  ASSERT_TRUE(EncodeTrellisRow(trellis, ScaleRule::kLeastSquares, y.data(), 16, &scratch,
                               planes.data(), &scale));
  std::vector<uint8_t> again(6, 0xEE);
  std::memset(&scratch, 0x5A, sizeof(scratch));
  uint16_t scale_again;
  ASSERT_TRUE(EncodeTrellisRow(trellis, ScaleRule::kLeastSquares, y.data(), 16, &scratch,
                               again.data(), &scale_again));
  EXPECT_EQ(planes, again);
  EXPECT_EQ(scale, scale_again);
}

// Broken decoders and what they do to the distortion of turbo3t at d = 128: all leave the bound
// .0240 by far, or fall below the limit of the stored bits.
TEST(Trellis, BoundsCatchBrokenDecoders) {
  constexpr int kDim = 128;
  const TrellisView trellis = Trellis(3, 3);
  TrellisView swapped = trellis;
  std::swap(swapped.h0, swapped.h1);
  TrellisView foreign = Trellis(3, 4);
  foreign.memory = 3;
  foreign.h0 &= 15u;
  TrellisView shifted = trellis;
  shifted.h0 <<= 1;
  shifted.memory = 4;
  const struct {
    const char* name;
    TrellisView view;
    int damage;
  } kMutants[] = {{"none", trellis, 0},           {"polynomials swapped", swapped, 0},
                  {"another code", foreign, 0},   {"parity one late", shifted, 0},
                  {"zeros", trellis, 1},          {"magnitudes", trellis, 2},
                  {"scale 10 % off", trellis, 3}, {"planes swapped", trellis, 4},
                  {"no path bits", trellis, 5},   {"input returned", trellis, 6}};
  TrellisScratch scratch;
  for (const auto& [name, view, damage] : kMutants) {
    SplitMix64 random(9);
    double sum = 0;
    constexpr int kRows = 400;
    for (int n = 0; n < kRows; ++n) {
      const std::vector<float> y = testing::UnitRow(kDim, &random);
      std::vector<uint8_t> planes(3 * kDim / 8);
      uint16_t scale;
      ASSERT_TRUE(EncodeTrellisRow(trellis, ScaleRule::kLeastSquares, y.data(), kDim, &scratch,
                                   planes.data(), &scale));
      const auto plane = planes.begin() + kDim / 8;
      if (damage == 4) std::swap_ranges(plane, plane + kDim / 8, plane + kDim / 8);
      if (damage == 5) std::fill(planes.begin(), plane, uint8_t{0});
      std::vector<float> decoded(kDim);
      DecodeTrellisRow(view, planes.data(), scale, kDim, decoded.data());
      for (int i = 0; i < kDim; ++i) {
        float v = decoded[i];
        if (damage == 1) v = 0;
        if (damage == 2) v = std::abs(v);
        if (damage == 3) v *= 1.1f;
        if (damage == 6) v = y[i];
        sum += std::pow(static_cast<double>(y[i]) - v, 2) / kRows;
      }
    }
    const bool within = sum <= .0240 && sum >= std::pow(4.0, -3.125);
    EXPECT_EQ(within, std::string(name) == "none") << name << ": " << sum;
  }
}

}  // namespace
}  // namespace turboquant
