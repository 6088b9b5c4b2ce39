#include "model/gguf_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>

namespace turboquant {
namespace {

constexpr uint32_t kMinVersion = 2;
constexpr uint32_t kMaxVersion = 3;
constexpr uint32_t kMaxLayers = 4096;
constexpr uint64_t kMaxKeyLength = 65535;
constexpr uint64_t kMaxKeptString = 1 << 20;
constexpr uint32_t kMaxDims = 4;
// Smallest encodings, to refuse counts that cannot fit into the file.
constexpr uint64_t kMinPairBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;

enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Bytes of a scalar value type; 0 for the others.
uint64_t ScalarBytes(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
      return 8;
    default:
      return 0;
  }
}

// Values and bytes of one group of a tensor type, by ggml's number for it.
struct TypeTraits {
  uint32_t values = 0;  // 0: a type this reader does not know
  uint32_t bytes = 0;
};

TypeTraits TensorType(uint32_t type) {
  static constexpr std::array<TypeTraits, 43> kTypes = {{
      {1, 4},    {1, 2},    {32, 18},  {32, 20},   {},         {},         {32, 22},   {32, 24},
      {32, 34},  {32, 36},  {256, 84}, {256, 110}, {256, 144}, {256, 176}, {256, 210}, {256, 292},
      {256, 66}, {256, 74}, {256, 98}, {256, 50},  {32, 18},   {256, 110}, {256, 82},  {256, 136},
      {1, 1},    {1, 2},    {1, 4},    {1, 8},     {1, 8},     {256, 56},  {1, 2},     {},
      {},        {},        {256, 54}, {256, 66},  {},         {},         {},         {32, 17},
      {64, 36},  {128, 18}, {64, 18},
  }};
  return type < kTypes.size() ? kTypes[type] : TypeTraits{};
}

bool CheckedMultiply(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_mul_overflow(a, b, out);
}
bool CheckedAdd(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_add_overflow(a, b, out);
}

// Sequential reads of a stream of known size; after the first failure every read fails.
class Reader {
 public:
  Reader(std::istream& in, uint64_t size) : in_(in), size_(size) {}

  bool ok() const { return ok_; }
  uint64_t position() const { return position_; }
  uint64_t left() const { return size_ - position_; }

  bool Bytes(void* out, uint64_t n) {
    if (!ok_ || n > left()) return Fail();
    in_.read(static_cast<char*>(out), static_cast<std::streamsize>(n));
    if (static_cast<uint64_t>(in_.gcount()) != n) return Fail();
    position_ += n;
    return true;
  }

  bool Skip(uint64_t n) {
    if (!ok_ || n > left()) return Fail();
    in_.seekg(static_cast<std::streamoff>(n), std::ios::cur);
    if (!in_) return Fail();
    position_ += n;
    return true;
  }

  template <typename T>
  T Number() {
    T value{};
    if (!Bytes(&value, sizeof(T))) value = T{};
    return value;
  }

  // A string of at most `cap` bytes.
  std::string String(uint64_t cap) {
    const uint64_t n = Number<uint64_t>();
    if (!ok_ || n > cap || n > left()) {
      Fail();
      return {};
    }
    std::string text(n, '\0');
    if (!Bytes(text.data(), n)) text.clear();
    return text;
  }

  bool SkipString() {
    const uint64_t n = Number<uint64_t>();
    return Skip(n);
  }

 private:
  bool Fail() {
    ok_ = false;
    return false;
  }

  std::istream& in_;
  const uint64_t size_;
  uint64_t position_ = 0;
  bool ok_ = true;
};

// The integer in a scalar of any integer type; nothing for other types and negative numbers.
std::optional<uint64_t> ReadInteger(Reader& in, uint32_t type) {
  int64_t number = 0;
  switch (type) {
    case kUint8:
    case kBool:
      number = in.Number<uint8_t>();
      break;
    case kInt8:
      number = in.Number<int8_t>();
      break;
    case kUint16:
      number = in.Number<uint16_t>();
      break;
    case kInt16:
      number = in.Number<int16_t>();
      break;
    case kUint32:
      number = in.Number<uint32_t>();
      break;
    case kInt32:
      number = in.Number<int32_t>();
      break;
    case kUint64:
    case kInt64:
      number = in.Number<int64_t>();
      break;
    default:
      in.Skip(ScalarBytes(type));
      return std::nullopt;
  }
  if (!in.ok() || number < 0) return std::nullopt;
  return static_cast<uint64_t>(number);
}

// The metadata this reader keeps, by the key without its "<architecture>." prefix.
struct Hyperparameters {
  std::vector<std::pair<std::string, std::vector<uint64_t>>> numbers;

  const std::vector<uint64_t>* Find(std::string_view key) const {
    for (const auto& [name, values] : numbers) {
      if (name == key) return &values;
    }
    return nullptr;
  }
};

constexpr std::array<std::string_view, 8> kKeptSuffixes = {".block_count",
                                                           ".context_length",
                                                           ".embedding_length",
                                                           ".attention.head_count",
                                                           ".attention.head_count_kv",
                                                           ".attention.key_length",
                                                           ".attention.value_length",
                                                           ".attention.sliding_window"};

bool IsKept(std::string_view key) {
  return std::any_of(kKeptSuffixes.begin(), kKeptSuffixes.end(),
                     [key](std::string_view suffix) { return key.ends_with(suffix); });
}

class Parser {
 public:
  Parser(std::istream& in, uint64_t size, const std::string& name)
      : in_(in, size), size_(size), name_(name) {}

  Result<GgufModel> Run() {
    model_.file_bytes = size_;
    if (Status s = Header(); !s.ok()) return s;
    for (uint64_t i = 0; i < pair_count_; ++i) {
      if (Status s = Pair(); !s.ok()) return s;
    }
    if (Status s = Tensors(); !s.ok()) return s;
    if (Status s = Interpret(); !s.ok()) return s;
    if (model_.needed_bytes > size_) {
      return Corrupt("model file '" + name_ + "' is truncated: its tensors need " +
                     std::to_string(model_.needed_bytes) + " bytes and it has " +
                     std::to_string(size_) + "; download it again");
    }
    return std::move(model_);
  }

 private:
  Status Truncated() const {
    return Corrupt(
        "model file '" + name_ + "' is truncated or damaged: its metadata ends at byte " +
        std::to_string(in_.position()) + " of " + std::to_string(size_) + "; download it again");
  }
  Status Damaged(const std::string& what) const {
    return Corrupt("model file '" + name_ + "' is damaged: " + what + "; download it again");
  }

  Status Header() {
    char magic[4] = {0, 0, 0, 0};
    if (size_ < sizeof(magic)) {
      return Corrupt("model file '" + name_ + "' is empty or cut off after " +
                     std::to_string(size_) + " bytes; download it again");
    }
    if (!in_.Bytes(magic, sizeof(magic))) return Truncated();
    if (std::memcmp(magic, "GGUF", sizeof(magic)) != 0) {
      return Corrupt("'" + name_ +
                     "' is not a GGUF model file; give a .gguf file, or convert the model with "
                     "llama.cpp's convert_hf_to_gguf.py");
    }
    model_.version = in_.Number<uint32_t>();
    model_.tensor_count = in_.Number<uint64_t>();
    pair_count_ = in_.Number<uint64_t>();
    if (!in_.ok()) return Truncated();
    if (model_.version < kMinVersion || model_.version > kMaxVersion) {
      const bool swapped = (model_.version & 0xffff) == 0 && model_.version != 0;
      return Unsupported("model file '" + name_ + "' is " +
                         (swapped ? std::string("a big-endian GGUF")
                                  : "GGUF version " + std::to_string(model_.version)) +
                         "; this program reads little-endian versions 2 and 3: download or "
                         "convert the model again");
    }
    if (pair_count_ > in_.left() / kMinPairBytes ||
        model_.tensor_count > in_.left() / kMinTensorBytes) {
      return Damaged("it claims " + std::to_string(pair_count_) + " metadata entries and " +
                     std::to_string(model_.tensor_count) + " tensors, more than its " +
                     std::to_string(size_) + " bytes can hold");
    }
    return OkStatus();
  }

  // One metadata entry.
  Status Pair() {
    const std::string key = in_.String(kMaxKeyLength);
    const uint32_t type = in_.Number<uint32_t>();
    if (!in_.ok()) return Truncated();
    if (type == kString) {
      if (key == "general.architecture" || key == "general.name") {
        std::string text = in_.String(kMaxKeptString);
        (key == "general.name" ? model_.name : model_.architecture) = std::move(text);
      } else {
        if (key == "tokenizer.chat_template") model_.has_chat_template = true;
        in_.SkipString();
      }
    } else if (type == kArray) {
      if (Status s = Array(key); !s.ok()) return s;
    } else if (ScalarBytes(type) > 0) {
      const std::optional<uint64_t> number = ReadInteger(in_, type);
      if (number && key == "general.alignment") alignment_ = *number;
      if (number && IsKept(key)) kept_.numbers.emplace_back(key, std::vector<uint64_t>{*number});
    } else {
      return Damaged("metadata entry '" + Printable(key) + "' has the unknown type " +
                     std::to_string(type));
    }
    return in_.ok() ? OkStatus() : Truncated();
  }

  Status Array(const std::string& key) {
    const uint32_t type = in_.Number<uint32_t>();
    const uint64_t count = in_.Number<uint64_t>();
    if (!in_.ok()) return Truncated();
    if (type == kString) {
      if (count > in_.left() / 8) return Truncated();
      for (uint64_t i = 0; i < count && in_.ok(); ++i) in_.SkipString();
      return OkStatus();
    }
    const uint64_t bytes = ScalarBytes(type);
    if (bytes == 0) {
      return Damaged("metadata array '" + Printable(key) + "' has the unknown type " +
                     std::to_string(type));
    }
    if (count > in_.left() / bytes) return Truncated();
    if (!IsKept(key) || count > kMaxLayers) {
      in_.Skip(count * bytes);
      return OkStatus();
    }
    std::vector<uint64_t> values;
    for (uint64_t i = 0; i < count; ++i) {
      const std::optional<uint64_t> number = ReadInteger(in_, type);
      if (number) values.push_back(*number);
    }
    if (values.size() == count) kept_.numbers.emplace_back(key, std::move(values));
    return OkStatus();
  }

  // Tensor descriptions, and where the data that ends last ends.
  Status Tensors() {
    uint64_t data_bytes = 0;
    for (uint64_t i = 0; i < model_.tensor_count; ++i) {
      const std::string tensor = in_.String(kMaxKeyLength);
      const uint32_t dims = in_.Number<uint32_t>();
      if (!in_.ok()) return Truncated();
      if (dims > kMaxDims) {
        return Damaged("tensor '" + Printable(tensor) + "' has " + std::to_string(dims) +
                       " dimensions");
      }
      uint64_t first = 1;
      uint64_t values = 1;
      bool fits = true;
      for (uint32_t d = 0; d < dims; ++d) {
        const uint64_t length = in_.Number<uint64_t>();
        if (d == 0) first = length;
        fits = CheckedMultiply(values, length, &values) && fits;
      }
      const uint32_t type = in_.Number<uint32_t>();
      const uint64_t offset = in_.Number<uint64_t>();
      if (!in_.ok()) return Truncated();
      const TypeTraits traits = TensorType(type);
      uint64_t end = offset;
      if (traits.values > 0) {
        uint64_t bytes = 0;
        fits = fits && first % traits.values == 0 &&
               CheckedMultiply(values / traits.values, traits.bytes, &bytes) &&
               CheckedAdd(offset, bytes, &end);
      }
      if (!fits || end > INT64_MAX) {
        return Damaged("tensor '" + Printable(tensor) + "' has an impossible size");
      }
      data_bytes = std::max(data_bytes, end);
    }
    if (alignment_ == 0 || alignment_ > (1 << 20) || (alignment_ & (alignment_ - 1)) != 0) {
      return Damaged("its alignment is " + std::to_string(alignment_) +
                     ", which is not a power of two up to 2^20");
    }
    const uint64_t data_start = (in_.position() + alignment_ - 1) / alignment_ * alignment_;
    if (model_.tensor_count == 0) {
      model_.needed_bytes = in_.position();
    } else if (!CheckedAdd(data_start, data_bytes, &model_.needed_bytes)) {
      return Damaged("its tensors have an impossible size");
    }
    return OkStatus();
  }

  uint32_t Number(std::string_view suffix, uint32_t fallback) const {
    const auto* values = kept_.Find(model_.architecture + std::string(suffix));
    if (values == nullptr || values->empty() || values->front() > UINT32_MAX) return fallback;
    return static_cast<uint32_t>(values->front());
  }

  // One entry a layer from a scalar or an array; `fallback` where the key is missing or too short.
  std::vector<uint32_t> PerLayer(std::string_view suffix, std::vector<uint32_t> fallback) const {
    const auto* values = kept_.Find(model_.architecture + std::string(suffix));
    if (values == nullptr || values->empty()) return fallback;
    for (size_t i = 0; i < fallback.size(); ++i) {
      if (values->size() > 1 && i >= values->size()) break;
      const uint64_t value = values->size() == 1 ? values->front() : (*values)[i];
      fallback[i] = static_cast<uint32_t>(std::min<uint64_t>(value, UINT32_MAX));
    }
    return fallback;
  }

  Status Interpret() {
    if (model_.architecture.empty()) {
      return Damaged("it does not name an architecture (general.architecture)");
    }
    model_.block_count = Number(".block_count", 0);
    if (model_.block_count > kMaxLayers) {
      return Damaged("it claims " + std::to_string(model_.block_count) + " layers");
    }
    model_.context_length = Number(".context_length", 0);
    model_.embedding_length = Number(".embedding_length", 0);
    model_.sliding_window = Number(".attention.sliding_window", 0);
    model_.head_count =
        PerLayer(".attention.head_count", std::vector<uint32_t>(model_.block_count, 0));
    model_.head_count_kv = PerLayer(".attention.head_count_kv", model_.head_count);
    uint32_t heads = 0;
    for (const uint32_t n : model_.head_count) heads = std::max(heads, n);
    const uint32_t head_dim = heads > 0 ? model_.embedding_length / heads : 0;
    model_.key_length = Number(".attention.key_length", head_dim);
    model_.value_length = Number(".attention.value_length", head_dim);
    return OkStatus();
  }

  // Names come from the file: keep messages on one line and short.
  static std::string Printable(const std::string& text) {
    std::string out;
    for (const char c : text.substr(0, 64)) out += (c >= 32 && c < 127) ? c : '?';
    return out;
  }

  Reader in_;
  const uint64_t size_;
  const std::string& name_;
  GgufModel model_;
  uint64_t pair_count_ = 0;
  uint64_t alignment_ = 32;
  Hyperparameters kept_;
};

}  // namespace

uint32_t GgufModel::kv_layers() const {
  uint32_t n = 0;
  for (size_t i = 0; i < head_count.size() && i < head_count_kv.size(); ++i) {
    n += head_count[i] > 0 && head_count_kv[i] > 0 ? 1 : 0;
  }
  return n;
}

Result<GgufModel> ReadGguf(std::istream& in, uint64_t size, const std::string& name) {
  return Parser(in, size, name).Run();
}

Result<GgufModel> ReadGgufFile(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    return NotFound("model file '" + path + "' does not exist; check the path");
  }
  if (status.type() == std::filesystem::file_type::directory) {
    return NotFound("'" + path + "' is a folder; name the .gguf file in it");
  }
  if (error || status.type() != std::filesystem::file_type::regular) {
    return NotFound("model file '" + path + "' cannot be used: it is not a regular file");
  }
  const uint64_t size = std::filesystem::file_size(path, error);
  std::ifstream in(path, std::ios::binary);
  if (error || !in) {
    return NotFound("model file '" + path + "' cannot be read; check its permissions");
  }
  return ReadGguf(in, size, path);
}

Status CheckHasKvCache(const GgufModel& model, const std::string& name) {
  if (model.block_count > 0 && model.kv_layers() > 0) return OkStatus();
  return Unsupported("model '" + name + "' (architecture " + model.architecture +
                     ") has no attention layers, so it has no KV cache to compress; run it with "
                     "llama.cpp alone");
}

}  // namespace turboquant
