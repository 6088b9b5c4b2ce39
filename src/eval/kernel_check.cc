#include "eval/kernel_check.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "kernels/format_rows.h"
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
  const int d = head_dim;
  const size_t code_bytes = CodeBytes(format, d);
  const Rotation rotation(d, seed);
  const KernelTable& truth = ScalarKernels();
  SplitMix64 random(seed);
  const std::vector<float> x = RandomFloats(&random, static_cast<size_t>(kRows) * d);

  std::vector<uint8_t> codes(kRows * code_bytes);
  std::vector<uint16_t> scales(kRows);
  std::vector<uint8_t> true_codes(codes.size());
  std::vector<uint16_t> true_scales(kRows);
  EncodeFormatRows(table, format, rotation.view(), x.data(), kRows, codes.data(), scales.data());
  EncodeFormatRows(truth, format, rotation.view(), x.data(), kRows, true_codes.data(),
                   true_scales.data());
  if (codes != true_codes || scales != true_scales) {
    return Wrong("encode", where, "other bytes than the scalar table's");
  }

  Problem problem{d, group, {}, {}, {}};
  problem.rows.resize(static_cast<size_t>(kRows) * d);
  std::vector<float> decoded(problem.rows.size());
  DecodeFormatRows(truth, format, d, codes.data(), scales.data(), kRows, problem.rows.data());
  DecodeFormatRows(table, format, d, codes.data(), scales.data(), kRows, decoded.data());
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
  std::vector<const uint16_t*> at(kRows);
  for (int j = 0; j < kRows; ++j) at[j] = half.data() + j * d;
  KernelErrors errors;
  std::vector<float> scores(static_cast<size_t>(group) * kRows);
  table.half_scores(at.data(), d, problem.q.data(), group, kRows, scores.data(), kRows);
  errors.scores = problem.ScoreError(scores);
  if (Status s = CheckError("half_scores", where, errors.scores, kF16ErrorBound); !s.ok()) {
    return s;
  }
  std::vector<float> sums(static_cast<size_t>(group) * d, 0.0f);
  table.half_accumulate(at.data(), d, problem.p.data(), kRows, group, kRows, sums.data());
  errors.sums = problem.SumError(sums);
  if (Status s = CheckError("half_accumulate", where, errors.sums, kF16ErrorBound); !s.ok()) {
    return s;
  }
  return errors;
}

}  // namespace turboquant
