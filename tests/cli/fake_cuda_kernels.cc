// Stands in for libturboquant_cuda: the real layout and plan, the scalar truth for codes, double
// for attention. FAKE_MODE=wrong: the newest token of every sequence is forgotten; codes: a bit of
// one row's codes is off.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/attention_reference.h"
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/tile_convert.h"
#include "kernels/format_rows.h"

using namespace turboquant;        // NOLINT(google-build-using-namespace): the C functions below
using namespace turboquant::cuda;  // NOLINT(google-build-using-namespace)

namespace {

bool Mode(const char* name) {
  const char* mode = std::getenv("FAKE_MODE");
  return mode != nullptr && std::string(mode) == name;
}

RecordLayout LayoutOf(const tq_cuda_cache& c) {
  TileFormat k{}, v{};
  ParseTileFormat(c.k_format, &k);
  ParseTileFormat(c.v_format, &v);
  return MakeRecordLayout(k, v, c.head_dim);
}

// The signs and the mixing matrix of a rotation, as the kernels of rows want them.
struct HostRotation {
  HostRotation(const tq_cuda_rotation& r, int head_dim) : signs(static_cast<size_t>(head_dim)) {
    for (int i = 0; i < head_dim; ++i) {
      signs[static_cast<size_t>(i)] = (r.negative[i / 32] >> (i % 32) & 1u) != 0 ? -1.0f : 1.0f;
    }
    view = {head_dim, r.m, r.n, r.norm, signs.data(), r.m > 1 ? r.mix : nullptr};
  }
  std::vector<float> signs;
  RotationView view;
};

void EncodeSide(const tq_cuda_encode_params& p, const RecordLayout& layout, bool values, int b,
                int i, int head) {
  const tq_cuda_cache& c = p.cache;
  const auto format = static_cast<Format>(values ? c.v_format : c.k_format);
  const HostRotation rotation(values ? c.v_rotation : c.k_rotation, c.head_dim);
  const int64_t at =
      b * p.rows.sequence_stride + i * p.rows.token_stride + head * p.rows.head_stride;
  std::vector<float> x(static_cast<size_t>(c.head_dim));
  for (int j = 0; j < c.head_dim; ++j) {
    x[static_cast<size_t>(j)] =
        static_cast<float>(LoadValue(values ? p.rows.v : p.rows.k, p.rows.dtype, at + j));
  }
  std::vector<uint8_t> codes(CodeBytes(format, c.head_dim));
  uint16_t scale = 0;
  EncodeFormatRows(ScalarKernels(), format, rotation.view, x.data(), 1, codes.data(), &scale);
  if (Mode("codes") && !values && i % 2 == 0) codes[3] ^= 4;
  const int token = p.first_token[b] + i;
  const int page = c.page_table[static_cast<int64_t>(b) * c.page_stride + token / kTileTokens];
  uint8_t* record = static_cast<uint8_t*>(c.records) +
                    (static_cast<size_t>(page) * c.num_kv_heads + head) * layout.bytes;
  StoreTileRow(layout, record, values, token % kTileTokens, codes.data(), scale);
}

}  // namespace

extern "C" {

int32_t tq_cuda_api_version(void) { return TQ_CUDA_API_VERSION; }

tq_cuda_status tq_cuda_check_device(char* reason, size_t reason_bytes) {
  if (!Mode("no device")) return TQ_CUDA_OK;
  std::snprintf(reason, reason_bytes, "the GPU is made of paper");
  return TQ_CUDA_UNSUPPORTED;
}

tq_cuda_status tq_cuda_query_device(tq_cuda_device* device) {
  *device = {132, 232448, 233472, 90, 13};
  return TQ_CUDA_OK;
}

size_t tq_cuda_record_bytes(int32_t k_format, int32_t v_format, int32_t head_dim) {
  tq_cuda_cache c{};
  c.k_format = k_format;
  c.v_format = v_format;
  c.head_dim = head_dim;
  return static_cast<size_t>(LayoutOf(c).bytes);
}

tq_cuda_status tq_cuda_supports(const tq_cuda_plan_request* request, char* reason,
                                size_t reason_bytes) {
  const std::string why = WhyUnsupported(*request);
  std::snprintf(reason, reason_bytes, "%s", why.c_str());
  return why.empty() ? TQ_CUDA_OK : TQ_CUDA_UNSUPPORTED;
}

tq_cuda_status tq_cuda_plan_attention(const tq_cuda_plan_request* request, tq_cuda_plan* plan,
                                      tq_cuda_item* items, int32_t* num_items) {
  const AttentionPlan result = PlanAttention(*request);
  *plan = result.plan;
  *num_items = result.plan.num_items;
  if (items != nullptr) std::copy(result.items.begin(), result.items.end(), items);
  return TQ_CUDA_OK;
}

tq_cuda_status tq_cuda_encode(const tq_cuda_encode_params* p, void*) {
  const RecordLayout layout = LayoutOf(p->cache);
  if (layout.k.trellis || layout.v.trellis) return TQ_CUDA_UNSUPPORTED;
  for (int b = 0; b < p->batch; ++b) {
    for (int i = 0; i < p->num_rows[b]; ++i) {
      for (int head = 0; head < p->cache.num_kv_heads; ++head) {
        EncodeSide(*p, layout, false, b, i, head);
        EncodeSide(*p, layout, true, b, i, head);
      }
    }
  }
  return TQ_CUDA_OK;
}

tq_cuda_status tq_cuda_attend(const tq_cuda_plan*, const tq_cuda_attention* p, const tq_cuda_item*,
                              void*, void*) {
  tq_cuda_attention params = *p;
  std::vector<int32_t> lengths(p->coded_len, p->coded_len + p->batch);
  if (Mode("wrong")) {
    for (int32_t& n : lengths) --n;
  }
  params.coded_len = lengths.data();
  const ReferenceOutput reference = AttendReference(params);
  auto* out = static_cast<float*>(p->out);
  for (size_t i = 0; i < reference.out.size(); ++i) out[i] = static_cast<float>(reference.out[i]);
  return TQ_CUDA_OK;
}

#define TQ_UNUSED(name, ...) \
  tq_cuda_status name(__VA_ARGS__) { return TQ_CUDA_UNSUPPORTED; }

TQ_UNUSED(tq_cuda_make_rotation, int32_t, uint64_t, tq_cuda_rotation*, float*)
TQ_UNUSED(tq_cuda_plan_prefill, const tq_cuda_prefill_params*, tq_cuda_prefill_plan*, char*, size_t)
TQ_UNUSED(tq_cuda_prefill, const tq_cuda_prefill_plan*, const tq_cuda_prefill_params*, void*, void*)
TQ_UNUSED(tq_cuda_page_means, const tq_cuda_means_params*, void*)
TQ_UNUSED(tq_cuda_decode_rows, const tq_cuda_decode_params*, void*)
TQ_UNUSED(tq_cuda_scores, const tq_cuda_scores_params*, void*)
TQ_UNUSED(tq_cuda_rotate, const tq_cuda_rotate_params*, void*)
TQ_UNUSED(tq_cuda_merge, const tq_cuda_merge_params*, void*)
TQ_UNUSED(tq_cuda_dense_create, const char*, tq_cuda_dense**, char*, size_t)
void tq_cuda_dense_destroy(tq_cuda_dense*) {}

}  // extern "C"
