// Row maps: the orthogonal map between a row and the coordinates in which it is quantised.
#ifndef TURBOQUANT_CODEC_ROW_MAP_H_
#define TURBOQUANT_CODEC_ROW_MAP_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "codec/codec_spec.h"
#include "codec/row_ops.h"

namespace turboquant {

class RowMap {
 public:
  virtual ~RowMap() = default;
  // in and out are [d] and do not overlap. Backward is the transpose.
  virtual void Forward(const float* in, float* out, const RowOps& ops) const = 0;
  virtual void Backward(const float* in, float* out, const RowOps& ops) const = 0;
};

// d as SupportedHeadDim (rotation=none: any).
std::unique_ptr<RowMap> MakeRowMap(RotationKind kind, int d, uint64_t seed);

// Gathers the listed channels (ascending) into the first coordinates and the others into the last,
// and maps both groups on their own, with seeds `seed` and DeriveSeed(seed, 1).
std::unique_ptr<RowMap> MakeSplitMap(RotationKind kind, int d, uint64_t seed,
                                     const std::vector<int>& channels);

// A d x d matrix of independent N(0, 1) entries; not orthogonal.
std::unique_ptr<RowMap> MakeGaussianMap(int d, uint64_t seed);

// Independent seeds for the maps of one codec: the (purpose + 1)-th draw of SplitMix64(~seed).
uint64_t DeriveSeed(uint64_t seed, int purpose);

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_ROW_MAP_H_
