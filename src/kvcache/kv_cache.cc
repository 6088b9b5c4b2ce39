#include "kvcache/kv_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "base/fp16.h"

namespace turboquant {
namespace {

constexpr char kMagic[8] = {'T', 'Q', 'C', 'A', 'C', 'H', 'E', '1'};
constexpr uint16_t kHalfMinusInf = 0xFC00;
constexpr int kScoreTile = 64;      // keys decoded at a time
constexpr int kMaxWidth = 1 << 20;  // values of a token's row, all heads

struct SaveHeader {
  char magic[8];
  uint64_t checksum;  // XXH3 of everything behind it
  uint32_t size;
  uint32_t rows_k, rows_v;  // bytes of one record
  uint32_t policy_bytes;    // canonical policy text follows, then the records
};

StoreShape SideShape(const CacheShape& c, const Policy& p, bool key) {
  StoreShape s;
  s.head_dim = key ? c.head_dim_k : c.head_dim_v;
  s.width = c.num_kv_heads * s.head_dim;
  s.cells = c.capacity;
  s.format = key ? p.k : p.v;
  s.form = key ? TileForm::kKeys : TileForm::kValues;
  s.sink = std::min(p.sink, c.capacity);
  s.tail = p.tail;
  s.page = p.page;
  s.center = key && p.center;
  return s;
}

}  // namespace

Result<size_t> KvCache::BlockBytes(const CacheShape& shape, const Policy& policy) {
  if (shape.num_kv_heads < 1 || shape.capacity < 1) {
    return InvalidArgument("a cache needs at least one kv head and room for one token");
  }
  if (!IsCoded(policy.k) || !IsCoded(policy.v)) {
    return InvalidArgument("KvCache codes both sides; policy '" + policy.ToString() +
                           "' leaves one at f16: choose turbo4, for example");
  }
  for (int head_dim : {shape.head_dim_k, shape.head_dim_v}) {
    if (!SupportedHeadDim(head_dim)) {
      return Unsupported("head_dim " + std::to_string(head_dim) +
                         " cannot be coded; it must be a multiple of 16 between 16 and 1024 with an "
                         "odd part of at most 63");
    }
    if (shape.num_kv_heads > kMaxWidth / head_dim) {
      return Unsupported(std::to_string(shape.num_kv_heads) + " kv heads of " +
                         std::to_string(head_dim) + " values are too many; a token has at most " +
                         std::to_string(kMaxWidth));
    }
  }
  size_t bytes = 0;
  for (bool key : {true, false}) {
    const StoreShape side = SideShape(shape, policy, key);
    if (!SupportedShape(side)) {
      return Unsupported("rows of " + std::to_string(shape.num_kv_heads) +
                         " heads are too short, or the cache too long, for this policy");
    }
    bytes += RowStore::BlockBytes(side);
  }
  return bytes;
}

Result<std::unique_ptr<KvCache>> KvCache::Create(const CacheShape& shape, const Policy& policy,
                                                 uint64_t seed, const KernelTable& kernels) {
  const Result<size_t> bytes = BlockBytes(shape, policy);
  if (!bytes.ok()) return bytes.status();
  std::vector<uint8_t> owned(bytes.value() + kBlockAlignment);
  auto* base = reinterpret_cast<uint8_t*>(
      (reinterpret_cast<uintptr_t>(owned.data()) + kBlockAlignment - 1) & ~(kBlockAlignment - 1));
  auto cache = CreateIn(base, shape, policy, seed, kernels);
  if (cache.ok()) cache.value()->owned_ = std::move(owned);
  return cache;
}

Result<std::unique_ptr<KvCache>> KvCache::CreateIn(uint8_t* block, const CacheShape& shape,
                                                   const Policy& policy, uint64_t seed,
                                                   const KernelTable& kernels) {
  const Result<size_t> bytes = BlockBytes(shape, policy);
  if (!bytes.ok()) return bytes.status();
  std::memset(block, 0, bytes.value());
  return std::unique_ptr<KvCache>(new KvCache(block, shape, policy, seed, kernels));
}

KvCache::KvCache(uint8_t* block, const CacheShape& shape, const Policy& policy, uint64_t seed,
                 const KernelTable& kernels)
    : shape_(shape),
      policy_(policy),
      seed_(seed),
      kernels_(&kernels),
      rotation_k_(shape.head_dim_k, seed),
      rotation_v_(shape.head_dim_v, seed),
      run_(kernels) {
  const StoreShape k = SideShape(shape, policy, true);
  const StoreShape v = SideShape(shape, policy, false);
  block_bytes_ = RowStore::BlockBytes(k) + RowStore::BlockBytes(v);
  k_.Bind(k, block, &rotation_k_, static_cast<uint32_t>(seed), kernels_);
  v_.Bind(v, block + RowStore::BlockBytes(k), &rotation_v_, static_cast<uint32_t>(seed), kernels_);
}

Status KvCache::Append(const float* k, const float* v, int n) {
  if (n < 0 || n > shape_.capacity - size_) {
    return InvalidArgument("cache holds " + std::to_string(size_) + " of " +
                           std::to_string(shape_.capacity) + " tokens, no room for " +
                           std::to_string(n) + " more");
  }
  for (RowStore* store : {&k_, &v_}) {
    const int width = store->shape().width;
    const float* source = store == &k_ ? k : v;
    std::vector<uint16_t> half(static_cast<size_t>(n) * width);
    kernels_->float_to_half(source, half.data(), half.size());
    std::vector<NewRow> rows(n);
    for (int i = 0; i < n; ++i) rows[i] = {size_ + i, half.data() + static_cast<size_t>(i) * width};
    store->Append(rows.data(), n);
  }
  size_ += n;
  return OkStatus();
}

Status KvCache::CheckQuery(int tokens, int num_q_heads) const {
  if (tokens >= 1 && tokens <= size_ && num_q_heads >= 1 && num_q_heads % shape_.num_kv_heads == 0) {
    return OkStatus();
  }
  return InvalidArgument("attention needs 1.." + std::to_string(size_) +
                         " query tokens and a multiple of " + std::to_string(shape_.num_kv_heads) +
                         " query heads");
}

Status KvCache::Attend(const float* q, int tokens, int num_q_heads, float scale, float* out) {
  if (Status s = CheckQuery(tokens, num_q_heads); !s.ok()) return s;
  std::vector<uint16_t> mask(static_cast<size_t>(tokens) * size_, 0);
  for (int t = 0; t < tokens; ++t) {
    for (int j = size_ - tokens + t + 1; j < size_; ++j) {
      mask[static_cast<size_t>(t) * size_ + j] = kHalfMinusInf;
    }
  }
  run_.problems().assign(1, AttentionProblem());
  AttentionProblem& p = run_.problems()[0];
  p.tokens = tokens;
  p.num_kv_heads = shape_.num_kv_heads;
  p.group = num_q_heads / shape_.num_kv_heads;
  p.out_dim = shape_.head_dim_v;
  p.cells = size_;
  p.scale = scale;
  p.q = reinterpret_cast<const char*>(q);
  p.q_head_stride = shape_.head_dim_k * sizeof(float);
  p.q_token_stride = p.q_head_stride * num_q_heads;
  p.out = reinterpret_cast<char*>(out);
  p.out_head_stride = shape_.head_dim_v * sizeof(float);
  p.out_token_stride = p.out_head_stride * num_q_heads;
  p.mask = reinterpret_cast<const char*>(mask.data());
  p.mask_token_stride = static_cast<size_t>(size_) * sizeof(uint16_t);
  p.k = k_.CodedSide(0);
  p.v = v_.CodedSide(0);
  p.hidden.assign(size_, 0);
  // Both sides see the same cells in the same order, so their windows agree.
  std::vector<NewRow> exact_k, exact_v;
  k_.ListExact(&exact_k);
  v_.ListExact(&exact_v);
  for (size_t i = 0; i < exact_k.size(); ++i) {
    p.hidden[exact_k[i].cell] = kHalfMinusInfinity;
    p.exact.push_back({exact_k[i].cell, exact_k[i].values, exact_v[i].values});
  }
  run_.RunAll();
  return OkStatus();
}

Status KvCache::Scores(const float* q, int tokens, int num_q_heads, float scale, float* out) const {
  if (Status s = CheckQuery(tokens, num_q_heads); !s.ok()) return s;
  const int heads = shape_.num_kv_heads;
  const int group = num_q_heads / heads;
  const int rows = tokens * group;  // query rows of one kv head, as [token][head of the group]
  const size_t d = shape_.head_dim_k;
  const size_t width = heads * d;
  const auto q_row = [&](int h, int r) {
    return static_cast<size_t>(r / group) * num_q_heads + h * group + r % group;
  };
  std::vector<float> queries(heads * rows * d);
  for (int h = 0; h < heads; ++h) {
    for (int r = 0; r < rows; ++r) {
      const float* from = q + q_row(h, r) * d;
      float* to = &queries[(static_cast<size_t>(h) * rows + r) * d];
      for (size_t i = 0; i < d; ++i) to[i] = scale * from[i];
    }
  }
  std::vector<float> cells(kScoreTile * width);
  std::vector<float> keys(kScoreTile * d);
  std::vector<float> tile(static_cast<size_t>(rows) * kScoreTile);
  for (int first = 0; first < size_; first += kScoreTile) {
    const int n = std::min(kScoreTile, size_ - first);
    for (int j = 0; j < n; ++j) k_.ReadRow(first + j, &cells[j * width]);
    for (int h = 0; h < heads; ++h) {
      for (int j = 0; j < n; ++j) std::copy_n(&cells[j * width + h * d], d, &keys[j * d]);
      kernels_->dense_scores(keys.data(), static_cast<int>(d),
                             &queries[static_cast<size_t>(h) * rows * d], rows, n, tile.data(),
                             kScoreTile);
      for (int r = 0; r < rows; ++r) {
        float* to = out + q_row(h, r) * size_ + first;
        const int seen = std::clamp(size_ - tokens + r / group + 1 - first, 0, n);
        std::copy_n(&tile[static_cast<size_t>(r) * kScoreTile], seen, to);
        std::fill(to + seen, to + n, -std::numeric_limits<float>::infinity());
      }
    }
  }
  return OkStatus();
}

size_t KvCache::SaveBytes() const {
  return sizeof(SaveHeader) + policy_.ToString().size() +
         static_cast<size_t>(size_) * 2 * (k_.shape().width + v_.shape().width);
}

void KvCache::Save(uint8_t* bytes) const {
  const std::string policy = policy_.ToString();
  SaveHeader h{};
  std::memcpy(h.magic, kMagic, sizeof(kMagic));
  h.size = static_cast<uint32_t>(size_);
  h.rows_k = 2 * k_.shape().width;
  h.rows_v = 2 * v_.shape().width;
  h.policy_bytes = static_cast<uint32_t>(policy.size());
  uint8_t* at = bytes + sizeof(h);
  std::memcpy(at, policy.data(), policy.size());
  at += policy.size();
  for (const RowStore* store : {&k_, &v_}) {
    for (int cell = 0; cell < size_; ++cell) {
      store->ExportRow(cell, at);
      at += 2 * store->shape().width;
    }
  }
  std::memcpy(bytes, &h, sizeof(h));
  h.checksum = XXH3_64bits(bytes + 16, SaveBytes() - 16);
  std::memcpy(bytes, &h, sizeof(h));
}

std::vector<uint8_t> KvCache::Save() const {
  std::vector<uint8_t> bytes(SaveBytes());
  Save(bytes.data());
  return bytes;
}

Status KvCache::Restore(std::span<const uint8_t> bytes) {
  Clear();
  SaveHeader h;
  if (bytes.size() < sizeof(h)) return Corrupt("saved cache is shorter than its header");
  std::memcpy(&h, bytes.data(), sizeof(h));
  if (std::memcmp(h.magic, kMagic, sizeof(kMagic)) != 0) {
    return Corrupt("these bytes are not a saved cache");
  }
  if (h.checksum != XXH3_64bits(bytes.data() + 16, bytes.size() - 16)) {
    return Corrupt("saved cache fails its checksum; it is damaged or truncated, discard it");
  }
  if (h.rows_k != 2u * k_.shape().width || h.rows_v != 2u * v_.shape().width ||
      h.size > static_cast<uint32_t>(shape_.capacity)) {
    return InvalidArgument("saved cache has another shape: " + std::to_string(h.size) +
                           " tokens of " + std::to_string(h.rows_k) + " + " +
                           std::to_string(h.rows_v) + " bytes");
  }
  if (bytes.size() != sizeof(h) + h.policy_bytes +
                          static_cast<size_t>(h.size) * (h.rows_k + h.rows_v)) {
    return Corrupt("saved cache has " + std::to_string(bytes.size()) +
                   " bytes, its header promises another number");
  }
  const std::string policy(reinterpret_cast<const char*>(bytes.data()) + sizeof(h), h.policy_bytes);
  if (policy != policy_.ToString()) {
    return InvalidArgument("saved cache was written with policy '" + policy + "', this one has '" +
                           policy_.ToString() + "'; create the cache with the saved policy");
  }
  const uint8_t* at = bytes.data() + sizeof(h) + h.policy_bytes;
  for (RowStore* store : {&k_, &v_}) {
    if (Status s = store->ImportRows(0, static_cast<int>(h.size), at); !s.ok()) {
      Clear();
      return s;
    }
    at += static_cast<size_t>(h.size) * 2 * store->shape().width;
  }
  size_ = static_cast<int>(h.size);
  return OkStatus();
}

Status KvCache::CopyFrom(const KvCache& from) {
  const CacheShape& a = shape_;
  const CacheShape& b = from.shape_;
  if (a.num_kv_heads != b.num_kv_heads || a.head_dim_k != b.head_dim_k ||
      a.head_dim_v != b.head_dim_v || a.capacity != b.capacity || seed_ != from.seed_ ||
      policy_ != from.policy_) {
    return InvalidArgument(
        "a cache can only be copied to one of the same shape, capacity, policy and seed; save and "
        "restore also cross capacities and seeds");
  }
  k_.CopyBlock(from.k_);
  v_.CopyBlock(from.v_);
  size_ = from.size_;
  return OkStatus();
}

void KvCache::Clear() {
  k_.Clear();
  v_.Clear();
  size_ = 0;
}

}  // namespace turboquant
