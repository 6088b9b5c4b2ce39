// Reading what llama.cpp and the plugin print.
#include "cli/llama_log.h"

#include <gtest/gtest.h>

namespace turboquant {
namespace {

constexpr char kPlugin[] = "/opt/tq/libggml-turboquant.so";

// As llama.cpp v0.5.0 prints it, abridged.
constexpr char kRealLog[] =
    "0.00.004.029 I load_backend: loaded CPU backend from /opt/llama/libggml-cpu.so\n"
    "0.00.005.000 I load_backend: loaded turboquant backend from /opt/tq/libggml-turboquant.so\n"
    "0.00.150.000 I llama_kv_cache:        CPU KV buffer size =    26.40 MiB\n"
    "turboquant: 30 of 30 KV layers compressed (k=turbo4,v=turbo3,sink=4,tail=128,center=on), "
    "26.4 MiB instead of 90.0 MiB\n"
    "0.00.506.482 I common_perf_print:    sampling time =       2.64 ms\n"
    "0.00.506.519 I common_perf_print:        load time =     108.76 ms\n"
    "0.00.506.532 I common_perf_print: prompt eval time =      69.01 ms /    17 tokens (    4.06 "
    "ms per token,   246.34 tokens per second)\n"
    "0.00.506.545 I common_perf_print:        eval time =     218.87 ms /    39 runs   (    5.61 "
    "ms per token,   178.18 tokens per second)\n"
    "0.00.506.556 I common_perf_print:       total time =     294.85 ms /    56 tokens\n";

TEST(LlamaLog, ReadsARealLog) {
  const LlamaLog log = ParseLlamaLog(kRealLog, kPlugin);
  ASSERT_TRUE(log.prompt.has_value());
  EXPECT_EQ(log.prompt->tokens, 17);
  EXPECT_NEAR(log.prompt->tokens_per_second(), 246.34, 0.01);
  ASSERT_TRUE(log.generation.has_value());
  EXPECT_EQ(log.generation->tokens, 39);
  EXPECT_NEAR(log.generation->tokens_per_second(), 178.18, 0.01);
  ASSERT_TRUE(log.compression.has_value());
  EXPECT_EQ(log.compression->layers_compressed, 30);
  EXPECT_EQ(log.compression->layers_total, 30);
  EXPECT_EQ(log.compression->policy, "k=turbo4,v=turbo3,sink=4,tail=128,center=on");
  EXPECT_DOUBLE_EQ(log.compression->mib, 26.4);
  EXPECT_DOUBLE_EQ(log.compression->f16_mib, 90.0);
  EXPECT_EQ(log.plugin_loaded, true);
  ASSERT_TRUE(log.kv_buffer_mib.has_value());
  EXPECT_DOUBLE_EQ(*log.kv_buffer_mib, 26.4);
}

TEST(LlamaLog, AddsTheBuffersOfSeveralCaches) {
  const LlamaLog log = ParseLlamaLog(
      "llama_kv_cache: CPU KV buffer size = 10.00 MiB\r\n"
      "llama_kv_cache: CPU KV buffer size = 2.50 MiB");
  ASSERT_TRUE(log.kv_buffer_mib.has_value());
  EXPECT_DOUBLE_EQ(*log.kv_buffer_mib, 12.5);
}

TEST(LlamaLog, KeepsTheReasonsWhyAPluginDoesNotLoad) {
  const LlamaLog missing = ParseLlamaLog(
      "0.00.004.007 E load_backend: failed to load /opt/tq/libggml-turboquant.so: no such file\n",
      kPlugin);
  EXPECT_EQ(missing.plugin_loaded, false);
  EXPECT_EQ(missing.load_error, "failed to load /opt/tq/libggml-turboquant.so: no such file");

  const LlamaLog refused = ParseLlamaLog(
      "turboquant: ggml 9.9.9 is unknown to this plugin\n"
      "load_backend: backend /opt/tq/libggml-turboquant.so is not supported on this system\n",
      kPlugin);
  EXPECT_EQ(refused.plugin_loaded, false);
  ASSERT_EQ(refused.plugin_lines.size(), 1u);
  EXPECT_EQ(refused.plugin_lines[0], "ggml 9.9.9 is unknown to this plugin");
}

TEST(LlamaLog, TakesNothingFromBrokenLines) {
  for (const char* text :
       {"", "turboquant: 30 of", "turboquant: 30 of 30 KV layers compressed (k=turbo4",
        "turboquant: 30 of 30 KV layers compressed (k=turbo4), lots of MiB", "eval time = soon",
        "turboquant: 3 of 4 KV layers), 1.0 MiB instead of 2.0 MiB", "prompt eval time = 1 ms",
        "KV buffer size = ?"}) {
    const LlamaLog log = ParseLlamaLog(text, kPlugin);
    EXPECT_FALSE(log.compression.has_value()) << text;
    EXPECT_FALSE(log.prompt.has_value()) << text;
    EXPECT_FALSE(log.generation.has_value()) << text;
    EXPECT_FALSE(log.kv_buffer_mib.has_value()) << text;
    EXPECT_FALSE(log.plugin_loaded.has_value()) << text;
  }
  const LlamaLog zero = ParseLlamaLog(" eval time = 0.00 ms / 0 runs\n");
  ASSERT_TRUE(zero.generation.has_value());
  EXPECT_EQ(zero.generation->tokens_per_second(), 0);
}

}  // namespace
}  // namespace turboquant
