// The finish: projected semismooth Newton on the free entries of the dual, from a rough solution to rounding error.
//
// Near the solution, the active features and the entries of L at their bound can be identified, and Newton's method on
// the free entries alone, a fraction of all, converges quadratically. Entries at their bound become exactly 0, as an
// accurate gradient requires.
#pragma once

#include "free_system.hpp"
#include "progress.hpp"
#include "samples.hpp"

namespace sparsedis {

// Limits of the finish.
struct Persistence {
  int max_iterations;  // largest number of iterations
  int patience;        // iterations without halving the gap
  int halvings;        // halvings of a step
};
SPARSEDIS_HOST_DEVICE inline Persistence default_persistence() {
  return {kFinishIterations, kFinishPatience, kHalvings};
}
SPARSEDIS_HOST_DEVICE inline Persistence last_resort_persistence() {
  return {kLastIterations, kLastPatience, kLastHalvings};
}

template <class Team, class PrimalMap, class System>
class Finish {
 public:
  SPARSEDIS_HOST_DEVICE static std::size_t size(std::size_t n, std::size_t k) { return 7 * n * k + Free::size(n, k); }
  SPARSEDIS_HOST_DEVICE static std::size_t flags(std::size_t n, std::size_t k) { return 2 * n * k; }

  // memory, free: size() and flags() values.
  SPARSEDIS_HOST_DEVICE Finish(const Samples& samples, PrimalMap& primal, System& system, double* memory,
                               unsigned char* free)
      : samples_(samples),
        primal_(primal),
        size_(samples.n * samples.k),
        free_(free),
        moving_(free + size_),
        system_(samples, primal, system, memory + 7 * std::size_t(size_)) {
    double** const rows[] = {&L_, &g_, &rhs_, &dL_, &trial_, &bounds_, &held_};
    for (double** one : rows) {
      *one = memory;
      memory += size_;
    }
  }

  // Starts from the dual point L (n, k), where `primal` was last evaluated. interior: all entries of L are positive;
  // otherwise the positive ones are free. Returns whether rounding error was reached; records the best point in any
  // case.
  SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE bool run(const Team& team, const double* L, Progress& progress,
                                                std::int64_t max_iter, bool interior, Persistence persistence) {
    choose(team, L, interior);
    Certificate current = evaluate(team, L_);
    progress.record_best(team, L_, size_, current);
    const double margins = kMarginRounding * team.sum(samples_.n, [&](int i) { return samples_.s[i]; });
    auto near_rounding = [&](double relative) {
      return (relative <= kNearRounding || relative * current.objective <= margins) && progress.enough();
    };
    double best = current.relative();
    int stagnant = 0;
    bool stale = false;
    for (int iteration = 0; iteration < persistence.max_iterations && progress.n_iter < max_iter; ++iteration) {
      ++progress.n_iter;
      team.each(samples_.n, [&](int i) { dual_gradient_row(samples_, L_, primal_.scores(), i, g_); });
      if (iteration > 0 && release(team)) stale = false;
      if (!direction(team, stale)) return near_rounding(best);  // a gradient of rounding errors has no direction
      stale = true;
      if (!step(team, current, persistence.halvings)) return near_rounding(best);
      progress.record_best(team, L_, size_, current);
      const double relative = current.relative();
      if (relative <= progress.target() && relative <= kRounding) return true;
      if (relative < best / 2) {
        stagnant = 0;
      } else if (near_rounding(best)) {
        return true;
      } else if (++stagnant >= persistence.patience) {
        return false;
      }
      best = relative < best ? relative : best;
    }
    return near_rounding(best);
  }

 private:
  using Free = FreeSystem<Team, PrimalMap, System>;

  SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE Certificate evaluate(const Team& team, const double* L) {
    const double penalty = primal_.evaluate(team, L);
    return certificate(team, samples_, L, primal_.scores(), penalty, rhs_);
  }

  // Projects z (k,) with free entries that lack `missing` of the sum 1 to row i of `to`; repeated if the sum deviates
  // by more than `tolerance`.
  SPARSEDIS_HOST_DEVICE void project(int i, const double* z, double missing, double tolerance, double* to) {
    const int k = samples_.k;
    const unsigned char* free = free_ + i * k;
    project_free_row(k, free, z, missing, to);
    double deviation = 1;
    for (int l = 0; l < k; ++l) deviation -= to[l];
    if (deviation > tolerance || deviation < -tolerance) project_free_row(k, free, to, deviation, to);
  }

  // Chooses the free entries and projects L onto them. At an interior point they are those that a Newton step in the
  // entry alone would keep positive.
  SPARSEDIS_HOST_DEVICE void choose(const Team& team, const double* L, bool interior) {
    const int k = samples_.k;
    double* curvature = rhs_;
    primal_.mean_curvature(team, curvature);
    team.each(samples_.n, [&](int i) {
      dual_gradient_row(samples_, L, primal_.scores(), i, g_);
      const double* row = L + i * k;
      double mean = 0, largest = row[0], missing = 0;
      for (int l = 0; l < k; ++l) {
        mean += row[l] * g_[i * k + l];
        largest = row[l] > largest ? row[l] : largest;
      }
      const double s = samples_.s[i], h = s * s * curvature[i] + s * samples_.rho;
      for (int l = 0; l < k; ++l) {
        const double above = g_[i * k + l] - mean;
        const bool free = row[l] == largest || (interior ? row[l] * h > above : row[l] > 0 || above < 0);
        free_[i * k + l] = free;
        bounds_[i * k + l] = samples_.s[i] * samples_.rho;
        if (!free) missing += row[l];
      }
      project(i, row, missing, 0, L_ + i * k);  // corrects the deviation of the point's own sum, which would persist
    });
  }

  // Frees the entries at their bound that a descent step along -g_ increases, and binds those that have become 0.
  // Returns whether any entry was freed.
  SPARSEDIS_HOST_DEVICE bool release(const Team& team) {
    const int k = samples_.k;
    const double released = team.sum(samples_.n, [&](int i) {
      double mean = 0;
      for (int l = 0; l < k; ++l) mean += L_[i * k + l] * g_[i * k + l];
      double count = 0;
      for (int e = i * k; e < (i + 1) * k; ++e) {
        const bool free = L_[e] > 0 || g_[e] < mean;
        count += free && !free_[e];
        free_[e] = free;
      }
      return count;
    });
    return released > 0;
  }

  // Newton direction for the dual gradient g_, in dL_; false if the system could not be solved. stale: the factor is
  // from an earlier iteration.
  SPARSEDIS_HOST_DEVICE bool direction(const Team& team, bool stale) {
    team.each(size_, [&](int e) { rhs_[e] = -g_[e]; });
    double reached = 1;
    if (stale) reached = system_.solve(team, free_, bounds_, rhs_, dL_, kDirectionResidual, kStaleSteps);
    if (!(reached <= kDirectionResidual)) {
      system_.factor(team, L_, free_, bounds_);
      reached = system_.solve(team, free_, bounds_, rhs_, dL_, kDirectionResidual, kDirectionSteps);
    }
    team.each(size_, [&](int e) { moving_[e] = free_[e]; });
    for (int holding = 0; holding < kHoldings && reached < kSolved && hold(team); ++holding) {
      team.each(size_, [&](int e) { rhs_[e] = -g_[e]; });
      system_.subtract_product(team, bounds_, held_, rhs_);
      reached = system_.solve(team, moving_, bounds_, rhs_, dL_, kDirectionResidual, kDirectionSteps);
      team.each(size_, [&](int e) { dL_[e] += held_[e]; });
    }
    return reached < kSolved;
  }

  // Holds the free entries that dL_ would make negative: held_ moves them to 0 and adds the difference to the largest
  // entry of their row. A projection would spread it over the row and could lower the dual objective. Returns whether
  // further entries are held.
  SPARSEDIS_HOST_DEVICE bool hold(const Team& team) {
    const int k = samples_.k;
    const double more = team.sum(samples_.n, [&](int i) {
      int largest = i * k;
      for (int e = i * k; e < (i + 1) * k; ++e) largest = L_[e] > L_[largest] ? e : largest;
      double count = 0, taken = 0;
      for (int e = i * k; e < (i + 1) * k; ++e) {
        if (moving_[e] && e != largest && L_[e] + dL_[e] < 0) {
          moving_[e] = 0;
          ++count;
        }
        held_[e] = free_[e] && !moving_[e] ? -L_[e] : 0;
        taken += held_[e];
      }
      held_[largest] = -taken;
      return count;
    });
    return more > 0;
  }

  // Moves L_ along dL_ by the first length 1, 1/2, ... that does not lower the dual objective, and stores the
  // certificate in `current`; false if there is none.
  SPARSEDIS_HOST_DEVICE bool step(const Team& team, Certificate& current, int halvings) {
    const int k = samples_.k;
    const double before = current.objective - current.gap;
    double length = 1;
    for (int halving = 0; halving < halvings; ++halving, length /= 2) {
      team.each(samples_.n, [&](int i) {
        for (int e = i * k; e < (i + 1) * k; ++e) trial_[e] = L_[e] + length * dL_[e];
        project(i, trial_ + i * k, 0, kRowSum, trial_ + i * k);
      });
      const Certificate trial_certificate = evaluate(team, trial_);
      const double rounding = kObjectiveRounding * trial_certificate.objective;
      if (trial_certificate.objective - trial_certificate.gap >= before - rounding) {
        team.each(size_, [&](int e) { L_[e] = trial_[e]; });
        current = trial_certificate;
        return true;
      }
    }
    return false;
  }

  const Samples& samples_;
  PrimalMap& primal_;
  int size_;
  unsigned char *free_, *moving_;
  double *L_, *g_, *rhs_, *dL_, *trial_, *bounds_, *held_;
  Free system_;
};

}  // namespace sparsedis
