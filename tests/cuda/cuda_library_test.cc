// libturboquant_cuda as it was compiled, loaded by libturboquant: on a machine without a GPU it
// says so, and nothing crashes.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "turboquant/turboquant.h"
#include "turboquant/turboquant_cuda.h"

namespace {

TEST(CudaLibrary, LoadsOrSaysWhatTheMachineLacks) {
  if (!std::filesystem::exists(CUDA_LIBRARY)) GTEST_SKIP() << "not compiled here";
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  const tq_status status = tq_cuda_load(CUDA_LIBRARY, &f);
  if (status == TQ_OK) {
    EXPECT_EQ(f.record_bytes(TQ_CUDA_TURBO4, TQ_CUDA_TURBO4, 128), 8448u);
    return;
  }
  const std::string message = tq_last_error();
  EXPECT_EQ(status, TQ_ERROR_UNSUPPORTED) << message;
  EXPECT_TRUE(message.find("driver") != std::string::npos ||
              message.find("GPU") != std::string::npos ||
              message.find("compute capability") != std::string::npos)
      << message;
  EXPECT_EQ(f.record_bytes, nullptr);
}

}  // namespace
