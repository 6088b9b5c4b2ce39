// Speed of the host deep in a conversation, from a saved state: tokens per second of prompts and of
// generation behind `depth` tokens. llama-bench builds the depth anew in every run, which takes a
// stock cache ten minutes for 16384 tokens; here it is built once and loaded.
//
//   depth_speed MODEL BACKENDS STATE CACHE STATE_DEPTH DEPTH PROMPT GENERATE THREADS
//
// Loads STATE, or, if the file is not there, decodes STATE_DEPTH random tokens and writes it; drops
// what is behind DEPTH; measures PROMPT tokens in one batch and GENERATE single ones (0: not).
// CACHE is a stock type; the plugin is loaded as the host does it, by GGML_BACKEND_PATH. Prints one
// line of JSON. bench/depth_speed.py runs it for several caches.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

namespace {

constexpr int kBatch = 2048;
constexpr int kMicroBatch = 512;  // as llama-bench has it

double Now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "depth_speed: %s\n", what);
  std::exit(1);
}

struct Test {
  std::string model, backends, state, cache;
  int state_depth, depth, prompt, generate, threads;
};

ggml_type TypeOf(const std::string& name) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const char* known = ggml_type_name(static_cast<ggml_type>(i));
    if (known != nullptr && name == known) return static_cast<ggml_type>(i);
  }
  Fail("unknown cache type");
}

class Host {
 public:
  explicit Host(const Test& test) : test_(test) {
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
          if (level == GGML_LOG_LEVEL_ERROR || std::strstr(text, "turboquant") != nullptr) {
            std::fputs(text, stderr);
          }
        },
        nullptr);
    ggml_backend_load_all_from_path(test.backends.c_str());
    llama_model_params m = llama_model_default_params();
    model_ = llama_model_load_from_file(test.model.c_str(), m);
    if (model_ == nullptr) Fail("cannot load the model");
    llama_context_params c = llama_context_default_params();
    c.n_ctx = test.state_depth + test.prompt + test.generate + 64;
    c.n_batch = kBatch;
    c.n_ubatch = kMicroBatch;
    c.n_threads = c.n_threads_batch = test.threads;
    c.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    c.type_k = c.type_v = TypeOf(test.cache);
    ctx_ = llama_init_from_model(model_, c);
    if (ctx_ == nullptr) Fail("no context");
    tokens_ = llama_vocab_n_tokens(llama_model_get_vocab(model_));
  }
  ~Host() {
    llama_free(ctx_);
    llama_model_free(model_);
  }
  Host(const Host&) = delete;

  void Fill() {
    if (std::filesystem::exists(test_.state)) {
      std::vector<llama_token> tokens(static_cast<size_t>(test_.state_depth) + 16);
      size_t n = 0;
      if (!llama_state_load_file(ctx_, test_.state.c_str(), tokens.data(), tokens.size(), &n)) {
        Fail("the state does not fit this cache");
      }
    } else {
      for (int i = 0; i < test_.state_depth; i += kBatch) {
        Decode(std::min(kBatch, test_.state_depth - i));
      }
      const llama_token none = 0;
      if (!llama_state_save_file(ctx_, test_.state.c_str(), &none, 0))
        Fail("cannot save the state");
    }
    Trim();
    if (llama_memory_seq_pos_max(llama_get_memory(ctx_), 0) + 1 != test_.depth) {
      Fail("the state has another depth");
    }
  }

  double PromptSpeed() {
    const double start = Now();
    Decode(test_.prompt);
    const double speed = test_.prompt / (Now() - start);
    Trim();
    return speed;
  }

  double GenerationSpeed() {
    Decode(1);  // the first one builds another graph
    const double start = Now();
    for (int i = 0; i < test_.generate; ++i) Decode(1);
    const double speed = test_.generate / (Now() - start);
    Trim();
    return speed;
  }

  // Weights, graph and code once; the cache is not touched by a short prompt at depth 0.
  void WarmUp() {
    Decode(2);
    llama_memory_clear(llama_get_memory(ctx_), true);
  }

 private:
  void Decode(int n) {
    std::vector<llama_token> batch(static_cast<size_t>(n));
    for (llama_token& token : batch) token = std::rand() % tokens_;
    if (llama_decode(ctx_, llama_batch_get_one(batch.data(), n)) != 0) Fail("llama_decode failed");
    llama_synchronize(ctx_);
  }
  void Trim() { llama_memory_seq_rm(llama_get_memory(ctx_), 0, test_.depth, -1); }

  const Test& test_;
  llama_model* model_ = nullptr;
  llama_context* ctx_ = nullptr;
  int tokens_ = 0;
};

double StatusMib(const char* key) {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  double kib = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, key, std::strlen(key)) == 0) kib = std::atof(line + std::strlen(key));
  }
  std::fclose(file);
  return kib / 1024;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 10) {
    Fail("MODEL BACKENDS STATE CACHE STATE_DEPTH DEPTH PROMPT GENERATE THREADS");
  }
  const Test test = {argv[1],
                     argv[2],
                     argv[3],
                     argv[4],
                     std::atoi(argv[5]),
                     std::atoi(argv[6]),
                     std::atoi(argv[7]),
                     std::atoi(argv[8]),
                     std::atoi(argv[9])};
  Host host(test);
  host.WarmUp();
  if (test.state_depth > 0) host.Fill();
  const double prompt = test.prompt > 0 ? host.PromptSpeed() : 0;
  const double generation = test.generate > 0 ? host.GenerationSpeed() : 0;
  std::printf("{\"prompt\": %.3f, \"generation\": %.3f, \"rss_anon_mib\": %.1f}\n", prompt,
              generation, StatusMib("RssAnon:"));
  return 0;
}
