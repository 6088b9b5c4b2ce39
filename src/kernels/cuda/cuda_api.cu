// The C API: checks arguments, then launches. Nothing here allocates or synchronises.
#include <cuda_runtime.h>

#include <cstring>

#include "codec/format.h"
#include "kernels/cuda/attention_common.cuh"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/int8_config.h"
#include "kernels/cuda/scores.h"
#include "math/rotation.h"

namespace turboquant::cuda {
namespace {

tq_cuda_status StatusOf(cudaError_t error) {
  return error == cudaSuccess ? TQ_CUDA_OK : TQ_CUDA_FAILED;
}

cudaStream_t StreamOf(void* stream) { return static_cast<cudaStream_t>(stream); }

bool LayoutOf(int k_format, int v_format, int head_dim, RecordLayout* layout) {
  TileFormat k, v;
  if (!ParseTileFormat(k_format, &k) || !ParseTileFormat(v_format, &v)) return false;
  if (!SupportedTileHeadDim(head_dim)) return false;
  *layout = MakeRecordLayout(k, v, head_dim);
  return true;
}

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

bool ValidCache(const tq_cuda_cache& c, RecordLayout* layout) {
  return LayoutOf(c.k_format, c.v_format, c.head_dim, layout) && c.num_kv_heads >= 1 &&
         c.records != nullptr && Aligned(c.records) && c.page_table != nullptr &&
         c.mean_tokens >= 0 && c.mean_tokens % kTileTokens == 0 &&
         (c.mean_tokens == 0 ||
          (c.means != nullptr && Aligned(c.means) && c.mean_table != nullptr));
}

bool ValidDtype(int dtype) { return dtype >= TQ_CUDA_F16 && dtype <= TQ_CUDA_F32; }

bool ValidRows(const tq_cuda_rows& r, bool values) {
  return r.k != nullptr && Aligned(r.k) && (!values || (r.v != nullptr && Aligned(r.v))) &&
         ValidDtype(r.dtype) && r.sequence_stride % 8 == 0 && r.token_stride % 8 == 0 &&
         r.head_stride % 8 == 0;
}

bool ValidAttention(const tq_cuda_attention& p) {
  return p.batch >= 1 && p.group >= 1 && p.group <= 16 && p.q_len >= 1 &&
         p.q_len <= kMaxQueryTokens && p.q != nullptr && Aligned(p.q) && p.out != nullptr &&
         Aligned(p.out) && ValidDtype(p.q_dtype) && ValidDtype(p.out_dtype) &&
         p.coded_len != nullptr &&
         (p.q_sequence_stride | p.q_token_stride | p.q_head_stride | p.out_sequence_stride |
          p.out_token_stride | p.out_head_stride) %
                 8 ==
             0 &&
         p.window >= 0 && p.softcap >= 0.0f && p.coded_begin >= 0 &&
         (p.exact_len == nullptr || (ValidRows(p.exact, true) && p.exact.dtype != TQ_CUDA_F32 &&
                                     (p.exact_position == nullptr || p.exact_stride > 0)));
}

cudaError_t LaunchInt8(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  const int d = args.p.cache.head_dim;
  if (args.layout.k.bits == 8) return LaunchInt8Turbo8(args, grid, stream);
  if (IsRarePair(args.p.cache.k_format, args.p.cache.v_format)) {
    return LaunchInt8Rare(args, grid, stream);
  }
  if (d != 64 && d != 128 && d != 256) return LaunchInt8Odd(args, grid, stream);
  if (args.layout.k.trellis) return LaunchInt8Trellis(args, grid, stream);
  switch (d) {
    case 64:
      return LaunchInt8Dim64(args, grid, stream);
    case 128:
      return LaunchInt8Dim128(args, grid, stream);
    default:
      return LaunchInt8Dim256(args, grid, stream);
  }
}

tq_cuda_status Attend(const tq_cuda_plan& plan, const tq_cuda_attention& p,
                      const tq_cuda_item* items, void* workspace, cudaStream_t stream) {
  AttentionArgs args{};
  if (!ValidCache(p.cache, &args.layout) || !ValidAttention(p)) return TQ_CUDA_INVALID;
  if (workspace == nullptr || !Aligned(workspace) || !Aligned(items)) return TQ_CUDA_INVALID;
  if (plan.uniform == 0 && items == nullptr) return TQ_CUDA_INVALID;
  if (plan.row_tile < 1 || plan.row_tile * plan.row_tiles < p.group * p.q_len) {
    return TQ_CUDA_INVALID;
  }
  args = MakeAttentionArgs(plan, p, items, workspace, args.layout);
  const dim3 grid = AttentionGrid(args);
  if (plan.path == TQ_CUDA_PATH_PAIR) return StatusOf(LaunchPair(args, grid, stream));
  if (plan.path != TQ_CUDA_PATH_INT8) return TQ_CUDA_INVALID;
  const cudaError_t launched = LaunchInt8(args, grid, stream);
  return launched == cudaErrorInvalidValue ? TQ_CUDA_UNSUPPORTED : StatusOf(launched);
}

void Explain(const std::string& text, char* reason, size_t bytes) {
  if (reason == nullptr || bytes == 0) return;
  const size_t n = text.size() < bytes - 1 ? text.size() : bytes - 1;
  std::memcpy(reason, text.data(), n);
  reason[n] = '\0';
}

// What tq_cuda_device says of memory; 0 where the driver does not tell.
int32_t BytesPerClock(int device, int sms) {
  int clock = 0, memory_clock = 0, bits = 0;  // kHz, kHz (two transfers a clock)
  for (const auto& [value, attribute] : {std::pair(&clock, cudaDevAttrClockRate),
                                         std::pair(&memory_clock, cudaDevAttrMemoryClockRate),
                                         std::pair(&bits, cudaDevAttrGlobalMemoryBusWidth)}) {
    if (cudaDeviceGetAttribute(value, attribute, device) != cudaSuccess || *value <= 0) {
      cudaGetLastError();
      return 0;
    }
  }
  const double bytes = 2.0 * memory_clock * bits / 8;
  return static_cast<int32_t>(bytes / clock / sms + 0.5);
}

}  // namespace
}  // namespace turboquant::cuda

using namespace turboquant;        // NOLINT(google-build-using-namespace): the C functions below
using namespace turboquant::cuda;  // NOLINT(google-build-using-namespace)

extern "C" {

int32_t tq_cuda_api_version(void) { return TQ_CUDA_API_VERSION; }

tq_cuda_status tq_cuda_query_device(tq_cuda_device* device) {
  if (device == nullptr) return TQ_CUDA_INVALID;
  int index = 0, major = 0, minor = 0;
  int values[3] = {0, 0, 0};
  const cudaDeviceAttr wanted[3] = {cudaDevAttrMultiProcessorCount,
                                    cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                    cudaDevAttrMaxSharedMemoryPerMultiprocessor};
  if (cudaGetDevice(&index) != cudaSuccess) return TQ_CUDA_FAILED;
  for (int i = 0; i < 3; ++i) {
    if (cudaDeviceGetAttribute(&values[i], wanted[i], index) != cudaSuccess) return TQ_CUDA_FAILED;
  }
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index) != cudaSuccess) {
    return TQ_CUDA_FAILED;
  }
  *device = {values[0], values[1], values[2], 10 * major + minor, BytesPerClock(index, values[0])};
  return major >= 8 ? TQ_CUDA_OK : TQ_CUDA_UNSUPPORTED;
}

tq_cuda_status tq_cuda_make_rotation(int32_t head_dim, uint64_t seed, tq_cuda_rotation* rotation,
                                     float* mix) {
  if (rotation == nullptr || !SupportedTileHeadDim(head_dim)) return TQ_CUDA_INVALID;
  const Rotation r(head_dim, seed);
  const RotationView view = r.view();
  *rotation = tq_cuda_rotation{};
  rotation->m = view.m;
  rotation->n = view.n;
  rotation->norm = view.norm;
  for (int i = 0; i < head_dim; ++i) {
    if (view.signs[i] < 0.0f) rotation->negative[i / 32] |= 1u << (i % 32);
  }
  if (view.m > 1) {
    if (mix == nullptr) return TQ_CUDA_INVALID;
    std::memcpy(mix, view.mix, sizeof(float) * static_cast<size_t>(view.m * view.m));
  }
  return TQ_CUDA_OK;
}

size_t tq_cuda_record_bytes(int32_t k_format, int32_t v_format, int32_t head_dim) {
  RecordLayout layout;
  return LayoutOf(k_format, v_format, head_dim, &layout) ? static_cast<size_t>(layout.bytes) : 0;
}

tq_cuda_status tq_cuda_supports(const tq_cuda_plan_request* request, char* reason,
                                size_t reason_bytes) {
  if (request == nullptr) return TQ_CUDA_INVALID;
  const std::string why = WhyUnsupported(*request);
  Explain(why, reason, reason_bytes);
  return why.empty() ? TQ_CUDA_OK : TQ_CUDA_UNSUPPORTED;
}

tq_cuda_status tq_cuda_plan_attention(const tq_cuda_plan_request* request, tq_cuda_plan* plan,
                                      tq_cuda_item* items, int32_t* num_items) {
  if (request == nullptr || plan == nullptr || num_items == nullptr) return TQ_CUDA_INVALID;
  if (!WhyUnsupported(*request).empty()) return TQ_CUDA_UNSUPPORTED;
  const AttentionPlan result = PlanAttention(*request);
  const int32_t capacity = *num_items;
  *plan = result.plan;
  *num_items = result.plan.num_items;
  if (items == nullptr) return TQ_CUDA_OK;
  if (capacity < result.plan.num_items) return TQ_CUDA_INVALID;
  std::memcpy(items, result.items.data(), result.items.size() * sizeof(tq_cuda_item));
  return TQ_CUDA_OK;
}

tq_cuda_status tq_cuda_attend(const tq_cuda_plan* plan, const tq_cuda_attention* params,
                              const tq_cuda_item* items, void* workspace, void* stream) {
  if (plan == nullptr || params == nullptr) return TQ_CUDA_INVALID;
  return Attend(*plan, *params, items, workspace, StreamOf(stream));
}

tq_cuda_status tq_cuda_encode(const tq_cuda_encode_params* params, void* stream) {
  RecordLayout layout;
  if (params == nullptr || !ValidCache(params->cache, &layout) || !ValidRows(params->rows, true) ||
      params->batch < 1 || params->max_rows < 0 || params->first_token == nullptr ||
      params->num_rows == nullptr ||
      (params->row_index != nullptr && params->index_stride < params->max_rows)) {
    return TQ_CUDA_INVALID;
  }
  if (params->max_rows == 0) return TQ_CUDA_OK;
  if (layout.k.trellis || layout.v.trellis) {
    const tq_cuda_status status = StatusOf(LaunchEncodeTrellis(*params, layout, StreamOf(stream)));
    if (status != TQ_CUDA_OK || (layout.k.trellis && layout.v.trellis)) return status;
  }
  if (params->max_rows == 1 && AppendServes(layout)) {
    return StatusOf(LaunchAppend(*params, layout, StreamOf(stream)));
  }
  return StatusOf(LaunchEncode(*params, layout, StreamOf(stream)));
}

tq_cuda_status tq_cuda_page_means(const tq_cuda_means_params* params, void* stream) {
  RecordLayout layout;
  if (params == nullptr || !ValidCache(params->cache, &layout) || !ValidRows(params->rows, false) ||
      params->cache.mean_tokens == 0 || params->count < 0 || params->sequence == nullptr ||
      params->begin == nullptr || params->end == nullptr || params->index == nullptr) {
    return TQ_CUDA_INVALID;
  }
  if (params->count == 0) return TQ_CUDA_OK;
  return StatusOf(LaunchPageMeans(*params, StreamOf(stream)));
}

tq_cuda_status tq_cuda_decode_rows(const tq_cuda_decode_params* params, void* stream) {
  RecordLayout layout;
  if (params == nullptr || !ValidCache(params->cache, &layout) || params->sequence < 0 ||
      params->first_token < 0 || params->num_tokens < 0 || params->k == nullptr ||
      params->v == nullptr || !Aligned(params->k) || !Aligned(params->v) ||
      !ValidDtype(params->dtype)) {
    return TQ_CUDA_INVALID;
  }
  if (params->num_tokens == 0) return TQ_CUDA_OK;
  return StatusOf(LaunchDecodeRows(*params, layout, StreamOf(stream)));
}

tq_cuda_status tq_cuda_scores(const tq_cuda_scores_params* params, void* stream) {
  RecordLayout layout;
  if (params == nullptr || !ValidCache(params->cache, &layout) || params->sequence < 0 ||
      params->kv_head < 0 || params->kv_head >= params->cache.num_kv_heads ||
      params->num_tokens < 0 || params->rows < 1 || params->rows > kMaxScoreRows ||
      params->q == nullptr || params->out == nullptr || !Aligned(params->q)) {
    return TQ_CUDA_INVALID;
  }
  if (params->num_tokens == 0) return TQ_CUDA_OK;
  return StatusOf(LaunchScores(*params, layout, StreamOf(stream)));
}

tq_cuda_status tq_cuda_rotate(const tq_cuda_rotate_params* params, void* stream) {
  if (params == nullptr || !SupportedTileHeadDim(params->head_dim) || params->in == nullptr ||
      params->out == nullptr || !Aligned(params->in) || !Aligned(params->out) ||
      !ValidDtype(params->dtype) || params->count < 0) {
    return TQ_CUDA_INVALID;
  }
  if (params->count == 0) return TQ_CUDA_OK;
  return StatusOf(LaunchRotate(*params, StreamOf(stream)));
}

tq_cuda_status tq_cuda_merge(const tq_cuda_merge_params* params, void* stream) {
  if (params == nullptr || params->rows < 0 || params->head_dim < 2 || params->head_dim % 2 != 0 ||
      params->out == nullptr || params->other == nullptr || params->lse == nullptr ||
      params->other_lse == nullptr || !ValidDtype(params->out_dtype) ||
      !ValidDtype(params->other_dtype)) {
    return TQ_CUDA_INVALID;
  }
  if (params->rows == 0) return TQ_CUDA_OK;
  return StatusOf(LaunchMerge(*params, StreamOf(stream)));
}

}  // extern "C"
