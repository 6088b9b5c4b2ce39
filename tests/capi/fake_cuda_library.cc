// Stands in for libturboquant_cuda in the tests of tq_cuda_load. FAKE_VERSION: the interface it
// says it speaks; FAKE_REASON: why its device cannot be used; FAKE_INCOMPLETE: lacks the last
// function.
#include <cstdio>

#include "kernels/cuda/cuda_api.h"

extern "C" {

int32_t tq_cuda_api_version(void) { return FAKE_VERSION; }

tq_cuda_status tq_cuda_check_device(char* reason, size_t reason_bytes) {
#ifdef FAKE_REASON
  std::snprintf(reason, reason_bytes, FAKE_REASON);
  return TQ_CUDA_UNSUPPORTED;
#else
  if (reason_bytes > 0) reason[0] = '\0';
  return TQ_CUDA_OK;
#endif
}

tq_cuda_status tq_cuda_query_device(tq_cuda_device* device) {
  *device = {132, 232448, 233472, 90, 13};
  return TQ_CUDA_OK;
}

size_t tq_cuda_record_bytes(int32_t k_format, int32_t v_format, int32_t head_dim) {
  return static_cast<size_t>(k_format + v_format + head_dim);
}

tq_cuda_status tq_cuda_make_rotation(int32_t, uint64_t, tq_cuda_rotation*, float*) {
  return TQ_CUDA_OK;
}
tq_cuda_status tq_cuda_supports(const tq_cuda_plan_request*, char*, size_t) { return TQ_CUDA_OK; }
tq_cuda_status tq_cuda_plan_attention(const tq_cuda_plan_request*, tq_cuda_plan*, tq_cuda_item*,
                                      int32_t*) {
  return TQ_CUDA_OK;
}
tq_cuda_status tq_cuda_attend(const tq_cuda_plan*, const tq_cuda_attention*, const tq_cuda_item*,
                              void*, void*) {
  return TQ_CUDA_OK;
}
tq_cuda_status tq_cuda_plan_prefill(const tq_cuda_prefill_params*, tq_cuda_prefill_plan*, char*,
                                    size_t) {
  return TQ_CUDA_OK;
}
tq_cuda_status tq_cuda_prefill(const tq_cuda_prefill_plan*, const tq_cuda_prefill_params*, void*,
                               void*) {
  return TQ_CUDA_OK;
}
tq_cuda_status tq_cuda_encode(const tq_cuda_encode_params*, void*) { return TQ_CUDA_OK; }
tq_cuda_status tq_cuda_page_means(const tq_cuda_means_params*, void*) { return TQ_CUDA_OK; }
tq_cuda_status tq_cuda_decode_rows(const tq_cuda_decode_params*, void*) { return TQ_CUDA_OK; }
tq_cuda_status tq_cuda_scores(const tq_cuda_scores_params*, void*) { return TQ_CUDA_OK; }
tq_cuda_status tq_cuda_rotate(const tq_cuda_rotate_params*, void*) { return TQ_CUDA_OK; }
tq_cuda_status tq_cuda_merge(const tq_cuda_merge_params*, void*) { return TQ_CUDA_OK; }
tq_cuda_status tq_cuda_dense_create(const char*, tq_cuda_dense**, char*, size_t) {
  return TQ_CUDA_OK;
}
#ifndef FAKE_INCOMPLETE
void tq_cuda_dense_destroy(tq_cuda_dense*) {}
#endif

}  // extern "C"
