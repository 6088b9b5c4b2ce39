// Writes small GGUF files for tests, right or wrong on purpose.
#ifndef TURBOQUANT_TESTS_CLI_GGUF_BUILDER_H_
#define TURBOQUANT_TESTS_CLI_GGUF_BUILDER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace turboquant {

class GgufBuilder {
 public:
  static constexpr uint32_t kTypeUint32 = 4;
  static constexpr uint32_t kTypeInt32 = 5;
  static constexpr uint32_t kTypeFloat32 = 6;
  static constexpr uint32_t kTypeString = 8;
  static constexpr uint32_t kTypeArray = 9;
  static constexpr uint32_t kTypeUint64 = 10;

  uint32_t version = 3;

  template <typename T>
  static std::string Bytes(T value) {
    std::string text(sizeof(T), '\0');
    std::memcpy(text.data(), &value, sizeof(T));
    return text;
  }
  static std::string Text(const std::string& s) { return Bytes<uint64_t>(s.size()) + s; }

  // An entry from its type and the bytes of its value.
  GgufBuilder& Raw(const std::string& key, uint32_t type, const std::string& value) {
    pairs_ += Text(key) + Bytes(type) + value;
    ++pair_count_;
    return *this;
  }
  GgufBuilder& Number(const std::string& key, uint32_t value) {
    return Raw(key, kTypeUint32, Bytes(value));
  }
  GgufBuilder& String(const std::string& key, const std::string& value) {
    return Raw(key, kTypeString, Text(value));
  }
  GgufBuilder& Numbers(const std::string& key, const std::vector<int32_t>& values) {
    std::string bytes = Bytes(kTypeInt32) + Bytes<uint64_t>(values.size());
    for (const int32_t v : values) bytes += Bytes(v);
    return Raw(key, kTypeArray, bytes);
  }
  GgufBuilder& Strings(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = Bytes(kTypeString) + Bytes<uint64_t>(values.size());
    for (const std::string& v : values) bytes += Text(v);
    return Raw(key, kTypeArray, bytes);
  }
  GgufBuilder& Tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                      uint64_t offset) {
    tensors_ += Text(name) + Bytes<uint32_t>(static_cast<uint32_t>(dims.size()));
    for (const uint64_t d : dims) tensors_ += Bytes(d);
    tensors_ += Bytes(type) + Bytes(offset);
    ++tensor_count_;
    return *this;
  }

  // The file with `data_bytes` of tensor data behind the aligned header.
  std::string Build(size_t data_bytes, size_t alignment = 32) const {
    std::string file = "GGUF" + Bytes(version) + Bytes(tensor_count_) + Bytes(pair_count_);
    file += pairs_ + tensors_;
    if (data_bytes > 0) file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + std::string(data_bytes, 'w');
  }

 private:
  std::string pairs_;
  std::string tensors_;
  uint64_t pair_count_ = 0;
  uint64_t tensor_count_ = 0;
};

// A llama-like model: 4 layers, 8 query heads, 2 kv heads, head_dim 64, two tensors.
inline GgufBuilder SmallModel() {
  GgufBuilder b;
  b.String("general.architecture", "llama")
      .String("general.name", "tiny")
      .Raw("general.score", GgufBuilder::kTypeFloat32, GgufBuilder::Bytes(0.5f))
      .Number("llama.block_count", 4)
      .Number("llama.context_length", 2048)
      .Number("llama.embedding_length", 512)
      .Number("llama.attention.head_count", 8)
      .Number("llama.attention.head_count_kv", 2)
      .Strings("tokenizer.ggml.tokens", {"<s>", "a", "bc"})
      .Numbers("tokenizer.ggml.token_type", {3, 1, 1})
      .String("tokenizer.chat_template", "{{ messages }}")
      .Tensor("token_embd.weight", {32, 4}, 0, 0)  // f32: 512 bytes
      .Tensor("output.weight", {64, 2}, 8, 512);   // q8_0: 136 bytes
  return b;
}
inline constexpr size_t kSmallModelData = 512 + 136;

}  // namespace turboquant

#endif  // TURBOQUANT_TESTS_CLI_GGUF_BUILDER_H_
