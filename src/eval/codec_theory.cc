#include "eval/codec_theory.h"

#include <algorithm>
#include <cmath>

#include "codec/codebook.h"
#include "codec/product_codec.h"
#include "math/lloyd_max.h"
#include "math/uniform_quantizer.h"

namespace turboquant {
namespace {

constexpr double kPi = 3.14159265358979323846;

// Integrals of u^k f(u), k = 0..3, over one cell.
struct CellMoments {
  double m[4];
};

// N(0, 1) on [lo, hi], in closed form.
CellMoments GaussianCell(double lo, double hi) {
  const auto density = [](double u) { return std::exp(-0.5 * u * u) / std::sqrt(2 * kPi); };
  const double f_lo = density(lo);
  const double f_hi = density(hi);
  CellMoments cell;
  cell.m[0] = 0.5 * (std::erf(hi / std::sqrt(2.0)) - std::erf(lo / std::sqrt(2.0)));
  cell.m[1] = f_lo - f_hi;
  cell.m[2] = cell.m[0] + lo * f_lo - hi * f_hi;
  cell.m[3] = (lo * lo + 2) * f_lo - (hi * hi + 2) * f_hi;
  return cell;
}

// sqrt(d) times one coordinate of the unit sphere, f ~ (1 - u^2/d)^((d-3)/2); k = 0 and 1 only.
class SphereMarginal {
 public:
  explicit SphereMarginal(int d) : d_(d) {
    log_scale_ = std::lgamma(0.5 * d) - std::lgamma(0.5 * (d - 1)) - 0.5 * std::log(kPi * d);
  }

  CellMoments Cell(double lo, double hi) const {
    const double end = std::sqrt(static_cast<double>(d_));
    lo = std::max(lo, -end);
    hi = std::min(hi, end);
    CellMoments cell{};
    if (lo >= hi) return cell;
    // Simpson for the mass, over steps of at most 1/64; the first moment is elementary.
    const int steps = 2 * std::max(8, static_cast<int>(std::ceil((hi - lo) * 32)));
    const double h = (hi - lo) / steps;
    for (int i = 0; i <= steps; ++i) {
      const double weight = i == 0 || i == steps ? 1 : i % 2 == 1 ? 4 : 2;
      cell.m[0] += weight * h / 3 * Power(lo + i * h, 0.5 * (d_ - 3));
    }
    cell.m[1] = d_ / (d_ - 1.0) * (Power(lo, 0.5 * (d_ - 1)) - Power(hi, 0.5 * (d_ - 1)));
    return cell;
  }

 private:
  double Power(double u, double exponent) const {
    const double base = 1 - u * u / d_;
    return base > 0 ? std::exp(log_scale_ + exponent * std::log(base)) : 0.0;
  }

  int d_;
  double log_scale_;
};

// Means of u c and c c, and what their fluctuations share, over one part of a row.
struct Sums {
  double a = 0, b = 0;            // exact marginal
  double uc = 0, cc = 0;          // Gaussian means
  double aa = 0, ab = 0, bb = 0;  // E of the products, then covariances
  double au = 0, bu = 0;          // with u^2
};

Sums SumsOf(const std::vector<double>& centroids, int d) {
  constexpr double kEnd = 40;  // beyond any mass
  const SphereMarginal sphere(d);
  Sums s;
  for (size_t i = 0; i < centroids.size(); ++i) {
    const double c = centroids[i];
    const double lo = i == 0 ? -kEnd : 0.5 * (centroids[i - 1] + c);
    const double hi = i + 1 == centroids.size() ? kEnd : 0.5 * (c + centroids[i + 1]);
    const CellMoments exact = sphere.Cell(lo, hi);
    s.a += c * exact.m[1];
    s.b += c * c * exact.m[0];
    const CellMoments gauss = GaussianCell(lo, hi);
    s.uc += c * gauss.m[1];
    s.cc += c * c * gauss.m[0];
    s.aa += c * c * gauss.m[2];
    s.ab += c * c * c * gauss.m[1];
    s.bb += c * c * c * c * gauss.m[0];
    s.au += c * gauss.m[3];
    s.bu += c * c * gauss.m[2];
  }
  s.aa -= s.uc * s.uc;
  s.ab -= s.uc * s.cc;
  s.bb -= s.cc * s.cc;
  s.au -= s.uc;
  s.bu -= s.cc;
  return s;
}

std::vector<double> TableCentroids(int bits) {
  const float* table = Centroids(bits);
  return {table, table + (1 << bits)};
}

// The centroids that a codec of this spec uses for codes of `bits` over d coordinates.
std::vector<double> CentroidsOf(const CodecSpec& spec, int bits, int d) {
  if (spec.entry->family == CodecFamily::kUniform) {
    const int levels = 1 << bits;
    std::vector<double> centroids;
    for (int i = 0; i < levels; ++i) {
      centroids.push_back((i - 0.5 * (levels - 1)) * OptimalUniformStep(bits));
    }
    return centroids;
  }
  if (spec.codebook == CodebookKind::kBeta) {
    const auto solved = SolveLloydMax(bits, d);
    if (solved.ok()) return solved.value().centroids;
  }
  return TableCentroids(bits);
}

}  // namespace

double ShannonDistortion(double bits_per_value) { return std::pow(4.0, -bits_per_value); }

double ExpectedDistortion(const std::vector<std::vector<double>>& centroids_of_parts, int head_dim,
                          ScaleRule rule) {
  Sums mean;
  const double share = 1.0 / static_cast<double>(centroids_of_parts.size());
  for (const std::vector<double>& centroids : centroids_of_parts) {
    const Sums part = SumsOf(centroids, head_dim);
    mean.a += share * part.a;
    mean.b += share * part.b;
    mean.aa += share * part.aa;
    mean.ab += share * part.ab;
    mean.bb += share * part.bb;
    mean.au += share * part.au;
    mean.bu += share * part.bu;
  }
  const double a = mean.a;
  const double b = mean.b;
  const double aa = (mean.aa - mean.au * mean.au / 2) / head_dim;
  const double ab = (mean.ab - mean.au * mean.bu / 2) / head_dim;
  const double bb = (mean.bb - mean.bu * mean.bu / 2) / head_dim;
  switch (rule) {
    case ScaleRule::kNorm:
      return 1 - 2 * a + b;
    case ScaleRule::kMatched:
      return 2 - 2 * a / std::sqrt(b) * (1 - ab / (2 * a * b) + 3 * bb / (8 * b * b));
    case ScaleRule::kUnbiased:
      return b / (a * a) * (1 - 2 * ab / (a * b) + 3 * aa / (a * a)) - 1;
    default:
      return 1 - a * a / b * (1 + aa / (a * a) - 2 * ab / (a * b) + bb / (b * b));
  }
}

std::optional<double> ExpectedDistortion(const CodecSpec& spec, int head_dim) {
  const int bits = spec.entry->bits;
  const auto of = [&](int code_bits, int d) {
    return ExpectedDistortion({CentroidsOf(spec, code_bits, d)}, d, spec.scale);
  };
  switch (spec.entry->family) {
    case CodecFamily::kScalar:
    case CodecFamily::kUniform:
      return of(bits, head_dim);
    case CodecFamily::kFractional:
      if (spec.split == SplitKind::kOutlier) {
        // Two rows of their own, each of its share of the energy.
        const int outliers = OutlierChannels(spec, head_dim);
        const double share = static_cast<double>(outliers) / head_dim;
        return share * of(bits + 1, outliers) + (1 - share) * of(bits, head_dim - outliers);
      }
      return ExpectedDistortion(
          {CentroidsOf(spec, bits + 1, head_dim), CentroidsOf(spec, bits, head_dim)}, head_dim,
          spec.scale);
    case CodecFamily::kProduct: {
      // |gamma k S^T sigma - r|^2 = |r|^2 (k^2 |S^T sigma|^2 - 1) in the mean.
      const double k = OrthogonalSignFactor(head_dim);
      const double factor =
          spec.projection == ProjectionKind::kGaussian ? kPi / 2 : k * k * head_dim - 1;
      return factor * of(bits - 1, head_dim);
    }
    default:
      return std::nullopt;
  }
}

double ExpectedProjectionVariance(ProjectionKind kind, int d, double cosine) {
  const double square = cosine * cosine;
  if (kind == ProjectionKind::kGaussian) return (kPi / 2 - square) / d;
  const double k = OrthogonalSignFactor(d);
  const double norm_square = 1 + 2 * (d - 1) / kPi;  // E |u|_1^2
  return k * k * square * (norm_square - 1 / (k * k)) +
         k * k * (1 - square) * (d - norm_square) / (d - 1);
}

}  // namespace turboquant
