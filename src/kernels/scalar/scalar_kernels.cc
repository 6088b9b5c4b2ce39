// The reference table: the scalar truth of the codec behind the kernel interface. Written to be
// read; sums run over 16 independent lanes so that the compiler may vectorise them.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/fp16.h"
#include "codec/format.h"
#include "codec/scalar_codec.h"
#include "codec/trellis_codec.h"
#include "kernels/kernel_api.h"
#include "kernels/tile_layout.h"

namespace turboquant {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

size_t RowCodeBytes(const CodedRows& rows) {
  return static_cast<size_t>(rows.bits) * rows.head_dim / 8;
}

void HalfToFloatMany(const uint16_t* in, float* out, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = HalfToFloat(in[i]);
}

void FloatToHalfMany(const float* in, uint16_t* out, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = FloatToHalf(in[i]);
}

bool Encode(int bits, const RotationView& r, const float* x, const float* mean, uint8_t* codes,
            uint16_t* scale) {
  float y[kMaxHeadDim];
  for (int i = 0; i < r.head_dim; ++i) y[i] = mean != nullptr ? x[i] - mean[i] : x[i];
  Rotate(r, y, y);
  return EncodeRotatedRow(bits, y, r.head_dim, codes, scale);
}

void Decode(const CodedRows& k, int n, float* out) {
  const size_t bytes = RowCodeBytes(k);
  for (int j = 0; j < n; ++j) {
    DecodeRotatedRow(k.bits, k.codes + j * bytes, k.scales[j], k.head_dim,
                     out + static_cast<size_t>(j) * k.head_dim);
  }
}

int EncodeTrellis(const TrellisView& trellis, const RotationView& r, const float* x,
                  const float* mean, int n, uint8_t* planes, uint16_t* scales) {
  TrellisScratch scratch;
  float y[kMaxHeadDim];
  int invalid = 0;
  for (int j = 0; j < n; ++j) {
    const float* row = x + static_cast<size_t>(j) * r.head_dim;
    for (int i = 0; i < r.head_dim; ++i) y[i] = mean != nullptr ? row[i] - mean[i] : row[i];
    Rotate(r, y, y);
    const size_t at = static_cast<size_t>(j) * trellis.bits * r.head_dim / 8;
    invalid += EncodeTrellisRow(trellis, ScaleRule::kLeastSquares, y, r.head_dim, &scratch,
                                planes + at, scales + j)
                   ? 0
                   : 1;
  }
  return invalid;
}

void DecodeTrellis(const TrellisView& trellis, int head_dim, const uint8_t* planes,
                   const uint16_t* scales, int n, float* out) {
  for (int j = 0; j < n; ++j) {
    DecodeTrellisRow(trellis, planes + static_cast<size_t>(j) * trellis.bits * head_dim / 8,
                     scales[j], head_dim, out + static_cast<size_t>(j) * head_dim);
  }
}

void Quantize(const CodebookView& book, const float* y, int n, float inverse_rms, uint8_t* codes,
              float* dot, float* norm) {
  QuantizeValues(book, y, n, 0, inverse_rms, codes, dot, norm);
}

// The centroids of one cell, without its scale.
void LoadCentroids(const CodedTiles& x, int cell, float* c) {
  uint8_t codes[kMaxHeadDim];
  LoadTileRow(x.form, CodeBytes(x.format, x.head_dim), cell, x.codes, codes);
  const int bits = IndexBits(x.format);
  if (IsTrellis(x.format)) {
    const TrellisView trellis = Trellis(bits, TrellisMemory(x.format));
    for (int i = 0; i < x.head_dim; ++i) {
      c[i] = trellis.alphabet[LoadTrellisIndex(trellis, codes, x.head_dim, i)];
    }
    return;
  }
  const float* centroids = Centroids(bits);
  for (int i = 0; i < x.head_dim; ++i) c[i] = centroids[LoadCode(bits, codes, x.head_dim, i)];
}

// head_dim is always a multiple of 16.
float Dot(const float* a, const float* b, int head_dim) {
  float lane[16] = {0};
  for (int i = 0; i < head_dim; i += 16) {
    for (int l = 0; l < 16; ++l) lane[l] += a[i + l] * b[i + l];
  }
  return FoldLanes(lane);
}

void AddScaled(float weight, const float* x, int head_dim, float* o) {
  for (int i = 0; i < head_dim; ++i) o[i] += weight * x[i];
}

// The f32 rows alone.
void PrepareQueries(const float* q, int head_dim, int rows, uint8_t* prepared) {
  const size_t bytes = static_cast<size_t>(head_dim) * sizeof(float);
  for (int r = 0; r < rows; ++r) {
    std::memcpy(prepared + r * PreparedQueryBytes(head_dim), q + static_cast<size_t>(r) * head_dim,
                bytes);
  }
}

void CodedScores(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                 int ld) {
  float c[kMaxHeadDim];
  for (int j = 0; j < n; ++j) {
    LoadCentroids(k, k.first + j, c);
    const float scale = HalfToFloat(k.scales[k.first + j]);
    for (int r = 0; r < rows; ++r) {
      const auto* q = reinterpret_cast<const float*>(prepared + r * PreparedQueryBytes(k.head_dim));
      out[static_cast<size_t>(r) * ld + j] = scale * Dot(q, c, k.head_dim);
    }
  }
}

void CodedAccumulate(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  float c[kMaxHeadDim];
  for (int j = 0; j < n; ++j) {
    bool used = false;
    for (int r = 0; r < rows; ++r) used = used || p[static_cast<size_t>(r) * ld + j] != 0.0f;
    if (!used) continue;
    LoadCentroids(v, v.first + j, c);
    const float scale = HalfToFloat(v.scales[v.first + j]);
    for (int r = 0; r < rows; ++r) {
      AddScaled(p[static_cast<size_t>(r) * ld + j] * scale, c, v.head_dim,
                o + static_cast<size_t>(r) * v.head_dim);
    }
  }
}

void DenseScores(const float* x, int head_dim, const float* q, int rows, int n, float* out,
                 int ld) {
  for (int r = 0; r < rows; ++r) {
    for (int j = 0; j < n; ++j) {
      out[static_cast<size_t>(r) * ld + j] = Dot(q + static_cast<size_t>(r) * head_dim,
                                                 x + static_cast<size_t>(j) * head_dim, head_dim);
    }
  }
}

void DenseAccumulate(const float* x, int head_dim, const float* p, int ld, int rows, int n,
                     float* o) {
  for (int r = 0; r < rows; ++r) {
    for (int j = 0; j < n; ++j) {
      AddScaled(p[static_cast<size_t>(r) * ld + j], x + static_cast<size_t>(j) * head_dim, head_dim,
                o + static_cast<size_t>(r) * head_dim);
    }
  }
}

void HalfScores(const uint16_t* const* x, int d, const float* q, int rows, int n, float* out,
                int ld) {
  for (int j = 0; j < n; ++j) {
    float row[kMaxHeadDim];
    HalfToFloatMany(x[j], row, d);
    DenseScores(row, d, q, rows, 1, out + j, ld);
  }
}

void HalfAccumulate(const uint16_t* const* x, int d, const float* p, int ld, int rows, int n,
                    float* o) {
  for (int j = 0; j < n; ++j) {
    float row[kMaxHeadDim];
    HalfToFloatMany(x[j], row, d);
    DenseAccumulate(row, d, p + j, ld, rows, 1, o);
  }
}

void MeanLogits(const int8_t* steps, const uint16_t* step_sizes, int head_dim, const float* q,
                int rows, float* out) {
  float mean[kMaxHeadDim];
  for (int i = 0; i < head_dim; ++i) {
    mean[i] = HalfToFloat(step_sizes[i / 16]) * static_cast<float>(steps[i]);
  }
  for (int r = 0; r < rows; ++r) {
    out[r] = Dot(q + static_cast<size_t>(r) * head_dim, mean, head_dim);
  }
}

bool SameValues(const uint16_t* x, int n) {
  for (int j = 1; j < n; ++j) {
    if (x[j] != x[0]) return false;
  }
  return true;
}

bool MaskBias(const uint16_t* mask, const uint16_t* hidden, float slope, int n, float* bias) {
  bool seen = false;
  for (int j = 0; j < n; ++j) {
    bias[j] = HalfToFloat(hidden[j]) + (mask != nullptr ? slope * HalfToFloat(mask[j]) : 0.0f);
    seen = seen || bias[j] > -kInfinity;
  }
  return seen;
}

void SoftmaxRow(const LogitRows& x, int r) {
  float* s = x.s + static_cast<size_t>(r) * x.ld;
  const float add = x.add != nullptr ? x.add[r] : 0.0f;
  const float* bias = x.bias != nullptr ? x.bias[r / x.rows_per_bias] : nullptr;
  float top = x.m[r];
  for (int j = 0; j < x.n; ++j) {
    s[j] += add;
    if (x.softcap > 0.0f) s[j] = x.softcap * std::tanh(s[j] / x.softcap);
    if (bias != nullptr) s[j] += bias[j];
    top = s[j] > top ? s[j] : top;
  }
  x.factor[r] = 1.0f;
  if (top == -kInfinity) {  // nothing visible so far: -inf - -inf must not become NaN
    for (int j = 0; j < x.n; ++j) s[j] = 0.0f;
    return;
  }
  float sum = 0.0f;
  for (int j = 0; j < x.n; ++j) {
    s[j] = std::exp(s[j] - top);
    sum += s[j];
  }
  if (x.m[r] != top) x.factor[r] = std::exp(x.m[r] - top);
  x.l[r] = x.l[r] * x.factor[r] + sum;
  x.m[r] = top;
}

void Softmax(const LogitRows& x) {
  for (int r = 0; r < x.rows; ++r) SoftmaxRow(x, r);
}

constexpr KernelTable kScalarKernelTable = {
    .name = "scalar",
    .half_to_float = HalfToFloatMany,
    .float_to_half = FloatToHalfMany,
    .rotate = Rotate,
    .unrotate = Unrotate,
    .encode = Encode,
    .decode = Decode,
    .encode_trellis = EncodeTrellis,
    .decode_trellis = DecodeTrellis,
    .measure = MeasureRow,
    .quantize = Quantize,
    .dequantize = DequantizeValues,
    .dot = Dot16,
    .prepare_queries = PrepareQueries,
    .coded_scores = CodedScores,
    .coded_accumulate = CodedAccumulate,
    .dense_scores = DenseScores,
    .dense_accumulate = DenseAccumulate,
    .half_scores = HalfScores,
    .half_accumulate = HalfAccumulate,
    .mean_logits = MeanLogits,
    .same_values = SameValues,
    .mask_bias = MaskBias,
    .softmax = Softmax,
};

}  // namespace

const KernelTable& ScalarKernels() { return kScalarKernelTable; }

}  // namespace turboquant
