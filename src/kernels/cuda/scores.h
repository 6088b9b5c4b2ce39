// Launcher of the estimator. Included by nvcc's files alone.
#ifndef TURBOQUANT_KERNELS_CUDA_SCORES_H_
#define TURBOQUANT_KERNELS_CUDA_SCORES_H_

#include <cuda_runtime.h>

#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

inline constexpr int kMaxScoreRows = 4;

cudaError_t LaunchScores(const tq_cuda_scores_params& p, const RecordLayout& layout,
                         cudaStream_t stream);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_SCORES_H_
