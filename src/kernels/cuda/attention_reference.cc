#include "kernels/cuda/attention_reference.h"

#include <cmath>
#include <limits>

#include "base/fp16.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/row_mask.h"
#include "kernels/cuda/tile_convert.h"

namespace turboquant::cuda {
namespace {

// Keys and values of one sequence and kv head, in original coordinates.
struct Token {
  int position;
  std::vector<double> k, v;
};

std::vector<double> DecodeRow(const tq_cuda_cache& cache, const RecordLayout& layout,
                              const uint8_t* record, bool value_side, int token) {
  float y[kMaxTileHeadDim];
  DecodeTileRow(layout, record, value_side, token, y);
  std::vector<double> x(y, y + cache.head_dim);
  UnrotateDouble(value_side ? cache.v_rotation : cache.k_rotation, cache.head_dim, x.data());
  return x;
}

std::vector<Token> Gather(const tq_cuda_attention& p, const RecordLayout& layout, int b, int head) {
  const tq_cuda_cache& c = p.cache;
  const int d = c.head_dim;
  std::vector<Token> tokens;
  for (int i = 0; i < p.coded_len[b]; ++i) {
    const int page = c.page_table[static_cast<int64_t>(b) * c.page_stride + i / kTileTokens];
    const uint8_t* record = static_cast<const uint8_t*>(c.records) +
                            (static_cast<size_t>(page) * c.num_kv_heads + head) * layout.bytes;
    Token t;
    t.position = p.coded_begin + i;
    t.k = DecodeRow(c, layout, record, false, i % kTileTokens);
    t.v = DecodeRow(c, layout, record, true, i % kTileTokens);
    if (c.mean_tokens > 0) {
      const int mean = c.mean_table[static_cast<int64_t>(b) * c.mean_stride + i / c.mean_tokens];
      for (int j = 0; mean >= 0 && j < d; ++j) {
        t.k[j] += HalfToFloat(c.means[(static_cast<size_t>(mean) * c.num_kv_heads + head) * d + j]);
      }
    }
    tokens.push_back(std::move(t));
  }
  const int total = p.total_len != nullptr ? p.total_len[b] : p.coded_begin + p.coded_len[b];
  const int exact = p.exact_len != nullptr ? p.exact_len[b] : 0;
  for (int i = 0; i < exact; ++i) {
    Token t;
    t.position = p.exact_position != nullptr
                     ? p.exact_position[static_cast<int64_t>(b) * p.exact_stride + i]
                     : total - exact + i;
    const int64_t at =
        b * p.exact.sequence_stride + i * p.exact.token_stride + head * p.exact.head_stride;
    for (int j = 0; j < d; ++j) {
      t.k.push_back(LoadValue(p.exact.k, p.exact.dtype, at + j));
      t.v.push_back(LoadValue(p.exact.v, p.exact.dtype, at + j));
    }
    tokens.push_back(std::move(t));
  }
  return tokens;
}

// One query row over the tokens it sees.
void AttendRow(const tq_cuda_attention& p, const std::vector<Token>& tokens, const RowMask& mask,
               const std::vector<double>& q, const float* sink, double* out, double* lse) {
  const int d = p.cache.head_dim;
  std::vector<double> logits;
  double most = sink != nullptr ? *sink : -std::numeric_limits<double>::infinity();
  for (const Token& t : tokens) {
    double s = 0;
    for (int j = 0; j < d; ++j) s += q[j] * t.k[j];
    s *= p.scale;
    if (p.softcap > 0) s = p.softcap * std::tanh(s / p.softcap);
    if (!mask.Sees(t.position)) s = -std::numeric_limits<double>::infinity();
    logits.push_back(s);
    most = std::max(most, s);
  }
  *lse = -std::numeric_limits<double>::infinity();
  for (int j = 0; j < d; ++j) out[j] = 0;
  if (!(most > -std::numeric_limits<double>::infinity())) return;
  double sum = sink != nullptr ? std::exp(*sink - most) : 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const double w = std::exp(logits[i] - most);
    if (w == 0) continue;
    sum += w;
    for (int j = 0; j < d; ++j) out[j] += w * tokens[i].v[j];
  }
  for (int j = 0; j < d; ++j) out[j] /= sum;
  *lse = most + std::log(sum);
}

}  // namespace

double LoadValue(const void* base, int dtype, int64_t i) {
  if (dtype == TQ_CUDA_F32) return static_cast<const float*>(base)[i];
  const uint16_t bits = static_cast<const uint16_t*>(base)[i];
  return dtype == TQ_CUDA_F16 ? HalfToFloat(bits) : BfloatToFloat(bits);
}

void UnrotateDouble(const tq_cuda_rotation& r, int head_dim, double* x) {
  if (r.m > 1) {
    for (int b = 0; b < r.n; ++b) {
      double column[64], mixed[64];
      for (int a = 0; a < r.m; ++a) column[a] = x[a * r.n + b];
      for (int a = 0; a < r.m; ++a) {
        mixed[a] = 0;
        for (int j = 0; j < r.m; ++j) mixed[a] += r.mix[j * r.m + a] * column[j];
      }
      for (int a = 0; a < r.m; ++a) x[a * r.n + b] = mixed[a];
    }
  }
  for (int h = 1; h < r.n; h *= 2) {
    for (int i = 0; i < head_dim; ++i) {
      if ((i & h) != 0) continue;
      const double a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
  const double norm = 1.0 / std::sqrt(static_cast<double>(r.n));
  for (int i = 0; i < head_dim; ++i) {
    x[i] *= ((r.negative[i / 32] >> (i % 32)) & 1u) != 0 ? -norm : norm;
  }
}

ReferenceOutput AttendReference(const tq_cuda_attention& p, int sequence) {
  const int d = p.cache.head_dim;
  const int heads = p.cache.num_kv_heads * p.group;
  TileFormat k{}, v{};
  ParseTileFormat(p.cache.k_format, &k);
  ParseTileFormat(p.cache.v_format, &v);
  const RecordLayout layout = MakeRecordLayout(k, v, d);
  ReferenceOutput result;
  result.out.resize(static_cast<size_t>(p.batch) * p.q_len * heads * d);
  result.lse.resize(static_cast<size_t>(p.batch) * p.q_len * heads);
  for (int b = 0; b < p.batch; ++b) {
    if (sequence >= 0 && b != sequence) continue;
    const int total = p.total_len != nullptr ? p.total_len[b] : p.coded_begin + p.coded_len[b];
    for (int kv = 0; kv < p.cache.num_kv_heads; ++kv) {
      const std::vector<Token> tokens = Gather(p, layout, b, kv);
      for (int row = 0; row < p.q_len * p.group; ++row) {
        const int query = row / p.group;
        const int head = kv * p.group + row % p.group;
        const RowMask mask =
            MakeRowMask(total, p.q_len, query, p.window,
                        p.tree_mask != nullptr ? &p.tree_mask[b * p.q_len + query] : nullptr);
        std::vector<double> q(static_cast<size_t>(d));
        const int64_t at =
            b * p.q_sequence_stride + query * p.q_token_stride + head * p.q_head_stride;
        for (int j = 0; j < d; ++j) q[j] = LoadValue(p.q, p.q_dtype, at + j);
        const size_t index = (static_cast<size_t>(b) * p.q_len + query) * heads + head;
        AttendRow(p, tokens, mask, q, p.sinks != nullptr ? p.sinks + head : nullptr,
                  result.out.data() + index * d, result.lse.data() + index);
      }
    }
  }
  return result;
}

}  // namespace turboquant::cuda
