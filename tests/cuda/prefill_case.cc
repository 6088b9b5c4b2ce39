#include "tests/cuda/prefill_case.h"

#include <algorithm>

namespace turboquant::cuda {
namespace {

void DrawValues(SplitMix64* random, size_t n, int dtype, float size, std::vector<uint8_t>* to) {
  to->resize(2 * n);
  for (size_t i = 0; i < n; ++i) {
    StoreAs(dtype, size * static_cast<float>(random->Normal()), to->data() + 2 * i);
  }
}

std::string Name(const char* before, int number, const std::string& after = "") {
  return std::string(before).append(std::to_string(number)).append(after);
}

}  // namespace

PrefillTensors DrawPrefill(const PrefillCase& c, const Rotation& k, const Rotation& v,
                           uint64_t seed) {
  PrefillTensors t;
  t.cache = DrawTensors(c.base, k, v, seed);
  FillRecords(c.base, &t.cache, k, v);
  for (const int n : c.chunk_len) t.chunk_tokens += n;
  SplitMix64 random(seed + 1);
  const size_t rows = static_cast<size_t>(t.chunk_tokens) * c.base.kv_heads * c.base.head_dim;
  DrawValues(&random, rows * c.base.group, c.base.dtype, c.base.query_size, &t.q);
  DrawValues(&random, rows, c.base.dtype, 1.0f, &t.chunk_k);
  DrawValues(&random, rows, c.base.dtype, 1.0f, &t.chunk_v);
  return t;
}

tq_cuda_prefill_params HostPrefill(const PrefillCase& c, const PrefillTensors& t) {
  const tq_cuda_attention a = HostAttention(c.base, t.cache);
  const int64_t d = c.base.head_dim, kv_heads = c.base.kv_heads;
  tq_cuda_prefill_params p{};
  p.cache = a.cache;
  p.batch = a.batch;
  p.group = a.group;
  p.chunk_len = c.chunk_len.data();
  p.coded_len = a.coded_len;
  p.exact_len = a.exact_len;
  p.prefix_len = a.total_len;
  p.coded_begin = a.coded_begin;
  p.dtype = c.base.dtype;
  p.q = t.q.data();
  p.q_head_stride = p.out_head_stride = d;
  p.q_token_stride = p.out_token_stride = d * kv_heads * c.base.group;
  p.chunk_k = t.chunk_k.data();
  p.chunk_v = t.chunk_v.data();
  p.chunk_head_stride = d;
  p.chunk_token_stride = d * kv_heads;
  p.exact = a.exact;
  p.exact_position = a.exact_position;
  p.exact_stride = a.exact_stride;
  p.out_dtype = c.out_dtype;
  p.scale = a.scale;
  p.softcap = a.softcap;
  p.window = a.window;
  p.sinks = a.sinks;
  p.scratch_bytes = c.scratch_bytes;
  return p;
}

std::vector<PrefillCase> PrefillCases(bool small) {
  std::vector<PrefillCase> cases;
  const int n = small ? 1 : 4;  // factor of the lengths
  const auto add = [&cases](const std::string& name, auto change) {
    PrefillCase c;
    c.base.name = std::string("prefill ").append(name);
    c.base.kv_heads = 2;
    change(c);
    cases.push_back(c);
  };
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    for (const int dtype : {TQ_CUDA_F16, TQ_CUDA_BF16}) {
      add(Name("d", d, dtype == TQ_CUDA_F16 ? " f16" : " bf16"), [&](PrefillCase& c) {
        c.base.head_dim = d, c.base.dtype = dtype, c.base.coded_len = {150 * n};
        c.chunk_len = {35 * n}, c.base.kv_heads = small ? 1 : 2;
      });
    }
    add(Name("d", d, " all features"), [&](PrefillCase& c) {
      c.base.head_dim = d, c.base.coded_len = {130 * n, 64}, c.chunk_len = {20 * n, 7 * n};
      c.base.tail = {33, 5}, c.base.sinks = 2, c.base.means = true, c.base.group = 3;
      c.base.softcap = 20.0f, c.base.window = 90 * n, c.base.sink_logits = true;
      c.scratch_bytes = 1;  // a page at a time
      c.base.kv_heads = small ? 1 : 2;
    });
  }
  for (const auto& [k, v] :
       std::vector<std::pair<int, int>>{{2, 2}, {3, 3}, {4, 3}, {8, 8}, {18, 20}, {19, 2}}) {
    add(Name("formats ", k, Name("/", v)), [&, k = k, v = v](auto& c) {
      c.base.k_format = k, c.base.v_format = v, c.base.coded_len = {100 * n};
      c.chunk_len = {9 * n}, c.base.kv_heads = 1, c.base.head_dim = small ? 64 : 128;
    });
  }
  add("ragged", [&](PrefillCase& c) {
    c.base.coded_len = {70 * n, 0, 1, 64, 200 * n, 63}, c.base.head_dim = 64;
    c.chunk_len = {3, 17 * n, 0, 1, 10 * n, 2}, c.scratch_bytes = size_t{300} * 64 * 20;
    c.base.tail = {0, 3, 4, 0, 1, 20};
  });
  add("nothing in front", [&](PrefillCase& c) {
    c.base.coded_len = {0, 0}, c.chunk_len = {70 * n, 5}, c.base.head_dim = 64;
  });
  add("exact rows in front alone", [&](PrefillCase& c) {
    c.base.coded_len = {0, 0}, c.base.tail = {9, 0}, c.chunk_len = {20 * n, 5};
    c.base.head_dim = 64;
  });
  for (const int group : {1, 5, 8}) {
    add(Name("group ", group), [&](PrefillCase& c) {
      c.base.group = group, c.base.head_dim = 64, c.base.kv_heads = 2;
      c.base.coded_len = {90 * n}, c.chunk_len = {30 * n};
    });
  }
  for (const int window : {1, 64, 100}) {
    add(Name("window ", window), [&](PrefillCase& c) {
      c.base.window = window, c.base.coded_len = {200 * n, 33}, c.base.tail = {20, 4};
      c.chunk_len = {40 * n, 50}, c.base.head_dim = 64, c.scratch_bytes = 1;
      c.base.kv_heads = 1;
    });
  }
  add("peaky", [&](PrefillCase& c) {
    c.base.query_size = 4.0f, c.base.coded_len = {300 * n}, c.chunk_len = {16 * n};
    c.base.kv_heads = 1, c.base.dtype = TQ_CUDA_F16;
  });
  add("page means", [&](PrefillCase& c) {
    c.base.means = true, c.base.common = 1.0f, c.base.coded_len = {300 * n};
    c.chunk_len = {16 * n}, c.base.kv_heads = 1;
  });
  add("attention sink", [&](PrefillCase& c) {
    c.base.sink_size = 14.0f, c.base.coded_len = {300 * n}, c.chunk_len = {16 * n};
    c.base.kv_heads = 1;
  });
  // Windows that may go to another kernel: all formats of keys, with means, in a batch, with the
  // part that a sliding window cuts left to ours, and several to a prefix.
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    add(Name("windows elsewhere d", d), [&](PrefillCase& c) {
      c.base.head_dim = d, c.base.coded_len = {1600}, c.chunk_len = {5 * n}, c.base.tail = {9};
      c.base.kv_heads = small ? 1 : 2, c.base.means = d != 96,
      c.base.common = d != 96 ? 1.0f : 0.0f;
      c.base.k_format = d == 64 ? TQ_CUDA_TURBO4 : d == 192 ? TQ_CUDA_TURBO8 : TQ_CUDA_TURBO3;
      c.dense_calls = 1;
    });
  }
  add("windows elsewhere ragged", [&](PrefillCase& c) {
    c.base.coded_len = {700, 100, 0, 1030}, c.chunk_len = {3, 4 * n, 2, 5 * n};
    c.base.means = true, c.base.kv_heads = 2, c.base.head_dim = 64;
    c.base.tail = {0, 3, 1, 2}, c.base.sinks = 2, c.dense_calls = 2;
  });
  add("windows elsewhere, sliding", [&](PrefillCase& c) {
    c.base.coded_len = {1000, 1100}, c.chunk_len = {30, 2}, c.base.window = 700;
    c.base.tail = {7, 0}, c.base.head_dim = 64, c.dense_calls = 2, c.base.means = true;
  });
  add("windows elsewhere, small scratch", [&](PrefillCase& c) {
    c.base.coded_len = {2900, 2400}, c.chunk_len = {3 * n, 2}, c.base.head_dim = 64;
    c.scratch_bytes = size_t{1400} * 2 * 64 * 4, c.base.sink_logits = true;
    c.base.tail = {3, 0}, c.dense_calls = 5;  // windows of 1024, 852 left, and 352 for ours
  });
  add("many sequences", [&](PrefillCase& c) {
    c.base.coded_len = std::vector<int>(70, 20), c.chunk_len = std::vector<int>(70, 2);
    c.base.kv_heads = 1, c.base.head_dim = 64, c.base.group = 1;
  });
  add("16-bit output", [&](PrefillCase& c) {
    c.out_dtype = TQ_CUDA_F16, c.base.head_dim = 64, c.base.coded_len = {50 * n};
    c.chunk_len = {20 * n};
  });
  return cases;
}

std::vector<int> SampleTokens(const PrefillCase& c, int most) {
  std::vector<int> tokens;
  int first = 0;
  for (const int n : c.chunk_len) {
    const int share = std::max(2, most / static_cast<int>(c.chunk_len.size()));
    const int step = std::max(1, n / share);
    for (int i = 0; i < n; i += step) tokens.push_back(first + i);
    if (n > 0 && (n - 1) % step != 0) tokens.push_back(first + n - 1);
    first += n;
  }
  return tokens;
}

}  // namespace turboquant::cuda
