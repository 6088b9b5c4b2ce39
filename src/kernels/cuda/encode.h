// Launchers of the row kernels. Included by nvcc's files alone.
#ifndef TURBOQUANT_KERNELS_CUDA_ENCODE_H_
#define TURBOQUANT_KERNELS_CUDA_ENCODE_H_

#include <cuda_runtime.h>

#include "codec/trellis_codec.h"
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

// Sides of scalar formats.
cudaError_t LaunchEncode(const tq_cuda_encode_params& p, const RecordLayout& layout,
                         cudaStream_t stream);
// Sides of trellis formats.
cudaError_t LaunchEncodeTrellis(const tq_cuda_encode_params& p, const RecordLayout& layout,
                                cudaStream_t stream);
// One row of each sequence (max_rows 1), layouts that AppendServes.
bool AppendServes(const RecordLayout& layout);
cudaError_t LaunchAppend(const tq_cuda_encode_params& p, const RecordLayout& layout,
                         cudaStream_t stream);
cudaError_t LaunchPageMeans(const tq_cuda_means_params& p, cudaStream_t stream);
cudaError_t LaunchDecodeRows(const tq_cuda_decode_params& p, const RecordLayout& layout,
                             cudaStream_t stream);
cudaError_t LaunchRotate(const tq_cuda_rotate_params& p, cudaStream_t stream);
cudaError_t LaunchMerge(const tq_cuda_merge_params& p, cudaStream_t stream);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ENCODE_H_
