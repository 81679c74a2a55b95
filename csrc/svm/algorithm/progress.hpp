// The best dual point of a task so far, and whether its solver continues.
#pragma once

#include "../../common/status.hpp"
#include "../thresholds.hpp"
#include "samples.hpp"

namespace sparsedis {

class Progress {
 public:
  // best: memory for L, (n, k). target: gap at which to stop, at most tol. patience: number of checks without a smaller
  // gap after which the task counts as stalled.
  SPARSEDIS_HOST_DEVICE Progress(double* best, double tol, double target, int patience)
      : best_(best), tol_(tol), target_(target), patience_(patience) {}

  // Another solver takes over. Its patience refers to its own gaps, which may exceed the best one for a long time.
  SPARSEDIS_HOST_DEVICE void restart(int patience) {
    patience_ = patience;
    since_better_ = 0;
    least_ = INFINITY;
  }

  // Resets everything as if no solver had run.
  SPARSEDIS_HOST_DEVICE void reset() {
    relative_gap = INFINITY;
    n_iter = 0;
    status = Status::max_iter;
  }

  // Records a dual point; keeps it if it is the best.
  template <class Team>
  SPARSEDIS_HOST_DEVICE void record_best(const Team& team, const double* L, int size, Certificate at) {
    const double relative = at.relative();
    if (relative < relative_gap) {  // false for NaN
      relative_gap = relative;
      team.each(size, [&](int i) { best_[i] = L[i]; });
    }
    if (relative < least_) {
      least_ = relative;
      since_better_ = 0;
    } else {
      ++since_better_;
    }
  }

  // Records a dual point; returns whether the solver continues.
  template <class Team>
  SPARSEDIS_HOST_DEVICE bool record(const Team& team, const double* L, int size, Certificate at,
                                    std::int64_t iteration) {
    team.check_interruption();
    n_iter = iteration;
    record_best(team, L, size, at);
    return continues(at.relative());
  }

  // Whether the solver continues from a point with that gap. Sets the status for the case that it ends here.
  SPARSEDIS_HOST_DEVICE bool continues(double relative) {
    const bool stuck = since_better_ >= (enough() ? kPatienceWhenCertified : patience_) || !std::isfinite(relative);
    status = enough() ? Status::certified : stuck ? Status::stalled : Status::max_iter;
    return relative_gap > target_ && !stuck;
  }

  SPARSEDIS_HOST_DEVICE void lower_target(double target) { target_ = target < target_ ? target : target_; }
  SPARSEDIS_HOST_DEVICE bool enough() const { return relative_gap <= tol_; }
  SPARSEDIS_HOST_DEVICE double target() const { return target_; }
  SPARSEDIS_HOST_DEVICE const double* best() const { return best_; }

  double relative_gap = INFINITY;
  std::int64_t n_iter = 0;
  Status status = Status::max_iter;

 private:
  double* best_;
  double tol_, target_;
  double least_ = INFINITY;  // smallest gap of the current solver
  int patience_;
  int since_better_ = 0;
};

}  // namespace sparsedis
