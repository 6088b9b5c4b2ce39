// A case of attention on CUDA: its shape, and the tensors it needs, drawn on the host. Shared by
// the conformance program and the host tests.
#ifndef TURBOQUANT_TESTS_CUDA_CUDA_CASE_H_
#define TURBOQUANT_TESTS_CUDA_CUDA_CASE_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/trellis_codec.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/tile_convert.h"
#include "math/rotation.h"

namespace turboquant::cuda {

struct CudaCase {
  std::string name;
  int k_format = TQ_CUDA_TURBO4, v_format = TQ_CUDA_TURBO4;
  int head_dim = 128, kv_heads = 2, group = 4, q_len = 1;
  std::vector<int> coded_len{300};
  std::vector<int> tail;  // exact newest rows of each sequence; empty: none
  int sinks = 0;          // exact first rows
  int window = 0;
  float softcap = 0.0f;
  bool tree = false, sink_logits = false, means = false;
  int path = TQ_CUDA_PATH_AUTO;
  int dtype = TQ_CUDA_BF16;
  float query_size = 1.0f;  // larger: peaky weights
  float common = 0.0f;      // a mean that all keys and values share
  float sink_size = 1.0f;   // factor on the key of token 0
};

// Everything of a case in host memory. Rows are [sequence][token][kv head][head_dim].
struct CudaTensors {
  static constexpr int kMeanTokens = 128;

  RecordLayout layout;
  tq_cuda_rotation k_rotation{}, v_rotation{};
  std::vector<float> mix;
  int max_coded = 0, pages = 0, max_exact = 0;
  std::vector<uint8_t> k_rows, v_rows;    // to be coded, of dtype
  std::vector<uint8_t> exact_k, exact_v;  // of dtype (f32: bf16 instead)
  std::vector<int32_t> page_table, mean_table, exact_len, exact_position, total_len, coded_len;
  std::vector<uint16_t> means;
  std::vector<uint8_t> q;  // of dtype
  std::vector<uint32_t> tree_mask;
  std::vector<float> sink_logits;
  std::vector<uint8_t> records;
};

inline size_t DtypeBytes(int dtype) { return dtype == TQ_CUDA_F32 ? 4 : 2; }

inline void StoreAs(int dtype, float x, uint8_t* to) {
  if (dtype == TQ_CUDA_F32) {
    std::memcpy(to, &x, 4);
    return;
  }
  const uint16_t bits = dtype == TQ_CUDA_F16 ? FloatToHalf(x) : FloatToBfloat(x);
  std::memcpy(to, &bits, 2);
}

inline float LoadAs(int dtype, const uint8_t* from) {
  if (dtype == TQ_CUDA_F32) {
    float x;
    std::memcpy(&x, from, 4);
    return x;
  }
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  return dtype == TQ_CUDA_F16 ? HalfToFloat(bits) : BfloatToFloat(bits);
}

inline tq_cuda_rotation HostRotation(const Rotation& rotation) {
  const RotationView view = rotation.view();
  tq_cuda_rotation r{};
  r.m = view.m;
  r.n = view.n;
  r.norm = view.norm;
  r.mix = view.mix;
  for (int i = 0; i < view.head_dim; ++i) {
    if (view.signs[i] < 0) r.negative[i / 32] |= 1u << (i % 32);
  }
  return r;
}

// Draws everything but the records. `rotations` must outlive the tensors.
CudaTensors DrawTensors(const CudaCase& c, const Rotation& k, const Rotation& v, uint64_t seed);

// The canonical bytes that coded token `token` of (sequence, head, side) must have.
void EncodeOnHost(const CudaCase& c, const CudaTensors& t, const Rotation& rotation,
                  bool value_side, int sequence, int token, int head, uint8_t* codes,
                  uint16_t* scale);

// Codes all rows on the host into t->records.
void FillRecords(const CudaCase& c, CudaTensors* t, const Rotation& k, const Rotation& v);

// Parameters of the case; every pointer is of the host. out: f32.
tq_cuda_attention HostAttention(const CudaCase& c, const CudaTensors& t);

tq_cuda_plan_request PlanRequest(const CudaCase& c, const CudaTensors& t,
                                 const tq_cuda_device& device);

// The shapes of the conformance matrix.
std::vector<CudaCase> ConformanceCases();

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_TESTS_CUDA_CUDA_CASE_H_
