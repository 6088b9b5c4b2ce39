#include "eval/validation.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "base/parallel.h"
#include "base/rng.h"
#include "codec/codec.h"
#include "codec/product_codec.h"
#include "codec/row_map.h"
#include "eval/codec_theory.h"
#include "eval/row_error.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"
#include "math/lloyd_max.h"

namespace turboquant {
namespace {

constexpr int kMaxBits = 8;
constexpr int kSlices = 8;            // of one cell, so that it is shared among threads
constexpr int kChunk = 256;           // rows drawn at a time
constexpr double kTimingShare = 0.1;  // of the progress
constexpr double kTolerance = 0.01;
constexpr double kProductTolerance = 0.02;     // a second rotation stands for a uniform projection
constexpr double kCodebookTolerance = 0.0015;  // of a ratio, both sides on the same rows
constexpr double kVarianceTolerance = 0.06;
constexpr double kSlopeTolerance = 0.005;

using CodecPtr = std::unique_ptr<Codec>;

// The generator of one piece of work: no two share a stream.
SplitMix64 Stream(uint64_t kind, uint64_t a, uint64_t b) {
  SplitMix64 mix(kind * 0x10001 + a * 0x1000003 + b);
  mix.Next();
  return SplitMix64(mix.Next());
}

// n rows uniform on the sphere of radius sqrt(d): samples of N(0, 1), normalised.
void DrawRows(SplitMix64* random, int n, int d, float* rows) {
  std::vector<double> row(d);
  for (int j = 0; j < n; ++j) {
    double energy = 0;
    for (double& v : row) {
      v = random->Normal();
      energy += v * v;
    }
    const double scale = std::sqrt(d / energy);
    for (int i = 0; i < d; ++i) rows[j * d + i] = static_cast<float>(row[i] * scale);
  }
}

double Dot(const float* a, const float* b, int d) {
  double sum = 0;
  for (int i = 0; i < d; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// A piece of work: `weight` in about milliseconds, for the order and the progress.
struct Job {
  std::string what;
  double weight;
  std::function<Status()> run;
};

// Jobs write results of their own; the longest start first.
Status RunJobs(std::vector<Job>* jobs, const ValidationOptions& options) {
  std::stable_sort(jobs->begin(), jobs->end(),
                   [](const Job& a, const Job& b) { return a.weight > b.weight; });
  double total = 0;
  for (const Job& job : *jobs) total += job.weight;
  if (options.timing) total /= 1 - kTimingShare;
  std::mutex mutex;
  double done = 0;
  Status first;
  ParallelFor(jobs->size(), options.threads, [&](size_t i) {
    const Status status = (*jobs)[i].run();
    const std::lock_guard<std::mutex> lock(mutex);
    if (first.ok() && !status.ok()) first = status;
    done += (*jobs)[i].weight;
    if (options.progress) options.progress(done / total, (*jobs)[i].what);
  });
  return first;
}

// ---------------------------------------------------------------------- distortion of quantisers

// The quantiser of theory itself, b = 1..8: exact codebook, exact norm, no bytes.
struct LloydMaxCell {
  LloydMaxCodebook book;
  std::vector<float> centroids;
  std::vector<float> thresholds;
};

// Specs of which theory knows the distortion, at every head_dim.
constexpr const char* kKnownSpecs[] = {"turbo1",
                                       "turbo2",
                                       "turbo3",
                                       "turbo4",
                                       "turbo8",
                                       "turbo2.5",
                                       "turbo3.5",
                                       "turbo2q",
                                       "turbo3q",
                                       "turbo4q",
                                       "turbo3:scale=norm",
                                       "turbo3:scale=matched",
                                       "turbo3:scale=unbiased",
                                       "turbo3:codebook=beta",
                                       "turbo2.5:split=outlier",
                                       "turbo3.5:split=outlier"};

// A trellis has no integral. At its default number of states the distortion is known from
// independent programs, from rows of 64 values to endless ones; `goal` is what it must not exceed
// at 128, whatever those say.
constexpr struct {
  const char* spec;
  double low, high, goal;
} kTrellises[] = {{"turbo2t", .0815, .0828, .0830},
                  {"turbo3t", .0230, .0234, .0240},
                  {"turbo4t", .0060, .0064, .0067}};

constexpr int kMaxCodebookBits = 4;  // 8 bits differ by less than fp16 scales blur

// All that is measured on the same rows of one head_dim.
struct DimStudy {
  int head_dim = 0;
  std::array<LloydMaxCell, kMaxBits> books;
  std::vector<CodecPtr> codecs;
  // Sums of relative errors by slice: books, then codecs.
  std::array<std::vector<double>, kSlices> sums;
  std::array<int, kSlices> rows{};

  void RunSlice(int slice, int n) {
    SplitMix64 random = Stream(1, head_dim, slice);
    std::vector<double>& sum = sums[slice];
    sum.assign(kMaxBits + codecs.size(), 0.0);
    rows[slice] = n;
    std::vector<float> x(static_cast<size_t>(kChunk) * head_dim), decoded(x.size());
    std::vector<uint8_t> bytes(kChunk * (2 * static_cast<size_t>(head_dim) + 64));
    for (int first = 0; first < n; first += kChunk) {
      const int count = std::min(kChunk, n - first);
      DrawRows(&random, count, head_dim, x.data());
      const std::span<const float> values(x.data(), static_cast<size_t>(count) * head_dim);
      for (int b = 0; b < kMaxBits; ++b) {
        const CodebookView view = {b + 1, books[b].centroids.data(), books[b].thresholds.data()};
        double error = 0;
        for (float u : values) {
          const double e = static_cast<double>(u) - view.centroids[NearestCode(view, u)];
          error += e * e;
        }
        sum[b] += error / head_dim;
      }
      // Rows of norm sqrt(d) would all have a scale next to 1, where fp16 is coarsest above and
      // finest below: rows as they come have any.
      for (int j = 0; j < count; ++j) {
        const auto stretch = static_cast<float>(1 + random.Uniform());
        for (int i = 0; i < head_dim; ++i) x[static_cast<size_t>(j) * head_dim + i] *= stretch;
      }
      for (size_t c = 0; c < codecs.size(); ++c) {
        const RowCoder coder(*codecs[c], BestKernels());
        coder.Encode(x.data(), count, bytes.data());
        coder.Decode(bytes.data(), count, decoded.data());
        for (int j = 0; j < count; ++j) {
          const size_t at = static_cast<size_t>(j) * head_dim;
          sum[kMaxBits + c] += MeasureRowError(&x[at], &decoded[at], head_dim).relative();
        }
      }
    }
  }

  int TotalRows() const {
    int total = 0;
    for (int n : rows) total += n;
    return total;
  }
  double Mean(size_t index) const {
    double total = 0;
    for (const auto& sum : sums) total += sum[index];
    return total / TotalRows();
  }
  // Measured, of a codec that was studied.
  double MeanOf(const std::string& spec) const {
    for (size_t c = 0; c < codecs.size(); ++c) {
      if (codecs[c]->spec_text() == spec) return Mean(kMaxBits + c);
    }
    return 0;
  }
};

// The specs that compare the exact codebook with the Gaussian table, the rest being equal.
std::string NormSpec(int bits, bool beta) {
  return "turbo" + std::to_string(bits) + ":scale=norm" + (beta ? ",codebook=beta" : "");
}

Status PrepareDim(int head_dim, DimStudy* study) {
  study->head_dim = head_dim;
  for (int b = 0; b < kMaxBits; ++b) {
    auto solved = SolveLloydMax(b + 1, head_dim);
    if (!solved.ok()) return solved.status();
    LloydMaxCell& cell = study->books[b];
    cell.book = std::move(solved.value());
    cell.centroids.assign(cell.book.centroids.begin(), cell.book.centroids.end());
    cell.thresholds.assign(cell.book.thresholds.begin(), cell.book.thresholds.end());
  }
  std::vector<std::string> specs(std::begin(kKnownSpecs), std::end(kKnownSpecs));
  for (const auto& trellis : kTrellises) specs.emplace_back(trellis.spec);
  for (int bits = 1; bits <= kMaxCodebookBits; ++bits) {
    specs.push_back(NormSpec(bits, true));
    if (bits != 3) specs.push_back(NormSpec(bits, false));  // that of 3 bits is there
  }
  if (head_dim <= 128) specs.emplace_back("turbo3:rotation=haar");  // head_dim^2 operations a row
  for (const std::string& spec : specs) {
    auto codec = Codec::Create(spec, head_dim);
    if (!codec.ok()) return codec.status();
    study->codecs.push_back(std::move(codec.value()));
  }
  return OkStatus();
}

ValidationCheck DistortionCheck(const Codec& codec, uint64_t samples, double measured) {
  const int d = codec.head_dim();
  const double shannon = ShannonDistortion(codec.bits_per_value());
  for (const auto& trellis : kTrellises) {
    if (codec.spec_text() != trellis.spec) continue;
    return {"distortion",
            trellis.spec,
            d,
            samples,
            measured,
            0,
            std::max((1 - kTolerance) * trellis.low, shannon),
            std::min((1 + kTolerance) * trellis.high, d == kRateDim ? trellis.goal : 1.0)};
  }
  const double theory = ExpectedDistortion(codec.spec(), d).value_or(0);
  const bool product = codec.spec().entry->family == CodecFamily::kProduct;
  const double tolerance = product ? kProductTolerance : kTolerance;
  // At 8 bits the rounding of the fp16 scale is a part of the distortion: its relative error is
  // uniform in +-2^-12 to +-2^-11, a mean square of 2^-24/3 to 2^-22/3.
  const double rounding = codec.spec().entry->bits == 8 ? std::exp2(-22) / 3 : 0;
  return {"distortion",
          codec.spec_text(),
          d,
          samples,
          measured,
          theory,
          std::max((1 - tolerance) * theory, shannon),
          (1 + tolerance) * theory + rounding};
}

void ReportDim(const DimStudy& study, std::vector<ValidationCheck>* checks) {
  const auto samples = static_cast<uint64_t>(study.TotalRows());
  const int d = study.head_dim;
  const auto bits_text = [](int bits) {
    return std::to_string(bits) + (bits == 1 ? " bit" : " bits");
  };
  for (int b = 0; b < kMaxBits; ++b) {
    const double theory = study.books[b].book.distortion;
    checks->push_back(
        {"lloyd-max", bits_text(b + 1), d, samples, study.Mean(b), theory,
         std::max((1 - kTolerance) * theory, ShannonDistortion(b + 1)),
         std::min((1 + kTolerance) * theory, kPanterDite * ShannonDistortion(b + 1))});
  }
  for (size_t c = 0; c < study.codecs.size(); ++c) {
    checks->push_back(DistortionCheck(*study.codecs[c], samples, study.Mean(kMaxBits + c)));
  }
  for (int bits = 1; bits <= kMaxCodebookBits; ++bits) {
    const auto spec = ParseCodecSpec(NormSpec(bits, false));
    const double theory =
        ExpectedDistortion(spec.value(), d).value_or(0) / study.books[bits - 1].book.distortion;
    const double ratio = study.MeanOf(NormSpec(bits, false)) / study.MeanOf(NormSpec(bits, true));
    checks->push_back({"codebook", bits_text(bits), d, samples, ratio, theory,
                       theory - kCodebookTolerance, theory + kCodebookTolerance});
  }
}

// ---------------------------------------------------------------------- rate and distortion

std::string FamilyName(CodecFamily family) {
  switch (family) {
    case CodecFamily::kScalar:
      return "scalar";
    case CodecFamily::kProduct:
      return "product";
    case CodecFamily::kFractional:
      return "fractional";
    case CodecFamily::kTrellis:
      return "trellis";
    case CodecFamily::kUniform:
      return "uniform";
    case CodecFamily::kAffine:
      return "affine groups";
    case CodecFamily::kNormal:
      return "nf4";
    case CodecFamily::kBlock:
      return "ggml blocks";
    default:
      return "f16";
  }
}

Status MeasureRate(int rows, RatePoint* point) {
  auto created = Codec::Create(point->spec, kRateDim);
  if (!created.ok()) return created.status();
  const Codec& codec = *created.value();
  const RowCoder coder(codec, BestKernels());
  SplitMix64 random = Stream(2, 0, 0);  // the same rows for every codec
  std::vector<float> x(kChunk * kRateDim), decoded(x.size()), query(kRateDim);
  std::vector<uint8_t> bytes(kChunk * codec.row_bytes());
  double sum = 0, cross = 0, square = 0;
  for (int first = 0; first < rows; first += kChunk) {
    const int count = std::min(kChunk, rows - first);
    DrawRows(&random, count, kRateDim, x.data());
    coder.Encode(x.data(), count, bytes.data());
    coder.Decode(bytes.data(), count, decoded.data());
    for (int j = 0; j < count; ++j) {
      const float* row = &x[static_cast<size_t>(j) * kRateDim];
      const float* back = &decoded[static_cast<size_t>(j) * kRateDim];
      sum += MeasureRowError(row, back, kRateDim).relative();
      // A query that shares its direction with the row: half of it is the next one.
      const float* other = &x[static_cast<size_t>((j + 1) % count) * kRateDim];
      for (int i = 0; i < kRateDim; ++i) query[i] = other[i] + row[i];
      const double truth = Dot(query.data(), row, kRateDim);
      cross += truth * Dot(query.data(), back, kRateDim);
      square += truth * truth;
    }
  }
  point->family = FamilyName(codec.spec().entry->family);
  point->head_dim = kRateDim;
  point->samples = static_cast<uint64_t>(rows);
  point->bits_per_value = codec.bits_per_value();
  point->distortion = sum / rows;
  point->shannon = ShannonDistortion(codec.bits_per_value());
  point->bias = 1 - cross / square;
  return OkStatus();
}

void ReportRate(const RatePoint& point, std::vector<ValidationCheck>* checks) {
  checks->push_back({"shannon", point.spec, point.head_dim, point.samples, point.distortion, 0,
                     point.shannon, 1.0});
}

// ---------------------------------------------------------------------- inner products

constexpr int kQueriesOfRow = 4;

struct EstimateStudy {
  std::string spec;
  int head_dim = 0;
  int rows = 0;
  int seeds = 1;  // codecs to average over; a fixed Gaussian projection has a slope of its own
  double variance = 0;
  double slope = 0;
};

Status MeasureEstimates(EstimateStudy* study) {
  const int d = study->head_dim;
  double error = 0, cross = 0, square = 0;
  std::vector<float> x(d), query(d);
  const int rows = study->rows / study->seeds;
  for (int seed = 0; seed < study->seeds; ++seed) {
    auto spec = ParseCodecSpec(study->spec);
    if (!spec.ok()) return spec.status();
    spec.value().seed = static_cast<uint64_t>(1 + seed);
    auto created = Codec::Create(spec.value(), d);
    if (!created.ok()) return created.status();
    const RowCoder coder(*created.value(), BestKernels());
    std::vector<uint8_t> row(created.value()->row_bytes());
    SplitMix64 random = Stream(3, d, seed);
    for (int j = 0; j < rows; ++j) {
      DrawRows(&random, 1, d, x.data());
      coder.Encode(x.data(), 1, row.data());
      float estimate;
      for (int i = 0; i < kQueriesOfRow; ++i) {
        DrawRows(&random, 1, d, query.data());
        coder.InnerProducts(query.data(), row.data(), 1, &estimate);
        const double miss = (estimate - Dot(query.data(), x.data(), d)) / d;  // unit vectors
        error += miss * miss / kQueriesOfRow;
      }
      for (int i = 0; i < d; ++i) query[i] += x[i];  // shares its direction with x
      coder.InnerProducts(query.data(), row.data(), 1, &estimate);
      const double truth = Dot(query.data(), x.data(), d);
      cross += truth * estimate;
      square += truth * truth;
    }
  }
  study->variance = d * error / (static_cast<double>(rows) * study->seeds);
  study->slope = cross / square;
  return OkStatus();
}

std::vector<EstimateStudy> PlanEstimates(int rows) {
  std::vector<EstimateStudy> studies;
  const int dense = std::clamp(rows / 20, 800, 5000);  // a dense projection takes d^2 operations
  for (int d : {64, 128, 256}) {
    for (int bits = 2; bits <= 4; ++bits) {
      const std::string name = "turbo" + std::to_string(bits);
      const int n = std::max(1000, rows / 4);
      studies.push_back({name, d, n});
      studies.push_back({name + ":scale=unbiased", d, n});
      studies.push_back({name + "q", d, n});
      if (d <= 128) studies.push_back({name + "q:projection=gaussian", d, dense, 16});
    }
  }
  return studies;
}

Status ReportEstimates(const EstimateStudy& study, std::vector<ValidationCheck>* checks) {
  const auto spec = ParseCodecSpec(study.spec);
  if (!spec.ok()) return spec.status();
  const double theory = ExpectedDistortion(spec.value(), study.head_dim).value_or(0);
  const bool unbiased = spec.value().entry->family == CodecFamily::kProduct ||
                        spec.value().scale == ScaleRule::kUnbiased;
  const double slope = unbiased ? 1 : 1 - theory;
  const auto samples = static_cast<uint64_t>(study.rows);
  checks->push_back({"inner product", study.spec, study.head_dim, samples, study.variance, theory,
                     (1 - kVarianceTolerance) * theory, (1 + kVarianceTolerance) * theory});
  checks->push_back({"slope", study.spec, study.head_dim, samples, study.slope, slope,
                     slope - kSlopeTolerance, slope + kSlopeTolerance});
  return OkStatus();
}

// ---------------------------------------------------------------------- the sign projection itself

struct ProjectionStudy {
  ProjectionKind kind = ProjectionKind::kGaussian;
  double cosine = 0;
  double variance = 0;
  double mean = 0;
  int seeds = 0;  // projections
  int samples = 0;
};

constexpr int kProjectionDim = 64;
constexpr int kPairsOfSeed = 25;

// Estimates of <q, r> from the signs of S r, over many S.
void MeasureProjection(ProjectionStudy* study) {
  constexpr int d = kProjectionDim;
  const bool gaussian = study->kind == ProjectionKind::kGaussian;
  const double k = gaussian ? GaussianSignFactor(d) : OrthogonalSignFactor(d);
  const double sine = std::sqrt(1 - study->cosine * study->cosine);
  const RowOps& ops = ScalarRowOps();
  double sum = 0, squares = 0;
  std::vector<float> r(d), q(d), projected(d), projected_q(d);
  for (int seed = 1; seed <= study->seeds; ++seed) {
    const auto map = gaussian ? MakeGaussianMap(d, seed) : MakeRowMap(RotationKind::kHaar, d, seed);
    SplitMix64 random = Stream(4, gaussian ? 1 : 2, seed);
    for (int pair = 0; pair < kPairsOfSeed; ++pair) {
      DrawRows(&random, 1, d, r.data());
      DrawRows(&random, 1, d, q.data());
      // q: the part of it that is orthogonal to r, of unit length, and r.
      const double along = Dot(q.data(), r.data(), d) / d;
      for (int i = 0; i < d; ++i) q[i] -= static_cast<float>(along * r[i]);
      const double length = std::sqrt(Dot(q.data(), q.data(), d));
      const double norm = std::sqrt(static_cast<double>(d));
      for (int i = 0; i < d; ++i) {
        q[i] = static_cast<float>(sine * q[i] / length + study->cosine * r[i] / norm);
      }
      map->Forward(r.data(), projected.data(), ops);
      map->Forward(q.data(), projected_q.data(), ops);
      double dot = 0;
      for (int i = 0; i < d; ++i) dot += projected[i] > 0 ? projected_q[i] : -projected_q[i];
      const double miss = k * dot - study->cosine;
      sum += miss;
      squares += miss * miss;
      ++study->samples;
    }
  }
  study->mean = sum / study->samples;
  study->variance = squares / study->samples - study->mean * study->mean;
}

void ReportProjection(const ProjectionStudy& study, std::vector<ValidationCheck>* checks) {
  const double theory = ExpectedProjectionVariance(study.kind, kProjectionDim, study.cosine);
  std::string subject = study.kind == ProjectionKind::kGaussian ? "gaussian" : "orthogonal";
  subject.append(", cosine ").append(std::to_string(study.cosine).substr(0, 3));
  const auto samples = static_cast<uint64_t>(study.samples);
  checks->push_back({"projection", subject, kProjectionDim, samples, study.variance, theory,
                     (1 - kVarianceTolerance) * theory, (1 + kVarianceTolerance) * theory});
  // The mean is off by chance alone: five standard errors of independent samples. Pairs that share
  // an S share a part of their chance.
  const double slack = 5 * std::sqrt(theory / study.seeds);
  checks->push_back(
      {"projection bias", subject, kProjectionDim, samples, study.mean, 0, -slack, slack});
}

// ---------------------------------------------------------------------- time

constexpr int kTimedRows = 64;  // of one call: in the first cache

// Nanoseconds a row of a call for kTimedRows: the median of several runs of at least a millisecond.
template <typename F>
double Time(const F& call) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  int repeat = 1;
  while (times.size() < 5) {
    const auto start = Clock::now();
    for (int i = 0; i < repeat; ++i) call();
    const double ns = std::chrono::duration<double, std::nano>(Clock::now() - start).count();
    if (ns < 1e6 && repeat < (1 << 20)) {
      repeat *= 2;
      continue;
    }
    times.push_back(ns / repeat / kTimedRows);
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  return times[2];
}

Status MeasureTime(RatePoint* point) {
  auto created = Codec::Create(point->spec, kRateDim);
  if (!created.ok()) return created.status();
  const RowCoder coder(*created.value(), BestKernels());
  SplitMix64 random = Stream(5, 0, 0);
  std::vector<float> x(kTimedRows * kRateDim), decoded(x.size()), scores(kTimedRows);
  DrawRows(&random, kTimedRows, kRateDim, x.data());
  std::vector<uint8_t> rows(kTimedRows * created.value()->row_bytes());
  point->encode_ns = Time([&] { coder.Encode(x.data(), kTimedRows, rows.data()); });
  point->decode_ns = Time([&] { coder.Decode(rows.data(), kTimedRows, decoded.data()); });
  point->inner_product_ns =
      Time([&] { coder.InnerProducts(x.data(), rows.data(), kTimedRows, scores.data()); });
  return OkStatus();
}

}  // namespace

bool ValidationResult::ok() const {
  return std::all_of(checks.begin(), checks.end(), [](const auto& check) { return check.ok(); });
}

Result<ValidationResult> Validate(const ValidationOptions& options) {
  if (options.rows < 1000 || options.rows > 10000000) {
    return InvalidArgument("validation takes from 1000 to 10000000 rows a cell, not " +
                           std::to_string(options.rows) + ".");
  }
  const auto start = std::chrono::steady_clock::now();
  ValidationResult result;
  result.threads = options.threads;
  result.rows = options.rows;
  std::vector<Job> jobs;

  std::vector<DimStudy> dims(std::size(kValidationDims));
  for (size_t i = 0; i < dims.size(); ++i) {
    if (Status s = PrepareDim(kValidationDims[i], &dims[i]); !s.ok()) return s;
    for (int slice = 0; slice < kSlices; ++slice) {
      const int rows = options.rows / kSlices + (slice < options.rows % kSlices ? 1 : 0);
      jobs.push_back({"distortion, head_dim " + std::to_string(dims[i].head_dim),
                      3e-4 * rows * dims[i].head_dim, [&study = dims[i], slice, rows] {
                        study.RunSlice(slice, rows);
                        return OkStatus();
                      }});
    }
  }
  for (const CodecEntry& entry : CodecRegistry()) {
    RatePoint point;
    point.spec = entry.name;
    result.rate.push_back(point);
  }
  for (RatePoint& point : result.rate) {
    jobs.push_back({"rate, " + point.spec, options.rows * 0.008,
                    [&point, rows = options.rows] { return MeasureRate(rows, &point); }});
  }
  std::vector<EstimateStudy> estimates = PlanEstimates(options.rows);
  for (EstimateStudy& study : estimates) {
    const double weight = 1e-4 * study.rows * study.head_dim * (study.seeds > 1 ? 4 : 0.6);
    jobs.push_back(
        {"inner products, " + study.spec, weight, [&study] { return MeasureEstimates(&study); }});
  }
  std::vector<ProjectionStudy> projections;
  for (ProjectionKind kind : {ProjectionKind::kGaussian, ProjectionKind::kOrthogonal}) {
    for (double cosine : {0.0, 0.5, 0.9}) {
      ProjectionStudy study;
      study.kind = kind;
      study.cosine = cosine;
      study.seeds = std::clamp(options.rows / 250, 100, 400);
      projections.push_back(study);
    }
  }
  for (ProjectionStudy& study : projections) {
    jobs.push_back({"projection", 400, [&study] {
                      MeasureProjection(&study);
                      return OkStatus();
                    }});
  }
  if (Status s = RunJobs(&jobs, options); !s.ok()) return s;
  if (options.timing) {
    // Alone, when nothing else of ours runs.
    for (size_t i = 0; i < result.rate.size(); ++i) {
      if (Status s = MeasureTime(&result.rate[i]); !s.ok()) return s;
      const double share = static_cast<double>(i + 1) / static_cast<double>(result.rate.size());
      if (options.progress) {
        options.progress(1 - kTimingShare * (1 - share), "time of a row, " + result.rate[i].spec);
      }
    }
  }
  for (const DimStudy& study : dims) ReportDim(study, &result.checks);
  for (const RatePoint& point : result.rate) ReportRate(point, &result.checks);
  for (const EstimateStudy& study : estimates) {
    if (Status s = ReportEstimates(study, &result.checks); !s.ok()) return s;
  }
  for (const ProjectionStudy& study : projections) ReportProjection(study, &result.checks);
  std::stable_sort(result.checks.begin(), result.checks.end(),
                   [](const auto& a, const auto& b) { return a.group < b.group; });
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace turboquant
