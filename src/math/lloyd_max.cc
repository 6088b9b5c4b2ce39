#include "math/lloyd_max.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>

namespace turboquant {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kNodes = 16;           // Gauss-Legendre nodes of one panel
constexpr double kPanelWidth = 0.5;  // in units of u
constexpr double kEnd = 14.0;  // the mass beyond is below 1e-40, of a sphere's marginal as well
constexpr double kConverged = 1e-14;
constexpr int kMaxSteps = 200;

// Nodes and weights on [-1, 1]: Newton on the Legendre polynomial from Tricomi's start.
struct GaussLegendre {
  std::array<double, kNodes> node;
  std::array<double, kNodes> weight;

  GaussLegendre() {
    for (int i = 0; i < kNodes; ++i) {
      double x = std::cos(kPi * (i + 0.75) / (kNodes + 0.5));
      double derivative = 1;
      for (int step = 0; step < 20; ++step) {
        double previous = 1;
        double value = x;
        for (int k = 2; k <= kNodes; ++k) {
          const double next = ((2 * k - 1) * x * value - (k - 1) * previous) / k;
          previous = value;
          value = next;
        }
        derivative = kNodes * (x * value - previous) / (x * x - 1);
        x -= value / derivative;
      }
      node[i] = x;
      weight[i] = 2 / ((1 - x * x) * derivative * derivative);
    }
  }
};

// Mass and moments of one cell, taken about its `centre` so that narrow cells lose no digits.
struct Moments {
  double centre = 0;
  double mass = 0;
  double first = 0;
  double second = 0;

  double mean() const { return centre + first / mass; }
  // The integral of (u - c)^2.
  double Spread(double c) const {
    const double shift = centre - c;
    return second + shift * (2 * first + shift * mass);
  }
};

// A symmetric density of variance 1 on [-end, end].
//
// The sphere's density has algebraic ends for even d, so it is integrated over the angle of
// u = sqrt(d) sin(angle), where it is cos(angle)^(d - 2), analytic everywhere.
class Density {
 public:
  explicit Density(int dimension)
      : root_(std::sqrt(static_cast<double>(dimension))),
        power_(dimension - 2),
        gaussian_(dimension == kGaussianMarginal) {
    end_ = gaussian_ ? kEnd : std::min(root_, kEnd);
    scale_ = 0.5 / Integrate(0, end_).mass;
  }

  double end() const { return end_; }

  double At(double u) const {
    if (gaussian_) return scale_ * std::exp(-0.5 * u * u);
    return scale_ * CosPower(u / root_, power_ - 1) / root_;
  }

  // Over [lo, hi], a part of [0, end].
  Moments Integrate(double lo, double hi) const {
    const double from = ToAngle(lo);
    const double to = ToAngle(hi);
    const double width = gaussian_ ? kPanelWidth : kPanelWidth / root_;
    const int panels = std::max(1, static_cast<int>(std::ceil((to - from) / width)));
    const double half = (to - from) / (2 * panels);
    Moments m;
    m.centre = hi - lo > kPanelWidth ? lo : 0.5 * (lo + hi);
    for (int p = 0; p < panels; ++p) {
      const double middle = from + (2 * p + 1) * half;
      for (int i = 0; i < kNodes; ++i) {
        const double angle = middle + half * rule_.node[i];
        const double u = gaussian_ ? angle : root_ * std::sin(angle);
        const double f = gaussian_ ? std::exp(-0.5 * u * u) : CosPower(u / root_, power_);
        const double w = scale_ * f * half * rule_.weight[i];
        m.mass += w;
        m.first += w * (u - m.centre);
        m.second += w * (u - m.centre) * (u - m.centre);
      }
    }
    return m;
  }

 private:
  // (1 - x^2)^(power / 2), accurate for small x and a large power.
  static double CosPower(double x, int power) {
    return x < 1 ? std::exp(0.5 * power * std::log1p(-x * x)) : 0.0;
  }

  double ToAngle(double u) const {
    return gaussian_ ? u : std::asin(std::clamp(u / root_, -1.0, 1.0));
  }

  GaussLegendre rule_;
  double root_;
  int power_;
  bool gaussian_;
  double end_;
  double scale_ = 1;
};

// Edges 0, t_1, ..., end of the cells of the positive half.
std::vector<double> Edges(const std::vector<double>& c, double end) {
  std::vector<double> edges{0.0};
  for (size_t i = 0; i + 1 < c.size(); ++i) edges.push_back(0.5 * (c[i] + c[i + 1]));
  edges.push_back(end);
  return edges;
}

// One Newton step on F_i(c) = c_i - mean of cell i, a tridiagonal system:
//   d mean / d t_hi = f(t_hi) (t_hi - mean) / mass,  d mean / d t_lo = f(t_lo) (mean - t_lo) /
//   mass,
// and every inner edge moves by half of each neighbour. Returns the largest |F_i|.
double NewtonStep(const Density& density, std::vector<double>* c) {
  const size_t n = c->size();
  const std::vector<double> edges = Edges(*c, density.end());
  std::vector<double> lower(n, 0.0), diagonal(n, 1.0), upper(n, 0.0), residual(n);
  double largest = 0;
  for (size_t i = 0; i < n; ++i) {
    const Moments m = density.Integrate(edges[i], edges[i + 1]);
    const double mean = m.mean();
    residual[i] = (*c)[i] - mean;
    largest = std::max(largest, std::abs(residual[i]));
    if (i > 0) {
      const double slope = 0.5 * density.At(edges[i]) * (mean - edges[i]) / m.mass;
      lower[i] = -slope;
      diagonal[i] -= slope;
    }
    if (i + 1 < n) {
      const double slope = 0.5 * density.At(edges[i + 1]) * (edges[i + 1] - mean) / m.mass;
      upper[i] = -slope;
      diagonal[i] -= slope;
    }
  }
  for (size_t i = 1; i < n; ++i) {  // Thomas elimination
    const double factor = lower[i] / diagonal[i - 1];
    diagonal[i] -= factor * upper[i - 1];
    residual[i] -= factor * residual[i - 1];
  }
  for (size_t i = n; i-- > 0;) {
    if (i + 1 < n) residual[i] -= upper[i] * residual[i + 1];
    residual[i] /= diagonal[i];
  }
  for (size_t i = 0; i < n; ++i) (*c)[i] -= residual[i];
  return largest;
}

// One step of Lloyd's own iteration: every centroid to the mean of its cell.
void LloydStep(const Density& density, std::vector<double>* c) {
  const std::vector<double> edges = Edges(*c, density.end());
  for (size_t i = 0; i < c->size(); ++i) {
    (*c)[i] = density.Integrate(edges[i], edges[i + 1]).mean();
  }
}

// Quantiles of the Panter-Dite point density f^(1/3), which for N(0, 1) is N(0, 3): where the
// centroids of a fine quantiser lie.
std::vector<double> StartingPoint(const Density& density, int levels) {
  std::vector<double> c(levels);
  for (int i = 0; i < levels; ++i) {
    const double quantile = (i + 0.5) / levels;  // of |u|
    double lo = 0;
    double hi = 12;
    for (int step = 0; step < 60; ++step) {
      const double middle = 0.5 * (lo + hi);
      (std::erf(middle / std::sqrt(6.0)) < quantile ? lo : hi) = middle;
    }
    c[i] = std::min(lo, 0.5 * density.end() * (1 + quantile));
  }
  return c;
}

bool Ascending(const std::vector<double>& c, double end) {
  double previous = 0;
  for (double x : c) {
    if (!(x > previous && x < end)) return false;
    previous = x;
  }
  return true;
}

// The whole codebook of the positive centroids c.
LloydMaxCodebook Describe(const Density& density, const std::vector<double>& c) {
  const int levels = static_cast<int>(c.size());
  LloydMaxCodebook book;
  const std::vector<double> edges = Edges(c, density.end());
  for (int i = levels; i-- > 0;) book.centroids.push_back(-c[i]);
  for (double x : c) book.centroids.push_back(x);
  for (int i = levels - 1; i > 0; --i) book.thresholds.push_back(-edges[i]);
  for (int i = 0; i < levels; ++i) book.thresholds.push_back(edges[i]);
  for (int i = 0; i < levels; ++i) {
    const Moments m = density.Integrate(edges[i], edges[i + 1]);
    book.distortion += 2 * m.Spread(c[i]);
    book.entropy -= 2 * m.mass * std::log2(m.mass);
  }
  return book;
}

// The factor on c of least distortion for the present cells: E[u c] / E[c^2].
double FitUnit(const Density& density, const std::vector<double>& c) {
  const std::vector<double> edges = Edges(c, density.end());
  double dot = 0;
  double norm = 0;
  for (size_t i = 0; i < c.size(); ++i) {
    const Moments m = density.Integrate(edges[i], edges[i + 1]);
    dot += m.mass * m.mean() * c[i];
    norm += m.mass * c[i] * c[i];
  }
  return dot / norm;
}

}  // namespace

Result<LloydMaxCodebook> SolveLloydMax(int bits, int dimension) {
  if (bits < 1 || bits > 8) {
    return InvalidArgument("Lloyd-Max codebooks have 1 to 8 bits, not " + std::to_string(bits) +
                           ".");
  }
  if (dimension != kGaussianMarginal && (dimension < 4 || dimension > 65536)) {
    return InvalidArgument("the dimension of a sphere must be from 4 to 65536, not " +
                           std::to_string(dimension) + ".");
  }
  const Density density(dimension);
  const int levels = 1 << (bits - 1);  // of the positive half
  std::vector<double> c = StartingPoint(density, levels);
  for (int step = 0; step < 20; ++step) LloydStep(density, &c);
  bool converged = false;
  for (int step = 0; step < kMaxSteps && !converged; ++step) {
    std::vector<double> next = c;
    const double residual = NewtonStep(density, &next);
    if (Ascending(next, density.end())) {
      c = next;
      converged = residual < kConverged;
    } else {
      LloydStep(density, &c);
    }
  }
  if (!converged) {
    return Status(StatusCode::kInternal, "the Lloyd-Max iteration did not converge for " +
                                             std::to_string(bits) + " bits, dimension " +
                                             std::to_string(dimension) + ".");
  }
  return Describe(density, c);
}

Result<GridCodebook> SolveGridCodebook(int bits, int dimension) {
  if (bits > 4) {
    return InvalidArgument("codebooks on a byte grid have 1 to 4 bits, not " +
                           std::to_string(bits) + ".");
  }
  auto solved = SolveLloydMax(bits, dimension);
  if (!solved.ok()) return solved.status();
  const Density density(dimension);
  const int levels = 1 << (bits - 1);
  const std::vector<double> half(solved.value().centroids.begin() + levels,
                                 solved.value().centroids.end());
  GridCodebook best;
  for (int peak = 64; peak <= kMaxGridStep; ++peak) {
    GridCodebook grid;
    grid.unit = half.back() / peak;
    for (double x : half) grid.steps.push_back(static_cast<int>(std::lround(x / grid.unit)));
    std::vector<double> c(levels);
    double change = 1;
    for (int step = 0; step < kMaxSteps && change > kConverged; ++step) {
      for (int i = 0; i < levels; ++i) c[i] = grid.unit * grid.steps[i];
      change = FitUnit(density, c) - 1;
      grid.unit *= 1 + change;
      change = std::abs(change);
    }
    for (int i = 0; i < levels; ++i) c[i] = grid.unit * grid.steps[i];
    grid.book = Describe(density, c);
    // A tie, to rounding, goes to the smaller peak.
    if (best.steps.empty() || grid.book.distortion < best.book.distortion * (1 - 1e-9)) best = grid;
  }
  std::vector<int> steps;
  for (int i = levels; i-- > 0;) steps.push_back(-best.steps[i]);
  steps.insert(steps.end(), best.steps.begin(), best.steps.end());
  best.steps = steps;
  return best;
}

}  // namespace turboquant
