// Drives an unmodified llama.cpp through the ways in which applications use a KV cache, and leaves
// the logits of named probe points in a file.
//
//   host_driver run MODEL OUT [key=value...] SCENARIO...   see Options and kScenarios
//   host_driver compare A B        per common probe: name, bits|near, max |d|, KL; a line each
//
// Prints "check NAME ok" or "check NAME FAILED: why" for what a run can judge itself, and exits
// with 1 if one failed. Backends are loaded as the host's own tools do it, so GGML_BACKEND_PATH
// decides whether a plugin is there.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"
#include "probes.h"

namespace turboquant::host_test {
namespace {

using Tokens = std::vector<llama_token>;
using Bytes = std::vector<uint8_t>;

// Single tokens differ in KL by orders of magnitude: what is bounded is taken over many.
constexpr int kProbeStride = 16;   // of a prompt
constexpr int kContinuation = 24;  // tokens after a state

struct Options {
  std::string text;      // file with the prompt's text
  std::string backends;  // folder of the host's backend libraries
  std::string file;      // state file to save or load
  std::string tokens;    // file of generated tokens: forced if it exists, else written
  std::string ctk = "f16", ctv = "f16";
  int threads = 2;
  int ub = 512;
  int ctx = 512;
  int seqs = 1;
  int prompt = 240;
  int generate = 48;
  bool fa = true, nkvo = false, eval = false, unified = false, forget = false;
  int poison = -1;  // without a vocabulary: this token is the 40th
};

struct Run {
  Options options;
  llama_model* model = nullptr;
  Tokens text;
  ProbeFile out;
  int failed = 0;

  void Check(const std::string& name, bool ok, const std::string& why = "") {
    std::printf("check %s %s%s\n", name.c_str(), ok ? "ok" : "FAILED: ", ok ? "" : why.c_str());
    if (!ok) ++failed;
  }
};

Tokens Slice(const Tokens& t, int first, int n) {
  Tokens slice;
  for (int i = 0; i < n; ++i) slice.push_back(t[(first + i) % t.size()]);
  return slice;
}

bool EveryNode(ggml_tensor*, bool, void*) { return true; }

ggml_type TypeOf(const std::string& name) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const char* known = ggml_type_name(static_cast<ggml_type>(i));
    if (known != nullptr && name == known) return static_cast<ggml_type>(i);
  }
  std::fprintf(stderr, "unknown type %s\n", name.c_str());
  std::exit(2);
}

// One llama_context.
class Session {
 public:
  Session(Run* run, const Options& o, const std::string& prefix) : run_(run), prefix_(prefix) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx = o.ctx;
    p.n_batch = 512;
    p.n_ubatch = o.ub;
    p.n_seq_max = o.seqs;
    p.n_threads = p.n_threads_batch = o.threads;
    p.flash_attn_type = o.fa ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.type_k = TypeOf(o.ctk);
    p.type_v = TypeOf(o.ctv);
    p.offload_kqv = !o.nkvo;
    p.swa_full = false;  // as the tools have it: window layers get a cache of their own size
    p.kv_unified = o.unified;
    if (o.eval) p.cb_eval = EveryNode;
    ctx_ = llama_init_from_model(run->model, p);
    if (ctx_ == nullptr) {
      std::fprintf(stderr, "no context\n");
      std::exit(3);
    }
  }
  ~Session() { llama_free(ctx_); }
  Session(const Session&) = delete;

  llama_context* ctx() { return ctx_; }
  llama_memory_t memory() { return llama_get_memory(ctx_); }
  int pos(int seq = 0) { return llama_memory_seq_pos_max(memory(), seq) + 1; }

  // Appends tokens to the sequences (the i-th entry to seqs[i]); logits of every kProbeStride-th
  // token and of each sequence's last one.
  void Decode(const std::vector<Tokens>& tokens, const std::vector<int>& seqs) {
    size_t longest = 0;
    for (const Tokens& t : tokens) longest = std::max(longest, t.size());
    std::vector<int> at;
    for (int seq : seqs) at.push_back(pos(seq));
    llama_batch batch = llama_batch_init(1024, 0, 1);
    batch.n_tokens = 0;
    last_.assign(seqs.size(), 0);
    for (size_t i = 0; i < longest; ++i) {
      for (size_t s = 0; s < seqs.size(); ++s) {
        if (i >= tokens[s].size()) continue;
        const int n = batch.n_tokens++;
        batch.token[n] = tokens[s][i];
        batch.pos[n] = at[s]++;
        batch.n_seq_id[n] = 1;
        batch.seq_id[n][0] = seqs[s];
        batch.logits[n] = i + 1 == tokens[s].size() || i % kProbeStride == kProbeStride - 1;
        if (i + 1 == tokens[s].size()) last_[s] = n;
      }
    }
    const int rc = llama_decode(ctx_, batch);
    llama_batch_free(batch);
    if (rc != 0) {
      std::fprintf(stderr, "llama_decode returned %d\n", rc);
      std::exit(4);
    }
  }
  void Decode(const Tokens& tokens, int seq = 0) { Decode(std::vector<Tokens>{tokens}, {seq}); }

  Logits LogitsOf(int token) {
    const float* logits = llama_get_logits_ith(ctx_, token);
    const int n = llama_vocab_n_tokens(llama_model_get_vocab(run_->model));
    return logits == nullptr ? Logits() : Logits(logits, logits + n);
  }
  Logits Last(int sequence = 0) { return LogitsOf(last_[sequence]); }
  void Probe(const std::string& name, int sequence = 0) {
    run_->out.Add(prefix_ + name, Last(sequence));
  }

  // The probes of a prompt just decoded.
  void ProbePrompt(int n) {
    for (int i = kProbeStride - 1; i < n - 1; i += kProbeStride) {
      run_->out.Add(prefix_ + "prompt" + std::to_string(i), LogitsOf(i));
    }
    Probe("prompt");
  }

  // Decodes the tokens one by one; the logits of every token.
  std::vector<Logits> Continue(const Tokens& tokens, int seq = 0) {
    std::vector<Logits> all;
    for (llama_token t : tokens) {
      Decode({t}, seq);
      all.push_back(Last());
    }
    return all;
  }

  Bytes State() {
    Bytes bytes(llama_state_get_size(ctx_));
    bytes.resize(llama_state_get_data(ctx_, bytes.data(), bytes.size()));
    return bytes;
  }
  Bytes SeqState(int seq, llama_state_seq_flags flags = 0) {
    Bytes bytes(llama_state_seq_get_size_ext(ctx_, seq, flags));
    bytes.resize(llama_state_seq_get_data_ext(ctx_, bytes.data(), bytes.size(), seq, flags));
    return bytes;
  }

 private:
  Run* run_;
  std::string prefix_;
  llama_context* ctx_;
  std::vector<int> last_;
};

// ------------------------------------------------------------------------------ scenarios

// A conversation: prompt, generation, a rejected draft, two context shifts, clear and reuse.
void Chat(Run* run) {
  const Options& o = run->options;
  Session s(run, o, "chat/");
  const Tokens& text = run->text;
  s.Decode(Slice(text, 0, o.prompt));
  s.ProbePrompt(o.prompt);

  Tokens generated;
  if (std::ifstream in(o.tokens); in) {
    for (llama_token t; in >> t;) generated.push_back(t);
  }
  const bool forced = !generated.empty();
  for (int i = 0; i < o.generate; ++i) {
    const Logits logits = s.Last();
    const llama_token best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    if (!forced) generated.push_back(best);
    s.Decode({generated[i % generated.size()]});
    if (i % 2 == 1 || i + 1 == o.generate) s.Probe("generate" + std::to_string(i));
  }
  if (!forced && !o.tokens.empty()) {
    std::ofstream out(o.tokens);
    for (llama_token t : generated) out << t << "\n";
  }

  const int before = s.pos();
  s.Decode(Slice(text, 7, 6));  // the draft
  s.Probe("draft");
  run->Check("draft_removed", llama_memory_seq_rm(s.memory(), 0, before + 1, -1));
  s.Decode(Slice(text, 300, 5));
  s.Probe("draft_rewritten");

  for (int shift = 0; shift < 2; ++shift) {
    const int discard = 48;
    run->Check("shift_removes", llama_memory_seq_rm(s.memory(), 0, 4, 4 + discard));
    llama_memory_seq_add(s.memory(), 0, 4 + discard, -1, -discard);
    s.Decode(Slice(text, 305 + 12 * shift, 6));
    s.Probe("shift" + std::to_string(shift) + "_chunk");
    for (llama_token t : Slice(text, 311 + 12 * shift, 6)) s.Decode({t});
    s.Probe("shift" + std::to_string(shift) + "_tokens");
  }

  for (bool data : {true, false}) {
    llama_memory_clear(s.memory(), data);
    s.Decode(Slice(text, 400, 64));
    s.Probe(data ? "cleared" : "emptied");
  }
}

// Sequences that share a prompt, decoded apart and together.
void Copies(Run* run) {
  Options o = run->options;
  o.seqs = 3;
  const std::string prefix = o.unified ? "copies_unified/" : "copies/";
  if (!o.unified) o.ctx *= o.seqs;
  Session s(run, o, prefix);
  const Tokens& text = run->text;
  s.Decode(Slice(text, 0, o.prompt));
  llama_memory_seq_cp(s.memory(), 0, 1, -1, -1);
  llama_memory_seq_cp(s.memory(), 0, 2, -1, -1);
  const Tokens next = Slice(text, o.prompt, 4);
  const auto first = s.Continue(next, 0);
  const auto second = s.Continue(next, 1);
  run->out.Add(prefix + "original", first.back());
  run->out.Add(prefix + "copy", second.back());
  if (!o.unified) {
    for (size_t i = 0; i < next.size(); ++i) {
      const Difference d = Compare(first[i], second[i]);
      run->Check("copy_is_identical_" + std::to_string(i), d.identical,
                 "max|d| " + std::to_string(d.max_abs));
    }
  }
  for (int i = 0; i < 3; ++i) {
    s.Decode(
        {Slice(text, 310 + 3 * i, 3), Slice(text, 340 + 3 * i, 3), Slice(text, 370 + 3 * i, 3)},
        {0, 1, 2});
  }
  for (int seq = 0; seq < 3; ++seq) s.Probe("together" + std::to_string(seq), seq);
  llama_memory_seq_rm(s.memory(), 1, -1, -1);
  llama_memory_seq_cp(s.memory(), 2, 1, -1, -1);  // a used sequence is copied over
  s.Decode({Slice(text, 430, 2), Slice(text, 430, 2)}, {1, 2});
  s.Probe("again1", 0);
  s.Probe("again2", 1);
}

// The same rows in other cells are summed in another order, and the host's own f16 attention reads
// KL 0.004 then: activations are quantized behind it, so rounding does not stay small.
constexpr double kRoundingKl = 0.03;

std::string SameAs(const std::vector<Logits>& a, const std::vector<Logits>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    const Difference d = Compare(a[i], b[i]);
    if (!d.identical) {
      return "token " + std::to_string(i) + ": max|d| " + std::to_string(d.max_abs) + ", KL " +
             std::to_string(d.kl);
    }
  }
  return "";
}

size_t FirstDifference(const Bytes& a, const Bytes& b) {
  size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  return i;
}

std::string SameBytes(const Bytes& a, const Bytes& b) {
  if (a == b) return "";
  return std::to_string(a.size()) + " and " + std::to_string(b.size()) + " bytes, first at " +
         std::to_string(FirstDifference(a, b));
}

// Saves and restores in one process, every way the host has.
void State(Run* run) {
  const Options& o = run->options;
  const Tokens& text = run->text;
  auto check = [&](const std::string& name, const std::string& why) {
    run->Check(name, why.empty(), why);
  };
  auto prepare = [&](Session* s) {
    s->Decode(Slice(text, 0, o.prompt));
    s->Continue(Slice(text, o.prompt, 8));
  };
  const Tokens next = Slice(text, o.prompt + 8, 12);

  Session a(run, o, "state/");
  prepare(&a);
  const Bytes whole = a.State();
  const Bytes sequence = a.SeqState(0);
  check("get_again_whole", SameBytes(whole, a.State()));
  const Bytes device = a.SeqState(0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE);
  const auto uninterrupted = a.Continue(next);
  run->out.Add("state/uninterrupted", uninterrupted.back());

  // Back to the saved point in the same context, three times.
  llama_memory_seq_rm(a.memory(), 0, -1, -1);
  run->Check("set_device", llama_state_seq_set_data_ext(a.ctx(), device.data(), device.size(), 0,
                                                        LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) > 0);
  check("device_bytes", SameBytes(sequence, a.SeqState(0)));
  check("device_logits", SameAs(uninterrupted, a.Continue(next)));
  run->Check("set_sequence",
             llama_state_seq_set_data(a.ctx(), sequence.data(), sequence.size(), 0) > 0);
  check("same_context_bytes", SameBytes(sequence, a.SeqState(0)));
  check("same_context_logits", SameAs(uninterrupted, a.Continue(next)));
  run->Check("set_whole_over", llama_state_set_data(a.ctx(), whole.data(), whole.size()) > 0);
  check("over_bytes", SameBytes(whole, a.State()));
  check("over_logits", SameAs(uninterrupted, a.Continue(next)));

  {
    Session b(run, o, "state/");
    run->Check("set_whole", llama_state_set_data(b.ctx(), whole.data(), whole.size()) > 0);
    check("whole_bytes", SameBytes(whole, b.State()));
    check("whole_logits", SameAs(uninterrupted, b.Continue(next)));
  }
  {
    Session b(run, o, "state/");
    run->Check("set_fresh",
               llama_state_seq_set_data(b.ctx(), sequence.data(), sequence.size(), 0) > 0);
    check("fresh_bytes", SameBytes(sequence, b.SeqState(0)));
    check("fresh_logits", SameAs(uninterrupted, b.Continue(next)));
  }
  {  // from one stream of three to another
    Options three = o;
    three.seqs = 3;
    three.ctx = 3 * o.ctx;
    Session b(run, three, "state/");
    prepare(&b);
    b.Decode(Slice(text, 350, 30), 1);
    const Bytes stream = b.SeqState(0);
    const auto original = b.Continue(next, 0);
    run->Check("set_stream",
               llama_state_seq_set_data(b.ctx(), stream.data(), stream.size(), 2) > 0);
    check("stream_logits", SameAs(original, b.Continue(next, 2)));
    b.Decode(Slice(text, 380, 4), 1);
    b.Probe("stream_neighbour");
  }
  {  // other cells, behind another sequence: rounding follows the cells, the rows do not change
    Options unified = o;
    unified.seqs = 2;
    unified.unified = true;
    Session b(run, unified, "state/");
    b.Decode(Slice(text, 350, 30), 0);
    run->Check("set_unified",
               llama_state_seq_set_data(b.ctx(), sequence.data(), sequence.size(), 1) > 0);
    const auto elsewhere = b.Continue(next, 1);
    run->out.Add("state/elsewhere", elsewhere.back());
    const Difference d = Compare(uninterrupted[0], elsewhere[0]);
    std::printf("unified_kl %.6f\n", d.kl);
    run->Check("unified_logits", d.finite && d.kl < kRoundingKl, "KL " + std::to_string(d.kl));
    b.Decode(Slice(text, 380, 4), 0);
    b.Probe("unified_neighbour");
  }
}

// Cells reused after a shift, so that the newest rows do not lie in the highest cells.
void StateShifted(Run* run) {
  const Options& o = run->options;
  const Tokens& text = run->text;
  Session a(run, o, "shifted/");
  a.Decode(Slice(text, 0, o.prompt));
  llama_memory_seq_rm(a.memory(), 0, 8, 24);
  llama_memory_seq_add(a.memory(), 0, 24, -1, -16);
  a.Continue(Slice(text, o.prompt, 16));  // fills the hole exactly
  const Bytes whole = a.State();
  const Tokens next = Slice(text, o.prompt + 16, 12);
  const auto uninterrupted = a.Continue(next);
  Session b(run, o, "shifted/");
  run->Check("set_shifted", llama_state_set_data(b.ctx(), whole.data(), whole.size()) > 0);
  const std::string bytes = SameBytes(whole, b.State());
  run->Check("shifted_bytes", bytes.empty(), bytes);
  const auto restored = b.Continue(next);
  const std::string same = SameAs(uninterrupted, restored);
  run->Check("shifted_logits", same.empty(), same);
  double worst = 0;
  for (size_t i = 0; i < next.size(); ++i) {
    worst = std::max(worst, Compare(uninterrupted[i], restored[i]).kl);
  }
  std::printf("shifted_kl %.6f\n", worst);
  run->Check("shifted_near", worst < kRoundingKl, "KL " + std::to_string(worst));
}

// Two chunks and a page boundary before the save, more chunks behind it.
void StatePages(Run* run) {
  Options o = run->options;
  o.ctx = 1024;
  const Tokens& text = run->text;
  Session a(run, o, "pages/");
  a.Decode(Slice(text, 0, 250));
  a.Continue(Slice(text, 250, 12));  // rows of the second page come one at a time
  const Bytes whole = a.State();
  auto go_on = [&](Session* s) {
    std::vector<Logits> logits;
    for (int i = 0; i < 3; ++i) {
      s->Decode(Slice(text, 262 + 70 * i, 70));
      logits.push_back(s->Last());
    }
    return logits;
  };
  const auto uninterrupted = go_on(&a);
  Session b(run, o, "pages/");
  run->Check("set_pages", llama_state_set_data(b.ctx(), whole.data(), whole.size()) > 0);
  const std::string same = SameAs(uninterrupted, go_on(&b));
  run->Check("pages_logits", same.empty(), same);
}

Tokens FileTokens(Run* run) { return Slice(run->text, 0, run->options.prompt + 8); }

void GoOn(Run* run, Session* s) {
  const auto logits = s->Continue(Slice(run->text, run->options.prompt + 8, kContinuation));
  for (size_t i = 0; i < logits.size(); ++i) run->out.Add("file/" + std::to_string(i), logits[i]);
}

// Saves to <file>.whole and <file>.seq, goes on; Load does the same from the files.
void Save(Run* run) {
  const Options& o = run->options;
  Session s(run, o, "file/");
  s.Decode(Slice(run->text, 0, o.prompt));
  s.Continue(Slice(run->text, o.prompt, 8));
  const Tokens tokens = FileTokens(run);
  run->Check("save_whole", llama_state_save_file(s.ctx(), (o.file + ".whole").c_str(),
                                                 tokens.data(), tokens.size()));
  run->Check("save_seq", llama_state_seq_save_file(s.ctx(), (o.file + ".seq").c_str(), 0,
                                                   tokens.data(), tokens.size()) > 0);
  GoOn(run, &s);
}

// The same tokens with nothing remembered: what a lost cache would answer.
void Lost(Run* run) {
  Session s(run, run->options, "file/");
  s.Decode(Slice(run->text, 0, 1));
  GoOn(run, &s);
}

void Load(Run* run, bool whole) {
  const Options& o = run->options;
  Session s(run, o, "file/");
  Tokens tokens(o.prompt + 64);
  size_t n = 0;
  const std::string path = o.file + (whole ? ".whole" : ".seq");
  const bool loaded =
      whole ? llama_state_load_file(s.ctx(), path.c_str(), tokens.data(), tokens.size(), &n)
            : llama_state_seq_load_file(s.ctx(), path.c_str(), 0, tokens.data(), tokens.size(),
                                        &n) > 0;
  std::printf("%s %s\n", whole ? "whole" : "seq", loaded ? "loaded" : "refused");
  if (!loaded) return;
  tokens.resize(n);
  run->Check("loaded_tokens", tokens == FileTokens(run));
  GoOn(run, &s);
}
void LoadWhole(Run* run) { Load(run, true); }
void LoadSeq(Run* run) { Load(run, false); }

// A short run for comparisons of kernels and thread counts.
void Short(Run* run) {
  const Options& o = run->options;
  Session s(run, o, "short/");
  s.Decode(Slice(run->text, 0, o.prompt));
  s.ProbePrompt(o.prompt);
  s.Decode(Slice(run->text, o.prompt, 40));
  s.Probe("chunk");
  for (llama_token t : Slice(run->text, o.prompt + 40, 6)) s.Decode({t});
  s.Probe("tokens");
  llama_memory_seq_rm(s.memory(), 0, 4, 36);
  llama_memory_seq_add(s.memory(), 0, 36, -1, -32);
  s.Decode(Slice(run->text, o.prompt + 46, 3));
  s.Probe("shift");
}

long ResidentKib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::atol(line.c_str() + 6);
  }
  return 0;
}

// Every cell of a cache is written: one prompt, copied into all streams, or (unified) its state read
// into one sequence after the other.
void Memory(Run* run) {
  Options o = run->options;
  o.seqs = o.ctx / 1024;
  const long before = ResidentKib();
  {
    Session s(run, o, "memory/");
    for (int n : {512, o.unified ? 512 : 508}) s.Decode(Slice(run->text, 0, n));
    s.Probe("prompt");
    Bytes state;
    if (o.unified) state = s.SeqState(0);
    for (int seq = 1; seq < o.seqs; ++seq) {
      if (o.unified) {
        run->Check("filled", llama_state_seq_set_data(s.ctx(), state.data(), state.size(), seq) ==
                                 state.size());
      } else {
        llama_memory_seq_cp(s.memory(), 0, seq, -1, -1);
      }
    }
    Bytes().swap(state);
    if (!o.unified) {  // the host copies when it decodes next
      for (int seq = 0; seq < o.seqs; ++seq) s.Decode(Slice(run->text, seq, 1), seq);
    }
    std::printf("rss_growth_kib %ld\nrss_kib %ld\n", ResidentKib() - before, ResidentKib());
  }
}

// A prompt in a sequence of each stream, then tokens of both in one batch, a sequence copied over
// the other, a context shift where the model has one. With forget=on every token is alone in its
// cache.
void Shape(Run* run) {
  Options o = run->options;
  o.seqs = 2;
  o.ctx = 1024;
  Session s(run, o, "shape/");
  const Tokens& text = run->text;
  const int lengths[] = {o.prompt, o.prompt / 2 + 3};
  if (!o.forget) {
    for (int seq = 0; seq < 2; ++seq) s.Decode(Slice(text, 200 * seq, lengths[seq]), seq);
  }
  int step = 0;
  auto tokens = [&](int n) {
    for (int i = 0; i < n; ++i, ++step) {
      if (o.forget) llama_memory_clear(s.memory(), true);
      s.Decode({Slice(text, 100 + step, 1), Slice(text, 300 + step, 1)}, {0, 1});
      for (int seq = 0; seq < 2; ++seq) {
        s.Probe("token" + std::to_string(step) + "_" + std::to_string(seq), seq);
      }
    }
  };
  tokens(16);
  llama_memory_seq_rm(s.memory(), 0, -1, -1);
  llama_memory_seq_cp(s.memory(), 1, 0, -1, -1);
  tokens(4);
  if (llama_memory_can_shift(s.memory()) && !o.forget &&
      llama_memory_seq_rm(s.memory(), 0, 4, 20)) {
    llama_memory_seq_add(s.memory(), 0, 20, -1, -16);
  }
  tokens(4);
}

struct Scenario {
  const char* name;
  void (*run)(Run*);
};
constexpr Scenario kScenarios[] = {
    {"chat", Chat},
    {"copies", Copies},
    {"state", State},
    {"state_shifted", StateShifted},
    {"state_pages", StatePages},
    {"save", Save},
    {"lost", Lost},
    {"load_whole", LoadWhole},
    {"load_seq", LoadSeq},
    {"short", Short},
    {"memory", Memory},
    {"shape", Shape},
};

bool SetOption(Options* o, const std::string& key, const std::string& value) {
  const int number = std::atoi(value.c_str());
  if (key == "text")
    o->text = value;
  else if (key == "backends")
    o->backends = value;
  else if (key == "file")
    o->file = value;
  else if (key == "tokens")
    o->tokens = value;
  else if (key == "ctk")
    o->ctk = value;
  else if (key == "ctv")
    o->ctv = value;
  else if (key == "threads")
    o->threads = number;
  else if (key == "ub")
    o->ub = number;
  else if (key == "ctx")
    o->ctx = number;
  else if (key == "prompt")
    o->prompt = number;
  else if (key == "generate")
    o->generate = number;
  else if (key == "fa")
    o->fa = value == "on";
  else if (key == "nkvo")
    o->nkvo = value == "on";
  else if (key == "eval")
    o->eval = value == "on";
  else if (key == "unified")
    o->unified = value == "on";
  else if (key == "forget")
    o->forget = value == "on";
  else if (key == "poison")
    o->poison = number;
  else
    return false;
  return true;
}

// The text as tokens; of a model without vocabulary, tokens by a fixed rule.
bool ReadText(Run* run) {
  const llama_vocab* vocab = llama_model_get_vocab(run->model);
  if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
    const int n = llama_vocab_n_tokens(vocab);
    for (uint32_t i = 0, x = 1; i < 1000; ++i) {
      x = x * 1664525 + 1013904223;
      run->text.push_back(8 + static_cast<int>(x >> 16) % (n - 8));
    }
    if (run->options.poison >= 0) run->text[40] = run->options.poison;
    return true;
  }
  std::ifstream in(run->options.text);
  std::stringstream text;
  text << in.rdbuf();
  const std::string words = text.str();
  run->text.resize(words.size() + 16);
  const int n = llama_tokenize(vocab, words.data(), static_cast<int>(words.size()),
                               run->text.data(), static_cast<int>(run->text.size()), true, false);
  if (n < 600) {
    std::fprintf(stderr, "the text has %d tokens, too few\n", n);
    return false;
  }
  run->text.resize(n);
  return true;
}

int RunScenarios(int argc, char** argv) {
  Run run;
  std::vector<const Scenario*> scenarios;
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals != std::string::npos) {
      if (SetOption(&run.options, word.substr(0, equals), word.substr(equals + 1))) continue;
    } else {
      const size_t known = scenarios.size();
      for (const Scenario& s : kScenarios) {
        if (word == s.name) scenarios.push_back(&s);
      }
      if (scenarios.size() > known) continue;
    }
    std::fprintf(stderr, "unknown word %s\n", argv[i]);
    return 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  ggml_backend_load_all_from_path(run.options.backends.c_str());
  llama_backend_init();
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  run.model = llama_model_load_from_file(argv[2], params);
  if (run.model == nullptr) {
    std::fprintf(stderr, "model not loaded\n");
    return 5;
  }
  if (!ReadText(&run)) return 2;
  for (const Scenario* s : scenarios) s->run(&run);
  llama_model_free(run.model);
  llama_backend_free();
  if (!run.out.Write(argv[3])) {
    std::fprintf(stderr, "%s not written\n", argv[3]);
    return 2;
  }
  return run.failed == 0 ? 0 : 1;
}

int ComparePrint(const char* a_path, const char* b_path) {
  ProbeFile a, b;
  if (!a.Read(a_path) || !b.Read(b_path)) {
    std::fprintf(stderr, "probe file not readable\n");
    return 2;
  }
  for (const auto& [name, logits] : a.probes()) {
    const Logits* other = b.Find(name);
    if (other == nullptr) continue;
    const Difference d = Compare(logits, *other);
    std::printf("%s %s %.9g %.9g\n", name.c_str(), d.identical ? "bits" : "near", d.max_abs,
                d.finite ? d.kl : INFINITY);
  }
  return 0;
}

}  // namespace
}  // namespace turboquant::host_test

int main(int argc, char** argv) {
  using namespace turboquant::host_test;
  if (argc >= 4 && std::strcmp(argv[1], "run") == 0) return RunScenarios(argc, argv);
  if (argc == 4 && std::strcmp(argv[1], "compare") == 0) return ComparePrint(argv[2], argv[3]);
  std::fprintf(stderr,
               "usage: host_driver run MODEL OUT [key=value...] SCENARIO... | compare A B\n");
  return 2;
}
