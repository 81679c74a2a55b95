// The weights of a dual point, rounded to the returned type, and their certificate.
#pragma once

#include "samples.hpp"

namespace sparsedis {

// Number of values that write_weights() works with: planes (m, ld), scores (n, m) and the certificate's memory.
SPARSEDIS_HOST_DEVICE inline std::size_t weights_size(std::size_t n, std::size_t m, std::size_t ld) {
  return m * ld + n * m + n;
}

template <class F>
SPARSEDIS_HOST_DEVICE double sum_of_squares(const F* row, int k) {
  double sum = 0;
  for (int c = 0; c < k; ++c) sum += double(row[c]) * double(row[c]);
  return sum;
}

// Effect of rounding on the gap of weights W, bounded by the Cauchy-Schwarz inequality with the features' curvatures as
// weights. It can exceed the gap itself if features are far from zero or the objective is tiny.
struct Rounding {
  double error;       // error of the gap due to that of X W: sum_i s_i u (1 + sum_j |x_ij| ||W_j||)
  double attainable;  // error plus the effect of V = X^T A on the scores: sum_i s_i u sum_j |x_ij| |V|_j/lambda2
};

// memory: (n,). Requires an evaluated `primal`.
template <class F, class Team, class PrimalMap>
SPARSEDIS_HOST_DEVICE Rounding rounding_of(const Team& team, const Samples& samples, PrimalMap& primal, const F* W,
                                           double* memory) {
  const int k = samples.k, m = samples.m;
  const double square = team.sum(primal.candidates(), [&](int a) {
    if (!primal.active(a)) return 0.0;
    return sum_of_squares(W + std::ptrdiff_t(primal.index(a)) * k, k) / (primal.alpha(a) + primal.beta(a) / m);
  });
  primal.mean_curvature(team, memory);
  const double lengths = team.sum(samples.n, [&](int i) { return samples.s[i] * std::sqrt(memory[i]); });
  const double terms = team.sum(samples.n, [&](int i) {
    const double* A = primal.residual() + std::ptrdiff_t(i) * m;
    double squares = 0, last = 0;
    for (int c = 0; c < m; ++c) {
      squares += A[c] * A[c];
      last -= A[c];
    }
    return std::sqrt(memory[i] * (squares + last * last));
  });
  const double weight = team.sum(samples.n, [&](int i) { return samples.s[i]; });
  const double error = kUnitRoundoff * (weight + lengths * std::sqrt(square));
  return {error, error + kUnitRoundoff * lengths * terms};
}

// Properties of rounded weights, without their margin.
struct Rounded {
  Certificate certificate;
  double attainable;
};

// Writes `length` times the weights of the active features at L (n, k), where `primal` was last evaluated.
template <class F, class Team, class PrimalMap>
SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE Rounded write_rounded(const Team& team, const Samples& samples, PrimalMap& primal,
                                                           const double* L, double length, F* W, bool* active,
                                                           double* memory) {
  const int k = samples.k, m = samples.m;
  const std::ptrdiff_t ld = primal.ld();
  double *planes = memory, *scores = memory + m * ld;
  const int count = primal.candidates();
  const double slack = team.sum(count, [&](int a) {
    if (!primal.active(a)) {
      for (int c = 0; c < m; ++c) planes[c * ld + a] = 0;
      return 0.0;
    }
    active[primal.index(a)] = true;
    F* to = W + std::ptrdiff_t(primal.index(a)) * k;
    double last = 0, last_unit = 0;
    for (int c = 0; c < m; ++c) {
      last -= primal.W(c, a);
      last_unit -= primal.unit(c, a);
    }
    double mean = 0, along = 0, squares = 0, distance = 0;
    for (int c = 0; c < k; ++c) {
      const double exact = c < m ? primal.W(c, a) : last;
      to[c] = F(length * exact);
      const double rounded = double(to[c]);
      mean += rounded;
      along += rounded * (c < m ? primal.unit(c, a) : last_unit);
      squares += rounded * rounded;
      distance += (rounded - exact) * (rounded - exact);
    }
    mean /= k;
    // The feature's term of the gap, nonnegative by the Fenchel-Young inequality (sparsedis.problem.certificate_of).
    double across = 0;
    for (int c = 0; c < k; ++c) {
      const double off = double(to[c]) - along * (c < m ? primal.unit(c, a) : last_unit);
      across += off * off;
      // Rows of W may be centred, since margins are differences of scores.
      if (c < m) planes[c * ld + a] = double(to[c]) - mean;
    }
    const double both = std::sqrt(squares) + along;
    return samples.lambda1 * (both > 0 ? across / both : 0) + samples.lambda2 / 2 * distance;
  });
  const double penalty = team.sum(count, [&](int a) {
    if (!primal.active(a)) return 0.0;
    const double squares = sum_of_squares(W + std::ptrdiff_t(primal.index(a)) * k, k);
    return samples.lambda1 * std::sqrt(squares) + samples.lambda2 / 2 * squares;
  });
  const Rounding rounding = rounding_of(team, samples, primal, W, scores);
  primal.apply_candidates(team, planes, scores);
  Certificate at = certificate(team, samples, L, scores, penalty, scores + samples.n * m);
  at.gap += slack + rounding.error;
  return {at, rounding.attainable};
}

// Writes the weights of the active features at L (n, k) into W (d, k) and active (d,), which are initially 0; `primal`
// covers all features. F is the type of W. memory: weights_size() values.
//
// Rounding to float moves samples off the margin to both sides, and the loss on one side can be large relative to a
// small objective. Weights that are longer by a few ulps put all of them on the right side at little cost.
template <class F, class Team, class PrimalMap>
SPARSEDIS_HOST_DEVICE Weights write_weights(const Team& team, const Samples& samples, PrimalMap& primal,
                                            const double* L, F* W, bool* active, double* memory) {
  const double penalty = primal.evaluate(team, L);
  const double before = certificate(team, samples, L, primal.scores(), penalty, memory).relative();
  const double of_entries = entry_margin(team, samples, L, primal.scores()), of_features = primal.margin(team);
  auto write = [&](double longer) { return write_rounded(team, samples, primal, L, 1 + longer, W, active, memory); };
  Rounded best = write(0);
  if (sizeof(F) < sizeof(double)) {
    double chosen = 0, written = 0;
    for (double longer = kLengthenLeast; longer <= kLengthenMost; longer *= kLengthenFactor) {
      if (best.certificate.relative() - before <= kWellRounded) break;
      const Rounded next = write(longer);
      written = longer;
      if (next.certificate.relative() < best.certificate.relative()) {
        best = next;
        chosen = longer;
      }
    }
    if (chosen != written) write(chosen);
  }
  return {best.certificate, of_entries < of_features ? of_entries : of_features, best.attainable};
}

}  // namespace sparsedis
