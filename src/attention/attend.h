// Attention of one layer and one stream over {coded cells, exact rows}, without ever decoding the
// whole cache.
//
// For query row r of kv head h (r = token * group + g) and cell j:
//   logit = scale * <q_r, k_j>      k_j exact, or R^T(scale_j * c_j) + mean of the row's page
//         = <R q', c_j> * scale_j + <q', mean_j>,  q' = scale * q
// then softcap, mask * slope, online softmax (Milakov and Gimelshein 2018) with the state (m, l, o);
// the states of all segments merge in a fixed order, so results do not depend on the thread count.
// Coded values are summed in rotated space and rotated back once per query row.
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
  int capacity = 0;                      // 0: keys are not centred
  int width = 0;
  const int8_t* steps = nullptr;         // [capacity][width]
  const uint16_t* step_sizes = nullptr;  // [capacity][width / 16] fp16
  const uint32_t* refs = nullptr;        // [capacity]; 0: unused
  const uint16_t* cell_mean = nullptr;   // [cells]: 1 + index of the cell's mean, 0: none
};

// Where the rows of one side come from. Cell indices are those of the problem (0 = first cell seen).
struct Side {
  // Coded rows in tiles (kernels/tile_layout.h), those of kv head h at codes + h * head_code_stride.
  Format format = Format::kF16;  // kF16: not coded, use `load`
  int head_dim = 0;    // values of one row; for coded sides also the size of the rotation
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
  int group = 0;   // query heads per kv head
  int out_dim = 0; // values of one output row; <= v.head_dim
  int cells = 0;   // n_kv: cells the mask speaks of
  float scale = 1.0f;
  float softcap = 0.0f;           // 0: none
  const float* slopes = nullptr;  // [query heads] ALiBi factors on the mask; null: 1
  const float* sinks = nullptr;   // [query heads] sink logits; null: none

  const char* q = nullptr;        // f32, strides in bytes
  size_t q_token_stride = 0, q_head_stride = 0;
  char* out = nullptr;            // f32
  size_t out_token_stride = 0, out_head_stride = 0;
  const char* mask = nullptr;     // f16 [tokens][cells], null: all seen
  size_t mask_token_stride = 0, mask_head_stride = 0;

  Side k, v;
  std::vector<ExactRow> exact;
  std::vector<uint16_t> hidden;   // [cells] f16: 0, or -inf where a cell is not coded but exact
};

// Runs problems in phases. Between two phases all threads must meet; inside a phase items may run in
// any order on any thread.
//   Prepare (one thread) -> ProjectItem x project_items() -> AttendItem x attend_items()
//   -> MergeItem x merge_items()
class AttentionRun {
 public:
  explicit AttentionRun(const KernelTable& kernels) : kernels_(&kernels) {}

  // Problems (one per stream) stay owned by the run until the next Prepare. Fill, then Prepare.
  std::vector<AttentionProblem>& problems() { return problems_; }
  void Prepare();

  int project_items() const { return project_items_; }
  int attend_items() const { return attend_items_; }
  int merge_items() const { return merge_items_; }
  void ProjectItem(int item);
  void AttendItem(int item);
  void MergeItem(int item);

  // All phases on this thread.
  void RunAll();

 private:
  struct Layout {
    int rows = 0;         // query rows of one kv head
    int q_tokens = 0;     // tokens of one query tile
    int q_tiles = 0;
    int chunk = 0;        // cells of one chunk
    int chunks = 0;
    bool direct = false;  // one chunk and many rows: the item finishes its rows itself
    int kd = 0, vd = 0;   // head dims of the stored rows
    int state = 0;        // floats of one row state: m, l, o[vd]
    size_t q_plain = 0, q_coded = 0, q_mean = 0, partial = 0;  // offsets into workspace_
    size_t prepared = 0;  // floats of one prepared query row
    int first_project = 0, first_attend = 0, first_merge = 0;
  };

  void AttendTiles(const AttentionProblem& p, const Layout& l, int kv_head, int token0,
                   int token1, int cell0, int cell1, bool exact, float* state) const;
  void FinishRow(const AttentionProblem& p, const Layout& l, int kv_head, int row,
                 const float* const* coded, int num_coded, const float* exact, float* scratch) const;

  // 64-byte aligned, whatever the vector's own alignment.
  float* Workspace(size_t offset) const {
    const auto address = reinterpret_cast<uintptr_t>(workspace_.data());
    return reinterpret_cast<float*>((address + 63) & ~uintptr_t{63}) + offset;
  }

  const KernelTable* kernels_;
  std::vector<AttentionProblem> problems_;
  std::vector<Layout> layouts_;
  std::vector<float> workspace_;
  int project_items_ = 0, attend_items_ = 0, merge_items_ = 0;
};

}  // namespace turboquant

#endif  // TURBOQUANT_ATTENTION_ATTEND_H_
