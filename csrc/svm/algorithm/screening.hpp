// Screening: which features require a more accurate computation than one pass in the features' type.
#pragma once

#include "newton.hpp"

namespace sparsedis {

// Features are screened in units of lambda1, so that their scale is in the range of the type.
SPARSEDIS_HOST_DEVICE inline double screening_unit(const Samples& samples) {
  return samples.lambda1 > 0 ? 1 / samples.lambda1 : 1;
}

// Bound on the error of ||V_j|| relative to ||x_j||, for V = X^T A computed in a type with that epsilon; square:
// ||A||^2 in m coordinates. The error is at most (n + 2) epsilon ||A||; the factor 4 is a safety margin. The last class
// is the sum of the others.
SPARSEDIS_HOST_DEVICE inline double screening_error(const Samples& samples, double epsilon, double square) {
  return 4 * (samples.n + samples.m + 4) * epsilon * std::sqrt(square * samples.m);
}

// Value of ||V_j||^2, in units of lambda1, up to which a feature is inactive despite the error; -1 if there is none.
// longest: the largest ||x_j||, in the same units.
SPARSEDIS_HOST_DEVICE inline double screening_threshold(const Samples& samples, double error, double longest) {
  const double bound = 1 - error * longest;
  return samples.lambda1 > 0 && bound > 0 ? bound * bound * (1 - 1e-5) : -1;
}

// theta of minimise_on_segment() for norms in units of lambda1. In these units lambda1 is 1 (or 0), and lambda2 is that
// of features divided by lambda1.
template <class Team, class T>
SPARSEDIS_HOST_DEVICE double minimise_on_screened_segment(const Team& team, const Samples& samples, int d, T* norm) {
  const double unit = screening_unit(samples);
  Samples scaled = samples;
  scaled.lambda1 *= unit;
  scaled.lambda2 *= unit * unit;
  return minimise_on_segment(team, scaled, d, norm);
}

}  // namespace sparsedis
