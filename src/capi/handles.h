// What is behind the opaque pointers.
#ifndef TURBOQUANT_CAPI_HANDLES_H_
#define TURBOQUANT_CAPI_HANDLES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "capi/boundary.h"
#include "codec/codec.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"
#include "kvcache/kv_cache.h"

struct tq_codec {
  tq_codec(const turboquant::capi::Memory& m, const turboquant::capi::Logger& l,
           std::unique_ptr<turboquant::Codec> c)
      : memory(m),
        logger(l),
        codec(std::move(c)),
        coder(*codec, turboquant::BestKernels()),
        spec(codec->spec_text()) {}

  turboquant::capi::Memory memory;
  turboquant::capi::Logger logger;
  std::unique_ptr<turboquant::Codec> codec;
  turboquant::RowCoder coder;  // of *codec
  std::string spec;
};

struct tq_estimator {
  tq_estimator(const turboquant::capi::Memory& m, const turboquant::capi::Logger& l,
               std::unique_ptr<turboquant::Codec> c)
      : memory(m), inner(m, l, std::move(c)) {}

  turboquant::capi::Memory memory;
  tq_codec inner;
};

struct tq_cache {
  tq_cache(const turboquant::capi::Memory& m, const turboquant::capi::Logger& l,
           std::unique_ptr<turboquant::KvCache> c, void* b)
      : memory(m), logger(l), cache(std::move(c)), block(b), policy(cache->policy().ToString()) {}
  ~tq_cache() {
    const size_t bytes = cache->memory_bytes();
    cache.reset();
    memory.Free(block, bytes, turboquant::KvCache::kBlockAlignment);
  }

  turboquant::capi::Memory memory;
  turboquant::capi::Logger logger;
  std::unique_ptr<turboquant::KvCache> cache;
  void* block;
  std::string policy;
};

#endif  // TURBOQUANT_CAPI_HANDLES_H_
