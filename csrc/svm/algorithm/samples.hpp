// The samples of one task, and computations per sample: residual, dual gradient, certificate, projection.
//
// requirements.hpp defines Team and the other arguments of the loops.
#pragma once

#include "../../common/macros.hpp"
#include "../thresholds.hpp"

namespace sparsedis {

// The number of classes is k. Rows of A, V, W and of all directions sum to zero over the classes and are stored in m =
// k-1 coordinates, those of all classes but the last.
struct Samples {
  int n;
#ifdef SPARSEDIS_CLASSES  // compiled for one number of classes: cheap divisions by k, unrolled loops over classes
  static constexpr int k = SPARSEDIS_CLASSES, m = k - 1;
#else
  int k, m;
#endif
  const int* label;  // (n,)
  const double* s;   // (n,), at most 1
  double lambda1, lambda2, rho;

  SPARSEDIS_HOST_DEVICE bool is_label(int i, int l) const { return label[i] == l; }
  // Y - 1/k
  SPARSEDIS_HOST_DEVICE double centred_label(int i, int l) const { return (is_label(i, l) ? 1 : 0) - 1.0 / k; }
};

// Row i of A = diag(s)(Y - L), the first m classes. The label's entry is the sum of the others, since 1 - L_y cancels
// near a solution.
SPARSEDIS_HOST_DEVICE inline void residual_row(const Samples& samples, const double* L, int i, double* A) {
  const int k = samples.k;
  double others = 0;
  for (int l = 0; l < k; ++l) {
    if (!samples.is_label(i, l)) others += L[i * k + l];
  }
  for (int l = 0; l < samples.m; ++l) {
    A[i * samples.m + l] = samples.s[i] * (samples.is_label(i, l) ? others : -L[i * k + l]);
  }
}

// Entry l of row i of a matrix in m coordinates whose rows sum to zero.
SPARSEDIS_HOST_DEVICE inline double entry(const double* rows, int m, int i, int l) {
  if (l < m) return rows[i * m + l];
  double sum = 0;
  for (int c = 0; c < m; ++c) sum += rows[i * m + c];
  return -sum;
}

// Threshold tau of the Euclidean projection onto the simplex, (z - tau)_+, by Michelot's finite iteration. tau never
// decreases, so that the support only shrinks and rounding cannot make the iteration cycle. Entries should be near 0 to
// keep rounding errors small.
template <class Entry>
SPARSEDIS_HOST_DEVICE double simplex_threshold(int k, Entry z) {
  double tau = -1e300;
  for (int count = k + 1;;) {
    double sum = 0;
    int kept = 0;
    for (int l = 0; l < k; ++l) {
      const double value = z(l);
      if (value > tau) {
        sum += value;
        ++kept;
      }
    }
    if (kept >= count || kept == 0) return tau;
    count = kept;
    const double next = (sum - 1) / kept;
    tau = next > tau ? next : tau;
  }
}

// The Euclidean projection of z (k,) onto the simplex, into `to`, which may be z.
SPARSEDIS_HOST_DEVICE inline void project_row(int k, const double* z, double* to) {
  double top = z[0];
  for (int l = 1; l < k; ++l) top = z[l] > top ? z[l] : top;
  const double tau = simplex_threshold(k, [&](int l) { return z[l] - top; });
  for (int l = 0; l < k; ++l) {
    const double above = z[l] - top - tau;
    to[l] = above > 0 ? above : 0;
  }
}

// The same onto the simplex of the free entries, of which there is at least one; the others become 0. missing: 1 minus
// the sum of the free entries. The threshold is computed from `missing` and the entries that it cuts off; computing it
// as 1 minus the sum of the kept entries would lose entries of the size of lambda2 to rounding.
SPARSEDIS_HOST_DEVICE inline void project_free_row(int k, const unsigned char* free, const double* z, double missing,
                                                   double* to) {
  double tau = -1e300;
  for (int count = k + 1;;) {
    double cut = 0;
    int kept = 0;
    for (int l = 0; l < k; ++l) {
      if (!free[l]) continue;
      if (z[l] > tau) {
        ++kept;
      } else {
        cut += z[l];
      }
    }
    if (kept >= count || kept == 0) break;
    count = kept;
    const double next = -(missing + cut) / kept;
    tau = next > tau ? next : tau;
  }
  for (int l = 0; l < k; ++l) {
    const double above = z[l] - tau;
    to[l] = free[l] && above > 0 ? above : 0;
  }
}

struct Terms {
  double slack, hinge;
};

// Sample i's terms of the gap and of the primal objective (sparsedis.problem.certificate); scores: X W in m
// coordinates.
SPARSEDIS_HOST_DEVICE inline Terms certificate_terms(const Samples& samples, const double* L, const double* scores,
                                                     int i) {
  const int k = samples.k, m = samples.m;
  const double rho = samples.rho;
  const double own = entry(scores, m, i, samples.label[i]);
  double last = 0;
  for (int c = 0; c < m; ++c) last -= scores[i * m + c];
  auto margin = [&](int l) { return (samples.is_label(i, l) ? 0.0 : 1.0) + (l < m ? scores[i * m + l] : last) - own; };
  double top = margin(0);
  for (int l = 1; l < k; ++l) top = margin(l) > top ? margin(l) : top;
  double slack = 0;
  if (rho == 0) {
    for (int l = 0; l < k; ++l) slack += L[i * k + l] * (top - margin(l));
    return {samples.s[i] * slack, samples.s[i] * top};
  }
  auto z = [&](int l) { return (samples.is_label(i, l) ? 1.0 : 0.0) + (margin(l) - top) / rho; };
  const double tau = simplex_threshold(k, z);
  double hinge = 0;
  for (int l = 0; l < k; ++l) {
    const double above = z(l) - tau;
    const double a = above > 0 ? above : 0;
    const double distance = a - L[i * k + l];
    const double target = a - (samples.is_label(i, l) ? 1.0 : 0.0);
    slack += rho * (L[i * k + l] * (above < 0 ? -above : 0) + distance * distance / 2);
    hinge += a * margin(l) - rho / 2 * target * target;
  }
  return {samples.s[i] * slack, samples.s[i] * hinge};
}

struct Certificate {
  double gap, objective;
  SPARSEDIS_HOST_DEVICE double relative() const { return gap / (objective > kTiny ? objective : kTiny); }
};

// Properties of the written weights, after rounding to their type.
struct Weights {
  Certificate certificate;
  double margin;      // distance from the nearest kink
  double attainable;  // gap below which rounding in double may keep every dual point
};

// memory: (n,).
template <class Team>
SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE Certificate certificate(const Team& team, const Samples& samples, const double* L,
                                                             const double* scores, double penalty, double* memory) {
  const double gap = team.sum(samples.n, [&](int i) {
    const Terms terms = certificate_terms(samples, L, scores, i);
    memory[i] = terms.hinge;
    return terms.slack;
  });
  return {gap, team.sum(samples.n, [&](int i) { return memory[i]; }) + penalty};
}

// g_il = s_i (Y - x_i W + rho (L - Y)), for all k classes.
SPARSEDIS_HOST_DEVICE inline void dual_gradient_row(const Samples& samples, const double* L, const double* scores,
                                                    int i, double* g) {
  const int k = samples.k, m = samples.m;
  double last = 0;
  for (int c = 0; c < m; ++c) last -= scores[i * m + c];
  for (int l = 0; l < k; ++l) {
    const double Y = samples.is_label(i, l) ? 1 : 0;
    const double score = l < m ? scores[i * m + l] : last;
    g[i * k + l] = samples.s[i] * (Y - score + samples.rho * (L[i * k + l] - Y));
  }
}

// The minimum over all entries of the larger of L and the multiplier of its bound, in units of the hinge's margin
// (sparsedis.problem.complementarity_margin); scores: X W in m coordinates.
template <class Team>
SPARSEDIS_HOST_DEVICE double entry_margin(const Team& team, const Samples& samples, const double* L,
                                          const double* scores) {
  const int k = samples.k, m = samples.m;
  return team.least(samples.n, [&](int i) {
    double last = 0;
    for (int c = 0; c < m; ++c) last -= scores[i * m + c];
    auto gradient = [&](int l) {
      const double Y = samples.is_label(i, l) ? 1 : 0;
      return Y - (l < m ? scores[i * m + l] : last) + samples.rho * (L[i * k + l] - Y);
    };
    double least = gradient(0);
    for (int l = 1; l < k; ++l) least = gradient(l) < least ? gradient(l) : least;
    double result = INFINITY;
    for (int l = 0; l < k; ++l) {
      const double multiplier = gradient(l) - least;
      const double larger = L[i * k + l] > multiplier ? L[i * k + l] : multiplier;
      result = larger < result ? larger : result;
    }
    return result;
  });
}

}  // namespace sparsedis
