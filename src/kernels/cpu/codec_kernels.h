// Half conversion, rotation, encode and decode on the vectors of the including translation unit
// (one of vec_*.h must come first; the linking rule is in vec_avx512.h).
//
// Everything here is bit-exact to the scalar truth: the same operations in the same order, 16
// running sums, no fused multiply-add except by +-1, which is exact.
#ifndef TURBOQUANT_KERNELS_CPU_CODEC_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODEC_KERNELS_H_

#include <string.h>

#include "codec/codebook.h"
#include "codec/format.h"
#include "codec/row_energy.h"
#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

constexpr int kVecsOf16 = 16 / kLanes;

template <int kBits>
TQ_INLINE const float* CentroidsOf() {
  return kBits == 1   ? kCentroids1
         : kBits == 2 ? kCentroids2
         : kBits == 3 ? kCentroids3
         : kBits == 4 ? kCentroids4
                      : kCentroids8;
}
template <int kBits>
TQ_INLINE const float* ThresholdsOf() {
  return kBits == 1   ? kThresholds1
         : kBits == 2 ? kThresholds2
         : kBits == 3 ? kThresholds3
         : kBits == 4 ? kThresholds4
                      : kThresholds8;
}

// ---- half precision ----

void HalfToFloatMany(const uint16_t* in, float* out, size_t n) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, HalfLoad(in + i));
  const int rest = static_cast<int>(n - i);
  if (rest > 0) StoreFirst(out + i, HalfLoadFirst(in + i, rest), rest);
}

void FloatToHalfMany(const float* in, uint16_t* out, size_t n) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) HalfStore(out + i, Load(in + i));
  const int rest = static_cast<int>(n - i);
  if (rest > 0) HalfStoreFirst(out + i, LoadFirst(in + i, rest), rest);
}

// ---- rotation ----

// One butterfly stage inside every vector: low lanes a + b, high lanes a - b. The product with +-1
// is exact, so the fused operation rounds once, like the plain addition.
template <int kStride>
TQ_INLINE FloatVec ButterflyInVector(FloatVec v) {
  return Fma(v, ButterflySigns<kStride>(), SwapLanes<kStride>(v));
}

// All stages of stride below kVecs * kLanes, in registers.
template <int kVecs>
TQ_INLINE void ButterfliesInRegisters(FloatVec (&v)[kVecs]) {
  for (int i = 0; i < kVecs; ++i) {
    v[i] = ButterflyInVector<1>(v[i]);
    v[i] = ButterflyInVector<2>(v[i]);
    if constexpr (kLanes >= 8) v[i] = ButterflyInVector<4>(v[i]);
    if constexpr (kLanes == 16) v[i] = ButterflyInVector<8>(v[i]);
  }
  for (int h = 1; h < kVecs; h *= 2) {
    for (int start = 0; start < kVecs; start += 2 * h) {
      for (int i = start; i < start + h; ++i) {
        const FloatVec a = v[i];
        const FloatVec b = v[i + h];
        v[i] = Add(a, b);
        v[i + h] = Sub(a, b);
      }
    }
  }
}

// The transform of blocks of r.n values: (in - mean) . signs, butterflies, . norm. mean and signs
// may be null. Every chunk of kVecs vectors is read before it is written, so out may be in.
template <int kVecs>
TQ_INLINE void TransformChunks(const RotationView& r, const float* in, const float* mean,
                               const float* signs, float* out) {
  constexpr int kChunk = kVecs * kLanes;
  for (int start = 0; start < r.head_dim; start += kChunk) {
    FloatVec v[kVecs];
    for (int i = 0; i < kVecs; ++i) {
      const int at = start + i * kLanes;
      v[i] = Load(in + at);
      if (mean != nullptr) v[i] = Sub(v[i], Load(mean + at));
      if (signs != nullptr) v[i] = Mul(v[i], Load(signs + at));
    }
    ButterfliesInRegisters(v);
    // A multiplication by one is exact: the norm belongs to the last stage only.
    const FloatVec norm = Set(r.n == kChunk ? r.norm : 1.0f);
    for (int i = 0; i < kVecs; ++i) Store(out + start + i * kLanes, Mul(v[i], norm));
  }
  for (int h = kChunk; h < r.n; h *= 2) {
    const FloatVec norm = Set(2 * h == r.n ? r.norm : 1.0f);
    for (int start = 0; start < r.head_dim; start += 2 * h) {
      for (int i = start; i < start + h; i += kLanes) {
        const FloatVec a = Load(out + i);
        const FloatVec b = Load(out + i + h);
        Store(out + i, Mul(Add(a, b), norm));
        Store(out + i + h, Mul(Sub(a, b), norm));
      }
    }
  }
}

// r.n is a power of two and at least 16, because head_dim is a multiple of 16.
TQ_INLINE void Transform(const RotationView& r, const float* in, const float* mean,
                         const float* signs, float* out) {
  switch (r.n / kLanes) {
    case 1:
      return TransformChunks<1>(r, in, mean, signs, out);
    case 2:
      return TransformChunks<2>(r, in, mean, signs, out);
    case 4:
      return TransformChunks<4>(r, in, mean, signs, out);
    default:
      return TransformChunks<8>(r, in, mean, signs, out);
  }
}

// out[i] = sum over j ascending of mix(i, j) * in[j] across the blocks. in must not be out.
template <bool kTranspose>
void Mix(const RotationView& r, const float* in, float* out) {
  const int m = r.m;
  for (int i = 0; i < m; ++i) {
    const float* mix = kTranspose ? r.mix + i : r.mix + i * m;
    const int step = kTranspose ? m : 1;
    for (int b = 0; b < r.n; b += kLanes) {
      FloatVec sum = Zero();
      for (int j = 0; j < m; ++j) {
        sum = Add(sum, Mul(Set(mix[j * step]), Load(in + j * r.n + b)));
      }
      Store(out + i * r.n + b, sum);
    }
  }
}

TQ_INLINE void RotateRow(const RotationView& r, const float* in, const float* mean, float* out) {
  if (r.m == 1) return Transform(r, in, mean, r.signs, out);
  alignas(64) float blocks[kMaxHeadDim];
  Transform(r, in, mean, r.signs, blocks);
  Mix<false>(r, blocks, out);
}

void RotateKernel(const RotationView& r, const float* in, float* out) {
  RotateRow(r, in, nullptr, out);
}

void UnrotateKernel(const RotationView& r, const float* in, float* out) {
  alignas(64) float blocks[kMaxHeadDim];
  const float* source = in;
  if (r.m > 1) {
    Mix<true>(r, in, blocks);
    source = blocks;
  }
  Transform(r, source, nullptr, nullptr, out);
  for (int i = 0; i < r.head_dim; i += kLanes) {
    Store(out + i, Mul(Load(out + i), Load(r.signs + i)));
  }
}

// ---- code bytes ----

// Planes of code bytes <-> one byte a code, several bytes at a time. A code is below 16, so the
// shifts below never carry from one byte of a word into the next. kWord divides every plane.
template <int kBits, typename Word>
TQ_INLINE void PackCodes(const uint8_t* bytes, int d, uint8_t* codes) {
  constexpr int kStep = static_cast<int>(sizeof(Word));
  const auto load = [&](int i) {
    Word word;
    memcpy(&word, bytes + i, sizeof(word));
    return word;
  };
  const auto store = [&](int i, uint64_t value) {
    const Word word = static_cast<Word>(value);
    memcpy(codes + i, &word, sizeof(word));
  };
  if constexpr (kBits == 4) {
    const int half = d / 2;
    for (int j = 0; j < half; j += kStep) {
      store(j, load(j) | static_cast<uint64_t>(load(j + half)) << 4);
    }
    return;
  }
  if constexpr (kBits == 8) {
    memcpy(codes, bytes, static_cast<size_t>(d));
    return;
  }
  constexpr uint64_t kLowTwo = 0x0303030303030303u;
  constexpr uint64_t kOne = 0x0101010101010101u;
  const int low = kBits == 1 ? 0 : d / 4;  // bytes of the plane of low bits
  for (int j = 0; j < low; j += kStep) {
    uint64_t word = 0;
    for (int t = 0; t < 4; ++t) word |= (load(j + t * low) & kLowTwo) << (2 * t);
    store(j, word);
  }
  if constexpr (kBits == 1 || kBits == 3) {
    const int eighth = d / 8;
    for (int j = 0; j < eighth; j += kStep) {
      uint64_t word = 0;
      for (int t = 0; t < 8; ++t) {
        word |= ((static_cast<uint64_t>(load(j + t * eighth)) >> (kBits - 1)) & kOne) << t;
      }
      store(low + j, word);
    }
  }
}

template <int kBits>
TQ_INLINE void UnpackCodes(const uint8_t* codes, int d, uint8_t* bytes) {
  if constexpr (kBits == 4) {
    const int half = d / 2;
    for (int j = 0; j < half; ++j) {
      bytes[j] = codes[j] & 15;
      bytes[j + half] = codes[j] >> 4;
    }
    return;
  }
  if constexpr (kBits == 8) {
    memcpy(bytes, codes, static_cast<size_t>(d));
    return;
  }
  if constexpr (kBits == 1) {
    const int eighth = d / 8;
    for (int t = 0; t < 8; ++t) {
      for (int j = 0; j < eighth; ++j) bytes[j + t * eighth] = (codes[j] >> t) & 1;
    }
    return;
  }
  const int quarter = d / 4;
  for (int t = 0; t < 4; ++t) {
    for (int j = 0; j < quarter; ++j) bytes[j + t * quarter] = (codes[j] >> (2 * t)) & 3;
  }
  if constexpr (kBits == 3) {
    const int eighth = d / 8;
    for (int t = 0; t < 8; ++t) {
      for (int j = 0; j < eighth; ++j) {
        bytes[j + t * eighth] |= static_cast<uint8_t>(((codes[quarter + j] >> t) & 1) << 2);
      }
    }
  }
}

// ---- direct unpacking, for head dims that are multiples of 64 ----

// True if every plane of the code bytes splits into whole vectors of kLanes bytes, and a plane of
// high bits into runs of eight.
TQ_INLINE bool PlanesFitVectors(int head_dim) { return head_dim % 64 == 0; }

// Vectors of coordinates that one vector of code bytes holds, and their distance.
template <int kBits>
constexpr int kPlanes = kBits == 4 ? 2 : 4;

// Where the code bytes [k, k + kLanes) of the low plane find their high bits (3 bits only): bit
// 2 t + shift of the high plane's byte belongs to plane t, and a vector may span the two shifts.
struct Chunk {
  int low;
  int high0;  // offsets of the high bytes of lanes 0..7 and 8..15
  int high1;
  IntVec high_shift;
};

template <int kBits>
TQ_INLINE Chunk ChunkAt(int d, int k) {
  Chunk chunk = {k, 0, 0, ZeroInt()};
  if constexpr (kBits == 3) {
    const int quarter = d / 4;
    const int eighth = d / 8;
    const int next = k + 8;
    chunk.high0 = quarter + (k < eighth ? k : k - eighth);
    chunk.high1 = quarter + (next < eighth ? next : next - eighth);
    chunk.high_shift = SetHalves(k < eighth ? 0 : 1, next < eighth ? 0 : 1);
  }
  return chunk;
}

// idx[t]: the table index of coordinates t * plane + chunk.low + lane, in its low kBits bits. The
// bits above are left as they fall (a Table ignores them).
template <int kBits>
TQ_INLINE void LoadIndices(const uint8_t* row, const Chunk& chunk, IntVec (&idx)[kPlanes<kBits>]) {
  const IntVec low = LoadBytes(row + chunk.low);
  if constexpr (kBits == 4) {
    idx[0] = low;
    idx[1] = ShiftRight<4>(low);
  } else if constexpr (kBits == 2) {
    idx[0] = low;
    idx[1] = ShiftRight<2>(low);
    idx[2] = ShiftRight<4>(low);
    idx[3] = ShiftRight<6>(low);
  } else {
    // Bring each high bit beside its two low ones: nibbles of planes 0 and 2, then of 1 and 3.
    const IntVec high =
        ShiftRightEach(LoadBytes(row + chunk.high0, row + chunk.high1), chunk.high_shift);
    const IntVec even = SelectBits<0x44>(ShiftLeft<2>(high), low);
    const IntVec odd = SelectBits<0x44>(high, ShiftRight<2>(low));
    idx[0] = even;
    idx[1] = odd;
    idx[2] = ShiftRight<4>(even);
    idx[3] = ShiftRight<4>(odd);
  }
}

// ---- encode ----

// The code of every lane by bisection of the ascending thresholds: with idx codes known to lie
// below, threshold idx + step - 1 decides whether step more do. The first kLevels levels come from
// registers; those of 8 bits' last four from memory.
template <int kBits>
struct Bisection {
  static constexpr int kLevels = kBits < 4 ? kBits : 4;
  static constexpr int kRest = kBits - kLevels;
  Table level[kLevels];
  const float* thresholds;
};
template <int kBits>
TQ_INLINE Bisection<kBits> LoadBisection(const float* thresholds) {
  using Result = Bisection<kBits>;
  constexpr int kThresholds = (1 << Result::kLevels) - 1;
  float coarse[kThresholds];  // every 2^kRest-th
  for (int i = 0; i < kThresholds; ++i) {
    coarse[i] = thresholds[((i + 1) << Result::kRest) - 1];
  }
  Result result;
  result.thresholds = thresholds;
  for (int b = 0; b < Result::kLevels; ++b) {
    const int step = 1 << (Result::kLevels - 1 - b);
    result.level[b] = LoadShortTable(coarse + step - 1, kThresholds - step + 1);
  }
  return result;
}
template <int kBits>
TQ_INLINE IntVec NearestCodes(const Bisection<kBits>& bisection, FloatVec u) {
  constexpr int kLevels = Bisection<kBits>::kLevels;
  constexpr int kRest = Bisection<kBits>::kRest;
  IntVec idx = ZeroInt();
  for (int b = 0; b < kLevels; ++b) {
    idx = AddWhereGreater(idx, u, Lookup<kLevels>(bisection.level[b], idx), 1 << (kLevels - 1 - b));
  }
  if constexpr (kRest > 0) {
    idx = ShiftLeft<kRest>(idx);
    for (int step = 1 << (kRest - 1); step > 0; step /= 2) {
      idx = AddWhereGreater(idx, u, Gather(bisection.thresholds + step - 1, idx), step);
    }
  }
  return idx;
}

// The centroids of a codebook, times a factor.
template <int kBits>
struct ScaledCentroids {
  TQ_INLINE ScaledCentroids(const float* centroids, float factor)
      : centroids_(centroids), factor_(Set(factor)) {
    if constexpr (kBits <= 4) table_ = Scale(LoadTable<kBits>(centroids), factor);
  }
  TQ_INLINE FloatVec operator[](IntVec idx) const {
    if constexpr (kBits <= 4) {
      return Lookup<kBits>(table_, idx);
    } else {
      return Mul(Gather(centroids_, idx), factor_);
    }
  }

 private:
  const float* centroids_;
  Table table_;
  FloatVec factor_;
};

// Dot16 of the scalar truth.
float DotKernel(const float* a, const float* b, int n) {
  Sum16 sum;
  for (int v = 0; v < kVecsOf16; ++v) sum.part[v] = Zero();
  for (int i = 0; i < n; i += 16) {
    for (int v = 0; v < kVecsOf16; ++v) {
      const int at = i + v * kLanes;
      sum.part[v] = Add(sum.part[v], Mul(Load(a + at), Load(b + at)));
    }
  }
  return Fold(sum);
}

// MeasureRow of the scalar truth.
RowEnergy MeasureKernel(const float* y, int n) {
  const float energy = DotKernel(y, y, n);
  if (!(energy <= 3.4028234e38f)) return {RowKind::kInvalid, 0.0f, 0.0f};
  const float inverse_rms = 1.0f / SquareRoot(energy / static_cast<float>(n));
  if (!(energy > 0.0f && inverse_rms <= 3.4028234e38f)) return {RowKind::kZero, 0.0f, 0.0f};
  return {RowKind::kUsable, energy, inverse_rms};
}

// The least-squares scale, rounded as it is stored, from the sums over terms y c and c c.
struct ScaleFit {
  Sum16 dot;
  Sum16 norm;

  TQ_INLINE ScaleFit() {
    for (int v = 0; v < kVecsOf16; ++v) dot.part[v] = norm.part[v] = Zero();
  }
  // Vector v of sixteen terms.
  TQ_INLINE void AddTerms(int v, FloatVec y, FloatVec c) {
    dot.part[v] = Add(dot.part[v], Mul(y, c));
    norm.part[v] = Add(norm.part[v], Mul(c, c));
  }
  TQ_INLINE uint16_t Half() const {
    const float s = Fold(dot) / Fold(norm);
    return ToHalf(s > 65504.0f ? 65504.0f : s);
  }
};

// QuantizeValues of the scalar truth: codes of y[n] * inverse_rms, and what they add to the sums.
template <int kBits>
TQ_INLINE void QuantizeVectors(const float* centroids, const float* thresholds, const float* y,
                               int n, float inverse_rms, uint8_t* codes, ScaleFit* fit) {
  const ScaledCentroids<kBits> values(centroids, 1.0f);
  const Bisection<kBits> bisection = LoadBisection<kBits>(thresholds);
  alignas(64) uint8_t bytes[kMaxHeadDim];
  for (int i = 0; i < n; i += 16) {
    for (int v = 0; v < kVecsOf16; ++v) {
      const FloatVec x = Load(y + i + v * kLanes);
      const IntVec idx = NearestCodes<kBits>(bisection, Mul(x, Set(inverse_rms)));
      fit->AddTerms(v, x, values[idx]);
      StoreBytes(bytes + i + v * kLanes, idx);
    }
  }
  if (PlanesFitVectors(n)) {
    PackCodes<kBits, uint64_t>(bytes, n, codes);
  } else {
    PackCodes<kBits, uint16_t>(bytes, n, codes);
  }
}

// EncodeRotatedRow of the scalar truth, step by step.
template <int kBits>
bool EncodeRow(const float* y, int d, uint8_t* codes, uint16_t* scale) {
  *scale = 0;
  const RowEnergy row = MeasureKernel(y, d);
  if (row.kind != RowKind::kUsable) {
    memset(codes, 0, static_cast<size_t>(kBits * d / 8));
    return row.kind == RowKind::kZero;
  }
  ScaleFit fit;
  QuantizeVectors<kBits>(CentroidsOf<kBits>(), ThresholdsOf<kBits>(), y, d, row.inverse_rms, codes,
                         &fit);
  *scale = fit.Half();
  return true;
}

template <int kBits>
void QuantizeWith(const CodebookView& book, const float* y, int n, float inverse_rms,
                  uint8_t* codes, float* dot, float* norm) {
  ScaleFit fit;
  for (int v = 0; v < kVecsOf16; ++v) {
    fit.dot.part[v] = Load(dot + v * kLanes);
    fit.norm.part[v] = Load(norm + v * kLanes);
  }
  QuantizeVectors<kBits>(book.centroids, book.thresholds, y, n, inverse_rms, codes, &fit);
  for (int v = 0; v < kVecsOf16; ++v) {
    Store(dot + v * kLanes, fit.dot.part[v]);
    Store(norm + v * kLanes, fit.norm.part[v]);
  }
}

void QuantizeKernel(const CodebookView& book, const float* y, int n, float inverse_rms,
                    uint8_t* codes, float* dot, float* norm) {
  switch (book.bits) {
    case 1:
      return QuantizeWith<1>(book, y, n, inverse_rms, codes, dot, norm);
    case 2:
      return QuantizeWith<2>(book, y, n, inverse_rms, codes, dot, norm);
    case 3:
      return QuantizeWith<3>(book, y, n, inverse_rms, codes, dot, norm);
    case 8:
      return QuantizeWith<8>(book, y, n, inverse_rms, codes, dot, norm);
    default:
      return QuantizeWith<4>(book, y, n, inverse_rms, codes, dot, norm);
  }
}

bool EncodeKernel(int bits, const RotationView& r, const float* x, const float* mean,
                  uint8_t* codes, uint16_t* scale) {
  alignas(64) float y[kMaxHeadDim];
  RotateRow(r, x, mean, y);
  switch (bits) {
    case 1:
      return EncodeRow<1>(y, r.head_dim, codes, scale);
    case 8:
      return EncodeRow<8>(y, r.head_dim, codes, scale);
    case 2:
      return EncodeRow<2>(y, r.head_dim, codes, scale);
    case 3:
      return EncodeRow<3>(y, r.head_dim, codes, scale);
    default:
      return EncodeRow<4>(y, r.head_dim, codes, scale);
  }
}

// ---- decode ----

// out[i] = centroid of code i, of `scaled`; n is a multiple of 16.
template <int kBits>
TQ_INLINE void DequantizeVectors(const ScaledCentroids<kBits>& scaled, const uint8_t* codes, int n,
                                 float* out) {
  if constexpr (kBits > 1 && kBits < 8) {
    if (PlanesFitVectors(n)) {
      constexpr int kCount = kPlanes<kBits>;
      const int plane = n / kCount;
      for (int k = 0; k < plane; k += kLanes) {
        IntVec idx[kCount];
        LoadIndices<kBits>(codes, ChunkAt<kBits>(n, k), idx);
        for (int t = 0; t < kCount; ++t) Store(out + t * plane + k, scaled[idx[t]]);
      }
      return;
    }
  }
  alignas(64) uint8_t bytes[kMaxHeadDim];
  UnpackCodes<kBits>(codes, n, bytes);
  for (int i = 0; i < n; i += kLanes) Store(out + i, scaled[LoadBytes(bytes + i)]);
}

template <int kBits>
void DecodeRows(const uint8_t* codes, const uint16_t* scales, int d, int n, float* out) {
  const size_t stride = static_cast<size_t>(kBits * d / 8);
  for (int j = 0; j < n; ++j) {
    const ScaledCentroids<kBits> scaled(CentroidsOf<kBits>(), FromHalf(scales[j]));
    DequantizeVectors<kBits>(scaled, codes + j * stride, d, out + static_cast<size_t>(j) * d);
  }
}

template <int kBits>
void DequantizeWith(const CodebookView& book, const uint8_t* codes, float scale, int n,
                    float* out) {
  DequantizeVectors<kBits>(ScaledCentroids<kBits>(book.centroids, scale), codes, n, out);
}

void DequantizeKernel(const CodebookView& book, const uint8_t* codes, float scale, int n,
                      float* out) {
  switch (book.bits) {
    case 1:
      return DequantizeWith<1>(book, codes, scale, n, out);
    case 2:
      return DequantizeWith<2>(book, codes, scale, n, out);
    case 3:
      return DequantizeWith<3>(book, codes, scale, n, out);
    case 8:
      return DequantizeWith<8>(book, codes, scale, n, out);
    default:
      return DequantizeWith<4>(book, codes, scale, n, out);
  }
}

void DecodeKernel(const CodedRows& k, int n, float* out) {
  switch (k.bits) {
    case 1:
      return DecodeRows<1>(k.codes, k.scales, k.head_dim, n, out);
    case 8:
      return DecodeRows<8>(k.codes, k.scales, k.head_dim, n, out);
    case 2:
      return DecodeRows<2>(k.codes, k.scales, k.head_dim, n, out);
    case 3:
      return DecodeRows<3>(k.codes, k.scales, k.head_dim, n, out);
    default:
      return DecodeRows<4>(k.codes, k.scales, k.head_dim, n, out);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODEC_KERNELS_H_
