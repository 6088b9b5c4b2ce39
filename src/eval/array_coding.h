// Whole arrays through a codec, on several threads, with what it cost.
#ifndef TURBOQUANT_EVAL_ARRAY_CODING_H_
#define TURBOQUANT_EVAL_ARRAY_CODING_H_

#include <cstdint>
#include <functional>
#include <span>

#include "files/array_file.h"
#include "files/row_file.h"

namespace turboquant {

// Called with the share of rows done, 0 .. 1, by one thread at a time.
using CodingProgress = std::function<void(double done)>;

struct CodingStats {
  uint64_t rows = 0;
  uint64_t invalid_rows = 0;   // NaN, Inf or too much energy; stored as zeros, not in the figures
  uint64_t zero_rows = 0;      // stored exactly; not in the mean below
  double distortion = 0;       // sum |x - x~|^2 / sum |x|^2
  double mean_distortion = 0;  // mean of |x - x~|^2 / |x|^2
  double worst_distortion = 0;
  double encode_seconds = 0;  // reading and encoding alone, the mean over the threads
};

// Encodes the values into the rows of the planned file and seals it: `bytes` are plan.Bytes() of
// them. array.values() == plan.values().
CodingStats EncodeArray(const ArrayView& array, const RowFile& plan, std::span<uint8_t> bytes,
                        int threads, const CodingProgress& progress);

// Decodes all rows of an opened file to `type` at out[values]. Returns the seconds it took.
double DecodeArray(const RowFile& file, FloatType type, uint8_t* out, int threads,
                   const CodingProgress& progress);

// What the values of an array are like.
struct ArrayStats {
  uint64_t non_finite = 0;
  double minimum = 0, maximum = 0, mean = 0, rms = 0;
  uint64_t zero_vectors = 0;
  double least_norm = 0, greatest_norm = 0;  // of vectors, finite ones
};
ArrayStats DescribeArray(const ArrayView& array, int threads);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_ARRAY_CODING_H_
