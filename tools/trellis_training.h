// Training of a trellis alphabet: Lloyd's iteration with the Viterbi encoder as its nearest-point
// step. Used by make_trellis, which prints the committed tables, and by the test of them.
#ifndef TURBOQUANT_TOOLS_TRELLIS_TRAINING_H_
#define TURBOQUANT_TOOLS_TRELLIS_TRAINING_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/rng.h"
#include "codec/scalar_codec.h"
#include "codec/trellis_codec.h"
#include "math/lloyd_max.h"

namespace turboquant {

inline constexpr int kTrellisRowLength = 128;
inline constexpr int kTrellisTrainingRows = 4096;
inline constexpr int kTrellisTrainingSteps = 60;
inline constexpr uint64_t kTrellisTrainingSeed = 20250428;

// `rows` rows uniform on the sphere of radius sqrt(kTrellisRowLength).
inline std::vector<float> TrellisTrainingSet(int rows, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<float> set(static_cast<size_t>(rows) * kTrellisRowLength);
  for (int row = 0; row < rows; ++row) {
    float* y = set.data() + static_cast<size_t>(row) * kTrellisRowLength;
    double energy = 0;
    for (int i = 0; i < kTrellisRowLength; ++i) {
      y[i] = static_cast<float>(random.Normal());
      energy += static_cast<double>(y[i]) * y[i];
    }
    const float scale = static_cast<float>(std::sqrt(kTrellisRowLength / energy));
    for (int i = 0; i < kTrellisRowLength; ++i) y[i] *= scale;
  }
  return set;
}

// Plain Lloyd steps creep here (an entry's neighbours of the same subset are far away); moving 1.9
// times as far reaches the same point in a third of the steps.
inline constexpr double kTrellisRelaxation = 1.9;

// What became of a set coded with an alphabet, by entry.
struct TrellisUse {
  double error = 0;           // mean squared
  std::vector<double> sum;    // of the values coded by the entry
  std::vector<double> count;  // their number
};

inline TrellisUse UseTrellis(int bits, int memory, const std::vector<float>& set,
                             const std::vector<float>& alphabet) {
  const size_t entries = size_t{2} << bits;
  TrellisView trellis = Trellis(bits, memory);
  trellis.alphabet = alphabet.data();
  TrellisUse use{0, std::vector<double>(entries, 0.0), std::vector<double>(entries, 0.0)};
  std::vector<uint8_t> planes(static_cast<size_t>(bits) * kTrellisRowLength / 8);
  std::vector<TrellisScratch> scratch(1);
  for (size_t at = 0; at < set.size(); at += kTrellisRowLength) {
    planes.assign(planes.size(), 0);
    SearchTrellis(trellis, set.data() + at, kTrellisRowLength, 1.0f, scratch.data(), planes.data());
    for (int t = 0; t < kTrellisRowLength; ++t) {
      const size_t index =
          static_cast<size_t>(LoadTrellisIndex(trellis, planes.data(), kTrellisRowLength, t));
      const double y = set[at + t];
      use.error += (y - trellis.alphabet[index]) * (y - trellis.alphabet[index]);
      use.sum[index] += y;
      use.count[index] += 1;
    }
  }
  use.error /= static_cast<double>(set.size());
  return use;
}

// One step: encodes every row, moves every entry by `relaxation` times the way to the mean of the
// values coded by it and, negated, by its mirror image. Returns the mean squared error before.
inline double TrellisTrainingStep(int bits, int memory, const std::vector<float>& set,
                                  double relaxation, std::vector<float>* alphabet) {
  const size_t entries = alphabet->size();
  const TrellisUse use = UseTrellis(bits, memory, set, *alphabet);
  for (size_t i = 0; i < entries / 2; ++i) {
    const size_t mirror = entries - 1 - i;
    const double weight = use.count[i] + use.count[mirror];
    if (weight == 0) continue;
    const double old = (*alphabet)[mirror];
    const double mean = (use.sum[mirror] - use.sum[i]) / weight;
    (*alphabet)[mirror] = static_cast<float>(old + relaxation * (mean - old));
    (*alphabet)[i] = -(*alphabet)[mirror];
  }
  return use.error;
}

// An alphabet of whole multiples of a unit that fit a signed byte: entry = unit * step.
struct TrellisGrid {
  std::vector<int> steps;
  float unit = 0;
  std::vector<float> alphabet;
};

// The unit, of those that give the largest entry 64 to kMaxGridStep steps, with the least squared
// error of rounding over the values coded by each entry of `alphabet`.
inline TrellisGrid SnapTrellisAlphabet(const std::vector<float>& alphabet,
                                       const std::vector<double>& count) {
  constexpr int kUnitsPerPeak = 64;
  TrellisGrid best;
  double least = 0;
  for (int i = 64 * kUnitsPerPeak; i <= kMaxGridStep * kUnitsPerPeak; ++i) {
    const float unit = static_cast<float>(alphabet.back() * static_cast<double>(kUnitsPerPeak) / i);
    TrellisGrid grid{{}, unit, {}};
    double error = 0;
    for (size_t e = 0; e < alphabet.size(); ++e) {
      grid.steps.push_back(static_cast<int>(std::lround(alphabet[e] / unit)));
      grid.alphabet.push_back(unit * static_cast<float>(grid.steps.back()));
      const double off = static_cast<double>(grid.alphabet.back()) - alphabet[e];
      error += count[e] * off * off;
    }
    if (best.steps.empty() || error < least) {
      best = grid;
      least = error;
    }
  }
  return best;
}

// From the Lloyd-Max centroids of one bit more; not yet on a grid.
inline std::vector<float> TrainTrellisAlphabet(int bits, int memory) {
  const auto book = SolveLloydMax(bits + 1, kGaussianMarginal);
  std::vector<float> alphabet;
  if (!book.ok()) return alphabet;
  for (double c : book.value().centroids) alphabet.push_back(static_cast<float>(c));
  const std::vector<float> set = TrellisTrainingSet(kTrellisTrainingRows, kTrellisTrainingSeed);
  for (int step = 0; step < kTrellisTrainingSteps; ++step) {
    TrellisTrainingStep(bits, memory, set, kTrellisRelaxation, &alphabet);
  }
  return alphabet;
}

}  // namespace turboquant

#endif  // TURBOQUANT_TOOLS_TRELLIS_TRAINING_H_
