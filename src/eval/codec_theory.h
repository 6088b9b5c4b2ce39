// What theory says that a codec does to a row uniform on the sphere (any row, once it is rotated).
//
// In units of the row's rms, with A = <u,c>/d and B = <c,c>/d for the coordinates u and their
// centroids c, the relative distortion |y - s c|^2 / |y|^2 under the four scale rules is
//   least squares 1 - A^2/B,   norm 1 - 2A + B,   matched 2 - 2A/sqrt(B),   unbiased B/A^2 - 1
// (EDEN, arXiv 2604.18555, has the last and the first). The expectation follows to second order in
// 1/sqrt(d) from the means of A and B under the exact marginal, and from their covariance, to which
// |u|^2 = d does not contribute.
#ifndef TURBOQUANT_EVAL_CODEC_THEORY_H_
#define TURBOQUANT_EVAL_CODEC_THEORY_H_

#include <optional>
#include <vector>

#include "codec/codec_spec.h"

namespace turboquant {

// sqrt(3) pi / 2: D 4^bits of a fine Lloyd-Max quantiser of N(0, 1), its limit from below (Panter
// and Dite 1951).
inline constexpr double kPanterDite = 2.7206990463513265;

// Least distortion of a memoryless Gaussian source at so many bits a value (Shannon 1959).
double ShannonDistortion(double bits_per_value);

// The relative distortion of codes with these centroids (ascending, thresholds halfway between
// neighbours), for rows of which every part has the same number of coordinates.
double ExpectedDistortion(const std::vector<std::vector<double>>& centroids_of_parts, int head_dim,
                          ScaleRule rule);

// Of a codec as its spec has it; nothing for those without an integral (trellises, baselines with a
// scale for each group). It is also head_dim times the variance of the estimate of <q, x> for
// independent q and x on the unit sphere: the error has a random direction.
std::optional<double> ExpectedDistortion(const CodecSpec& spec, int head_dim);

// Variance of the estimate of <q, r>, |q| = |r| = 1, of cosine `cosine`, from the d signs of S r:
// (pi/2 - cosine^2) / d for a Gaussian S (QJL, arXiv 2406.03482, lemma 3.5); for an orthogonal S,
//   k^2 cosine^2 Var|u|_1 + k^2 (1 - cosine^2) (d - E|u|_1^2) / (d - 1),
// u uniform on the sphere, E|u|_1 = 1/k, E|u|_1^2 = 1 + 2 (d - 1) / pi.
double ExpectedProjectionVariance(ProjectionKind kind, int d, double cosine);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_CODEC_THEORY_H_
