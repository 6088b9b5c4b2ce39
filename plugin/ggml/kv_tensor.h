// KvTensor: one cache tensor of the host (cache_k_l3, ...) that we keep compressed.
//
// The host declares it f16 and addresses it as such: [width, cells, streams]. We give the tensor a
// reserved address range of that size in which nothing is mapped, so that every view has a unique
// address and a stray access faults instead of reading a neighbour; the rows live in RowStores, one
// per stream, in the host's (smaller) buffer.
#ifndef TURBOQUANT_PLUGIN_GGML_KV_TENSOR_H_
#define TURBOQUANT_PLUGIN_GGML_KV_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ggml_abi.h"
#include "kernels/kernel_api.h"
#include "kvcache/policy.h"
#include "kvcache/row_store.h"

namespace turboquant::ggml {

// What a cache tensor's name says. False if the name is not exactly cache_k_l<N> or cache_v_l<N>.
bool ParseCacheName(const char* name, bool* is_key, int* layer);

class KvTensor {
 public:
  // Bytes that the host's buffer must hold for a tensor of this shape; 0 if it cannot or need not be
  // compressed. The head size is not known at that time; a small one is assumed.
  static size_t StorageBytes(const Tensor& t, const Policy& policy, bool is_key);

  KvTensor(const Tensor& t, const Policy& policy, const KernelTable& kernels);
  ~KvTensor();
  KvTensor(const KvTensor&) = delete;

  // Reserves the address range; false when the system refuses.
  bool Reserve(uint8_t* storage, size_t storage_bytes);
  void* address() const { return range_; }

  const std::string& name() const { return name_; }
  int layer() const { return layer_; }
  int width() const { return width_; }
  int cells() const { return cells_; }
  int streams() const { return streams_; }
  size_t f16_bytes() const { return static_cast<size_t>(width_) * 2 * cells_ * streams_; }
  const uint8_t* storage() const { return storage_; }
  size_t storage_bytes() const { return storage_bytes_; }

  // Fixes the head size. Returns false if rows of this head size cannot be coded: the tensor then
  // becomes plain f16 at its own address (is_plain), nothing is lost. `shared` says that values are
  // read from the key tensor (MLA), which rules out centring.
  bool Bind(int head_dim, bool shared);
  // Rows are about to be stored and no graph has told the head size: takes it from a state row, else
  // assumes one.
  void EnsureBound(const uint8_t* record);
  int head_dim() const { return head_dim_; }
  bool is_plain() const { return plain_; }
  bool transposed() const { return transposed_; }
  void set_transposed() { transposed_ = true; }
  RowStore& store(int stream) { return stores_[stream]; }

  // The host's access to bytes of the f16 tensor. With `rows`, whole rows travel as state rows
  // (docs/FORMAT.md); otherwise as values.
  void GetBytes(size_t offset, void* data, size_t size, bool rows);
  void SetBytes(size_t offset, const void* data, size_t size, bool rows);
  // Copies a byte range of rows from another compressed tensor, bit-exactly.
  void CopyFrom(KvTensor& source, size_t source_offset, size_t offset, size_t size);
  // The host cleared the buffer to zero (it has already zeroed the storage).
  void Cleared();

  // Direct access for operations we have no kernel for: rows [first, last) (stream * cells + cell)
  // appear as f16 at their addresses. Open (one thread) -> Fill (all threads) -> operation ->
  // Scan (all threads; only if it wrote) -> Close (one thread), which encodes the changed rows.
  void Open(int first, int last);
  void Fill(int ith, int nth);
  void Scan(int ith, int nth);
  void Close();

  // Appends rows to a tensor that is plain.
  void WritePlain(const std::vector<std::vector<NewRow>>& by_stream);

  // Counts a change, so that exported rows kept for transposed reads are dropped.
  void Touch() { ++version_; }
  // Says once that a row held NaN or Inf.
  void ReportNonFinite();

 private:
  bool BindStores(int head_dim);
  void Rebind(int head_dim);
  void MakePlain();
  void GetTransposed(size_t element, uint16_t* data, size_t n);
  void SetTransposed(size_t element, const uint16_t* data, size_t n);
  void ReadValues(size_t offset, uint8_t* data, size_t size);
  void WriteValues(size_t offset, const uint8_t* data, size_t size);
  void GatherRow(int row, uint16_t* out) const;
  void ReportForeign(const RowStore& store);
  void ImportRows(int stream, int cell, int n, const uint8_t* records);

  std::string name_;
  bool is_key_ = false;
  int layer_ = 0;
  int width_, cells_, streams_;
  Policy policy_;
  const KernelTable* kernels_;

  uint8_t* storage_ = nullptr;
  size_t storage_bytes_ = 0;
  std::vector<uint8_t> own_storage_;  // when the head size needs more than was reserved
  uint8_t* range_ = nullptr;
  int head_dim_ = 0;
  bool shared_ = false;
  bool plain_ = false;
  bool transposed_ = false;
  std::unique_ptr<Rotation> rotation_;
  std::vector<RowStore> stores_;

  int open_first_ = 0, open_last_ = 0;
  std::vector<uint8_t> changed_;

  uint64_t version_ = 0;
  struct {
    uint64_t version = ~uint64_t{0};
    int stream = 0, cell = 0;
    std::vector<uint8_t> records;
  } exported_;
  std::map<std::pair<int, int>, std::vector<uint8_t>> arriving_;  // transposed rows, by stream, cell
  bool reported_non_finite_ = false;
};

}  // namespace turboquant::ggml

#endif  // TURBOQUANT_PLUGIN_GGML_KV_TENSOR_H_
