#include "kv_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "base/huge_pages.h"
#include "log.h"

namespace turboquant::ggml {
namespace {

struct PlainCache {  // a cache tensor left at f16, for the report
  int layer;
  size_t bytes;
  bool sliding;
  bool recurrent;
  bool is_key;
};

struct KvBuffer {
  size_t size = 0;
  uint8_t* base = nullptr;
  std::vector<std::unique_ptr<KvTensor>> tensors;
  std::vector<PlainCache> plain;
  bool reported = false;
  HugePages pages{nullptr, 0};
  void (*free_buffer)(Buffer*) = nullptr;
  void (*memset_tensor)(Buffer*, Tensor*, uint8_t, size_t, size_t) = nullptr;
  void (*set_tensor)(Buffer*, Tensor*, const void*, size_t, size_t) = nullptr;
  void (*get_tensor)(Buffer*, const Tensor*, void*, size_t, size_t) = nullptr;
  bool (*copy_tensor)(Buffer*, const Tensor*, Tensor*) = nullptr;
  void (*clear)(Buffer*, uint8_t) = nullptr;
};

struct State {
  Host host;
  PluginOptions options;
  Buffer* (*alloc_buffer)(BufferType*, size_t) = nullptr;
  size_t (*get_alloc_size)(BufferType*, const Tensor*) = nullptr;
  void* our_type[slot::kBuftWords];
  std::mutex mutex;
  std::unordered_map<Buffer*, KvBuffer> buffers;
  bool report_due = false;
  std::atomic<int> runs_to_settle{0};
};

State& G() {
  static State* state = new State;  // outlives the host's exit handlers
  return *state;
}

// The cache whose tensors the host sizes on this thread right now. A model with sliding-window
// layers makes two caches in a row; the second one holds other layers and fewer cells.
struct Sizing {
  std::set<int> layers;
  int64_t cells = 0;
  std::set<int> previous_layers;
  int64_t previous_cells = 0;
  bool pending = false;  // cache tensors sized since the last allocation
};
thread_local Sizing t_sizing;

void NoteSized(int layer, int64_t cells) {
  Sizing& s = t_sizing;
  if (s.cells != cells) {
    s.previous_layers = s.layers;
    s.previous_cells = s.cells;
    s.layers.clear();
    s.cells = cells;
  }
  s.layers.insert(layer);
  s.pending = true;
}

bool SlidingWindow(int layer, int64_t cells) {
  const Sizing& s = t_sizing;
  if (s.cells != cells || cells >= s.previous_cells) return false;
  return s.previous_layers.count(layer) == 0;
}

bool RecurrentName(const char* name) {
  return std::strncmp(name, "cache_r_l", 9) == 0 || std::strncmp(name, "cache_s_l", 9) == 0;
}

// Storage for a tensor we compress, else 0.
size_t CompressedBytes(const Tensor* t, bool* sliding) {
  bool is_key;
  int layer;
  *sliding = false;
  if (t->view_src != nullptr || t->op != G().host.op.none ||
      !ParseCacheName(t->name, &is_key, &layer)) {
    return 0;
  }
  *sliding = SlidingWindow(layer, t->ne[1]);
  if (*sliding && !G().options.policy.compress_swa) return 0;
  return KvTensor::StorageBytes(*t, G().options.policy, is_key);
}

KvBuffer* Find(Buffer* buffer) {
  std::lock_guard<std::mutex> lock(G().mutex);
  auto it = G().buffers.find(buffer);
  return it == G().buffers.end() ? nullptr : &it->second;
}

const char* TypeName(BufferType*) { return "CPU_TurboQuant"; }
bool TypeIsHost(BufferType*) { return false; }

size_t AllocSize(BufferType* type, const Tensor* t) {
  const size_t plain =
      G().get_alloc_size != nullptr ? G().get_alloc_size(type, t) : G().host.fn.ggml_nbytes(t);
  try {
    bool is_key;
    int layer;
    if (t->view_src == nullptr && ParseCacheName(t->name, &is_key, &layer)) {
      NoteSized(layer, t->ne[1]);
    } else if (RecurrentName(t->name)) {
      t_sizing.pending = true;  // nothing to compress, but to be told of
    }
    bool sliding;
    const size_t bytes = CompressedBytes(t, &sliding);
    return bytes != 0 && G().host.may_shrink ? bytes : plain;
  } catch (const std::exception&) {
    return plain;
  }
}

int InitTensor(Buffer* buffer, Tensor* t) {
  try {
    KvBuffer* b = Find(buffer);
    if (b == nullptr || t->view_src != nullptr) return kStatusSuccess;
    bool sliding, is_key = false;
    int layer = 0;
    const size_t bytes = CompressedBytes(t, &sliding);
    if (bytes == 0) {
      if (ParseCacheName(t->name, &is_key, &layer) || RecurrentName(t->name)) {
        b->plain.push_back({RecurrentName(t->name) ? std::atoi(t->name + 9) : layer,
                            G().host.fn.ggml_nbytes(t), sliding, RecurrentName(t->name), is_key});
      }
      return kStatusSuccess;
    }
    auto tensor = std::make_unique<KvTensor>(*t, G().options.policy, *G().options.kernels);
    if (!tensor->Reserve(static_cast<uint8_t*>(t->data), bytes)) {
      LogError(std::string(t->name) + ": no address space of " +
               std::to_string(tensor->f16_bytes() >> 20) + " MiB; raise the limit (ulimit -v)");
      return kStatusAllocFailed;
    }
    t->data = tensor->address();
    t->extra = tensor.get();
    b->tensors.push_back(std::move(tensor));
    Words(buffer)[G().host.layout.buffer_buft] = KvBufferType();
    return kStatusSuccess;
  } catch (const std::exception&) {
    return kStatusAllocFailed;
  }
}

// State files and copies use two-dimensional row views, or flat ones of whole rows; anything else
// wants values.
bool WantsRows(const Tensor* t, const KvTensor& cache) {
  if (t->view_src == nullptr) return true;
  if (t->ne[2] != 1 || t->ne[3] != 1) return false;
  return t->ne[0] == cache.width() || (t->ne[1] == 1 && t->ne[0] % cache.width() == 0);
}

size_t RootOffset(const Tensor* t, size_t offset) {
  return (t->view_src != nullptr ? t->view_offs : 0) + offset;
}

// Loading a state fills many pages at once. The first token behind it shall not pay for them.
void SettlePagesOf(Buffer* buffer, const KvTensor& cache, size_t bytes_set) {
  constexpr size_t kManyBytes = size_t{1} << 20;
  if (bytes_set < kManyBytes) return;
  SettlePagesSoon();
  std::lock_guard<std::mutex> lock(G().mutex);
  auto it = G().buffers.find(buffer);
  if (it != G().buffers.end()) it->second.pages.Settle(cache.storage(), cache.storage_bytes());
}

void SetTensor(Buffer* buffer, Tensor* t, const void* data, size_t offset, size_t size) {
  KvTensor* cache = KvTensorOf(t);
  if (cache == nullptr) {
    if (KvBuffer* b = Find(buffer)) b->set_tensor(buffer, t, data, offset, size);
    return;
  }
  try {
    cache->SetBytes(RootOffset(t, offset), data, size, WantsRows(t, *cache));
    SettlePagesOf(buffer, *cache, size);
  } catch (const std::exception& e) {
    LogError(cache->name() + ": rows not stored: " + e.what());
  }
}

void MemsetTensor(Buffer* buffer, Tensor* t, uint8_t value, size_t offset, size_t size) {
  KvTensor* cache = KvTensorOf(t);
  if (cache == nullptr) {
    if (KvBuffer* b = Find(buffer)) b->memset_tensor(buffer, t, value, offset, size);
    return;
  }
  try {
    const std::vector<uint8_t> bytes(size, value);
    cache->SetBytes(RootOffset(t, offset), bytes.data(), size, false);
  } catch (const std::exception& e) {
    LogError(cache->name() + ": rows not stored: " + e.what());
  }
}

void GetTensor(Buffer* buffer, const Tensor* t, void* data, size_t offset, size_t size) {
  KvTensor* cache = KvTensorOf(t);
  if (cache == nullptr) {
    if (KvBuffer* b = Find(buffer)) b->get_tensor(buffer, t, data, offset, size);
    return;
  }
  try {
    cache->GetBytes(RootOffset(t, offset), data, size, WantsRows(t, *cache));
  } catch (const std::exception& e) {
    std::memset(data, 0, size);
    LogError(cache->name() + ": rows not read: " + e.what());
  }
}

bool CopyTensor(Buffer* buffer, const Tensor* src, Tensor* dst) {
  KvTensor* from = KvTensorOf(src);
  KvTensor* to = KvTensorOf(dst);
  if (from == nullptr && to == nullptr) {
    KvBuffer* b = Find(buffer);
    return b != nullptr && b->copy_tensor != nullptr && b->copy_tensor(buffer, src, dst);
  }
  // With a plain tensor on either side the host's get + set path moves the rows, as exactly.
  if (from == nullptr || to == nullptr || !WantsRows(src, *from) || !WantsRows(dst, *to)) {
    return false;
  }
  try {
    to->CopyFrom(*from, RootOffset(src, 0), RootOffset(dst, 0), G().host.fn.ggml_nbytes(src));
    return true;
  } catch (const std::exception& e) {
    LogError(to->name() + ": rows not copied: " + e.what());
    return true;
  }
}

void ClearBuffer(Buffer* buffer, uint8_t value) {
  KvBuffer* b = Find(buffer);
  if (b == nullptr) return;
  if (value == 0 && !b->tensors.empty()) {
    // Zero pages without touching them, so that unused context costs no memory. The host allocated
    // the buffer with malloc: private anonymous memory.
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t begin = reinterpret_cast<size_t>(b->base);
    const size_t first = (begin + page - 1) / page * page;
    const size_t last = (begin + b->size) / page * page;
    if (first < last && madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED) == 0) {
      std::memset(b->base, 0, first - begin);
      std::memset(reinterpret_cast<void*>(last), 0, begin + b->size - last);
      b->pages.Forget();
    } else {
      b->clear(buffer, 0);
    }
  } else {
    b->clear(buffer, value);
  }
  for (auto& tensor : b->tensors) tensor->Cleared();
  std::lock_guard<std::mutex> lock(G().mutex);
  if (!b->reported && (!b->tensors.empty() || !b->plain.empty())) G().report_due = true;
}

void FreeBuffer(Buffer* buffer) {
  void (*original)(Buffer*) = nullptr;
  {
    std::lock_guard<std::mutex> lock(G().mutex);
    auto it = G().buffers.find(buffer);
    if (it == G().buffers.end()) return;
    original = it->second.free_buffer;
    G().buffers.erase(it);
  }
  original(buffer);
}

Buffer* AllocBuffer(BufferType* type, size_t size) {
  Buffer* buffer = G().alloc_buffer(type, size);
  if (buffer == nullptr || !t_sizing.pending) return buffer;
  t_sizing.pending = false;
  try {
    const Layout& l = G().host.layout;
    void** words = Words(buffer);
    KvBuffer b;
    b.size = size;
    b.base = static_cast<uint8_t*>(G().host.fn.ggml_backend_buffer_get_base(buffer));
    auto take = [&](auto& original, int word, auto replacement) {
      original = reinterpret_cast<std::remove_reference_t<decltype(original)>>(words[word]);
      words[word] = reinterpret_cast<void*>(+replacement);
    };
    b.pages = HugePages(b.base, size);
    take(b.free_buffer, slot::kBufferFree, FreeBuffer);
    take(b.memset_tensor, slot::kBufferMemsetTensor, MemsetTensor);
    take(b.set_tensor, slot::kBufferSetTensor, SetTensor);
    take(b.get_tensor, slot::kBufferGetTensor, GetTensor);
    take(b.copy_tensor, l.buffer_copy, CopyTensor);
    take(b.clear, l.buffer_clear, ClearBuffer);
    words[slot::kBufferInitTensor] = reinterpret_cast<void*>(InitTensor);
    std::lock_guard<std::mutex> lock(G().mutex);
    G().buffers.emplace(buffer, std::move(b));
    return buffer;
  } catch (const std::exception&) {
    // AllocSize has promised less than f16 needs, so a buffer without our hooks must not be used.
    G().host.fn.ggml_backend_buffer_free(buffer);
    return nullptr;
  }
}

}  // namespace

void HookBuffers(const Host& host, const PluginOptions& options) {
  G().host = host;
  G().options = options;
  BufferType* cpu = host.fn.ggml_backend_cpu_buffer_type();
  void** words = Words(cpu);
  std::memcpy(G().our_type, cpu, sizeof(G().our_type));
  G().our_type[slot::kBuftGetName] = reinterpret_cast<void*>(TypeName);
  G().our_type[slot::kBuftGetAllocSize] = reinterpret_cast<void*>(AllocSize);
  G().our_type[slot::kBuftIsHost] = reinterpret_cast<void*>(TypeIsHost);
  G().our_type[slot::kBuftDevice] = host.cpu;
  G().alloc_buffer =
      reinterpret_cast<Buffer* (*)(BufferType*, size_t)>(words[slot::kBuftAllocBuffer]);
  G().get_alloc_size =
      reinterpret_cast<size_t (*)(BufferType*, const Tensor*)>(words[slot::kBuftGetAllocSize]);
  words[slot::kBuftAllocBuffer] = reinterpret_cast<void*>(AllocBuffer);
  words[slot::kBuftGetAllocSize] = reinterpret_cast<void*>(AllocSize);
}

BufferType* KvBufferType() { return reinterpret_cast<BufferType*>(G().our_type); }

KvTensor* KvTensorOf(const Tensor* t) {
  if (t == nullptr) return nullptr;
  const Tensor* root = t->view_src != nullptr ? t->view_src : t;
  if (root->buffer == nullptr || root->extra == nullptr ||
      Words(root->buffer)[G().host.layout.buffer_buft] != static_cast<void*>(G().our_type)) {
    return nullptr;
  }
  auto* cache = static_cast<KvTensor*>(root->extra);
  return cache->is_plain() ? nullptr : cache;
}

void ReportNewCaches() {
  std::lock_guard<std::mutex> lock(G().mutex);
  if (!G().report_due) return;
  G().report_due = false;
  std::set<int> compressed, layers, sliding, recurrent, plain_keys, plain_values;
  size_t ours = 0, f16 = 0;
  for (auto& [buffer, b] : G().buffers) {
    if (b.reported) continue;
    b.reported = true;
    for (const auto& t : b.tensors) {
      compressed.insert(t->layer());
      layers.insert(t->layer());
      ours += t->storage_bytes();
      f16 += t->f16_bytes();
    }
    for (const PlainCache& p : b.plain) {
      if (p.recurrent) {
        recurrent.insert(p.layer);
        continue;
      }
      layers.insert(p.layer);
      (p.is_key ? plain_keys : plain_values).insert(p.layer);
      if (p.sliding) sliding.insert(p.layer);
      ours += p.bytes;
      f16 += p.bytes;
    }
  }
  char sizes[96];
  std::snprintf(sizes, sizeof(sizes), "%.1f MiB instead of %.1f MiB", ours / 1048576.0,
                f16 / 1048576.0);
  std::string line = std::to_string(compressed.size()) + " of " + std::to_string(layers.size()) +
                     " KV layers compressed (" + G().options.policy.ToString() + "), " + sizes;
  auto one_side = [&](const std::set<int>& plain, const char* side) {
    const auto n = std::count_if(plain.begin(), plain.end(),
                                 [&](int layer) { return compressed.count(layer) != 0; });
    if (n > 0)
      line +=
          std::string("; ") + side + " of " + std::to_string(n) + " of them stays as the host keeps it";
  };
  one_side(plain_keys, "K");
  one_side(plain_values, "V");
  if (!sliding.empty()) {
    line += "; " + std::to_string(sliding.size()) + " sliding-window layers stay f16";
  }
  if (layers.empty()) {
    line = "no KV cache to compress";
  }
  if (!recurrent.empty()) {
    line += "; " + std::to_string(recurrent.size()) + " recurrent layers have no KV rows";
  }
  if (!G().host.may_shrink) {
    line += "; this ggml is built with asserts, so the memory is reserved all the same";
  }
  LogInfo(line);
}

void SettlePagesSoon() { G().runs_to_settle.store(0, std::memory_order_relaxed); }

void SettlePages() {
  constexpr int kRuns = 64;
  if (G().runs_to_settle.fetch_sub(1, std::memory_order_relaxed) > 0) return;
  G().runs_to_settle.store(kRuns, std::memory_order_relaxed);
  std::lock_guard<std::mutex> lock(G().mutex);
  for (auto& [key, buffer] : G().buffers) {
    if (!buffer.tensors.empty()) buffer.pages.Settle();
  }
}

}  // namespace turboquant::ggml
