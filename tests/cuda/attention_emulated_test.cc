// The int8 attention kernel and the encode kernels themselves, run on the host: every configuration
// against the double reference, codes bit for bit against the scalar truth.
#include <gtest/gtest.h>

#include <cmath>

#include "cuda_emulation.h"
#include "kernels/cuda/append_rows.cuh"
#include "kernels/cuda/attention_int8_launch.cuh"
#include "kernels/cuda/attention_pair.cuh"
#include "kernels/cuda/attention_reference.h"
#include "kernels/cuda/encode_pages.cuh"
#include "kernels/cuda/encode_rows.cuh"
#include "kernels/cuda/encode_trellis.cuh"
#include "tests/cuda/cuda_case.h"

namespace turboquant::cuda {

void PrintTo(const CudaCase& c, std::ostream* to) { *to << c.name; }

namespace {

constexpr tq_cuda_device kDevice{8, 227 * 1024, 228 * 1024, 90, 13};

struct Emulated {
  explicit Emulated(const CudaCase& c)
      : shape(c), k(c.head_dim, 11), v(c.head_dim, 12), tensors(DrawTensors(c, k, v, 5)) {
    FillRecords(c, &tensors, k, v);
    params = HostAttention(c, tensors);
    rows = static_cast<size_t>(params.batch) * c.q_len * c.kv_heads * c.group;
    out.resize(rows * static_cast<size_t>(c.head_dim));
    lse.resize(rows);
    params.out = out.data();
    params.lse = lse.data();
  }

  // Worst relative error of a row; infinite for NaN and where the launch hangs.
  double Run(const AttentionPlan& plan, void* workspace, const ReferenceOutput& want) {
    std::fill(out.begin(), out.end(), NAN);
    const AttentionArgs args =
        MakeAttentionArgs(plan.plan, params, plan.items.data(), workspace, tensors.layout);
    const dim3 grid = AttentionGrid(args);
    cudaError_t error = cudaErrorInvalidValue;
    WithHeadDim(shape.head_dim, [&](auto dim) {
      if (plan.plan.path == TQ_CUDA_PATH_PAIR) {
        error = LaunchPairDim<dim.value>(args, grid, nullptr);
        return;
      }
      if (tensors.layout.k.bits == 8) {
        error = LaunchInt8BytesDim<dim.value>(args, grid, nullptr);
        return;
      }
      if (IsRarePair(shape.k_format, shape.v_format)) {
        error = LaunchInt8RareDim<dim.value>(args, grid, nullptr);
        return;
      }
      error = tensors.layout.k.trellis ? LaunchInt8Dim<dim.value, true>(args, grid, nullptr)
                                       : LaunchInt8Dim<dim.value, false>(args, grid, nullptr);
    });
    if (error != cudaSuccess) return INFINITY;
    const size_t d = static_cast<size_t>(shape.head_dim);
    double worst = 0;
    for (size_t row = 0; row < rows; ++row) {
      double sum = 0, norm = 0;
      for (size_t i = row * d; i < (row + 1) * d; ++i) {
        sum += (out[i] - want.out[i]) * (out[i] - want.out[i]);
        norm += want.out[i] * want.out[i];
      }
      const double e = norm > 0 ? std::sqrt(sum / norm) : std::sqrt(sum);
      worst = e >= worst ? e : std::isnan(e) ? INFINITY : worst;
      const double l = want.lse[row];
      const double off = std::isinf(l) ? (lse[row] == l ? 0 : INFINITY)
                                       : std::fabs(lse[row] - l) / std::max(1.0, std::fabs(l));
      worst = off >= worst ? off : std::isnan(off) ? INFINITY : worst;
    }
    return worst;
  }

  CudaCase shape;
  Rotation k, v;
  CudaTensors tensors;
  tq_cuda_attention params;
  size_t rows = 0;
  std::vector<float> out, lse;
};

class AttentionEmulated : public ::testing::TestWithParam<CudaCase> {};

TEST_P(AttentionEmulated, EveryConfigurationAgreesWithTheDoubleReference) {
  Emulated e(GetParam());
  const ReferenceOutput want = AttendReference(e.params);
  const tq_cuda_plan_request request = PlanRequest(GetParam(), e.tensors, kDevice);
  ASSERT_EQ(WhyUnsupported(request), "");
  AttentionPlan plan = PlanAttention(request);
  ASSERT_EQ(plan.plan.path, TQ_CUDA_PATH_INT8);
  // One workspace for all: each run must leave its tickets as the next wants them.
  std::vector<float4> workspace(plan.plan.workspace_bytes / sizeof(float4) + 1, float4{0, 0, 0, 0});
  EXPECT_LE(e.Run(plan, workspace.data(), want), 1e-3);
  for (int config = 0; config < kInt8Configs; ++config) {
    for (const int dynamic : {0, 1}) {
      plan.plan.config = config;
      plan.plan.dynamic = dynamic;
      EXPECT_LE(e.Run(plan, workspace.data(), want), 1e-3) << config << " " << dynamic;
    }
  }
}

std::vector<CudaCase> SmallCases() {
  std::vector<CudaCase> cases;
  const auto add = [&cases](const std::string& name, auto change) {
    CudaCase c;
    c.name = name;
    change(c);
    cases.push_back(c);
  };
  for (const auto& [k, v] :
       std::vector<std::pair<int, int>>{{4, 4}, {3, 3}, {2, 2}, {4, 3}, {4, 2}, {3, 2}, {3, 4}}) {
    add("k" + std::to_string(k) + "_v" + std::to_string(v), [k = k, v = v](CudaCase& c) {
      c.k_format = k, c.v_format = v, c.coded_len = {1500, 1470};
    });
  }
  for (const int d : {80, 96, 192, 256}) {
    for (const auto& [k, v] : std::vector<std::pair<int, int>>{{4, 3}, {3, 3}, {2, 2}, {4, 4}}) {
      add("d" + std::to_string(d) + "_k" + std::to_string(k) + "_v" + std::to_string(v),
          [d, k = k, v = v](CudaCase& c) {
            c.head_dim = d, c.k_format = k, c.v_format = v, c.coded_len = {300, 77}, c.kv_heads = 1;
          });
    }
  }
  for (const int d : {64, 96, 128, 256}) {
    for (const auto& [k, v] : std::vector<std::pair<int, int>>{{20, 19}, {20, 20}, {18, 18}}) {
      if (v != 19 && d != 128 && d != 96) continue;
      add("d" + std::to_string(d) + "_trellis_k" + std::to_string(k) + "_v" + std::to_string(v),
          [d, k = k, v = v](CudaCase& c) {
            c.head_dim = d, c.k_format = k, c.v_format = v, c.coded_len = {300, 77}, c.kv_heads = 1;
          });
    }
  }
  for (const int d : {80, 96, 192, 256}) {
    add("d" + std::to_string(d) + "_all_features", [d](CudaCase& c) {
      c.head_dim = d, c.coded_len = {200, 64, 0}, c.tail = {40, 17, 3}, c.sinks = 4;
      c.softcap = 20.0f, c.sink_logits = true, c.means = true, c.common = 0.5f, c.q_len = 3;
      c.group = 2, c.k_format = c.v_format = 3, c.kv_heads = 1;
    });
    add("d" + std::to_string(d) + "_f32", [d](CudaCase& c) {
      c.head_dim = d, c.dtype = TQ_CUDA_F32, c.coded_len = {130}, c.tail = {20}, c.kv_heads = 1;
    });
  }
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    for (const int v : {8, 4, 3}) {
      add("d" + std::to_string(d) + "_k8_v" + std::to_string(v), [d, v](CudaCase& c) {
        c.head_dim = d, c.k_format = 8, c.v_format = v, c.coded_len = {700, 77}, c.kv_heads = 1;
      });
    }
    add("d" + std::to_string(d) + "_k8_all_features", [d](CudaCase& c) {
      c.head_dim = d, c.coded_len = {200, 64, 0}, c.tail = {40, 17, 3}, c.sinks = 4;
      c.softcap = 20.0f, c.sink_logits = true, c.means = true, c.common = 0.5f, c.q_len = 3;
      c.group = 2, c.k_format = c.v_format = 8, c.kv_heads = 1;
    });
  }
  add("rows8_k8", [](CudaCase& c) { c.group = 7, c.kv_heads = 1, c.k_format = c.v_format = 8; });
  add("window_k8", [](CudaCase& c) {
    c.window = 100, c.coded_len = {1000, 77}, c.q_len = 2, c.k_format = 8, c.v_format = 4;
  });
  add("d64", [](CudaCase& c) { c.head_dim = 64, c.coded_len = {1000}; });
  add("equal_lengths", [](CudaCase& c) { c.coded_len = {1984, 1984}; });
  add("equal_lengths_and_tail", [](CudaCase& c) { c.coded_len = {960, 960}, c.tail = {33, 33}; });
  add("many_rows", [](CudaCase& c) {
    c.group = 8, c.q_len = 2, c.coded_len = {513, 100}, c.tail = {30, 30};
  });
  for (const int d : {64, 128}) {
    for (const int bits : {2, 3, 4}) {
      add("rows16_d" + std::to_string(d) + "_turbo" + std::to_string(bits), [=](CudaCase& c) {
        c.head_dim = d, c.k_format = c.v_format = bits, c.group = 4, c.q_len = 4;
        c.coded_len = {513, 100}, c.tail = {30, 30}, c.kv_heads = 1, c.means = bits == 3;
      });
    }
  }
  add("rows8_trellis", [](CudaCase& c) {
    c.group = 7, c.kv_heads = 1, c.k_format = TQ_CUDA_TURBO4T, c.v_format = TQ_CUDA_TURBO3T;
  });
  add("rows8_d256", [](CudaCase& c) { c.head_dim = 256, c.group = 7, c.kv_heads = 1; });
  add("rows24", [](CudaCase& c) { c.group = 12, c.q_len = 2, c.kv_heads = 1; });
  add("all_features", [](CudaCase& c) {
    c.coded_len = {700, 64, 0, 333}, c.tail = {40, 17, 3, 128}, c.sinks = 4, c.softcap = 20.0f;
    c.sink_logits = true, c.means = true, c.common = 0.5f, c.q_len = 3, c.group = 2;
  });
  add("window", [](CudaCase& c) { c.window = 100, c.coded_len = {1000, 77}, c.q_len = 2; });
  add("nothing_coded", [](CudaCase& c) { c.coded_len = {0}, c.tail = {7}; });
  add("f32_queries", [](CudaCase& c) { c.dtype = TQ_CUDA_F32; });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, AttentionEmulated, ::testing::ValuesIn(SmallCases()),
                         [](const auto& info) { return info.param.name; });

class PairEmulated : public ::testing::TestWithParam<CudaCase> {};

TEST_P(PairEmulated, AgreesWithTheDoubleReference) {
  Emulated e(GetParam());
  const AttentionPlan plan = PlanAttention(PlanRequest(GetParam(), e.tensors, kDevice));
  ASSERT_EQ(plan.plan.path, TQ_CUDA_PATH_PAIR);
  std::vector<float4> workspace(plan.plan.workspace_bytes / sizeof(float4) + 1, float4{0, 0, 0, 0});
  EXPECT_LE(e.Run(plan, workspace.data(), AttendReference(e.params)), 1e-3);
}

std::vector<CudaCase> PairCases() {
  std::vector<CudaCase> cases;
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    for (const auto& [k, v] : std::vector<std::pair<int, int>>{
             {8, 8}, {3, 4}, {2, 3}, {4, 20}, {18, 8}, {8, 19}, {4, 4}}) {
      if (d != 128 && (k == 8) != (v == 8)) continue;
      CudaCase c;
      c.name = "d" + std::to_string(d) + "_k" + std::to_string(k) + "_v" + std::to_string(v);
      c.head_dim = d, c.k_format = k, c.v_format = v, c.path = TQ_CUDA_PATH_PAIR;
      c.coded_len = {200, 64}, c.tail = {70, 3}, c.sinks = 2, c.means = true, c.q_len = 2;
      c.group = 5, c.kv_heads = 1;
      cases.push_back(c);
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, PairEmulated, ::testing::ValuesIn(PairCases()),
                         [](const auto& info) { return info.param.name; });

class EncodeEmulated : public ::testing::TestWithParam<CudaCase> {};

enum class Encoder { kPages, kRows, kAppend };

// Coded rows [first, first + n) of every sequence.
void EncodeSome(const CudaCase& c, const CudaTensors& t, tq_cuda_cache cache, int first, int n,
                Encoder encoder) {
  std::vector<int32_t> first_token, num_rows;
  for (const int len : c.coded_len) {
    first_token.push_back(std::min(first, len));
    num_rows.push_back(std::clamp(len - first, 0, n));
  }
  const size_t row_bytes = static_cast<size_t>(c.kv_heads) * c.head_dim * DtypeBytes(c.dtype);
  tq_cuda_encode_params p{};
  p.cache = cache;
  p.batch = static_cast<int32_t>(c.coded_len.size());
  p.rows.k = t.k_rows.data() + static_cast<size_t>(first) * row_bytes;
  p.rows.v = t.v_rows.data() + static_cast<size_t>(first) * row_bytes;
  p.rows.dtype = c.dtype;
  p.rows.head_stride = c.head_dim;
  p.rows.token_stride = int64_t{c.kv_heads} * c.head_dim;
  p.rows.sequence_stride = p.rows.token_stride * t.max_coded;
  p.first_token = first_token.data();
  p.num_rows = num_rows.data();
  p.max_rows = n;
  WithHeadDim(c.head_dim, [&](auto dim) {
    if constexpr (dim.value == 64 || dim.value == 128 || dim.value == 256) {
      if (encoder == Encoder::kAppend) {
        const AppendArgs args{p, t.layout};
        ASSERT_TRUE(emulation::Launch(AppendGrid(p), 32 * kAppendWarps, 0,
                                      [&] { AppendRows<dim.value>(args); }));
        return;
      }
    }
    if constexpr (dim.value == 64 || dim.value == 128 || dim.value == 256) {
      if (encoder == Encoder::kRows) {
        constexpr int kSms = 1;
        const EncodeRowsArgs args = MakeEncodeRowsArgs(p, t.layout);
        ASSERT_EQ(LaunchEncodeRows<dim.value>(args, kSms, nullptr), cudaSuccess);
        return;
      }
    }
    const EncodeArgs args{p, t.layout};
    if (t.layout.k.trellis || t.layout.v.trellis) {
      ASSERT_EQ(LaunchTrellisPages<dim.value>(args, nullptr), cudaSuccess);
    }
    ASSERT_TRUE(emulation::Launch(EncodeGrid(p), EncodeShape<dim.value>::kThreads, 0,
                                  [&] { EncodePages<dim.value>(args); }));
  });
}

// Fills a page with codes of 8 bits, so that the next launch finds garbage in shared memory, as on
// a GPU.
void LeaveGarbage(const CudaCase& c, const Rotation& k, const Rotation& v) {
  CudaCase other = c;
  other.k_format = other.v_format = 8, other.coded_len = {kTileTokens}, other.means = false;
  CudaTensors t = DrawTensors(other, k, v, 6);
  tq_cuda_cache cache = HostAttention(other, t).cache;
  cache.records = t.records.data();
  EncodeSome(other, t, cache, 0, kTileTokens, Encoder::kPages);
}

// Codes everything, chunks by `chunks`, and compares with the scalar truth.
void ExpectTruth(const CudaCase& c, Encoder chunks) {
  const Rotation k(c.head_dim, 11), v(c.head_dim, 12);
  LeaveGarbage(c, k, v);
  CudaTensors t = DrawTensors(c, k, v, 5);
  // Rows that are special: zeros, one value, and much too large.
  const size_t width = static_cast<size_t>(c.kv_heads) * c.head_dim * DtypeBytes(c.dtype);
  std::fill_n(t.k_rows.begin() + static_cast<int64_t>(3 * width), width, uint8_t{0});
  std::fill_n(t.v_rows.begin() + static_cast<int64_t>(5 * width), width, uint8_t{0});
  StoreAs(c.dtype, 2.0f, &t.v_rows[5 * width]);
  StoreAs(c.dtype, INFINITY, &t.k_rows[7 * width]);
  // A row that is one value when rotated, the largest that there can be beside its norm.
  for (size_t i = 0; i < width / DtypeBytes(c.dtype); ++i) {
    const size_t dim = i % static_cast<size_t>(c.head_dim);
    const bool negative = (t.v_rotation.negative[dim / 32] >> (dim % 32) & 1u) != 0;
    StoreAs(c.dtype, negative ? -2.0f : 2.0f, &t.v_rows[9 * width + i * DtypeBytes(c.dtype)]);
  }
  FillRecords(c, &t, k, v);
  const std::vector<uint8_t> want = t.records;
  std::fill(t.records.begin(), t.records.end(), uint8_t{0});
  tq_cuda_cache cache = HostAttention(c, t).cache;
  cache.records = t.records.data();
  const bool fragments = OrderOf(t.layout.k, c.head_dim) == TileOrder::kFragment &&
                         OrderOf(t.layout.v, c.head_dim) == TileOrder::kFragment;
  const Encoder single = fragments ? Encoder::kAppend : chunks;
  // Chunks, the first of which leaves whole warps without a row; single tokens over the border of a
  // page; the rest.
  EncodeSome(c, t, cache, 0, 36, chunks);
  EncodeSome(c, t, cache, 36, 24, chunks);
  for (int i = 60; i < 70; ++i) EncodeSome(c, t, cache, i, 1, single);
  EncodeSome(c, t, cache, 70, t.max_coded - 70, chunks);
  int wrong = 0;
  uint8_t got_codes[kMaxTileHeadDim], want_codes[kMaxTileHeadDim];
  for (int b = 0; b < static_cast<int>(c.coded_len.size()); ++b) {
    for (int token = 0; token < c.coded_len[static_cast<size_t>(b)]; ++token) {
      const int page = t.page_table[static_cast<size_t>(b * t.pages + token / kTileTokens)];
      for (int head = 0; head < c.kv_heads; ++head) {
        const size_t at = (static_cast<size_t>(page) * c.kv_heads + head) * t.layout.bytes;
        for (const bool value_side : {false, true}) {
          uint16_t got_scale, want_scale;
          LoadTileRow(t.layout, t.records.data() + at, value_side, token % kTileTokens, got_codes,
                      &got_scale);
          LoadTileRow(t.layout, want.data() + at, value_side, token % kTileTokens, want_codes,
                      &want_scale);
          const int bits = value_side ? t.layout.v.bits : t.layout.k.bits;
          const bool same =
              got_scale == want_scale &&
              std::memcmp(got_codes, want_codes, static_cast<size_t>(bits * c.head_dim / 8)) == 0;
          if (!same && wrong++ < 3) {
            ADD_FAILURE() << "sequence " << b << " token " << token << " head " << head
                          << (value_side ? " value" : " key");
          }
        }
      }
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST_P(EncodeEmulated, BytesAreThoseOfTheScalarTruth) { ExpectTruth(GetParam(), Encoder::kPages); }

class EncodeRowsEmulated : public ::testing::TestWithParam<CudaCase> {};

TEST_P(EncodeRowsEmulated, BytesAreThoseOfTheScalarTruth) {
  ExpectTruth(GetParam(), Encoder::kRows);
}

std::vector<CudaCase> EncodeCases() {
  std::vector<CudaCase> cases;
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const int dtype : {TQ_CUDA_BF16, TQ_CUDA_F32}) {
        CudaCase c;
        c.head_dim = d, c.k_format = c.v_format = bits, c.dtype = dtype;
        c.coded_len = {150, 67};
        c.means = bits == 3;
        c.name = "d" + std::to_string(d) + "_turbo" + std::to_string(bits) +
                 (dtype == TQ_CUDA_F32 ? "_f32" : "");
        cases.push_back(c);
      }
    }
  }
  for (const int d : {64, 80, 128, 256}) {
    for (const auto& [k, v] : std::vector<std::pair<int, int>>{{18, 20}, {19, 3}}) {
      CudaCase c;
      c.head_dim = d, c.k_format = k, c.v_format = v, c.coded_len = {90, 67}, c.means = v == 3;
      c.name = "d" + std::to_string(d) + "_formats" + std::to_string(k) + "_" + std::to_string(v);
      cases.push_back(c);
    }
  }
  CudaCase mixed;
  mixed.k_format = 4, mixed.v_format = 3, mixed.dtype = TQ_CUDA_F16, mixed.coded_len = {150, 67};
  mixed.name = "mixed_f16";
  cases.push_back(mixed);
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, EncodeEmulated, ::testing::ValuesIn(EncodeCases()),
                         [](const auto& info) { return info.param.name; });

// Those that encode_rows.cuh serves.
std::vector<CudaCase> EncodeRowsCases() {
  std::vector<CudaCase> cases;
  for (const CudaCase& c : EncodeCases()) {
    tq_cuda_encode_params p{};
    p.rows.dtype = c.dtype;
    TileFormat k, v;
    if (!ParseTileFormat(c.k_format, &k) || !ParseTileFormat(c.v_format, &v)) continue;
    if (EncodeRowsServes(p, MakeRecordLayout(k, v, c.head_dim))) cases.push_back(c);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, EncodeRowsEmulated, ::testing::ValuesIn(EncodeRowsCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace turboquant::cuda
