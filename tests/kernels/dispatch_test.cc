#include <gtest/gtest.h>

#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

TEST(Dispatch, FindsTablesByName) {
  EXPECT_EQ(FindKernels("scalar"), &ScalarKernels());
  EXPECT_EQ(FindKernels("avx2"), Avx2Kernels());
  EXPECT_EQ(FindKernels("avxvnni"), AvxVnniKernels());
  EXPECT_EQ(FindKernels("avx512"), Avx512Kernels());
  EXPECT_EQ(FindKernels("avx512amx"), Avx512AmxKernels());
  EXPECT_EQ(FindKernels("neon"), NeonKernels());
  EXPECT_EQ(FindKernels("neondot"), NeonDotprodKernels());
  EXPECT_EQ(FindKernels(""), nullptr);
  EXPECT_EQ(FindKernels("AVX2"), nullptr);
}

TEST(Dispatch, BestIsTheWidestAvailable) {
  const KernelTable* want = &ScalarKernels();
  if (Avx2Kernels() != nullptr) want = Avx2Kernels();
  if (AvxVnniKernels() != nullptr) want = AvxVnniKernels();
  if (Avx512Kernels() != nullptr) want = Avx512Kernels();
  if (Avx512AmxKernels() != nullptr) want = Avx512AmxKernels();
  if (NeonKernels() != nullptr) want = NeonKernels();
  if (NeonDotprodKernels() != nullptr) want = NeonDotprodKernels();
  EXPECT_EQ(&BestKernels(), want);
}

TEST(Dispatch, TablesAreCompleteAndKnowTheirNames) {
  for (const char* name : {"scalar", "avx2", "avxvnni", "avx512", "avx512amx", "neon", "neondot"}) {
    const KernelTable* table = FindKernels(name);
    if (table == nullptr) continue;
    EXPECT_EQ(table->name, name);
    EXPECT_TRUE(table->half_to_float != nullptr && table->float_to_half != nullptr);
    EXPECT_TRUE(table->rotate != nullptr && table->unrotate != nullptr);
    EXPECT_TRUE(table->encode != nullptr && table->decode != nullptr);
    EXPECT_TRUE(table->encode_trellis != nullptr && table->decode_trellis != nullptr);
    EXPECT_TRUE(table->prepare_queries != nullptr);
    EXPECT_TRUE(table->coded_scores != nullptr && table->coded_accumulate != nullptr);
    EXPECT_TRUE(table->dense_scores != nullptr && table->dense_accumulate != nullptr);
    EXPECT_TRUE(table->half_scores != nullptr && table->half_accumulate != nullptr);
    EXPECT_TRUE(table->mean_logits != nullptr && table->same_values != nullptr);
    EXPECT_TRUE(table->mask_bias != nullptr && table->softmax != nullptr);
  }
}

}  // namespace
}  // namespace turboquant
