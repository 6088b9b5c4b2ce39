// The host's buffers that hold compressed cache tensors: recognised by tensor name when they are
// allocated, from then on of a buffer type of ours that is not host-readable.
#ifndef TURBOQUANT_PLUGIN_GGML_KV_BUFFER_H_
#define TURBOQUANT_PLUGIN_GGML_KV_BUFFER_H_

#include "ggml_abi.h"
#include "host.h"
#include "kv_tensor.h"
#include "options_env.h"

namespace turboquant::ggml {

// Replaces alloc_buffer and get_alloc_size of the host's CPU buffer type. Once per process.
void HookBuffers(const Host& host, const PluginOptions& options);

// Our buffer type, which the CPU device must accept.
BufferType* KvBufferType();

// The compressed cache that `t` is or views; null for everything else, plain fallbacks included.
KvTensor* KvTensorOf(const Tensor* t);

// Called before every graph: now and then gives memory that rows have filled huge pages.
void SettlePages();
// Many rows were written: before the next graph.
void SettlePagesSoon();

// Prints the line about contexts created since the last call, if any.
void ReportNewCaches();

}  // namespace turboquant::ggml

#endif  // TURBOQUANT_PLUGIN_GGML_KV_BUFFER_H_
