// turboquant for C++20: handles that free themselves over turboquant.h, which documents shapes,
// units and limits. Header-only; everything is inline over the C interface, so no C++ ABI is
// crossed.
//
//   tq::Estimator estimator("turbo3q", 128);
//   std::vector<std::byte> rows = estimator.Quantize(keys);           // keys: n * 128 floats
//   std::vector<float> scores = estimator.InnerProduct(query, rows);  // n of them
//
// Failures are tq::Error, thrown; it carries the tq_status. Spans must have the sizes that the
// shapes ask for, else Error says which does not. A moved-from object may only be destroyed or
// assigned to. Programs without exceptions use turboquant.h.
#ifndef TURBOQUANT_TURBOQUANT_HPP_
#define TURBOQUANT_TURBOQUANT_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "turboquant/turboquant.h"

namespace tq {

class Error : public std::runtime_error {
 public:
  Error(tq_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  tq_status status() const { return status_; }

 private:
  tq_status status_;
};

namespace internal {

inline void Check(tq_status status) {
  if (status != TQ_OK) throw Error(status, tq_last_error());
}

// How many times `part` goes into `whole`; Error if it does not.
inline std::size_t Count(std::size_t whole, std::size_t part, const char* what) {
  if (whole % part == 0) return whole / part;
  throw Error(TQ_ERROR_INVALID_ARGUMENT, std::string(what) + " has " + std::to_string(whole) +
                                             " elements, no multiple of " + std::to_string(part) +
                                             ".");
}

inline void CheckSize(std::size_t have, std::size_t need, const char* what) {
  if (have == need) return;
  throw Error(TQ_ERROR_INVALID_ARGUMENT, std::string(what) + " has " + std::to_string(have) +
                                             " elements, " + std::to_string(need) + " are needed.");
}

struct Deleter {
  void operator()(tq_codec* handle) const { tq_codec_destroy(handle); }
  void operator()(tq_estimator* handle) const { tq_estimator_destroy(handle); }
  void operator()(tq_cache* handle) const { tq_cache_destroy(handle); }
};

// What Codec and Estimator share: a codec that belongs to a handle, and its sizes.
class Rows {
 public:
  std::size_t head_dim() const { return static_cast<std::size_t>(info_.head_dim); }
  std::size_t row_bytes() const { return info_.row_bytes; }
  double bits_per_value() const { return info_.bits_per_value; }
  std::string spec() const { return tq_codec_spec(codec_); }

 protected:
  Rows() = default;

  void Bind(const tq_codec* codec) {
    codec_ = codec;
    info_ = TQ_CODEC_INFO_INIT;
    Check(tq_codec_get_info(codec, &info_));
  }

  std::vector<std::byte> ToBytes(std::span<const float> x, std::size_t* invalid_rows) const {
    const std::size_t n = Count(x.size(), head_dim(), "x");
    std::vector<std::byte> rows(n * row_bytes());
    Check(tq_codec_encode(codec_, x.data(), n, rows.data(), rows.size(), invalid_rows));
    return rows;
  }

  std::vector<float> ToFloats(std::span<const std::byte> rows) const {
    const std::size_t n = Count(rows.size(), row_bytes(), "rows");
    std::vector<float> x(n * head_dim());
    Check(tq_codec_decode(codec_, rows.data(), rows.size(), n, x.data()));
    return x;
  }

  std::vector<float> Products(std::span<const float> query, std::span<const std::byte> rows) const {
    CheckSize(query.size(), head_dim(), "query");
    std::vector<float> scores(Count(rows.size(), row_bytes(), "rows"));
    Check(tq_codec_inner_products(codec_, query.data(), rows.data(), rows.size(), scores.size(),
                                  scores.data()));
    return scores;
  }

  const tq_codec* codec_ = nullptr;
  tq_codec_info info_{};
};

}  // namespace internal

// Bytes that the library allocated.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { tq_buffer_free(&buffer_); }
  Buffer(Buffer&& other) noexcept : buffer_(other.buffer_) { other.buffer_ = TQ_BUFFER_INIT; }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(buffer_.data), buffer_.size};
  }
  std::size_t size() const { return buffer_.size; }
  tq_buffer* get() { return &buffer_; }

 private:
  tq_buffer buffer_ = TQ_BUFFER_INIT;
};

// Rows to bytes and back. Any number of threads may use one codec at once.
class Codec : public internal::Rows {
 public:
  explicit Codec(const std::string& spec, int head_dim, const tq_options* options = nullptr) {
    tq_codec* handle = nullptr;
    internal::Check(tq_codec_create(spec.c_str(), head_dim, options, &handle));
    handle_.reset(handle);
    Bind(handle);
  }

  bool unbiased() const { return info_.unbiased != 0; }

  // x: n * head_dim() values; the result has n * row_bytes() bytes. invalid_rows: how many rows
  // could not be coded and are zeros.
  std::vector<std::byte> Encode(std::span<const float> x,
                                std::size_t* invalid_rows = nullptr) const {
    return ToBytes(x, invalid_rows);
  }
  std::vector<float> Decode(std::span<const std::byte> rows) const { return ToFloats(rows); }

  // One estimate for each row.
  std::vector<float> InnerProducts(std::span<const float> query,
                                   std::span<const std::byte> rows) const {
    return Products(query, rows);
  }

  const tq_codec* get() const { return handle_.get(); }

 private:
  std::unique_ptr<tq_codec, internal::Deleter> handle_;
};

// softmax(scale * <query, k_j> + bias_j)-weighted sum of the v_j; see tq_attend. bias may be empty.
inline std::vector<float> Attend(const Codec& k_codec, std::span<const std::byte> k_rows,
                                 const Codec& v_codec, std::span<const std::byte> v_rows,
                                 std::span<const float> query, float scale,
                                 std::span<const float> bias = {}) {
  std::vector<float> out(v_codec.head_dim());
  tq_attention attention = {};
  attention.struct_size = sizeof(attention);
  attention.k_codec = k_codec.get();
  attention.k_rows = k_rows.data();
  attention.k_rows_size = k_rows.size();
  attention.v_codec = v_codec.get();
  attention.v_rows = v_rows.data();
  attention.v_rows_size = v_rows.size();
  attention.n = internal::Count(k_rows.size(), k_codec.row_bytes(), "k_rows");
  internal::CheckSize(query.size(), k_codec.head_dim(), "query");
  if (!bias.empty()) internal::CheckSize(bias.size(), attention.n, "bias");
  attention.query = query.data();
  attention.bias = bias.empty() ? nullptr : bias.data();
  attention.scale = scale;
  attention.out = out.data();
  internal::Check(tq_attend(&attention));
  return out;
}

// A codec whose inner products are unbiased, under the names of the field.
class Estimator : public internal::Rows {
 public:
  explicit Estimator(const std::string& spec, int head_dim, const tq_options* options = nullptr) {
    tq_estimator* handle = nullptr;
    internal::Check(tq_estimator_create(spec.c_str(), head_dim, options, &handle));
    handle_.reset(handle);
    Bind(tq_estimator_codec(handle));
  }

  std::vector<std::byte> Quantize(std::span<const float> x,
                                  std::size_t* invalid_rows = nullptr) const {
    return ToBytes(x, invalid_rows);
  }
  std::vector<float> InnerProduct(std::span<const float> query,
                                  std::span<const std::byte> rows) const {
    return Products(query, rows);
  }
  std::vector<float> Dequantize(std::span<const std::byte> rows) const { return ToFloats(rows); }

  const tq_estimator* get() const { return handle_.get(); }

 private:
  std::unique_ptr<tq_estimator, internal::Deleter> handle_;
};

// A whole array in one checked block, the content of a .tq file. head_dim 0: the library chooses.
inline Buffer Compress(std::span<const float> x, std::span<const std::size_t> shape,
                       const std::string& spec, int head_dim = 0,
                       const tq_options* options = nullptr) {
  std::size_t values = 1;
  for (std::size_t n : shape) values *= n;
  internal::CheckSize(x.size(), values, "x");
  Buffer compressed;
  internal::Check(tq_compress(x.data(), shape.data(), shape.size(), spec.c_str(), head_dim, options,
                              compressed.get(), nullptr));
  return compressed;
}

inline tq_array_info CompressedInfo(std::span<const std::byte> compressed) {
  tq_array_info info = {};
  info.struct_size = sizeof(info);
  internal::Check(tq_compressed_info(compressed.data(), compressed.size(), &info));
  return info;
}

inline std::vector<float> Decompress(std::span<const std::byte> compressed) {
  std::vector<float> x(CompressedInfo(compressed).num_values);
  internal::Check(tq_decompress(compressed.data(), compressed.size(), x.data(), x.size()));
  return x;
}

// The KV cache of one layer and one sequence; one thread at a time.
class Cache {
 public:
  // options: TQ_CACHE_OPTIONS_INIT, then the shape.
  Cache(const std::string& policy, const tq_cache_options& options) : options_(options) {
    tq_cache* handle = nullptr;
    internal::Check(tq_cache_create(policy.c_str(), &options, &handle));
    handle_.reset(handle);
  }

  std::string policy() const { return tq_cache_policy(get()); }
  std::size_t size() const { return tq_cache_size(get()); }
  std::size_t memory_bytes() const { return tq_cache_memory_bytes(get()); }

  // k: n * num_kv_heads * head_dim_k values; v likewise.
  void Append(std::span<const float> k, std::span<const float> v) {
    const std::size_t n = internal::Count(k.size(), Heads() * KeyDim(), "k");
    internal::CheckSize(v.size(), n * Heads() * ValueDim(), "v");
    internal::Check(tq_cache_append(get(), k.data(), v.data(), n));
  }

  // q: tokens * num_q_heads * head_dim_k values of the newest tokens.
  std::vector<float> AttentionScores(std::span<const float> q, std::size_t num_q_heads,
                                     float scale) {
    const std::size_t rows = internal::Count(q.size(), KeyDim(), "q");
    std::vector<float> scores(rows * size());
    internal::Check(tq_cache_attention_scores(get(), q.data(), Tokens(rows, num_q_heads),
                                              num_q_heads, scale, scores.data(), scores.size()));
    return scores;
  }

  std::vector<float> Attend(std::span<const float> q, std::size_t num_q_heads, float scale) {
    const std::size_t rows = internal::Count(q.size(), KeyDim(), "q");
    std::vector<float> out(rows * ValueDim());
    internal::Check(tq_cache_attend(get(), q.data(), Tokens(rows, num_q_heads), num_q_heads, scale,
                                    out.data(), out.size()));
    return out;
  }

  Buffer Save() const {
    Buffer saved;
    internal::Check(tq_cache_save(get(), saved.get()));
    return saved;
  }
  void Restore(std::span<const std::byte> saved) {
    internal::Check(tq_cache_restore(get(), saved.data(), saved.size()));
  }
  void CopyFrom(const Cache& other) { internal::Check(tq_cache_copy(get(), other.get())); }
  void Clear() { internal::Check(tq_cache_clear(get())); }

  tq_cache* get() const { return handle_.get(); }

 private:
  std::size_t Heads() const { return static_cast<std::size_t>(options_.num_kv_heads); }
  std::size_t KeyDim() const { return static_cast<std::size_t>(options_.head_dim_k); }
  std::size_t ValueDim() const { return static_cast<std::size_t>(options_.head_dim_v); }
  static std::size_t Tokens(std::size_t rows, std::size_t num_q_heads) {
    return num_q_heads == 0 ? 0 : internal::Count(rows, num_q_heads, "q");
  }

  tq_cache_options options_;
  std::unique_ptr<tq_cache, internal::Deleter> handle_;
};

}  // namespace tq

#endif  // TURBOQUANT_TURBOQUANT_HPP_
