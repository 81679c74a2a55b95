// Interior-point Newton on the dual: Mehrotra's predictor-corrector, generic in the form of the features' part (Form in
// requirements.hpp).
#pragma once

#include "finish.hpp"
#include "progress.hpp"
#include "samples.hpp"

namespace sparsedis {

// A form without own variables: the light form, whose curvature is that of the active features.
struct NoVariables {
  template <class Team>
  SPARSEDIS_HOST_DEVICE void linearise(const Team&, const double*) const {}
  template <class Team>
  SPARSEDIS_HOST_DEVICE bool shift(const Team&, double, double, double*) const {
    return false;
  }
  template <class Team>
  SPARSEDIS_HOST_DEVICE void complete(const Team&, const double*) const {}
  template <class Team>
  SPARSEDIS_HOST_DEVICE double max_step(const Team&) const {
    return INFINITY;
  }
  template <class Team>
  SPARSEDIS_HOST_DEVICE double products(const Team&, double) const {
    return 0;
  }
  SPARSEDIS_HOST_DEVICE int pairs() const { return 0; }
  template <class Team>
  SPARSEDIS_HOST_DEVICE void keep_products(const Team&) const {}
  template <class Team>
  SPARSEDIS_HOST_DEVICE void move(const Team&, double) const {}
};

// (n, k) arrays of one task. product: dL dZ of the predictor, which the corrector subtracts from its targets;
// corrected: the value that a further corrector subtracts instead.
struct Point {
  double *L, *Z, *dL, *dZ, *product, *corrected, *gradient, *bounds, *rhs;
  double* shift;  // (n, m)
  SPARSEDIS_HOST_DEVICE void exchange_products() {
    double* const before = product;
    product = corrected;
    corrected = before;
  }
  SPARSEDIS_HOST_DEVICE static std::size_t size(std::size_t n, std::size_t k) { return 10 * n * k; }
  SPARSEDIS_HOST_DEVICE void place(double* at, std::size_t n, std::size_t k) {
    double** const all[] = {&L, &Z, &dL, &dZ, &product, &corrected, &gradient, &bounds, &rhs, &shift};
    for (double** one : all) {
      *one = at;
      at += n * k;
    }
  }
};

// theta in [0, 1], the minimiser of the dual on the segment L = (1 - theta) Y + theta/k. norm (d,): the row norms of
// X^T diag(s)(Y - 1/k), reordered here. The derivative in theta is convex and increasing, so that Newton's method from
// theta = 1 decreases monotonically to its root, and a feature that becomes inactive stays inactive.
template <class Team, class T>
SPARSEDIS_HOST_DEVICE double minimise_on_segment(const Team& team, const Samples& samples, int d, T* norm) {
  const double linear_decrease =
      samples.lambda2 * (1 - 1.0 / samples.k) * team.sum(samples.n, [&](int i) { return samples.s[i]; });
  double theta = 1;
  int n_active = d;
  for (int iteration = 0; iteration < kStartIterations; ++iteration) {
    n_active = team.partition(norm, n_active, T(samples.lambda1 / theta));
    const double square = team.sum(n_active, [&](int j) { return double(norm[j]) * norm[j]; });
    const double length = team.sum(n_active, [&](int j) { return double(norm[j]); });
    const double excess = theta * square - samples.lambda1 * length - linear_decrease;
    if (excess <= 0 || square <= 0) break;
    const double next = theta - excess / square;
    if (!(next < theta * (1 - kStartAccuracy))) break;
    theta = next;
  }
  return theta;
}

template <class Team>
SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE void place_start(const Team& team, const Samples& samples, int d, double theta,
                                                      Point& at) {
  const int k = samples.k;
  const double least = d < samples.n ? kSmallestStartFewFeatures : kSmallestStart;
  theta = theta < least ? least : theta > kLargestStart ? kLargestStart : theta;
  team.each_entry(samples.n, k, [&](int i, int l) {
    const int e = i * k + l;
    at.L[e] = (samples.is_label(i, l) ? 1 - theta : 0) + theta / k;
    at.Z[e] = kStartBarrier * (theta / k) / at.L[e];
  });
}

// The direction for targets `centre - damping * product` of the products L Z and of the form's own pairs. damping 0:
// the predictor, for which the products are not yet known.
template <class Team, class Form, class System>
SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE void direction(const Team& team, const Samples& samples, Form& form,
                                                    const System& system, Point& at, double centre, double damping) {
  const int k = samples.k, m = samples.m, size = samples.n * k;
  const bool shifted = form.shift(team, centre, damping, at.shift);
  auto target = [&](int e) { return damping == 0 ? centre : centre - damping * at.product[e]; };
  team.each(size, [&](int e) { at.rhs[e] = target(e) / at.L[e] - at.gradient[e]; });
  if (shifted) {
    team.each_entry(samples.n, k, [&](int i, int l) { at.rhs[i * k + l] += samples.s[i] * entry(at.shift, m, i, l); });
  }
  system.solve(team, at.rhs, at.dL);
  team.each(size, [&](int e) { at.dZ[e] = (target(e) - at.Z[e] * at.dL[e]) / at.L[e] - at.Z[e]; });
  form.complete(team, at.dL);
}

// The step length, at most 1: `fraction` times the longest step that keeps L, Z and the form's own pairs positive.
template <class Team, class Form>
SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE double step_to_boundary(const Team& team, const Samples& samples, const Form& form,
                                                             const Point& at, double fraction) {
  // Takes the reciprocal of the extreme relative change at the end, which avoids branches.
  const double change = team.least(samples.n * samples.k, [&](int e) {
    const double a = at.dL[e] / at.L[e], b = at.dZ[e] / at.Z[e];
    return a < b ? a : b;
  });
  const double longest = change < 0 ? -1 / change : INFINITY, other = form.max_step(team);
  const double step = fraction * (longest < other ? longest : other);
  return step < 1 ? step : 1;
}

// The barrier parameter mu after a step: the mean product of all complementary pairs.
template <class Team, class Form>
SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE double barrier_parameter(const Team& team, const Samples& samples,
                                                              const Form& form, const Point& at, double step) {
  const int size = samples.n * samples.k;
  const double total = team.sum(size, [&](int e) {
    const double L = step == 0 ? at.L[e] : at.L[e] + step * at.dL[e];
    const double Z = step == 0 ? at.Z[e] : at.Z[e] + step * at.dZ[e];
    return L * Z;
  });
  return (total + form.products(team, step)) / (size + form.pairs());
}

// Gondzio's corrector of a direction with step length `step`: products L Z that a longer step would take out of a band
// around the centre get targets inside the band. It costs a solve with the existing factor, and is kept if it lengthens
// the step. Returns the step length.
template <class Team, class Form, class System>
SPARSEDIS_HOST_DEVICE double lengthen(const Team& team, const Samples& samples, Form& form, const System& system,
                                      Point& at, double centre, double step) {
  const double extended = step + kStepExtension < 1 ? step + kStepExtension : 1;
  const double least = centre * kProductBand, most = centre / kProductBand;
  team.each(samples.n * samples.k, [&](int e) {
    const double product = (at.L[e] + extended * at.dL[e]) * (at.Z[e] + extended * at.dZ[e]);
    const double up = product < least ? least - product : 0, down = product > most ? product - most : 0;
    at.corrected[e] = at.product[e] - up + (down < most ? down : most);
  });
  at.exchange_products();
  direction(team, samples, form, system, at, centre, 1);
  const double longer = step_to_boundary(team, samples, form, at, kFractionToBoundary);
  if (longer > step) return longer;
  at.exchange_products();
  direction(team, samples, form, system, at, centre, 1);
  return step;
}

// One step from a point with a computed certificate; returns its length, at most 1.
template <class Team, class Form, class System>
SPARSEDIS_HOST_DEVICE double advance(const Team& team, const Samples& samples, Form& form, System& system, Point& at) {
  const int k = samples.k, size = samples.n * k;
  form.linearise(team, at.L);
  team.each(samples.n, [&](int i) { dual_gradient_row(samples, at.L, form.gradient_scores(), i, at.gradient); });
  team.each_entry(samples.n, k, [&](int i, int l) {
    at.bounds[i * k + l] = at.Z[i * k + l] / at.L[i * k + l] + samples.s[i] * samples.rho;
  });
  system.factor(team, form, at.bounds, at.L);

  const double mu = barrier_parameter(team, samples, form, at, 0);
  direction(team, samples, form, system, at, 0, 0);
  const double predictor_step = step_to_boundary(team, samples, form, at, 1);
  const double predicted_mu = barrier_parameter(team, samples, form, at, predictor_step);
  double sigma = (predicted_mu > 0 ? predicted_mu : 0) / (mu > kTiny ? mu : kTiny);
  sigma = sigma < 1 ? sigma * sigma * sigma : 1;
  team.each(size, [&](int e) { at.product[e] = at.dL[e] * at.dZ[e]; });
  form.keep_products(team);
  const double centre = sigma * mu, damping = predictor_step < kShortStep ? predictor_step : 1;
  direction(team, samples, form, system, at, centre, damping);
  double step = step_to_boundary(team, samples, form, at, kFractionToBoundary);
  // In the full form, solves pass over all features and are too expensive. If the predictor's step is short, its
  // linearisation is not accurate enough for a longer one.
  if constexpr (System::kCheapSolves) {
    const bool worthwhile = form.pairs() == 0 && samples.n * samples.m >= kCorrectorOrder;
    if (worthwhile && predictor_step >= kShortStep && step < 1)
      step = lengthen(team, samples, form, system, at, centre, step);
  }
  team.each(size, [&](int e) {
    at.L[e] += step * at.dL[e];
    at.Z[e] += step * at.dZ[e];
  });
  form.move(team, step);
  return step;
}

// When an interior point ends without a certificate.
struct Limits {
  std::int64_t max_iter;
  // From this iteration on it gives up if the gap exceeds `give_up_gap`.
  std::int64_t patience;
  double give_up_gap;
  double finish_gap;  // gap at which the finish is first tried; 0: never
  int short_steps;    // number of consecutive short steps after which it ends
};

// Iterates from the initial point in `at` until the certificate, a stall or the limits; continues the count
// progress.n_iter. finish(): tries to reach rounding error from at.L, where the form was last evaluated. Returns
// whether it ended because of consecutive short steps, along bounds that the initial point was too close to.
template <class Team, class Form, class System, class Finish>
SPARSEDIS_HOST_DEVICE bool interior_point(const Team& team, const Samples& samples, Form& form, System& system,
                                          Point& at, Progress& progress, const Limits& limits, Finish finish) {
  double finish_gap = limits.finish_gap;
  const std::int64_t first = progress.n_iter;
  int short_steps = 0;
  for (std::int64_t iteration = first;; ++iteration) {
    const double penalty = form.evaluate(team, at.L);
    const Certificate current = certificate(team, samples, at.L, form.scores(), penalty, at.rhs);
    bool going = progress.record(team, at.L, samples.n * samples.k, current, iteration);
    if (going && iteration > first && current.relative() <= finish_gap) {
      const bool finished = finish();
      iteration = progress.n_iter;
      going = progress.continues(current.relative()) && !finished;
      finish_gap = kFinishRetryFactor * current.relative();
      if (going) form.evaluate(team, at.L);
    }
    if (!going) return false;
    if (iteration >= limits.max_iter) return false;
    if (iteration >= limits.patience && !(current.relative() <= limits.give_up_gap)) return false;
    if (short_steps >= limits.short_steps) return true;
    short_steps = advance(team, samples, form, system, at) < kShortStep ? short_steps + 1 : 0;
  }
}

}  // namespace sparsedis
