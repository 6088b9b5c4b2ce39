// RowCoder: a codec at the speed of a kernel table. The same bytes and floats as Codec gives.
//
//   auto codec = Codec::Create("turbo3t", 128);
//   const RowCoder coder(*codec.value(), BestKernels());
//   coder.Encode(x, n, rows);      // n * row_bytes() bytes
//   coder.Decode(rows, n, x);
//
// Every codec runs on the table's kernels, but for dense maps (rotation=haar, projection=gaussian),
// trellis search without the Walsh-Hadamard rotation, and the codecs of groups, which are there to
// compare with. Any number of threads may use one RowCoder. Nothing is allocated after
// construction.
#ifndef TURBOQUANT_KERNELS_ROW_CODER_H_
#define TURBOQUANT_KERNELS_ROW_CODER_H_

#include <cstddef>
#include <cstdint>

#include "codec/codec.h"
#include "codec/row_ops.h"
#include "codec/trellis.h"
#include "kernels/kernel_api.h"
#include "math/rotation.h"

namespace turboquant {

class RowCoder {
 public:
  // Both must outlive it.
  RowCoder(const Codec& codec, const KernelTable& table);

  // x[n][head_dim] -> rows, n * row_bytes() bytes. Returns how many rows hold NaN or Inf or have an
  // energy beyond float; they are stored as zeros (codec.h). valid[n], if given: 1 for the others.
  size_t Encode(const float* x, size_t n, uint8_t* rows, uint8_t* valid = nullptr) const;
  void Decode(const uint8_t* rows, size_t n, float* x) const;

  // Rotated rows, and inner products with them, as the codec has them.
  void DecodeRotated(const uint8_t* rows, size_t n, float* y) const;
  void InnerProducts(const float* query, const uint8_t* rows, size_t n, float* scores) const;

  // The table's steps, for the functions of Codec that take them.
  const RowOps& ops() const { return ops_; }

  // False: the table has no kernel for the most expensive step of encoding.
  bool accelerated() const;

 private:
  // kScalar and kTrellis have kernels that run all steps of a row at once.
  enum class Path : uint8_t { kSteps, kScalar, kTrellis };

  static Path PathOf(const CodecSpec& spec);
  size_t EncodeTrellis(const float* x, size_t n, uint8_t* rows, uint8_t* valid) const;
  uint16_t TrellisScale(const float* x, const uint8_t* planes) const;

  const Codec& codec_;
  const KernelTable& table_;
  RowOps ops_;
  Path path_;
  Rotation rotation_;
  TrellisView trellis_{};
};

}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_ROW_CODER_H_
