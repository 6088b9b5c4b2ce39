// What a GGUF model file says about itself, and whether it is whole.
//
// Only metadata is read; weights are never touched. The reader trusts nothing: every count and
// length is checked against the bytes that are there before anything is allocated or multiplied.
#ifndef TURBOQUANT_MODEL_GGUF_FILE_H_
#define TURBOQUANT_MODEL_GGUF_FILE_H_

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "base/status.h"

namespace turboquant {

struct GgufModel {
  uint32_t version = 0;
  uint64_t tensor_count = 0;
  uint64_t file_bytes = 0;
  uint64_t needed_bytes = 0;  // header, metadata and the tensor data that ends last

  std::string architecture;  // "llama", "qwen2", ...
  std::string name;          // general.name; may be empty
  bool has_chat_template = false;

  uint32_t block_count = 0;  // layers
  uint32_t context_length = 0;
  uint32_t embedding_length = 0;
  uint32_t sliding_window = 0;  // 0: none
  uint32_t key_length = 0;      // head_dim of K and V; 0 when the file does not tell
  uint32_t value_length = 0;
  // Query and key/value heads of each layer (block_count entries; 0: no attention in that layer).
  std::vector<uint32_t> head_count;
  std::vector<uint32_t> head_count_kv;

  // Layers that keep keys and values, i.e. that have something to compress.
  uint32_t kv_layers() const;
};

// Reads and checks the file. Each failure has its own code and sentence, which names the file and
// the remedy: kNotFound (missing, unreadable), kCorrupt (not GGUF, truncated, contradictory),
// kUnsupported (a GGUF of another byte order or version).
Result<GgufModel> ReadGgufFile(const std::string& path);

// The same over a stream of `size` bytes; `name` is what messages call it.
Result<GgufModel> ReadGguf(std::istream& in, uint64_t size, const std::string& name);

// OK if the model has attention layers with keys and values; kUnsupported if not (recurrent
// models such as Mamba and RWKV).
Status CheckHasKvCache(const GgufModel& model, const std::string& name);

}  // namespace turboquant

#endif  // TURBOQUANT_MODEL_GGUF_FILE_H_
