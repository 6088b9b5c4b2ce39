// libturboquant_cuda as it was compiled, loaded by libturboquant: on a machine without a GPU it
// says so, and nothing crashes.
#include <dlfcn.h>
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

// cuDNN is looked for when it is asked for: what is missing is said in a sentence.
TEST(CudaLibrary, SaysWhyThereIsNoCudnn) {
  if (!std::filesystem::exists(CUDA_LIBRARY)) GTEST_SKIP() << "not compiled here";
  void* library = dlopen(CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  const auto create =
      reinterpret_cast<decltype(&tq_cuda_dense_create)>(dlsym(library, "tq_cuda_dense_create"));
  const auto destroy =
      reinterpret_cast<decltype(&tq_cuda_dense_destroy)>(dlsym(library, "tq_cuda_dense_destroy"));
  ASSERT_TRUE(create != nullptr && destroy != nullptr);
  const auto why = [&](const char* cudnn) {
    tq_cuda_dense* dense = nullptr;
    char reason[1000] = "";
    const tq_cuda_status status = create(cudnn, &dense, reason, sizeof(reason));
    EXPECT_EQ(status == TQ_CUDA_OK, dense != nullptr);
    EXPECT_TRUE(status == TQ_CUDA_OK || status == TQ_CUDA_UNSUPPORTED);
    destroy(dense);
    return std::string(reason);
  };
  if (why("/nowhere").find("This build has no cuDNN") != std::string::npos) {
    GTEST_SKIP() << "compiled without cuDNN's header";
  }
  EXPECT_NE(why("/nowhere").find("was not found as /nowhere/libcudnn.so.9"), std::string::npos);
  EXPECT_NE(why(__FILE__).find("was not found"), std::string::npos);
  EXPECT_NE(why(CUDA_LIBRARY).find("a function is missing"), std::string::npos);
  why(nullptr);  // here or not, with a GPU or without: no crash
  EXPECT_EQ(create(nullptr, nullptr, nullptr, 0), TQ_CUDA_INVALID);
  tq_cuda_dense* dense = nullptr;
  EXPECT_EQ(create("/nowhere", &dense, nullptr, 0), TQ_CUDA_UNSUPPORTED);
}

}  // namespace
