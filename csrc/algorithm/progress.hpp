// The best dual point of a task so far, and whether the task goes on.
#pragma once

#include <cmath>

#include "../contract.hpp"
#include "samples.hpp"

namespace sparsedis {

// Checks without a better gap that are spent on a task that is certified already.
constexpr int kPatienceWhenCertified = 5;

class Progress {
 public:
  // best: room for L, (n, k). target: the gap to go on to, at most tol. patience: checks without a better gap after
  // which the task has stalled.
  Progress(double* best, double tol, double target, int patience)
      : best_(best), tol_(tol), target_(target), patience_(patience) {}

  // Another solver goes on from here.
  void restart(int patience) {
    patience_ = patience;
    since_better_ = 0;
  }

  // Take in a dual point, the best or not.
  template <class Team>
  void record_best(const Team& team, const double* L, int size, Certificate at) {
    const double relative = at.relative();
    if (relative < relative_gap) {  // false for NaN
      relative_gap = relative;
      team.each(size, [&](int i) { best_[i] = L[i]; });
      since_better_ = 0;
    } else {
      ++since_better_;
    }
  }

  // Take in a dual point; returns whether the task goes on.
  template <class Team>
  bool record(const Team& team, const double* L, int size, Certificate at, std::int64_t iteration) {
    team.check_interruption();
    n_iter = iteration;
    record_best(team, L, size, at);
    return goes_on(at.relative());
  }

  // Whether the task goes on from a point of that gap, and with what status it would end here.
  bool goes_on(double relative) {
    const bool stuck = since_better_ >= (enough() ? kPatienceWhenCertified : patience_) || !std::isfinite(relative);
    status = enough() ? Status::certified : stuck ? Status::stalled : Status::max_iter;
    return relative_gap > target_ && !stuck;
  }

  void aim(double target) { target_ = target < target_ ? target : target_; }
  bool enough() const { return relative_gap <= tol_; }
  double target() const { return target_; }
  const double* best() const { return best_; }

  double relative_gap = INFINITY;
  std::int64_t n_iter = 0;
  Status status = Status::max_iter;

 private:
  double* best_;
  double tol_, target_;
  int patience_;
  int since_better_ = 0;
};

}  // namespace sparsedis
