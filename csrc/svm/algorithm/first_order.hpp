// First-order solvers of the dual: accelerated proximal gradient with restarts, and block coordinate descent over
// samples.
#pragma once

#include "finish.hpp"
#include "progress.hpp"
#include "samples.hpp"

namespace sparsedis {

// Projects row i of `point` minus `step` times g onto the simplex, into `to`; all (k,).
SPARSEDIS_HOST_DEVICE inline void projected_row(int k, const double* point, const double* g, double step, double* to) {
  for (int l = 0; l < k; ++l) to[l] = point[l] - step * g[l];
  project_row(k, to, to);
}

// Whether the order n (k-1) of the Newton matrix is so large that first-order steps may be cheaper.
SPARSEDIS_HOST_DEVICE inline bool is_large(const Samples& samples) { return samples.n * samples.m >= kFirstOrderOrder; }

// Number of first-order steps to try before Newton, with products over `columns` numbers per sample: as many as cost
// half of Newton. If more are expected to be needed, a fraction of them without a group Lasso, where fewer often
// suffice, and otherwise 0.
SPARSEDIS_HOST_DEVICE inline std::int64_t first_order_steps(const Samples& samples, int columns, double lipschitz) {
  const double order = double(samples.n) * samples.m;
  const double budget = kFirstOrderShare * order * order / (kEntryCost + columns);
  const double expected = kExpectedSteps * samples.n / samples.k * std::sqrt(lipschitz);
  const double fraction = expected <= budget ? 1 : samples.lambda1 == 0 ? kFirstOrderTrial : 0;
  return std::int64_t(fraction * budget);
}

SPARSEDIS_HOST_DEVICE inline std::size_t fista_size(std::size_t n, std::size_t k) { return 4 * n * k; }
SPARSEDIS_HOST_DEVICE inline std::size_t bcd_size(std::size_t n, std::size_t k) { return n * k + 3 * k + n; }

// Step size 1/lipschitz; momentum with gradient restart (Beck and Teboulle 2009; O'Donoghue and Candes 2015). Continues
// the count progress.n_iter. finish(): tries to reach rounding error from the best point, first at a gap of finish_gap.
// memory: fista_size() values.
template <class Team, class PrimalMap, class Finish>
SPARSEDIS_HOST_DEVICE void fista(const Team& team, const Samples& samples, PrimalMap& primal, double lipschitz,
                                 double* memory, Progress& progress, std::int64_t max_iter, double finish_gap,
                                 Finish finish) {
  const int k = samples.k, size = samples.n * k;
  double *dual = memory, *extrapolated = memory + size, *g = memory + 2 * size, *next = memory + 3 * size;
  team.each(size, [&](int e) { dual[e] = extrapolated[e] = 1.0 / k; });
  double momentum = 1;
  const std::int64_t first = progress.n_iter;
  for (std::int64_t iteration = first; iteration <= max_iter; ++iteration) {
    if ((iteration - first) % kCheckEvery == 0 || iteration == max_iter) {
      const double penalty = primal.evaluate(team, dual);
      const Certificate current = certificate(team, samples, dual, primal.scores(), penalty, g);
      if (!progress.record(team, dual, size, current, iteration)) return;
      if (progress.relative_gap <= finish_gap) {
        if (finish()) return;
        finish_gap = kFinishRetryFactor * progress.relative_gap;
        iteration = progress.n_iter;
      }
    }
    primal.evaluate(team, extrapolated);
    team.each(samples.n, [&](int i) {
      dual_gradient_row(samples, extrapolated, primal.scores(), i, g);
      projected_row(k, extrapolated + i * k, g + i * k, 1 / lipschitz, next + i * k);
    });
    const double uphill = team.sum(size, [&](int e) { return (extrapolated[e] - next[e]) * (next[e] - dual[e]); });
    if (uphill > 0) momentum = 1;
    const double next_momentum = (1 + std::sqrt(1 + 4 * momentum * momentum)) / 2;
    const double weight = (momentum - 1) / next_momentum;
    team.each(size, [&](int e) {
      extrapolated[e] = next[e] + weight * (next[e] - dual[e]);
      dual[e] = next[e];
    });
    momentum = next_momentum;
  }
}

// An iteration is one sweep over the samples, each with its own step size 1/(s ||x||^2/lambda2 + rho). memory:
// bcd_size() values.
template <class Team, class PrimalMap, class Sweep>
SPARSEDIS_HOST_DEVICE void bcd(const Team& team, const Samples& samples, PrimalMap& primal, Sweep& sweep,
                               double* memory, Progress& progress, std::int64_t max_iter) {
  const int n = samples.n, k = samples.k, m = samples.m;
  double *dual = memory, *g = memory + n * k, *next = g + k, *change = next + k, *hinges = change + k;
  team.each(n * k, [&](int e) { dual[e] = 1.0 / k; });
  for (std::int64_t iteration = 0; iteration <= max_iter; ++iteration) {
    const double penalty = primal.evaluate(team, dual);
    const Certificate current = certificate(team, samples, dual, primal.scores(), penalty, hinges);
    if (!progress.record(team, dual, n * k, current, iteration) || iteration == max_iter) return;
    sweep.restart(team, dual);
    for (int i = 0; i < n; ++i) {
      sweep.visit(team, i);
      // A row has k entries, too few to distribute over a team.
      team.once([&] {
        const double* scores = sweep.scores();
        double* L = dual + i * k;
        double last = 0;
        for (int c = 0; c < m; ++c) last -= scores[c];
        for (int l = 0; l < k; ++l) {
          const double Y = samples.is_label(i, l) ? 1 : 0;
          g[l] = Y - (l < m ? scores[l] : last) + samples.rho * (L[l] - Y);
        }
        const double constant = samples.s[i] * sweep.square(i) / samples.lambda2 + samples.rho;
        projected_row(k, L, g, 1 / (constant > kTiny ? constant : kTiny), next);
        for (int c = 0; c < m; ++c) change[c] = samples.s[i] * (L[c] - next[c]);
        for (int l = 0; l < k; ++l) L[l] = next[l];
      });
      sweep.update(team, change);
    }
  }
}

}  // namespace sparsedis
