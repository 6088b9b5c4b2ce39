// The kernel table: every hot loop of the CPU, one row of function pointers per instruction set.
//
// A table is chosen once at run time (BestKernels). All tables give the same code bytes; float
// results differ only by the order of additions. No function allocates, throws or fails: what a
// table cannot do it must not be asked (head_dim satisfies SupportedHeadDim; bits in {1, 2, 3, 4,
// 8}).
//
// Shapes: q rows are [rows][head_dim] f32, contiguous. Coded rows come in two orders: canonical
// (CodedRows), as they are saved, and in tiles (CodedTiles), as attention reads them.
#ifndef TURBOQUANT_KERNELS_KERNEL_API_H_
#define TURBOQUANT_KERNELS_KERNEL_API_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "codec/codebook.h"
#include "codec/format.h"
#include "codec/row_energy.h"
#include "codec/trellis.h"
#include "kernels/tile_layout.h"
#include "math/rotation.h"

namespace turboquant {

// Consecutive canonical rows of one kv head: codes of row j start at
// codes + j * CodeBytes(format, head_dim), its fp16 scale is scales[j].
struct CodedRows {
  int bits;  // 1, 2, 3, 4 or 8
  int head_dim;
  const uint8_t* codes;
  const uint16_t* scales;
};

// Cells [first, first + n) of one kv head in tiles (kernels/tile_layout.h). Scores are fast on the
// form of keys and sums on that of values; the other way round is right, but slow (attention whose
// values are a part of the keys). Codes and scales are readable to the end of the last tile
// touched, whatever they hold there; codes are 4-byte aligned.
struct CodedTiles {
  Format format;  // coded
  int head_dim;
  const uint8_t* codes;    // of cell 0
  const uint16_t* scales;  // of cell 0
  int first;
  TileForm form;
};

// Query rows as a table's coded_scores wants them, written by its prepare_queries: the f32 row, the
// same in two bytes a value in two orders, one step size and two sums. 64-byte aligned.
constexpr size_t PreparedQueryBytes(int head_dim) {
  return (static_cast<size_t>(head_dim) * 8 + 12 + 63) / 64 * 64;
}

// Rows of logits that a table's softmax turns into weights, each against its running state (m, l):
//   s_j <- s_j + add
//   s_j <- softcap > 0 ? softcap * tanh(s_j / softcap) : s_j;   s_j += bias_j
//   m' = max(m, max_j s_j);  s_j <- exp(s_j - m');  l <- l * exp(m - m') + sum_j s_j;  m <- m'
//   factor <- exp(m - m'): for what was accumulated so far; 1 when m did not change
// Entries of -inf become 0; if everything so far is -inf, s becomes 0 and m stays -inf.
struct LogitRows {
  float* s;  // row r at s + r * ld
  int ld;
  int rows;
  int n;
  const float* add = nullptr;          // [rows], null: 0
  const float* const* bias = nullptr;  // of row r: [r / rows_per_bias], n values; null, all or one: 0
  int rows_per_bias = 1;
  float softcap = 0.0f;
  float* m;       // [rows]
  float* l;       // [rows]
  float* factor;  // [rows]
};

struct KernelTable {
  // "scalar", "avx2", "avxvnni", "avx512", "avx512amx", "neon", "neondot"
  std::string_view name;

  // f16 -> f32 and back (round to nearest even), n values.
  void (*half_to_float)(const uint16_t* in, float* out, size_t n);
  void (*float_to_half)(const float* in, uint16_t* out, size_t n);

  // Rotate / Unrotate of math/rotation.h, bit-exact to it. in may equal out.
  void (*rotate)(const RotationView& r, const float* in, float* out);
  void (*unrotate)(const RotationView& r, const float* in, float* out);

  // Encodes one row x[head_dim] (f32): subtracts mean (null: nothing), rotates, codes. False when
  // the row holds NaN or Inf (stored as zeros). Bit-exact to EncodeRotatedRow(Rotate(x - mean)).
  bool (*encode)(int bits, const RotationView& r, const float* x, const float* mean, uint8_t* codes,
                 uint16_t* scale);

  // Decodes n rows into rotated coordinates, out[n][head_dim]. Bit-exact to DecodeRotatedRow.
  void (*decode)(const CodedRows& k, int n, float* out);

  // The same with a trellis code (codec/trellis_codec.h, least-squares scale): n rows
  // x[n][head_dim] to n * bits * head_dim / 8 bytes of planes and n scales; rows are searched side
  // by side. Returns how many hold NaN or Inf or have an energy beyond float.
  int (*encode_trellis)(const TrellisView& trellis, const RotationView& r, const float* x,
                        const float* mean, int n, uint8_t* planes, uint16_t* scales);
  void (*decode_trellis)(const TrellisView& trellis, int head_dim, const uint8_t* planes,
                         const uint16_t* scales, int n, float* out);

  // The steps of the other codecs (codec/row_ops.h), bit-exact to the scalar truth.
  RowEnergy (*measure)(const float* y, int n);
  void (*quantize)(const CodebookView& book, const float* y, int n, float inverse_rms,
                   uint8_t* codes, float* dot, float* norm);
  void (*dequantize)(const CodebookView& book, const uint8_t* codes, float scale, int n,
                     float* out);
  float (*dot)(const float* a, const float* b, int n);

  // Prepares q[rows][head_dim] into rows * PreparedQueryBytes(head_dim) bytes.
  void (*prepare_queries)(const float* q, int head_dim, int rows, uint8_t* prepared);

  // out[r * ld + j] = scale_j * <q_r, centroids of cell first + j>, r < rows, j < n.
  // Integer tables round q to 15 bits of its largest value, and with turbo8 centroids too
  // (docs/adr/0007); everything else is exact.
  void (*coded_scores)(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                       int ld);

  // o[r][head_dim] += sum over j < n of p[r * ld + j] * scale_j * centroids of cell first + j, p >=
  // 0. Integer tables round p * scale to 15 bits of the largest among 128 cells.
  void (*coded_accumulate)(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o);

  // The same two over dense f32 rows x[n][head_dim]; for many query rows (prefill). dk / dv any
  // multiple of 16; q row stride and o row stride equal the head_dim given.
  void (*dense_scores)(const float* x, int head_dim, const float* q, int rows, int n, float* out,
                       int ld);
  void (*dense_accumulate)(const float* x, int head_dim, const float* p, int ld, int rows, int n,
                           float* o);

  // The same over n rows of f16, row j at x[j]; for few query rows.
  void (*half_scores)(const uint16_t* const* x, int head_dim, const float* q, int rows, int n,
                      float* out, int ld);
  void (*half_accumulate)(const uint16_t* const* x, int head_dim, const float* p, int ld, int rows,
                          int n, float* o);

  // out[r] = <q_r, mean>, r < rows; value i of the mean is steps[i] times the fp16
  // step_sizes[i / 16]. head_dim is a multiple of 16.
  void (*mean_logits)(const int8_t* steps, const uint16_t* step_sizes, int head_dim, const float* q,
                      int rows, float* out);

  // Whether x[n] are all equal, bit for bit; n >= 1.
  bool (*same_values)(const uint16_t* x, int n);

  // bias[j] = slope * mask[j] + hidden[j], both f16 (mask null: 0); hidden is 0 or -inf. False if
  // every bias is -inf.
  bool (*mask_bias)(const uint16_t* mask, const uint16_t* hidden, float slope, int n, float* bias);

  void (*softmax)(const LogitRows& x);
};

const KernelTable& ScalarKernels();
// Null when the build or this CPU lacks the instructions.
const KernelTable* Avx2Kernels();
const KernelTable* AvxVnniKernels();
const KernelTable* Avx512Kernels();
// Asks the operating system, once, for this process to use the matrix unit.
const KernelTable* Avx512AmxKernels();
const KernelTable* NeonKernels();
const KernelTable* NeonDotprodKernels();

// All of these, the fastest first.
std::array<const KernelTable*, 7> AllKernels();

// The fastest table of this CPU; FindKernels forces one by its name. An unknown or unavailable name
// gives null.
const KernelTable* FindKernels(std::string_view name);
const KernelTable& BestKernels();

}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_KERNEL_API_H_
