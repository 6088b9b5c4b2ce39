// KvCache: the compressed cache of one attention layer and one sequence, ready to use.
//
// It owns a RowStore for keys and one for values and knows nothing of a host. Rows are appended in
// order of position (cell = position); attention is causal. The plugin uses the same stores and the
// same attention on the host's own memory.
#ifndef TURBOQUANT_KVCACHE_KV_CACHE_H_
#define TURBOQUANT_KVCACHE_KV_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/attend.h"
#include "base/status.h"
#include "kernels/kernel_api.h"
#include "kvcache/policy.h"
#include "kvcache/row_store.h"

namespace turboquant {

struct CacheShape {
  int num_kv_heads = 1;
  int head_dim_k = 64;
  int head_dim_v = 64;
  int capacity = 4096;  // tokens
};

class KvCache {
 public:
  // Errors: an unsupported head_dim, a capacity below 1, a policy side that is f16.
  static Result<std::unique_ptr<KvCache>> Create(const CacheShape& shape, const Policy& policy,
                                                 uint64_t seed,
                                                 const KernelTable& kernels = BestKernels());

  // The same in the caller's memory: BlockBytes bytes, aligned to kBlockAlignment, which outlive the
  // cache and are zeroed here. BlockBytes of a shape that Create refuses is its Status.
  static constexpr size_t kBlockAlignment = 64;
  static Result<size_t> BlockBytes(const CacheShape& shape, const Policy& policy);
  static Result<std::unique_ptr<KvCache>> CreateIn(uint8_t* block, const CacheShape& shape,
                                                   const Policy& policy, uint64_t seed,
                                                   const KernelTable& kernels = BestKernels());

  const CacheShape& shape() const { return shape_; }
  const Policy& policy() const { return policy_; }
  int size() const { return size_; }  // tokens held
  // Bytes held for codes, scales, means, window and bookkeeping of `capacity` tokens.
  size_t memory_bytes() const { return block_bytes_; }
  // Rows (of either side, all heads of a token) that held NaN or Inf when they were coded.
  uint64_t non_finite_rows() const { return k_.non_finite_rows() + v_.non_finite_rows(); }

  // Appends n tokens: f32 keys [n][num_kv_heads][head_dim_k] and values likewise, rounded to f16.
  // Fails without effect when capacity would be exceeded.
  Status Append(const float* k, const float* v, int n);

  // Attention of the newest `tokens` positions: q and out are f32 [tokens][num_q_heads][head_dim],
  // num_q_heads a multiple of num_kv_heads; token t sees positions <= size() - tokens + t.
  Status Attend(const float* q, int tokens, int num_q_heads, float scale, float* out);

  // The logits of such an Attend before its softmax, out[tokens][num_q_heads][size()]; -inf where a
  // token may not see.
  Status Scores(const float* q, int tokens, int num_q_heads, float scale, float* out) const;

  // The whole cache as bytes, exact to the bit; Restore replaces the content. Errors leave the cache
  // empty and say what is wrong (truncated, checksum, another shape or policy).
  size_t SaveBytes() const;
  void Save(uint8_t* bytes) const;
  std::vector<uint8_t> Save() const;
  Status Restore(std::span<const uint8_t> bytes);
  // Becomes a copy of a cache of the same shape, policy and seed.
  Status CopyFrom(const KvCache& from);
  void Clear();

 private:
  KvCache(uint8_t* block, const CacheShape& shape, const Policy& policy, uint64_t seed,
          const KernelTable& kernels);
  Status CheckQuery(int tokens, int num_q_heads) const;

  CacheShape shape_;
  Policy policy_;
  uint64_t seed_;
  const KernelTable* kernels_;
  Rotation rotation_k_;
  Rotation rotation_v_;
  std::vector<uint8_t> owned_;  // empty in the caller's memory
  size_t block_bytes_;
  RowStore k_;
  RowStore v_;
  AttentionRun run_;
  int size_ = 0;
};

}  // namespace turboquant

#endif  // TURBOQUANT_KVCACHE_KV_CACHE_H_
