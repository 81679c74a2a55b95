// The best dual point of a task so far, and whether the task goes on.
#pragma once

#include <cmath>

#include "../contract.hpp"
#include "samples.hpp"

namespace sparsedis {

class Progress {
 public:
  // best: room for L, (n, k). patience: checks without a better gap after which the task has stalled.
  Progress(double* best, double tol, int patience) : best_(best), tol_(tol), patience_(patience) {}

  // Take in a dual point; returns whether the task goes on.
  template <class Team>
  bool record(const Team& team, const double* L, int size, Certificate at, std::int64_t iteration) {
    n_iter = iteration;
    const double relative = at.relative();
    current = relative < relative_gap;  // false for NaN
    if (current) {
      relative_gap = relative;
      certificate = at;
      team.each(size, [&](int i) { best_[i] = L[i]; });
      since_better_ = 0;
    } else {
      ++since_better_;
    }
    if (relative_gap <= tol_) {
      status = Status::certified;
    } else if (since_better_ >= patience_ || !std::isfinite(relative)) {
      status = Status::stalled;
    } else {
      status = Status::max_iter;
      return true;
    }
    return false;
  }

  const double* best() const { return best_; }

  double relative_gap = INFINITY;
  Certificate certificate = {INFINITY, INFINITY};
  std::int64_t n_iter = 0;
  Status status = Status::max_iter;
  bool current = false;  // the point recorded last is the best one

 private:
  double* best_;
  double tol_;
  int patience_;
  int since_better_ = 0;
};

}  // namespace sparsedis
