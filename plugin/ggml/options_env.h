// The plugin's options; read from the environment here and nowhere else.
//   TURBOQUANT_KV       policy text (kvcache/policy.h); unset: the default policy; f16:
//   pass-through TURBOQUANT_KERNELS  scalar | avx2 | avxvnni | avx512 | avx512amx; unset: the
//   fastest that this
//                       CPU has
//   TURBOQUANT_LOG      error | info (default) | debug
#ifndef TURBOQUANT_PLUGIN_GGML_OPTIONS_ENV_H_
#define TURBOQUANT_PLUGIN_GGML_OPTIONS_ENV_H_

#include "base/status.h"
#include "kernels/kernel_api.h"
#include "kvcache/policy.h"
#include "log.h"

namespace turboquant {

struct PluginOptions {
  Policy policy;
  const KernelTable* kernels = nullptr;
  LogLevel log = LogLevel::kInfo;
};

Result<PluginOptions> ReadOptions();

}  // namespace turboquant

#endif  // TURBOQUANT_PLUGIN_GGML_OPTIONS_ENV_H_
