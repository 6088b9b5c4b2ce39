// RowCoder: a codec at the speed of a kernel table. The same bytes and floats as Codec gives; what
// the table has no kernel for runs on the scalar truth.
//
//   auto codec = Codec::Create("turbo3t", 128);
//   const RowCoder coder(*codec.value(), BestKernels());
//   coder.Encode(x, n, rows);      // n * row_bytes() bytes
//   coder.Decode(rows, n, x);
//
// Kernels exist for turbo1, turbo2, turbo3, turbo4, turbo8 and the trellis codecs with the
// least-squares scale, the Gaussian codebook and the Walsh-Hadamard rotation. Any number of threads
// may use one RowCoder. Nothing is allocated after construction.
#ifndef TURBOQUANT_KERNELS_ROW_CODER_H_
#define TURBOQUANT_KERNELS_ROW_CODER_H_

#include <cstddef>
#include <cstdint>

#include "codec/codec.h"
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

  // False: everything runs on the scalar truth.
  bool accelerated() const { return path_ != Path::kCodec; }

 private:
  enum class Path : uint8_t { kCodec, kScalar, kTrellis };

  static Path PathOf(const CodecSpec& spec);
  size_t EncodeTrellis(const float* x, size_t n, uint8_t* rows, uint8_t* valid) const;

  const Codec& codec_;
  const KernelTable& table_;
  Path path_;
  Rotation rotation_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_ROW_CODER_H_
