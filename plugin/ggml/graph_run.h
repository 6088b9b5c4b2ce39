// Running the host's graphs: nodes that touch a compressed cache become custom nodes of the same
// graph, so the host's own threads run our kernels.
#ifndef TURBOQUANT_PLUGIN_GGML_GRAPH_RUN_H_
#define TURBOQUANT_PLUGIN_GGML_GRAPH_RUN_H_

#include <deque>
#include <memory>
#include <vector>

#include "attention/attend.h"
#include "ggml_abi.h"
#include "host.h"
#include "kv_tensor.h"
#include "spin_barrier.h"
#include "work_share.h"

namespace turboquant::ggml {

// One per backend (so one per llama_context): what lives from graph to graph.
class GraphRun {
 public:
  GraphRun(const Host& host, const KernelTable& kernels);
  ~GraphRun();

  using Compute = int (*)(Backend*, Graph*);
  // Computes `graph` through `compute`, the backend's own function.
  int Run(Backend* backend, Graph* graph, Compute compute);

  // Learns head sizes from attention and the order of V from writes, before anything is computed.
  static void LearnShapes(const Host& host, const Tensor* node);

 private:
  struct Task;
  // Rows written by SET_ROWS that wait for their layer's attention.
  struct Pending {
    KvTensor* cache = nullptr;
    int rows = 0;
    std::vector<int64_t> cells;      // stream * cells + cell
    std::vector<uint16_t> values;    // [rows][width]
    std::vector<std::vector<NewRow>> by_stream;
  };

  Task& NewTask();
  bool PlanNode(Tensor* node);
  bool PlanSetRows(Tensor* node);
  bool PlanAttention(Tensor* node);
  bool PlanGeneric(Tensor* node);
  void Replace(Tensor* node, CustomOp fun, Task* task);
  int RunExpanded(Backend* backend, Graph* graph, Compute compute);

  static void SetRowsOp(Tensor* node, int ith, int nth, void* task);
  static void AttentionOp(Tensor* node, int ith, int nth, void* task);
  static void LoadOp(Tensor* node, int ith, int nth, void* task);
  static void StoreOp(Tensor* node, int ith, int nth, void* task);

  Pending* PendingOf(const KvTensor* cache);
  Pending* StartPending(KvTensor* cache, int rows);
  void SetRows(const Task& task, int ith, int nth);
  void CopyRow(const Task& task, Pending* pending, int row);
  void PrepareAttention(const Task& task, int nth);
  void FillProblem(const Task& task, int stream, AttentionProblem* problem);
  void ListExactRows(const Task& task, int stream, AttentionProblem* problem);
  size_t ListSide(KvTensor* side, int stream, std::vector<NewRow>* rows);
  // A side's way into its stores: plan (one thread), encode (shared), commit (one thread).
  void PlanFlush(Pending* pending);
  void EncodeFlush(Pending* pending, int ith, int nth);
  void CommitFlush(Pending* pending);
  void Flush(Pending* pending);  // on one thread
  void FlushDue(int ith, int nth);
  void FlushAll();

  const Host& host_;
  const KernelTable& kernels_;
  std::deque<Task> tasks_;  // the first num_tasks_ are in use; all keep their memory
  size_t num_tasks_ = 0;
  std::vector<std::unique_ptr<Pending>> pending_;
  std::vector<Pending*> due_;  // with few_due_: set while one thread prepares an attention
  bool few_due_ = false;
  AttentionRun attention_;
  std::vector<float> slopes_;
  std::deque<std::vector<uint16_t>> decoded_rows_;  // exact on one side only
  std::vector<NewRow> exact_k_, exact_v_, window_;  // of ListExactRows
  SpinBarrier barrier_;
  WorkShare share_;
};

}  // namespace turboquant::ggml

#endif  // TURBOQUANT_PLUGIN_GGML_GRAPH_RUN_H_
