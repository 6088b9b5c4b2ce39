#include "eval/array_coding.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "base/parallel.h"
#include "eval/row_error.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"

namespace turboquant {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kBatchRows = 1024;  // of one piece of work
constexpr uint64_t kBatchVectors = 256;

double Seconds(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Counts pieces that are done and tells.
class Counter {
 public:
  Counter(uint64_t total, const CodingProgress& progress) : total_(total), progress_(progress) {}
  void Add() {
    if (!progress_) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    progress_(static_cast<double>(++done_) / static_cast<double>(total_));
  }

 private:
  std::mutex mutex_;
  uint64_t total_;
  uint64_t done_ = 0;
  const CodingProgress& progress_;
};

// Figures of one batch; batches are added in order, so that sums do not depend on threads.
struct BatchStats {
  uint64_t invalid = 0, zero = 0;
  double error = 0, energy = 0, ratios = 0, worst = 0;
  double seconds = 0;

  void AddRow(const RowError& row) {
    if (row.energy == 0) {
      ++zero;
      return;
    }
    error += row.error;
    energy += row.energy;
    ratios += row.relative();
    worst = std::max(worst, row.relative());
  }
};

}  // namespace

CodingStats EncodeArray(const ArrayView& array, const RowFile& plan, std::span<uint8_t> bytes,
                        int threads, const CodingProgress& progress) {
  const Codec& codec = plan.codec();
  const RowCoder coder(codec, BestKernels());
  const auto d = static_cast<size_t>(codec.head_dim());
  const uint64_t batches = (plan.rows() + kBatchRows - 1) / kBatchRows;
  std::vector<BatchStats> stats(batches);
  Counter counter(batches, progress);
  ParallelFor(batches, threads, [&](size_t b) {
    const uint64_t first = b * kBatchRows;
    const uint64_t n = std::min(kBatchRows, plan.rows() - first);
    std::vector<float> x(n * d), decoded(d);
    std::vector<uint8_t> valid(n);
    uint8_t* rows = bytes.data() + plan.rows_offset() + first * codec.row_bytes();
    const auto batch_start = Clock::now();
    array.Read(first * d, n * d, x.data());
    coder.Encode(x.data(), n, rows, valid.data());
    stats[b].seconds = Seconds(batch_start);
    for (uint64_t j = 0; j < n; ++j) {
      if (valid[j] == 0) {
        ++stats[b].invalid;
        continue;
      }
      coder.Decode(rows + j * codec.row_bytes(), 1, decoded.data());
      stats[b].AddRow(MeasureRowError(&x[j * d], decoded.data(), static_cast<int>(d)));
    }
    counter.Add();
  });
  plan.Seal(bytes);
  CodingStats total;
  total.rows = plan.rows();
  double error = 0, energy = 0, ratios = 0, encoding = 0;
  for (const BatchStats& s : stats) {
    total.invalid_rows += s.invalid;
    total.zero_rows += s.zero;
    total.worst_distortion = std::max(total.worst_distortion, s.worst);
    error += s.error;
    energy += s.energy;
    ratios += s.ratios;
    encoding += s.seconds;
  }
  const uint64_t counted = total.rows - total.invalid_rows - total.zero_rows;
  total.distortion = energy > 0 ? error / energy : 0;
  total.mean_distortion = counted > 0 ? ratios / static_cast<double>(counted) : 0;
  total.encode_seconds = encoding / static_cast<double>(std::clamp<uint64_t>(threads, 1, batches));
  return total;
}

double DecodeArray(const RowFile& file, FloatType type, uint8_t* out, int threads,
                   const CodingProgress& progress) {
  const RowCoder coder(file.codec(), BestKernels());
  const auto d = static_cast<size_t>(file.codec().head_dim());
  const uint64_t batches = (file.rows() + kBatchRows - 1) / kBatchRows;
  Counter counter(batches, progress);
  const auto start = Clock::now();
  ParallelFor(batches, threads, [&](size_t b) {
    const uint64_t first = b * kBatchRows;
    const uint64_t n = std::min(kBatchRows, file.rows() - first);
    std::vector<float> x(n * d);
    coder.Decode(file.row(first), n, x.data());
    WriteFloats(type, x.data(), n * d, out + first * d * FloatBytes(type));
    counter.Add();
  });
  return Seconds(start);
}

ArrayStats DescribeArray(const ArrayView& array, int threads) {
  struct Part {
    uint64_t non_finite = 0, zero_vectors = 0;
    double minimum = std::numeric_limits<double>::infinity(), maximum = -minimum;
    double sum = 0, squares = 0;
    double least = std::numeric_limits<double>::infinity(), greatest = 0;
  };
  const uint64_t width = array.shape.empty() ? 1 : array.shape.back();
  const uint64_t vectors = width == 0 ? 0 : array.values() / width;
  const uint64_t batches = (vectors + kBatchVectors - 1) / kBatchVectors;
  std::vector<Part> parts(batches);
  ParallelFor(batches, threads, [&](size_t b) {
    Part& p = parts[b];
    std::vector<float> x(width);
    const uint64_t end = std::min(vectors, (b + 1) * kBatchVectors);
    for (uint64_t v = b * kBatchVectors; v < end; ++v) {
      array.Read(v * width, width, x.data());
      double energy = 0;
      bool finite = true;
      for (float value : x) {
        if (!std::isfinite(value)) {
          ++p.non_finite;
          finite = false;
          continue;
        }
        p.minimum = std::min<double>(p.minimum, value);
        p.maximum = std::max<double>(p.maximum, value);
        p.sum += value;
        energy += static_cast<double>(value) * value;
      }
      p.squares += energy;
      if (!finite) continue;
      p.zero_vectors += energy == 0 ? 1 : 0;
      p.least = std::min(p.least, std::sqrt(energy));
      p.greatest = std::max(p.greatest, std::sqrt(energy));
    }
  });
  Part all;
  for (const Part& p : parts) {
    all.non_finite += p.non_finite;
    all.zero_vectors += p.zero_vectors;
    all.minimum = std::min(all.minimum, p.minimum);
    all.maximum = std::max(all.maximum, p.maximum);
    all.sum += p.sum;
    all.squares += p.squares;
    all.least = std::min(all.least, p.least);
    all.greatest = std::max(all.greatest, p.greatest);
  }
  ArrayStats stats;
  const auto finite = static_cast<double>(array.values() - all.non_finite);
  stats.non_finite = all.non_finite;
  stats.zero_vectors = all.zero_vectors;
  stats.greatest_norm = all.greatest;
  stats.least_norm = std::isfinite(all.least) ? all.least : 0;
  if (finite > 0) {
    stats.minimum = all.minimum;
    stats.maximum = all.maximum;
    stats.mean = all.sum / finite;
    stats.rms = std::sqrt(all.squares / finite);
  }
  return stats;
}

}  // namespace turboquant
