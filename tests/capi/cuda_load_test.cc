// libturboquant_cuda on demand: what is missing is said, nothing crashes. FAKE_*: libraries made of
// fake_cuda_library.cc.
#include <cstring>

#include "capi_fixture.h"
#include "turboquant/turboquant_cuda.h"

namespace turboquant::testing {
namespace {

bool Untouched(const tq_cuda_functions& f) {
  const tq_cuda_functions fresh = TQ_CUDA_FUNCTIONS_INIT;
  return std::memcmp(&f, &fresh, sizeof(f)) == 0;
}

TEST(CudaLoad, AMissingLibraryIsNotFoundAndTheRemedySaid) {
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  EXPECT_TRUE(Fails(tq_cuda_load("/nowhere/libturboquant_cuda.so", &f), TQ_ERROR_NOT_FOUND,
                    "TURBOQUANT_CUDA=ON"));
  EXPECT_TRUE(Untouched(f));
}

TEST(CudaLoad, AFileThatIsNoLibraryIsNotFound) {
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  EXPECT_TRUE(Fails(tq_cuda_load(__FILE__, &f), TQ_ERROR_NOT_FOUND, "cannot be loaded"));
}

TEST(CudaLoad, WithoutAPathItLooksBesideTheLibrary) {
  // Nothing lies there in this build, so the loader's name of it is in the message.
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  const tq_status status = tq_cuda_load(nullptr, &f);
  if (status == TQ_OK || status == TQ_ERROR_UNSUPPORTED) GTEST_SKIP() << "it is installed here";
  EXPECT_TRUE(Fails(status, TQ_ERROR_NOT_FOUND, "libturboquant_cuda.so."));
}

TEST(CudaLoad, FindsEveryFunction) {
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  ASSERT_EQ(tq_cuda_load(FAKE_WHOLE, &f), TQ_OK) << tq_last_error();
  EXPECT_EQ(f.struct_size, sizeof(f));
  const void* const* pointers = reinterpret_cast<const void* const*>(&f);
  for (size_t i = 1; i < sizeof(f) / sizeof(void*); ++i) EXPECT_NE(pointers[i], nullptr) << i;
  EXPECT_EQ(f.record_bytes(4, 3, 128), 135u);
  tq_cuda_device device{};
  EXPECT_EQ(f.query_device(&device), TQ_CUDA_OK);
  EXPECT_EQ(device.compute_capability, 90);
}

TEST(CudaLoad, AnOlderProgramGetsWhatItKnows) {
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  f.struct_size = 2 * sizeof(void*);
  ASSERT_EQ(tq_cuda_load(FAKE_WHOLE, &f), TQ_OK);
  EXPECT_NE(f.api_version, nullptr);
  EXPECT_EQ(f.check_device, nullptr);
}

TEST(CudaLoad, AnotherVersionIsRefused) {
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  EXPECT_TRUE(Fails(tq_cuda_load(FAKE_OTHER_VERSION, &f), TQ_ERROR_UNSUPPORTED, "version 77"));
  EXPECT_TRUE(Untouched(f));
}

TEST(CudaLoad, AMissingFunctionIsNamed) {
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  EXPECT_TRUE(Fails(tq_cuda_load(FAKE_INCOMPLETE, &f), TQ_ERROR_UNSUPPORTED, "tq_cuda_dense_destroy"));
  EXPECT_TRUE(Untouched(f));
}

TEST(CudaLoad, WhatTheDeviceLacksIsPassedOn) {
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  EXPECT_TRUE(Fails(tq_cuda_load(FAKE_NO_DEVICE, &f), TQ_ERROR_UNSUPPORTED, "no NVIDIA driver"));
  EXPECT_TRUE(Untouched(f));
}

TEST(CudaLoad, NothingToFillIsInvalid) {
  EXPECT_TRUE(Fails(tq_cuda_load(FAKE_WHOLE, nullptr), TQ_ERROR_INVALID_ARGUMENT, "functions"));
  tq_cuda_functions f = TQ_CUDA_FUNCTIONS_INIT;
  f.struct_size = 0;
  EXPECT_TRUE(Fails(tq_cuda_load(FAKE_WHOLE, &f), TQ_ERROR_INVALID_ARGUMENT, "struct_size"));
}

}  // namespace
}  // namespace turboquant::testing
