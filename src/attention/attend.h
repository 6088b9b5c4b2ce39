// Attention of one layer and one stream over {coded cells, exact rows}, without ever decoding the
// whole cache.
//
// For query row r of kv head h (r = token * group + g) and cell j:
//   logit = scale * <q_r, k_j>      k_j exact, or R^T(scale_j * c_j) + mean of the row's page
//         = <R q', c_j> * scale_j + <q', mean_j>,  q' = scale * q
// then softcap, mask * slope, online softmax (Milakov and Gimelshein 2018) with the state (m, l,
// o); the states of all segments merge in a fixed order, so results do not depend on the thread
// count. Coded values are summed in rotated space and rotated back once per query row.
#ifndef TURBOQUANT_ATTENTION_ATTEND_H_
#define TURBOQUANT_ATTENTION_ATTEND_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/format.h"
#include "kernels/kernel_api.h"
#include "math/rotation.h"

namespace turboquant {

// Key means in stored form: per mean `width` int8 steps and one fp16 step size per 16 values.
struct MeanTable {
  int capacity = 0;  // 0: keys are not centred
  int width = 0;
  const int8_t* steps = nullptr;         // [capacity][width]
  const uint16_t* step_sizes = nullptr;  // [capacity][width / 16] fp16
  const uint32_t* refs = nullptr;        // [capacity]; 0: unused
  const uint16_t* cell_mean = nullptr;   // [cells]: 1 + index of the cell's mean, 0: none
};

// Where the rows of one side come from. Cell indices are those of the problem (0 = first cell
// seen).
struct Side {
  // Coded rows in tiles (kernels/tile_layout.h), those of kv head h at codes + h *
  // head_code_stride.
  Format format = Format::kF16;  // kF16: not coded, use `load`
  int head_dim = 0;              // values of one row; for coded sides also the size of the rotation
  const uint8_t* codes = nullptr;
  size_t head_code_stride = 0;
  const uint16_t* scales = nullptr;  // [heads][head_scale_stride]
  size_t head_scale_stride = 0;
  TileForm form = TileForm::kKeys;
  int first_cell = 0;  // the problem's cell 0, of codes and scales
  RotationView rotation{};
  MeanTable means;  // keys only
  // Plain rows: writes rows [cell, cell + n) of one head as f32 [n][head_dim].
  void (*load)(const void* context, int kv_head, int cell, int n, float* out) = nullptr;
  const void* context = nullptr;
};

// One cell held exactly; k and v point at head 0 of the f16 row, heads follow at head_dim values.
struct ExactRow {
  int cell;
  const uint16_t* k;
  const uint16_t* v;
};

struct AttentionProblem {
  int tokens = 0;
  int num_kv_heads = 0;
  int group = 0;    // query heads per kv head
  int out_dim = 0;  // values of one output row; <= v.head_dim
  int cells = 0;    // n_kv: cells the mask speaks of
  float scale = 1.0f;
  float softcap = 0.0f;           // 0: none
  const float* slopes = nullptr;  // [query heads] ALiBi factors on the mask; null: 1
  const float* sinks = nullptr;   // [query heads] sink logits; null: none

  const char* q = nullptr;  // f32, strides in bytes
  size_t q_token_stride = 0, q_head_stride = 0;
  char* out = nullptr;  // f32
  size_t out_token_stride = 0, out_head_stride = 0;
  const char* mask = nullptr;  // f16 [tokens][cells], null: all seen
  size_t mask_token_stride = 0, mask_head_stride = 0;

  Side k, v;
  std::vector<ExactRow> exact;
  std::vector<uint16_t> hidden;  // [cells] f16: 0, or -inf where a cell is not coded but exact
};

// Runs problems in phases. Between two phases all threads must meet; inside a phase items may run
// in any order on any thread.
//   Prepare (one thread) -> AttendItem x attend_items() -> MergeItem x merge_items()
// Nothing is allocated once the buffers have grown to the largest problem seen.
class AttentionRun {
 public:
  explicit AttentionRun(const KernelTable& kernels) : kernels_(&kernels) {}

  // Problems (one per stream) stay owned by the run until the next Prepare. Fill, then Prepare.
  std::vector<AttentionProblem>& problems() { return problems_; }
  void Prepare();

  int attend_items() const { return attend_items_; }
  int merge_items() const { return merge_items_; }
  void AttendItem(int item);
  void MergeItem(int item);

  // All phases on this thread.
  void RunAll();

 private:
  struct Layout {
    int rows = 0;         // query rows of one kv head
    bool direct = false;  // many rows: an item owns a tile of them and finishes it itself
    int q_tokens = 0;     // direct: tokens of one query tile
    int q_tiles = 0;
    int chunk = 0;       // else: cells of one coded segment
    int chunks = 0;      // coded segments
    int segments = 0;    // those and the exact ones
    size_t partial = 0;  // of the states [head] in workspace_
    int first_attend = 0, first_merge = 0;
  };
  // Query rows ready for the kernels, on the thread that asked for them.
  struct Queries {
    const float* plain = nullptr;       // [rows][k.head_dim], scaled
    const uint8_t* prepared = nullptr;  // the same rotated, as prepare_queries writes it
  };
  // Rows of one kv head against cells (or exact rows) [begin, end).
  struct Span {
    int problem;
    int kv_head;
    int token0, token1;
    bool exact;
    int begin, end;
  };
  // States of query rows, [rows][segments]: those of a row lie side by side, as merging wants them.
  struct States {
    float* m;
    float* l;
    float* o;  // [rows][segments][v_dim]
    int segments;

    States Segment(int s, int v_dim) const { return {m + s, l + s, o + s * v_dim, segments}; }
    States Row(int r, int v_dim) const {
      const size_t at = static_cast<size_t>(r) * segments;
      return {m + at, l + at, o + at * v_dim, segments};
    }
  };
  struct Tile;

  static States StatesAt(float* at, int rows, int segments);
  static size_t StatesFloats(int rows, int segments, int v_dim);
  States StatesOf(const Layout& l, const AttentionProblem& p, int kv_head);
  int ProblemOf(int item, int Layout::*first) const;
  Queries Project(const Span& span) const;
  void Attend(const Span& span, const States& states) const;
  bool FillBias(const Span& span, int cell, int n, Tile* tile) const;
  void Scores(const Span& span, const Queries& q, int cell, int n, Tile* tile) const;
  bool AddMeans(const Span& span, const Queries& q, int cell, int n, Tile* tile) const;
  void Softmax(const Span& span, const Queries& q, int cell, int n, Tile* tile) const;
  void Accumulate(const Span& span, int cell, int n, Tile* tile) const;
  void FinishRow(int problem, int kv_head, int row, const States& states, int coded) const;

  const KernelTable* kernels_;
  std::vector<AttentionProblem> problems_;
  std::vector<Layout> layouts_;
  std::vector<float> workspace_;
  uint64_t serial_ = 0;  // of this Prepare, unique in the process
  int attend_items_ = 0, merge_items_ = 0;
};

}  // namespace turboquant

#endif  // TURBOQUANT_ATTENTION_ATTEND_H_
