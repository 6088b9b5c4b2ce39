// tq_cache.
#include <climits>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "capi/boundary.h"
#include "capi/handles.h"
#include "kernels/kernel_api.h"
#include "kvcache/kv_cache.h"
#include "kvcache/policy.h"
#include "turboquant/turboquant.h"

namespace turboquant::capi {
namespace {

tq_status CreateCache(const char* policy_text, const tq_cache_options& options, tq_cache** cache) {
  Memory memory;
  Logger logger;
  tq_status status = ReadCallbacks(options.allocator, options.logger, &memory, &logger);
  if (status != TQ_OK) return status;
  const Result<Policy> policy = Policy::Parse(policy_text);
  if (!policy.ok()) return Fail(policy.status());
  const CacheShape shape = {options.num_kv_heads, options.head_dim_k, options.head_dim_v,
                            options.capacity};
  const Result<size_t> bytes = KvCache::BlockBytes(shape, policy.value());
  if (!bytes.ok()) return Fail(bytes.status());
  void* block = memory.Allocate(bytes.value(), KvCache::kBlockAlignment);
  if (block == nullptr) return FailOutOfMemory(bytes.value());
  // Until the handle owns the block, it is freed here whatever happens.
  status = Guard([&]() -> tq_status {
    const KernelTable& kernels = BestKernels();
    auto made = KvCache::CreateIn(static_cast<uint8_t*>(block), shape, policy.value(), options.seed,
                                  kernels);
    if (!made.ok()) return Fail(made.status());
    const std::string message = policy.value().ToString() + ", " + std::to_string(bytes.value()) +
                                " bytes for " + std::to_string(shape.capacity) + " tokens, " +
                                std::string(kernels.name) + " kernels";
    tq_cache* handle = memory.New<tq_cache>(logger, std::move(made.value()), block);
    if (handle == nullptr) return FailOutOfMemory(sizeof(tq_cache));
    block = nullptr;
    *cache = handle;
    logger.Log(TQ_LOG_INFO, message);
    return TQ_OK;
  });
  memory.Free(block, bytes.value(), KvCache::kBlockAlignment);
  return status;
}

// Checks what attention and its scores share.
tq_status CheckQuery(const tq_cache* cache, const float* q, size_t tokens, size_t num_q_heads,
                     const float* out) {
  if (cache == nullptr) return FailNull("cache");
  if (q == nullptr) return FailNull("q");
  if (out == nullptr) return FailNull("the output");
  if (tokens > INT_MAX || num_q_heads > INT_MAX) {
    return Fail(TQ_ERROR_INVALID_ARGUMENT, "too many query tokens or heads.");
  }
  return TQ_OK;
}

tq_status FromStatus(const Status& status) { return status.ok() ? TQ_OK : Fail(status); }

}  // namespace
}  // namespace turboquant::capi

using turboquant::capi::Fail;
using turboquant::capi::FailNull;
using turboquant::capi::FailSmall;
using turboquant::capi::FromStatus;
using turboquant::capi::Guard;
using turboquant::capi::Memory;
using turboquant::capi::Product;

tq_status tq_cache_create(const char* policy, const tq_cache_options* options, tq_cache** cache) {
  if (cache == nullptr) return FailNull("cache");
  *cache = nullptr;
  if (policy == nullptr) return FailNull("policy");
  if (options == nullptr) return FailNull("options");
  tq_cache_options read;
  const tq_status status = turboquant::capi::ReadStruct(options, &read, "tq_cache_options");
  if (status != TQ_OK) return status;
  return Guard([&] { return turboquant::capi::CreateCache(policy, read, cache); });
}

void tq_cache_destroy(tq_cache* cache) { Memory::Delete(cache); }

const char* tq_cache_policy(const tq_cache* cache) {
  return cache == nullptr ? nullptr : cache->policy.c_str();
}

size_t tq_cache_size(const tq_cache* cache) {
  return cache == nullptr ? 0 : static_cast<size_t>(cache->cache->size());
}

size_t tq_cache_memory_bytes(const tq_cache* cache) {
  return cache == nullptr ? 0 : cache->cache->memory_bytes();
}

tq_status tq_cache_append(tq_cache* cache, const float* k, const float* v, size_t n) {
  if (cache == nullptr) return FailNull("cache");
  if (n == 0) return TQ_OK;
  if (k == nullptr) return FailNull("k");
  if (v == nullptr) return FailNull("v");
  return Guard([&]() -> tq_status {
    turboquant::KvCache& c = *cache->cache;
    const uint64_t before = c.non_finite_rows();
    const auto status = c.Append(k, v, n > INT_MAX ? INT_MAX : static_cast<int>(n));
    if (!status.ok()) return Fail(status);
    if (const uint64_t bad = c.non_finite_rows() - before; bad > 0) {
      cache->logger.Log(TQ_LOG_WARNING,
                        std::to_string(bad) + " rows hold NaN or Inf; stored as zeros");
    }
    return TQ_OK;
  });
}

tq_status tq_cache_attention_scores(tq_cache* cache, const float* q, size_t tokens,
                                    size_t num_q_heads, float scale, float* scores,
                                    size_t scores_size) {
  if (const tq_status s = turboquant::capi::CheckQuery(cache, q, tokens, num_q_heads, scores);
      s != TQ_OK) {
    return s;
  }
  const size_t need = Product(Product(tokens, num_q_heads), tq_cache_size(cache));
  if (scores_size < need) return FailSmall("scores", scores_size, need, "floats");
  return Guard([&] {
    return FromStatus(cache->cache->Scores(q, static_cast<int>(tokens),
                                           static_cast<int>(num_q_heads), scale, scores));
  });
}

tq_status tq_cache_attend(tq_cache* cache, const float* q, size_t tokens, size_t num_q_heads,
                          float scale, float* out, size_t out_size) {
  if (const tq_status s = turboquant::capi::CheckQuery(cache, q, tokens, num_q_heads, out);
      s != TQ_OK) {
    return s;
  }
  const auto head_dim_v = static_cast<size_t>(cache->cache->shape().head_dim_v);
  const size_t need = Product(Product(tokens, num_q_heads), head_dim_v);
  if (out_size < need) return FailSmall("out", out_size, need, "floats");
  return Guard([&] {
    return FromStatus(cache->cache->Attend(q, static_cast<int>(tokens),
                                           static_cast<int>(num_q_heads), scale, out));
  });
}

tq_status tq_cache_save(const tq_cache* cache, tq_buffer* saved) {
  if (saved == nullptr) return FailNull("saved");
  *saved = TQ_BUFFER_INIT;
  if (cache == nullptr) return FailNull("cache");
  return Guard([&]() -> tq_status {
    const tq_status status = cache->memory.NewBuffer(cache->cache->SaveBytes(), saved);
    if (status == TQ_OK) cache->cache->Save(static_cast<uint8_t*>(saved->data));
    return status;
  });
}

tq_status tq_cache_restore(tq_cache* cache, const void* saved, size_t size) {
  if (cache == nullptr) return FailNull("cache");
  if (saved == nullptr) return FailNull("saved");
  return Guard([&] {
    return FromStatus(cache->cache->Restore({static_cast<const uint8_t*>(saved), size}));
  });
}

tq_status tq_cache_copy(tq_cache* to, const tq_cache* from) {
  if (to == nullptr) return FailNull("to");
  if (from == nullptr) return FailNull("from");
  return Guard([&] { return FromStatus(to->cache->CopyFrom(*from->cache)); });
}

tq_status tq_cache_clear(tq_cache* cache) {
  if (cache == nullptr) return FailNull("cache");
  return Guard([&]() -> tq_status {
    cache->cache->Clear();
    return TQ_OK;
  });
}
