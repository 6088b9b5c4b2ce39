// A case of prefill: a case of attention whose query tokens are a chunk of any length.
#ifndef TURBOQUANT_TESTS_CUDA_PREFILL_CASE_H_
#define TURBOQUANT_TESTS_CUDA_PREFILL_CASE_H_

#include <string>
#include <vector>

#include "tests/cuda/cuda_case.h"

namespace turboquant::cuda {

struct PrefillCase {
  CudaCase base;  // q_len, tree and path have no meaning here; dtype is f16 or bf16
  std::vector<int> chunk_len{100};
  size_t scratch_bytes = 0;
  int out_dtype = TQ_CUDA_F32;
  int dense_calls = 0;  // of the library that attends windows, if windows of any size may go there
};

// Everything of a case in host memory, the cache coded.
struct PrefillTensors {
  CudaTensors cache;
  std::vector<uint8_t> q, chunk_k, chunk_v;
  int chunk_tokens = 0;
};

PrefillTensors DrawPrefill(const PrefillCase& c, const Rotation& k, const Rotation& v,
                           uint64_t seed);

// Parameters of the case; every pointer is of the host. No output yet.
tq_cuda_prefill_params HostPrefill(const PrefillCase& c, const PrefillTensors& t);

// The shapes of the conformance matrix. `small`: few enough products for the emulation.
std::vector<PrefillCase> PrefillCases(bool small);

// About `most` of the case's query tokens: first and last of every sequence, some between.
std::vector<int> SampleTokens(const PrefillCase& c, int most);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_TESTS_CUDA_PREFILL_CASE_H_
