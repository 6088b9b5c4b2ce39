#include "tests/cuda/cuda_case.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace turboquant::cuda {
namespace {

int TailOf(const CudaCase& c, size_t b) { return c.tail.empty() ? 0 : c.tail[b]; }

void DrawRows(const CudaCase& c, SplitMix64* random, size_t tokens, bool keys,
              std::vector<uint8_t>* rows) {
  const size_t width = static_cast<size_t>(c.kv_heads) * c.head_dim;
  const size_t bytes = DtypeBytes(c.dtype);
  std::vector<float> common(width);
  SplitMix64 shared(keys ? 77 : 78);
  for (float& x : common) x = c.common * static_cast<float>(shared.Normal());
  rows->resize(tokens * width * bytes);
  for (size_t t = 0; t < tokens; ++t) {
    const float size = static_cast<float>(std::exp(0.25 * random->Normal())) *
                       (keys && t == 0 ? c.sink_size : 1.0f);
    for (size_t i = 0; i < width; ++i) {
      const float x = size * static_cast<float>(random->Normal()) + common[i];
      StoreAs(c.dtype, x, rows->data() + (t * width + i) * bytes);
    }
  }
}

}  // namespace

CudaTensors DrawTensors(const CudaCase& c, const Rotation& k, const Rotation& v, uint64_t seed) {
  CudaTensors t;
  TileFormat kf{}, vf{};
  ParseTileFormat(c.k_format, &kf);
  ParseTileFormat(c.v_format, &vf);
  t.layout = MakeRecordLayout(kf, vf, c.head_dim);
  t.k_rotation = HostRotation(k);
  t.v_rotation = HostRotation(v);
  SplitMix64 random(seed);
  const size_t batch = c.coded_len.size();
  for (size_t b = 0; b < batch; ++b) {
    t.max_coded = std::max(t.max_coded, c.coded_len[b]);
    t.max_exact = std::max(t.max_exact, c.sinks + TailOf(c, b));
  }
  t.coded_len.assign(c.coded_len.begin(), c.coded_len.end());
  t.pages = std::max(1, (t.max_coded + kTileTokens - 1) / kTileTokens);
  DrawRows(c, &random, batch * static_cast<size_t>(t.max_coded), true, &t.k_rows);
  DrawRows(c, &random, batch * static_cast<size_t>(t.max_coded), false, &t.v_rows);

  // Pages in random order, each used once.
  t.page_table.resize(batch * static_cast<size_t>(t.pages));
  std::iota(t.page_table.begin(), t.page_table.end(), 0);
  for (size_t i = t.page_table.size(); i > 1; --i) {
    std::swap(t.page_table[i - 1], t.page_table[random.Next() % i]);
  }
  t.records.assign(
      t.page_table.size() * static_cast<size_t>(c.kv_heads) * static_cast<size_t>(t.layout.bytes),
      0xFF);

  if (c.means) {
    const size_t groups =
        static_cast<size_t>(t.max_coded + CudaTensors::kMeanTokens - 1) / CudaTensors::kMeanTokens;
    t.mean_table.resize(batch * groups);
    for (size_t i = 0; i < t.mean_table.size(); ++i) {
      t.mean_table[i] = i % 5 == 3 ? -1 : static_cast<int32_t>((i * 7) % t.mean_table.size());
    }
    t.means.resize(t.mean_table.size() * static_cast<size_t>(c.kv_heads) * c.head_dim);
    for (uint16_t& x : t.means) x = FloatToHalf(static_cast<float>(random.Normal()));
  }

  for (size_t b = 0; b < batch; ++b) {
    t.total_len.push_back(c.sinks + c.coded_len[b] + TailOf(c, b));
  }
  if (t.max_exact > 0) {
    CudaCase exact = c;
    if (c.dtype == TQ_CUDA_F32) exact.dtype = TQ_CUDA_BF16;
    DrawRows(exact, &random, batch * static_cast<size_t>(t.max_exact), true, &t.exact_k);
    DrawRows(exact, &random, batch * static_cast<size_t>(t.max_exact), false, &t.exact_v);
    t.exact_position.assign(batch * static_cast<size_t>(t.max_exact), 1 << 28);
    for (size_t b = 0; b < batch; ++b) {
      const int tail = TailOf(c, b);
      t.exact_len.push_back(c.sinks + tail);
      for (int i = 0; i < c.sinks + tail; ++i) {
        // Sinks first, then a ring of the newest rows, its oldest row in the middle.
        t.exact_position[b * static_cast<size_t>(t.max_exact) + static_cast<size_t>(i)] =
            i < c.sinks ? i : c.sinks + c.coded_len[b] + (i - c.sinks + tail / 3) % tail;
      }
    }
  }

  const size_t heads = static_cast<size_t>(c.kv_heads) * c.group;
  const size_t q_values = batch * static_cast<size_t>(c.q_len) * heads * c.head_dim;
  t.q.resize(q_values * DtypeBytes(c.dtype));
  for (size_t i = 0; i < q_values; ++i) {
    StoreAs(c.dtype, c.query_size * static_cast<float>(random.Normal()),
            t.q.data() + i * DtypeBytes(c.dtype));
  }
  if (c.tree) {
    for (size_t i = 0; i < batch * static_cast<size_t>(c.q_len); ++i) {
      const int query = static_cast<int>(i) % c.q_len;
      t.tree_mask.push_back((static_cast<uint32_t>(random.Next()) & ((1u << query) - 1u)) |
                            (1u << query));
    }
  }
  if (c.sink_logits) {
    for (size_t i = 0; i < heads; ++i) {
      t.sink_logits.push_back(static_cast<float>(random.Normal() + 2.0));
    }
  }
  return t;
}

void EncodeOnHost(const CudaCase& c, const CudaTensors& t, const Rotation& rotation,
                  bool value_side, int sequence, int token, int head, uint8_t* codes,
                  uint16_t* scale) {
  const int d = c.head_dim;
  const size_t width = static_cast<size_t>(c.kv_heads) * d;
  const std::vector<uint8_t>& rows = value_side ? t.v_rows : t.k_rows;
  const uint8_t* row =
      rows.data() + ((static_cast<size_t>(sequence) * t.max_coded + token) * width +
                     static_cast<size_t>(head) * d) *
                        DtypeBytes(c.dtype);
  std::vector<float> x(static_cast<size_t>(d));
  for (int i = 0; i < d; ++i) x[i] = LoadAs(c.dtype, row + i * DtypeBytes(c.dtype));
  if (!value_side && c.means) {
    const size_t groups = t.mean_table.size() / c.coded_len.size();
    const int mean = t.mean_table[sequence * groups + token / CudaTensors::kMeanTokens];
    for (int i = 0; mean >= 0 && i < d; ++i) {
      x[i] -= HalfToFloat(t.means[static_cast<size_t>(mean) * width + head * d + i]);
    }
  }
  Rotate(rotation.view(), x.data(), x.data());
  const TileFormat f = value_side ? t.layout.v : t.layout.k;
  if (f.trellis) {
    static TrellisScratch scratch;
    EncodeTrellisRow(Trellis(f.bits, TrellisMemory(f.bits)), ScaleRule::kLeastSquares, x.data(), d,
                     &scratch, codes, scale);
  } else {
    EncodeRotatedRow(f.bits, x.data(), d, codes, scale);
  }
}

void FillRecords(const CudaCase& c, CudaTensors* t, const Rotation& k, const Rotation& v) {
  uint8_t codes[kMaxTileHeadDim];
  uint16_t scale;
  for (int b = 0; b < static_cast<int>(c.coded_len.size()); ++b) {
    for (int token = 0; token < c.coded_len[static_cast<size_t>(b)]; ++token) {
      const size_t page = static_cast<size_t>(
          t->page_table[static_cast<size_t>(b * t->pages + token / kTileTokens)]);
      for (int head = 0; head < c.kv_heads; ++head) {
        uint8_t* record = t->records.data() + (page * c.kv_heads + head) * t->layout.bytes;
        for (const bool value_side : {false, true}) {
          EncodeOnHost(c, *t, value_side ? v : k, value_side, b, token, head, codes, &scale);
          StoreTileRow(t->layout, record, value_side, token % kTileTokens, codes, scale);
        }
      }
    }
  }
}

tq_cuda_attention HostAttention(const CudaCase& c, const CudaTensors& t) {
  tq_cuda_attention p{};
  const int64_t d = c.head_dim, heads = int64_t{c.kv_heads} * c.group;
  p.cache.k_format = c.k_format;
  p.cache.v_format = c.v_format;
  p.cache.head_dim = c.head_dim;
  p.cache.num_kv_heads = c.kv_heads;
  p.cache.records = const_cast<uint8_t*>(t.records.data());
  p.cache.page_table = t.page_table.data();
  p.cache.page_stride = t.pages;
  p.cache.k_rotation = t.k_rotation;
  p.cache.v_rotation = t.v_rotation;
  if (c.means) {
    p.cache.means = t.means.data();
    p.cache.mean_table = t.mean_table.data();
    p.cache.mean_stride = static_cast<int32_t>(t.mean_table.size() / c.coded_len.size());
    p.cache.mean_tokens = CudaTensors::kMeanTokens;
  }
  p.batch = static_cast<int32_t>(c.coded_len.size());
  p.group = c.group;
  p.q_len = c.q_len;
  p.q = t.q.data();
  p.q_dtype = c.dtype;
  p.q_head_stride = p.out_head_stride = d;
  p.q_token_stride = p.out_token_stride = heads * d;
  p.q_sequence_stride = p.out_sequence_stride = c.q_len * heads * d;
  p.out_dtype = TQ_CUDA_F32;
  p.coded_len = t.coded_len.data();
  p.total_len = t.total_len.data();
  p.coded_begin = c.sinks;
  if (t.max_exact > 0) {
    p.exact.k = t.exact_k.data();
    p.exact.v = t.exact_v.data();
    p.exact.dtype = c.dtype == TQ_CUDA_F32 ? TQ_CUDA_BF16 : c.dtype;
    p.exact.head_stride = d;
    p.exact.token_stride = c.kv_heads * d;
    p.exact.sequence_stride = t.max_exact * p.exact.token_stride;
    p.exact_len = t.exact_len.data();
    p.exact_position = t.exact_position.data();
    p.exact_stride = t.max_exact;
  }
  p.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  p.softcap = c.softcap;
  p.window = c.window;
  p.tree_mask = c.tree ? t.tree_mask.data() : nullptr;
  p.sinks = c.sink_logits ? t.sink_logits.data() : nullptr;
  return p;
}

tq_cuda_plan_request PlanRequest(const CudaCase& c, const CudaTensors& t,
                                 const tq_cuda_device& device) {
  tq_cuda_plan_request r{};
  r.k_format = c.k_format;
  r.v_format = c.v_format;
  r.head_dim = c.head_dim;
  r.num_kv_heads = c.kv_heads;
  r.batch = static_cast<int32_t>(c.coded_len.size());
  r.group = c.group;
  r.q_len = c.q_len;
  r.coded_len = t.coded_len.data();
  r.total_len = t.total_len.data();
  r.exact_len = t.max_exact > 0 ? t.exact_len.data() : nullptr;
  r.coded_begin = c.sinks;
  r.window = c.window;
  r.path = c.path;
  r.reproducible = 1;
  r.num_sms = device.num_sms;
  r.smem_per_block = device.smem_per_block;
  r.smem_per_sm = device.smem_per_sm;
  r.bytes_per_clock = device.bytes_per_clock;
  return r;
}

std::vector<CudaCase> ConformanceCases() {
  std::vector<CudaCase> cases;
  const auto add = [&cases](const std::string& name, auto change) {
    CudaCase c;
    c.name = name;
    change(c);
    cases.push_back(c);
  };
  const std::vector<std::pair<int, int>> fast = {{4, 4}, {3, 3}, {2, 2}, {4, 3}, {8, 8}, {8, 4}};
  for (const auto& [k, v] : fast) {
    for (const int d : {64, 128, 256}) {
      const std::string name =
          "turbo" + std::to_string(k) + "/" + std::to_string(v) + " d" + std::to_string(d);
      add(name, [&](CudaCase& c) { c.k_format = k, c.v_format = v, c.head_dim = d; });
      add(name + " all features", [&](CudaCase& c) {
        c.k_format = k, c.v_format = v, c.head_dim = d;
        c.coded_len = {700, 64, 0, 1333};
        c.tail = {40, 17, 3, 128};
        c.sinks = 4, c.softcap = 20.0f, c.sink_logits = true, c.means = true, c.common = 0.5f;
        c.q_len = 3, c.group = 2;
      });
      add(name + " many rows", [&](CudaCase& c) {
        c.k_format = k, c.v_format = v, c.head_dim = d;
        c.group = 8, c.q_len = 2, c.coded_len = {513, 100}, c.tail = {30, 30};
      });
    }
  }
  for (const auto& [k, v] : std::vector<std::pair<int, int>>{
           {2, 4}, {3, 4}, {4, 2}, {3, 2}, {8, 3}, {4, 8}, {18, 18}, {19, 19}, {20, 20}, {20, 3}}) {
    add("formats " + std::to_string(k) + "/" + std::to_string(v),
        [&, k = k, v = v](CudaCase& c) { c.k_format = k, c.v_format = v, c.coded_len = {333}; });
  }
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    for (const auto& [k, v] : std::vector<std::pair<int, int>>{{4, 4},
                                                               {4, 3},
                                                               {3, 3},
                                                               {2, 2},
                                                               {8, 8},
                                                               {8, 3},
                                                               {20, 20},
                                                               {20, 19},
                                                               {19, 19},
                                                               {18, 18}}) {
      if (k < 16 && (d == 64 || d == 128 || d == 256)) continue;
      add("rows " + std::to_string(k) + "/" + std::to_string(v) + " d" + std::to_string(d),
          [&](CudaCase& c) {
            c.k_format = k, c.v_format = v, c.head_dim = d, c.coded_len = {700, 64, 0, 333};
            c.tail = {40, 17, 3, 128}, c.sinks = 4, c.means = true, c.q_len = 2, c.group = 3;
          });
    }
  }
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    for (const int format : {3, 4}) {
      add("pair path d" + std::to_string(d) + " turbo" + std::to_string(format), [&](CudaCase& c) {
        c.head_dim = d, c.k_format = c.v_format = format, c.path = TQ_CUDA_PATH_PAIR;
        c.coded_len = {450, 77}, c.tail = {33, 5}, c.sinks = 2, c.means = true;
        c.q_len = 2, c.group = 5;
      });
    }
  }
  for (const int group : {1, 2, 3, 4, 6, 7, 8, 12, 16}) {
    add("group " + std::to_string(group), [&](CudaCase& c) { c.group = group; });
  }
  for (const int d : {64, 128, 256}) {
    add("16 rows d" + std::to_string(d), [&](CudaCase& c) {
      c.head_dim = d, c.q_len = 4, c.coded_len = {1000, 140}, c.tail = {9, 30}, c.means = d == 128;
    });
  }
  add("MQA 16", [](CudaCase& c) { c.group = 16, c.kv_heads = 1, c.coded_len = {2000}; });
  for (const int n : {1, 4, 16}) {
    add("causal q_len " + std::to_string(n), [&](CudaCase& c) {
      c.q_len = n, c.coded_len = {257, 40};
    });
    add("tree q_len " + std::to_string(n), [&](CudaCase& c) {
      c.q_len = n, c.tree = true, c.coded_len = {257, 40}, c.tail = {24, 17};
    });
  }
  add("tree at the end of a page", [](CudaCase& c) {
    c.q_len = 4, c.tree = true, c.coded_len = {64, 128}, c.tail = {3, 3};
  });
  for (const int window : {1, 64, 100, 500}) {
    add("window " + std::to_string(window), [&](CudaCase& c) {
      c.window = window, c.coded_len = {1000, 77, 512}, c.tail = {20, 20, 20}, c.q_len = 2;
    });
  }
  add("softcap", [](CudaCase& c) { c.softcap = 5.0f, c.query_size = 4.0f; });
  add("sink logits", [](CudaCase& c) { c.sink_logits = true; });
  add("page means", [](CudaCase& c) { c.means = true, c.common = 1.0f; });
  add("peaky", [](CudaCase& c) { c.query_size = 4.0f, c.common = 0.5f, c.coded_len = {2000}; });
  add("peaky 3 bits",
      [](CudaCase& c) { c.query_size = 4.0f, c.k_format = c.v_format = 3, c.coded_len = {2000}; });
  add("attention sink", [](CudaCase& c) { c.sink_size = 14.0f, c.coded_len = {2000}; });
  add("ragged", [](CudaCase& c) { c.coded_len = {1, 63, 64, 65, 1999, 5, 640, 0}; });
  add("many sequences",
      [](CudaCase& c) { c.coded_len = std::vector<int>(70, 128), c.kv_heads = 4; });
  add("many splits", [](CudaCase& c) { c.coded_len = {8192}, c.kv_heads = 1; });
  add("one token", [](CudaCase& c) { c.coded_len = {1}; });
  add("nothing coded", [](CudaCase& c) { c.coded_len = {0}, c.tail = {7}; });
  add("long exact", [](CudaCase& c) { c.tail = {600}; });
  add("f16 rows", [](CudaCase& c) { c.dtype = TQ_CUDA_F16, c.tail = {20}; });
  add("f32 rows", [](CudaCase& c) { c.dtype = TQ_CUDA_F32, c.tail = {20}; });
  return cases;
}

}  // namespace turboquant::cuda
