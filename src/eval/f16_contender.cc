#include "eval/f16_contender.h"

#include "base/fp16.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 headers pass deliberately undefined registers (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Scores keep kRows x kCells sums in registers (a multiple of four) and add up the lanes of four of
// them at once; sums of values walk 16 or 32 coordinates down all rows.
namespace turboquant {
namespace {

// One query row against one cell, and a sum over cells: what the wide loops leave over.
void PlainScore(const uint16_t* k, int d, const float* q, float* out) {
  float sum = 0;
  for (int i = 0; i < d; ++i) sum += HalfToFloat(k[i]) * q[i];
  *out = sum;
}

void PlainScores(const uint16_t* k, int d, const float* q, int rows, int n, float* out, int ld) {
  for (int j = 0; j < n; ++j) {
    for (int r = 0; r < rows; ++r) PlainScore(k + j * d, d, q + r * d, out + r * ld + j);
  }
}

void PlainAccumulate(const uint16_t* v, int d, const float* p, int ld, int rows, int n, float* o) {
  for (int j = 0; j < n; ++j) {
    for (int i = 0; i < d; ++i) {
      const float x = HalfToFloat(v[j * d + i]);
      for (int r = 0; r < rows; ++r) o[r * d + i] += p[r * ld + j] * x;
    }
  }
}

// Splits any number of rows into what the templates are made for.
#define TQ_SPLIT_ROWS(function, rows, cells4, ...) \
  for (int r = 0; r < rows;) {                     \
    const int left = rows - r;                     \
    if (left >= 4) {                               \
      function<4, cells4>(__VA_ARGS__);            \
      r += 4;                                      \
    } else if (left == 3) {                        \
      function<3, 4>(__VA_ARGS__);                 \
      r += 3;                                      \
    } else if (left == 2) {                        \
      function<2, 4>(__VA_ARGS__);                 \
      r += 2;                                      \
    } else {                                       \
      function<1, 4>(__VA_ARGS__);                 \
      r += 1;                                      \
    }                                              \
  }

#if defined(__x86_64__)

#define TQ_AVX512 __attribute__((target("avx512f,avx512dq,avx2,fma,f16c")))
#define TQ_AVX2 __attribute__((target("avx2,fma,f16c")))

// The sums of the lanes of a, b, c, d.
TQ_AVX2 inline __m128 LaneSums(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
}

TQ_AVX512 inline __m256 Fold(__m512 x) {
  return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}

template <int kRows, int kCells>
TQ_AVX512 void Scores512(const uint16_t* k, int d, const float* q, int n, float* out, int ld) {
  constexpr int kSums = kRows * kCells;
  for (int j = 0; j < n; j += kCells) {
    __m512 sum[kSums];
    for (__m512& s : sum) s = _mm512_setzero_ps();
    for (int i = 0; i < d; i += 16) {
      for (int c = 0; c < kCells; ++c) {
        const __m512 x = _mm512_cvtph_ps(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(k + (j + c) * d + i)));
        for (int r = 0; r < kRows; ++r) {
          sum[r * kCells + c] =
              _mm512_fmadd_ps(x, _mm512_loadu_ps(q + r * d + i), sum[r * kCells + c]);
        }
      }
    }
    alignas(16) float lanes[kSums];
    for (int s = 0; s < kSums; s += 4) {
      _mm_store_ps(lanes + s,
                   LaneSums(Fold(sum[s]), Fold(sum[s + 1]), Fold(sum[s + 2]), Fold(sum[s + 3])));
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kCells; ++c) out[r * ld + j + c] = lanes[r * kCells + c];
    }
  }
}

void F16Scores512(const uint16_t* k, int d, const float* q, int rows, int n, float* out, int ld) {
  const int whole = n / 4 * 4;
  TQ_SPLIT_ROWS(Scores512, rows, 4, k, d, q + r * d, whole, out + r * ld, ld)
  PlainScores(k + whole * d, d, q, rows, n - whole, out + whole, ld);
}

template <int kRows, int kVectors>
TQ_AVX512 void Column512(const uint16_t* v, int d, const float* p, int ld, int n, float* o) {
  __m512 sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < kVectors; ++h) sum[r][h] = _mm512_loadu_ps(o + r * d + 16 * h);
  }
  for (int j = 0; j < n; ++j) {
    __m512 x[kVectors];
    for (int h = 0; h < kVectors; ++h) {
      x[h] =
          _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + j * d + 16 * h)));
    }
    for (int r = 0; r < kRows; ++r) {
      const __m512 w = _mm512_set1_ps(p[r * ld + j]);
      for (int h = 0; h < kVectors; ++h) sum[r][h] = _mm512_fmadd_ps(w, x[h], sum[r][h]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < kVectors; ++h) _mm512_storeu_ps(o + r * d + 16 * h, sum[r][h]);
  }
}

template <int kRows, int>
TQ_AVX512 void Accumulate512(const uint16_t* v, int d, const float* p, int ld, int n, float* o) {
  int i = 0;
  for (; i + 64 <= d; i += 64) Column512<kRows, 4>(v + i, d, p, ld, n, o + i);
  for (; i < d; i += 16) Column512<kRows, 1>(v + i, d, p, ld, n, o + i);
}

void F16Accumulate512(const uint16_t* v, int d, const float* p, int ld, int rows, int n, float* o) {
  TQ_SPLIT_ROWS(Accumulate512, rows, 4, v, d, p + r * ld, ld, n, o + r * d)
}

template <int kRows, int kCells>
TQ_AVX2 void Scores256(const uint16_t* k, int d, const float* q, int n, float* out, int ld) {
  constexpr int kSums = kRows * kCells;
  for (int j = 0; j < n; j += kCells) {
    __m256 sum[kSums];
    for (__m256& s : sum) s = _mm256_setzero_ps();
    for (int i = 0; i < d; i += 8) {
      for (int c = 0; c < kCells; ++c) {
        const __m256 x =
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(k + (j + c) * d + i)));
        for (int r = 0; r < kRows; ++r) {
          sum[r * kCells + c] =
              _mm256_fmadd_ps(x, _mm256_loadu_ps(q + r * d + i), sum[r * kCells + c]);
        }
      }
    }
    alignas(16) float lanes[kSums];
    for (int s = 0; s < kSums; s += 4) {
      _mm_store_ps(lanes + s, LaneSums(sum[s], sum[s + 1], sum[s + 2], sum[s + 3]));
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kCells; ++c) out[r * ld + j + c] = lanes[r * kCells + c];
    }
  }
}

void F16Scores256(const uint16_t* k, int d, const float* q, int rows, int n, float* out, int ld) {
  const int whole = n / 4 * 4;
  TQ_SPLIT_ROWS(Scores256, rows, 2, k, d, q + r * d, whole, out + r * ld, ld)
  PlainScores(k + whole * d, d, q, rows, n - whole, out + whole, ld);
}

template <int kRows, int>
TQ_AVX2 void Accumulate256(const uint16_t* v, int d, const float* p, int ld, int n, float* o) {
  for (int i = 0; i < d; i += 16) {
    __m256 sum[kRows][2];
    for (int r = 0; r < kRows; ++r) {
      for (int h = 0; h < 2; ++h) sum[r][h] = _mm256_loadu_ps(o + r * d + i + 8 * h);
    }
    for (int j = 0; j < n; ++j) {
      const auto* at = reinterpret_cast<const __m128i*>(v + j * d + i);
      const __m256 x0 = _mm256_cvtph_ps(_mm_loadu_si128(at));
      const __m256 x1 = _mm256_cvtph_ps(_mm_loadu_si128(at + 1));
      for (int r = 0; r < kRows; ++r) {
        const __m256 w = _mm256_set1_ps(p[r * ld + j]);
        sum[r][0] = _mm256_fmadd_ps(w, x0, sum[r][0]);
        sum[r][1] = _mm256_fmadd_ps(w, x1, sum[r][1]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int h = 0; h < 2; ++h) _mm256_storeu_ps(o + r * d + i + 8 * h, sum[r][h]);
    }
  }
}

void F16Accumulate256(const uint16_t* v, int d, const float* p, int ld, int rows, int n, float* o) {
  TQ_SPLIT_ROWS(Accumulate256, rows, 4, v, d, p + r * ld, ld, n, o + r * d)
}

constexpr F16Kernels kAvx512 = {F16Scores512, F16Accumulate512};
constexpr F16Kernels kAvx2 = {F16Scores256, F16Accumulate256};

#elif defined(__aarch64__)

inline float32x4_t Load(const uint16_t* x) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
}

template <int kRows, int kCells>
void ScoresNeon(const uint16_t* k, int d, const float* q, int n, float* out, int ld) {
  for (int j = 0; j < n; j += kCells) {
    float32x4_t sum[kRows][kCells];
    for (auto& row : sum) {
      for (float32x4_t& s : row) s = vdupq_n_f32(0);
    }
    for (int i = 0; i < d; i += 4) {
      float32x4_t x[kCells];
      for (int c = 0; c < kCells; ++c) x[c] = Load(k + (j + c) * d + i);
      for (int r = 0; r < kRows; ++r) {
        const float32x4_t w = vld1q_f32(q + r * d + i);
        for (int c = 0; c < kCells; ++c) sum[r][c] = vfmaq_f32(sum[r][c], x[c], w);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kCells; ++c) out[r * ld + j + c] = vaddvq_f32(sum[r][c]);
    }
  }
}

void F16ScoresNeon(const uint16_t* k, int d, const float* q, int rows, int n, float* out, int ld) {
  const int whole = n / 4 * 4;
  TQ_SPLIT_ROWS(ScoresNeon, rows, 4, k, d, q + r * d, whole, out + r * ld, ld)
  PlainScores(k + whole * d, d, q, rows, n - whole, out + whole, ld);
}

template <int kRows, int>
void AccumulateNeon(const uint16_t* v, int d, const float* p, int ld, int n, float* o) {
  for (int i = 0; i < d; i += 16) {
    float32x4_t sum[kRows][4];
    for (int r = 0; r < kRows; ++r) {
      for (int h = 0; h < 4; ++h) sum[r][h] = vld1q_f32(o + r * d + i + 4 * h);
    }
    for (int j = 0; j < n; ++j) {
      for (int h = 0; h < 4; ++h) {
        const float32x4_t x = Load(v + j * d + i + 4 * h);
        for (int r = 0; r < kRows; ++r) sum[r][h] = vfmaq_n_f32(sum[r][h], x, p[r * ld + j]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int h = 0; h < 4; ++h) vst1q_f32(o + r * d + i + 4 * h, sum[r][h]);
    }
  }
}

void F16AccumulateNeon(const uint16_t* v, int d, const float* p, int ld, int rows, int n,
                       float* o) {
  TQ_SPLIT_ROWS(AccumulateNeon, rows, 4, v, d, p + r * ld, ld, n, o + r * d)
}

constexpr F16Kernels kNeon = {F16ScoresNeon, F16AccumulateNeon};

#endif

constexpr F16Kernels kPlain = {PlainScores, PlainAccumulate};

}  // namespace

const F16Kernels& F16KernelsFor(std::string_view table_name) {
#if defined(__x86_64__)
  if (table_name == "avx512") return kAvx512;
  if (table_name == "avx2") return kAvx2;
#elif defined(__aarch64__)
  if (table_name == "neon") return kNeon;
#endif
  return kPlain;
}

}  // namespace turboquant
