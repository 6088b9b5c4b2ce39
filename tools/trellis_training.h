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

// One step: encodes every row, moves every entry by `relaxation` times the way to the mean of the
// values coded by it and, negated, by its mirror image. Returns the mean squared error before.
inline double TrellisTrainingStep(int bits, int memory, const std::vector<float>& set,
                                  double relaxation, std::vector<float>* alphabet) {
  const size_t entries = size_t{2} << bits;
  TrellisView trellis = Trellis(bits, memory);
  trellis.alphabet = alphabet->data();
  std::vector<double> sum(entries, 0.0);
  std::vector<double> count(entries, 0.0);
  std::vector<uint8_t> planes(static_cast<size_t>(bits) * kTrellisRowLength / 8);
  std::vector<TrellisScratch> scratch(1);
  double error = 0;
  for (size_t at = 0; at < set.size(); at += kTrellisRowLength) {
    planes.assign(planes.size(), 0);
    SearchTrellis(trellis, set.data() + at, kTrellisRowLength, 1.0f, scratch.data(), planes.data());
    for (int t = 0; t < kTrellisRowLength; ++t) {
      const size_t index =
          static_cast<size_t>(LoadTrellisIndex(trellis, planes.data(), kTrellisRowLength, t));
      const double y = set[at + t];
      error += (y - trellis.alphabet[index]) * (y - trellis.alphabet[index]);
      sum[index] += y;
      count[index] += 1;
    }
  }
  for (size_t i = 0; i < entries / 2; ++i) {
    const size_t mirror = entries - 1 - i;
    const double weight = count[i] + count[mirror];
    if (weight == 0) continue;
    const double old = (*alphabet)[mirror];
    const double mean = (sum[mirror] - sum[i]) / weight;
    (*alphabet)[mirror] = static_cast<float>(old + relaxation * (mean - old));
    (*alphabet)[i] = -(*alphabet)[mirror];
  }
  return error / static_cast<double>(set.size());
}

// From the Lloyd-Max centroids of one bit more.
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
