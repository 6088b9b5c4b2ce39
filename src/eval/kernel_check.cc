#include "eval/kernel_check.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "eval/f16_contender.h"
#include "math/rotation.h"

namespace turboquant {
namespace {

constexpr int kRows = 256;

std::string Where(const KernelTable& table, std::string_view format, int head_dim) {
  return std::string(table.name) + ", " + std::string(format) + ", d=" + std::to_string(head_dim);
}

Status Wrong(const std::string& kernel, const std::string& where, const std::string& how) {
  return {StatusCode::kInternal, kernel + " (" + where + ") is wrong: " + how +
                                     "; nothing was timed. Please report this with the name of "
                                     "your processor."};
}

Status CheckError(const std::string& kernel, const std::string& where, double error, double bound) {
  if (error <= bound) return OkStatus();  // NaN fails
  return Wrong(kernel, where,
               "relative error " + std::to_string(error) + " against double, allowed " +
                   std::to_string(bound));
}

std::vector<float> RandomFloats(SplitMix64* random, size_t n) {
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random->Normal());
  return x;
}

std::vector<float> RandomWeights(SplitMix64* random, size_t n) {
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random->Uniform());
  return x;
}

// Rows, queries and weights of one check, and what double makes of them.
struct Problem {
  int d;
  int group;
  std::vector<float> rows;  // [kRows][d], as decoded
  std::vector<float> q;     // [group][d]
  std::vector<float> p;     // [group][kRows]

  double ScoreError(const std::vector<float>& got) const {
    double error = 0;
    double norm = 0;
    for (int r = 0; r < group; ++r) {
      for (int j = 0; j < kRows; ++j) {
        double sum = 0;
        for (int i = 0; i < d; ++i) sum += static_cast<double>(q[r * d + i]) * rows[j * d + i];
        const double off = got[r * kRows + j] - sum;
        error += off * off;
        norm += sum * sum;
      }
    }
    return std::sqrt(error / norm);
  }

  double SumError(const std::vector<float>& got) const {
    double error = 0;
    double norm = 0;
    for (int r = 0; r < group; ++r) {
      for (int i = 0; i < d; ++i) {
        double sum = 0;
        for (int j = 0; j < kRows; ++j) {
          sum += static_cast<double>(p[r * kRows + j]) * rows[j * d + i];
        }
        const double off = got[r * d + i] - sum;
        error += off * off;
        norm += sum * sum;
      }
    }
    return std::sqrt(error / norm);
  }
};

}  // namespace

Result<KernelErrors> CheckKernels(const KernelTable& table, Format format, int head_dim, int group,
                                  uint64_t seed) {
  const std::string where = Where(table, FormatName(format), head_dim);
  const int bits = IndexBits(format);
  const int d = head_dim;
  const size_t code_bytes = CodeBytes(format, d);
  const Rotation rotation(d, seed);
  const KernelTable& truth = ScalarKernels();
  SplitMix64 random(seed);
  const std::vector<float> x = RandomFloats(&random, static_cast<size_t>(kRows) * d);
  const std::vector<float> mean = RandomFloats(&random, d);

  std::vector<uint8_t> codes(kRows * code_bytes);
  std::vector<uint16_t> scales(kRows);
  std::vector<uint8_t> true_codes(code_bytes);
  for (int j = 0; j < kRows; ++j) {
    uint16_t true_scale = 0;
    const float* m = j % 2 == 0 ? nullptr : mean.data();
    uint8_t* row = codes.data() + j * code_bytes;
    table.encode(bits, rotation.view(), x.data() + j * d, m, row, &scales[j]);
    truth.encode(bits, rotation.view(), x.data() + j * d, m, true_codes.data(), &true_scale);
    if (std::memcmp(row, true_codes.data(), code_bytes) != 0 || scales[j] != true_scale) {
      return Wrong("encode", where, "other bytes than the scalar table's");
    }
  }

  Problem problem{d, group, {}, {}, {}};
  problem.rows.resize(static_cast<size_t>(kRows) * d);
  std::vector<float> decoded(problem.rows.size());
  const CodedRows coded = {bits, d, codes.data(), scales.data()};
  truth.decode(coded, kRows, problem.rows.data());
  table.decode(coded, kRows, decoded.data());
  if (std::memcmp(decoded.data(), problem.rows.data(), decoded.size() * sizeof(float)) != 0) {
    return Wrong("decode", where, "other values than the scalar table's");
  }

  problem.q = RandomFloats(&random, static_cast<size_t>(group) * d);
  problem.p = RandomWeights(&random, static_cast<size_t>(group) * kRows);
  std::vector<uint8_t> tiles(TilesBytes(code_bytes, kRows) + 64);
  std::vector<uint8_t> prepared_memory(group * PreparedQueryBytes(d) + 64);
  const auto aligned = [](std::vector<uint8_t>& memory) {
    return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) &
                                      ~uintptr_t{63});
  };
  uint8_t* prepared = aligned(prepared_memory);
  table.prepare_queries(problem.q.data(), d, group, prepared);
  const auto fill = [&](TileForm form) {
    for (int j = 0; j < kRows; ++j) {
      StoreTileRow(form, code_bytes, j, codes.data() + j * code_bytes, aligned(tiles));
    }
    return CodedTiles{format, d, aligned(tiles), scales.data(), 0, form};
  };

  KernelErrors errors;
  std::vector<float> scores(static_cast<size_t>(group) * kRows);
  table.coded_scores(fill(TileForm::kKeys), prepared, group, kRows, scores.data(), kRows);
  errors.scores = problem.ScoreError(scores);
  if (Status s = CheckError("coded_scores", where, errors.scores, kKernelErrorBound); !s.ok()) {
    return s;
  }
  std::vector<float> sums(static_cast<size_t>(group) * d, 0.0f);
  table.coded_accumulate(fill(TileForm::kValues), problem.p.data(), kRows, group, kRows,
                         sums.data());
  errors.sums = problem.SumError(sums);
  if (Status s = CheckError("coded_accumulate", where, errors.sums, kKernelErrorBound); !s.ok()) {
    return s;
  }
  return errors;
}

Result<KernelErrors> CheckF16Kernels(const KernelTable& table, int head_dim, int group,
                                     uint64_t seed) {
  const std::string where = Where(table, "f16", head_dim);
  const int d = head_dim;
  SplitMix64 random(seed);
  const std::vector<float> x = RandomFloats(&random, static_cast<size_t>(kRows) * d);
  std::vector<uint16_t> half(x.size());
  table.float_to_half(x.data(), half.data(), x.size());
  Problem problem{d, group, std::vector<float>(x.size()), {}, {}};
  table.half_to_float(half.data(), problem.rows.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    if (half[i] != FloatToHalf(x[i]) || problem.rows[i] != HalfToFloat(half[i])) {
      return Wrong("conversion to f16", where, "other bits than IEEE's");
    }
  }
  problem.q = RandomFloats(&random, static_cast<size_t>(group) * d);
  problem.p = RandomWeights(&random, static_cast<size_t>(group) * kRows);
  const F16Kernels& f16 = F16KernelsFor(table.name);
  KernelErrors errors;
  std::vector<float> scores(static_cast<size_t>(group) * kRows);
  f16.scores(half.data(), d, problem.q.data(), group, kRows, scores.data(), kRows);
  errors.scores = problem.ScoreError(scores);
  if (Status s = CheckError("the f16 contender's scores", where, errors.scores, kF16ErrorBound);
      !s.ok()) {
    return s;
  }
  std::vector<float> sums(static_cast<size_t>(group) * d, 0.0f);
  f16.accumulate(half.data(), d, problem.p.data(), kRows, group, kRows, sums.data());
  errors.sums = problem.SumError(sums);
  if (Status s = CheckError("the f16 contender's sums", where, errors.sums, kF16ErrorBound);
      !s.ok()) {
    return s;
  }
  return errors;
}

}  // namespace turboquant
