// Screening: which features need a closer look than the precision of one pass over all of them allows.
#pragma once

#include "newton.hpp"

namespace sparsedis {

// Features are screened in units of lambda1, so that no scale of theirs is too small or too large for the type.
SPARSEDIS_HOST_DEVICE inline double screening_unit(const Samples& samples) {
  return samples.lambda1 > 0 ? 1 / samples.lambda1 : 1;
}

// The error of ||V_j|| relative to ||x_j||, V = X^T A computed in a type of that epsilon; square: ||A||^2 in m
// coordinates. It is at most (n + 2) epsilon ||A||, times 4 for safety; the last class is the sum of the others.
SPARSEDIS_HOST_DEVICE inline double screening_error(const Samples& samples, double epsilon, double square) {
  return 4 * (samples.n + samples.m + 4) * epsilon * std::sqrt(square * samples.m);
}

// ||V_j||^2, in units of lambda1, up to which a feature is off whatever the error; -1 where none is off for sure.
// longest: the largest ||x_j||, in the same units.
SPARSEDIS_HOST_DEVICE inline double screening_threshold(const Samples& samples, double error, double longest) {
  const double bound = 1 - error * longest;
  return samples.lambda1 > 0 && bound > 0 ? bound * bound * (1 - 1e-5) : -1;
}

// theta of minimise_on_segment() for norms that are in units of lambda1, which is 1 there (or 0), and lambda2 that of
// features divided by lambda1.
template <class Team, class T>
SPARSEDIS_HOST_DEVICE double minimise_on_screened_segment(const Team& team, const Samples& samples, int d, T* norm) {
  const double unit = screening_unit(samples);
  Samples scaled = samples;
  scaled.lambda1 *= unit;
  scaled.lambda2 *= unit * unit;
  return minimise_on_segment(team, scaled, d, norm);
}

}  // namespace sparsedis
