// The host side of attention on CUDA: which kernel serves a shape, and who reads which pages.
//
// Pure functions of the request, so the plan is the same everywhere and is tested without a GPU.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_PLAN_H_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_PLAN_H_

#include <string>
#include <vector>

#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

// False: not a format of the CUDA cache.
bool ParseTileFormat(int format, TileFormat* out);

bool SupportedTileHeadDim(int head_dim);

// Query rows of one item of the pair kernel.
inline constexpr int kPairRows = 16;
// Behind m, l and the values of its partial: 1 if they are of exact rows (not rotated).
inline constexpr int kPairHeaderFloats = 4;

// Number of floats of one partial result of a plan: per query row m, l and head_dim values.
TQ_HD inline size_t PartialFloats(const tq_cuda_plan& plan, int head_dim) {
  const size_t rows = static_cast<size_t>(plan.row_tile) * (static_cast<size_t>(head_dim) + 2);
  return rows + (plan.path == TQ_CUDA_PATH_PAIR ? kPairHeaderFloats : 0);
}

// Bytes of the tickets in front of the partial results.
size_t TicketBytes(int batch, int head_tiles);

// Why the request cannot be served; empty: it can.
std::string WhyUnsupported(const tq_cuda_plan_request& request);

// Which path serves it (the request is supported): TQ_CUDA_PATH_INT8 or TQ_CUDA_PATH_PAIR.
int ChoosePath(const tq_cuda_plan_request& request);

struct AttentionPlan {
  tq_cuda_plan plan{};
  std::vector<tq_cuda_item> items;  // every CTA's share, largest first
};

// What the benchmark tries instead of the plan's own choice, of equal lengths.
struct PlanChoice {
  int config = -1;  // -1: the plan's own
  int splits = 0;   // 0: the plan's own; at most kMaxPartials - 1
  int dynamic = 0;
};

// The request is supported.
AttentionPlan PlanAttention(const tq_cuda_plan_request& request, const PlanChoice& choice = {});

// First page of a split, the first `extra` of which have one page more than `pages`.
TQ_HD inline int SplitBegin(int split, int pages, int extra) {
  return split * pages + (split < extra ? split : extra);
}

// The item of a CTA of a uniform plan; the kernels compute the same.
TQ_HD inline tq_cuda_item UniformItem(const tq_cuda_plan& plan, int split, int head_tile,
                                      int head_tiles, int sequence) {
  tq_cuda_item item;
  item.sequence = sequence;
  item.head_tile = head_tile;
  item.first_partial = (sequence * head_tiles + head_tile) * plan.splits;
  item.partials = plan.splits;
  item.partial = item.first_partial + split;
  item.exact = plan.exact_rows > 0 && split == plan.splits - 1 ? 1 : 0;
  if (item.exact != 0) {
    item.begin = 0;
    item.end = plan.exact_rows;
  } else {
    item.begin = plan.first_page + SplitBegin(split, plan.split_pages, plan.split_extra);
    item.end = plan.first_page + SplitBegin(split + 1, plan.split_pages, plan.split_extra);
  }
  return item;
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_PLAN_H_
