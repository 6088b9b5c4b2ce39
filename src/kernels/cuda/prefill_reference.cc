#include "kernels/cuda/prefill_reference.h"

#include <algorithm>
#include <cstring>

namespace turboquant::cuda {
namespace {

constexpr size_t kValueBytes = 2;

// A copy of one token's row of every kv head.
void CopyRow(const tq_cuda_prefill_params& p, const void* from, int64_t at, int64_t head_stride,
             std::vector<uint8_t>* rows) {
  const size_t width = static_cast<size_t>(p.cache.head_dim) * kValueBytes;
  for (int head = 0; head < p.cache.num_kv_heads; ++head) {
    const uint8_t* row =
        static_cast<const uint8_t*>(from) + (at + head * head_stride) * int64_t{kValueBytes};
    rows->insert(rows->end(), row, row + width);
  }
}

}  // namespace

// Each query token is decode attention of one token whose exact rows are those before the chunk and
// the chunk up to itself.
ReferenceOutput PrefillReference(const tq_cuda_prefill_params& p, const std::vector<int>& tokens) {
  ReferenceOutput result;
  for (const int token : tokens) {
    int b = 0, first = 0;
    while (token >= first + p.chunk_len[b]) first += p.chunk_len[b++];
    const int inside = token - first;
    const int prefix = p.prefix_len != nullptr ? p.prefix_len[b] : p.coded_begin + p.coded_len[b];
    const int exact = p.exact_len != nullptr ? p.exact_len[b] : 0;
    std::vector<uint8_t> k, v;
    std::vector<int32_t> positions;
    for (int i = 0; i < exact; ++i) {
      const int64_t at = b * p.exact.sequence_stride + i * p.exact.token_stride;
      CopyRow(p, p.exact.k, at, p.exact.head_stride, &k);
      CopyRow(p, p.exact.v, at, p.exact.head_stride, &v);
      positions.push_back(p.exact_position != nullptr
                              ? p.exact_position[int64_t{b} * p.exact_stride + i]
                              : prefix - exact + i);
    }
    for (int i = 0; i <= inside; ++i) {
      const int64_t at = (first + i) * p.chunk_token_stride;
      CopyRow(p, p.chunk_k, at, p.chunk_head_stride, &k);
      CopyRow(p, p.chunk_v, at, p.chunk_head_stride, &v);
      positions.push_back(prefix + i);
    }
    const int32_t exact_len = static_cast<int32_t>(positions.size());
    const int32_t total = prefix + inside + 1;
    tq_cuda_attention a{};
    a.cache = p.cache;
    a.cache.page_table += int64_t{b} * p.cache.page_stride;
    if (a.cache.mean_tokens > 0) a.cache.mean_table += int64_t{b} * p.cache.mean_stride;
    a.batch = a.q_len = 1;
    a.group = p.group;
    a.q = static_cast<const uint8_t*>(p.q) + token * p.q_token_stride * int64_t{kValueBytes};
    a.q_dtype = p.dtype;
    a.q_head_stride = p.q_head_stride;
    a.coded_len = p.coded_len + b;
    a.total_len = &total;
    a.coded_begin = p.coded_begin;
    a.exact.k = k.data();
    a.exact.v = v.data();
    a.exact.dtype = p.dtype;
    a.exact.head_stride = p.cache.head_dim;
    a.exact.token_stride = int64_t{p.cache.head_dim} * p.cache.num_kv_heads;
    a.exact_len = &exact_len;
    a.exact_position = positions.data();
    a.exact_stride = exact_len;
    a.scale = p.scale;
    a.softcap = p.softcap;
    a.window = p.window;
    a.sinks = p.sinks;
    const ReferenceOutput one = AttendReference(a);
    result.out.insert(result.out.end(), one.out.begin(), one.out.end());
    result.lse.insert(result.lse.end(), one.lse.begin(), one.lse.end());
  }
  return result;
}

}  // namespace turboquant::cuda
