// Coordinate descent and active-set steps, and the certificate, for one task.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "curvature.hpp"
#include "support.hpp"
#include "task.hpp"

namespace sparsedis::cpu::lasso {

constexpr double kSmallest = std::numeric_limits<double>::min();
// Sweeps per iteration.
constexpr int kSweeps = 10;
// Features that may enter per iteration: one, plus one for every kActivePerEntry features in the support.
constexpr int kActivePerEntry = 4;
// With `Columns`, a pool has this many inactive features for each that may enter, and at least kPool.
constexpr int kPoolPerEntry = 4, kPool = 16;
// With `Columns`: if lambda2 is at least this fraction of the largest diagonal entry of H, the support may exceed the
// number of samples without slowing the direct solves down.
constexpr double kWellRegularised = 1e-4;

struct LassoCertificate {
  double gap, relative_gap, objective;
  double dual_scale;  // the dual point is dual_scale times the residual of w
};

template <class F, class Curvature>
class Descent {
 public:
  Descent(Memory& memory, const LassoTask<F>& task, Curvature& curvature)
      : task_(task),
        curvature_(curvature),
        n_(task.n),
        d_(task.d),
        w_(memory.take<double>(task.d)),
        best_(memory.take<double>(task.d)),
        signs_(memory.take<double>(task.d)),
        g_(memory.take<double>(task.d)),
        beyond_(memory.take<double>(task.d)),
        move_(memory.take<double>(task.d)),
        v_(memory.take<double>(task.d)),
        r_(memory.take<double>(task.n)),
        weighted_(memory.take<double>(task.n)),
        misfit_(memory.take<double>(task.n)),
        pool_(memory.take<int>(task.d)),
        gains_(memory.take<std::pair<double, int>>(task.d)),
        at_{w_, g_, weighted_},
        support_(memory, task, curvature) {
    std::fill(w_, w_ + d_, 0.0);
    std::fill(signs_, signs_ + d_, 0.0);
    keep();
    for (int i = 0; i < n_; ++i) at_zero_ += task.weight[i] * task.y[i] * task.y[i] / 2;
    if (!Curvature::kAllFeatures && task.lambda2 > 0) {
      well_regularised_ = task.lambda2 >= kWellRegularised * *std::max_element(task.diagonal, task.diagonal + d_);
    }
  }

  const double* w() const { return w_; }
  const double* residual() const { return r_; }

  // Whether a sign has changed since the last call.
  bool signs_changed() {
    bool any = false;
    for (int j = 0; j < d_; ++j) {
      const double now = sign(w_[j]);
      any |= now != signs_[j];
      signs_[j] = now;
    }
    return any;
  }

  void keep() { std::copy(w_, w_ + d_, best_); }
  void restore() { std::copy(best_, best_ + d_, w_); }

  // The certificate of sparsedis/ops/lasso/problem.py. The gradient is computed from the features, because computing
  // it from H loses digits to cancellation.
  LassoCertificate certify() {
    const double lambda1 = task_.lambda1, lambda2 = task_.lambda2;
    double square = 0;
    std::copy(task_.y, task_.y + n_, r_);
    for (int j = 0; j < d_; ++j) {
      if (w_[j] != 0) add(r_, -w_[j], task_.feature(j), n_);
    }
    for (int i = 0; i < n_; ++i) {
      weighted_[i] = task_.weight[i] * r_[i];
      square += weighted_[i] * r_[i];
    }
    double largest = 0;
    for (int j = 0; j < d_; ++j) {
      v_[j] = dot(task_.feature(j), weighted_, n_);
      g_[j] = v_[j] - lambda2 * w_[j];
      largest = std::max(largest, std::fabs(g_[j]));
      square += lambda2 * w_[j] * w_[j];
    }
    scale_ = largest > lambda1 ? lambda1 / largest : 1;
    if (lambda1 == 0) {
      choose_support();
      support_.least_norm([&](int j) { return g_[j]; });
      to_minimum_ = 0;
      for (int s = 0; s < support_.size; ++s) to_minimum_ += g_[support_.index[s]] * support_.step[s];
      to_minimum_ = std::max(to_minimum_ / 2, 0.0);
    }
    return smallest_gap(w_, {(1 - scale_) * (1 - scale_) / 2 * square, 0, 0}, square);
  }

  // The certificate of `rounded`, the point w certified last rounded to F, with the dual point of w.
  LassoCertificate certify_rounded(const F* rounded) const {
    const double lambda2 = task_.lambda2;
    Distances distances{0, 0, 0};
    double square = 0;
    auto add_distance = [&](double weight, double value, double exact) {
      const double scaled = value - scale_ * exact, difference = value - exact;
      square += weight * value * value;
      distances.scaled += weight * scaled * scaled / 2;
      distances.w += weight * difference * difference / 2;
    };
    std::copy(task_.y, task_.y + n_, misfit_);
    for (int j = 0; j < d_; ++j) {
      if (rounded[j] != 0) add(misfit_, -double(rounded[j]), task_.feature(j), n_);
    }
    for (int i = 0; i < n_; ++i) add_distance(task_.weight[i], misfit_[i], r_[i]);
    distances.residual = distances.w;
    for (int j = 0; j < d_; ++j) add_distance(lambda2, double(rounded[j]), w_[j]);
    return smallest_gap(rounded, distances, square);
  }

  // The relative gap that rounding error alone may leave at the point w certified last:
  // sum_i c_i eps s_i (s_i + |y_i|) / P(0), s_i = sum_j |x_ij w_j|, from the residual and its product with X w.
  double attainable() const {
    std::fill(misfit_, misfit_ + n_, 0.0);
    for (int j = 0; j < d_; ++j) {
      const double* x = task_.feature(j);
      if (w_[j] == 0) continue;
      for (int i = 0; i < n_; ++i) misfit_[i] += std::fabs(x[i] * w_[j]);
    }
    double sum = 0;
    for (int i = 0; i < n_; ++i) sum += task_.weight[i] * misfit_[i] * (misfit_[i] + std::fabs(task_.y[i]));
    return std::numeric_limits<double>::epsilon() * sum / std::max(at_zero_, kSmallest);
  }

  // min_j | |z_j| / lambda1 - 1 | at the point certified last, z_j being the soft-thresholded value of a sweep.
  double margin() const {
    double least = INFINITY;
    if (task_.lambda1 == 0) return least;
    for (int j = 0; j < d_; ++j) {
      const double z = v_[j] + (task_.diagonal[j] - task_.lambda2) * w_[j];
      least = std::min(least, std::fabs(std::fabs(z) / task_.lambda1 - 1));
    }
    return least;
  }

  // At most kSweeps sweeps over all features, or over a pool about as large as the number of samples, until no sign
  // changes. Requires that w has been certified last.
  void sweeps() {
    if (task_.lambda1 == 0) return;
    choose_pool(well_regularised_ ? std::max(n_, n_active()) : n_ - n_active());
    for (int count = 0; count < kSweeps && sweep(); ++count) {
    }
    curvature_.refresh(at_);
  }

  // Sets w to zero if its support is larger than the number of samples and lambda2 is too small for that. Returns
  // whether it did. Requires that w has been certified last.
  bool restart_underdetermined() {
    if (task_.lambda1 == 0 || well_regularised_ || n_active() <= n_) return false;
    std::fill(w_, w_ + d_, 0.0);
    certify();
    return true;
  }

  // Adds to the support, one after the other, the features that lower the objective most. Requires that w has been
  // certified last.
  void activate() {
    if (task_.lambda1 == 0) return;
    const int size = n_active(), most = 1 + size / kActivePerEntry;
    int limit = well_regularised_ ? most : std::max(std::min(most, n_ - size), 1);
    choose_pool(kPoolPerEntry * limit);
    while (limit-- > 0 && activate_best()) {
    }
    if (!Curvature::kAllFeatures) curvature_.refresh(at_);
  }

  // Moves w towards the minimiser over its support, within the orthant of its signs. Returns whether it ended at the
  // boundary.
  bool minimise_on_support() {
    const double lambda1 = task_.lambda1;
    if (lambda1 > 0) {  // for lambda1 = 0, certify() has computed the step
      choose_support();
      support_.damped([&](int j) { return g_[j] - lambda1 * sign(w_[j]); });
    }
    bool crossed = false;
    double length = 1;
    for (int a = 0; a < support_.size; ++a) {
      const int j = support_.index[a];
      beyond_[a] = w_[j] + support_.step[a];
      if (crosses(a)) {
        crossed = true;
        length = std::min(length, w_[j] / (w_[j] - beyond_[a]));
      }
    }
    if (!crossed) {
      for (int a = 0; a < support_.size; ++a) w_[support_.index[a]] = beyond_[a];
      curvature_.refresh(at_);
      return false;
    }
    // If it lowers the objective, all features that would change sign become 0; otherwise the step ends at the first
    // sign change.
    if (change_if_all_dropped() < 0) {
      for (int a = 0; a < support_.size; ++a) {
        const int j = support_.index[a];
        w_[j] = crosses(a) ? 0 : beyond_[a];
      }
    } else {
      for (int a = 0; a < support_.size; ++a) {
        const int j = support_.index[a];
        const bool first = crosses(a) && w_[j] / (w_[j] - beyond_[a]) <= length;
        w_[j] = first ? 0 : w_[j] + length * support_.step[a];
      }
    }
    curvature_.refresh(at_);
    return true;
  }

 private:
  static double sign(double value) { return value > 0 ? 1 : value < 0 ? -1 : 0; }

  // Half the squared distance of a point to scale_ w, to w in the residual alone, and to w; the first and the last in
  // the norm of H.
  struct Distances {
    double scaled, residual, w;
  };

  // The smallest gap of `weights` over the dual points derived from w; square = sum weight r^2 + lambda2 w^2.
  template <class W>
  LassoCertificate smallest_gap(const W* weights, const Distances& distances, double square) const {
    const double lambda1 = task_.lambda1, lambda2 = task_.lambda2;
    double norm = 0, gap = distances.scaled, by_conjugate = distances.residual, scale = scale_;
    for (int j = 0; j < d_; ++j) {
      const double value = double(weights[j]), size = std::fabs(value), correlation = std::fabs(v_[j]);
      norm += size;
      gap += std::max(lambda1 * size - scale_ * g_[j] * value, 0.0);
      if (lambda2 > 0) {
        const double above = std::max(correlation - lambda1, 0.0);
        if (v_[j] * value < 0) {
          by_conjugate += (lambda1 + correlation) * size + lambda2 / 2 * size * size + above * above / (2 * lambda2);
        } else {
          const double off = lambda2 * size - above;
          by_conjugate += std::max(lambda1 - correlation, 0.0) * size + off * off / (2 * lambda2);
        }
      }
    }
    if (lambda2 > 0 && by_conjugate < gap) gap = by_conjugate, scale = 1;
    if (lambda1 == 0) {
      // The triangle inequality in the norm of H.
      const double distance = std::sqrt(distances.w) + std::sqrt(to_minimum_);
      if (distance * distance < gap) gap = distance * distance, scale = 1;
    }
    const double relative = gap / std::max(at_zero_, kSmallest), objective = square / 2 + lambda1 * norm;
    if (!std::isfinite(relative) || !std::isfinite(objective)) return {INFINITY, INFINITY, INFINITY, scale};
    return {gap, relative, objective, scale};
  }

  int n_active() const {
    return int(std::count_if(w_, w_ + d_, [](double value) { return value != 0; }));
  }

  // Twice the decrease of the objective if feature j alone enters; 0 if it cannot enter.
  double gain(int j, double slope) const {
    const double excess = std::fabs(slope) - task_.lambda1;
    if (w_[j] != 0 || !(task_.diagonal[j] > 0) || !(excess > 0)) return 0;
    return excess * excess / task_.diagonal[j];
  }

  // Chooses the features that sweeps and activate() consider: all; with `Columns` the active ones, and the `count` (at
  // least kPool) inactive ones that would lower the objective most.
  void choose_pool(int count) {
    size_ = 0;
    if (Curvature::kAllFeatures) {
      for (int j = 0; j < d_; ++j) pool_[size_++] = j;
      return;
    }
    int candidates = 0;
    for (int j = 0; j < d_; ++j) {
      if (w_[j] != 0) pool_[size_++] = j;
      const double decrease = gain(j, g_[j]);
      if (decrease > 0) gains_[candidates++] = {-decrease, j};
    }
    const int chosen = std::min(std::max(count, kPool), candidates);
    std::nth_element(gains_, gains_ + chosen, gains_ + candidates);
    for (int c = 0; c < chosen; ++c) pool_[size_++] = gains_[c].second;
    std::sort(pool_, pool_ + size_);
  }

  // One sweep over the pool. Returns whether a sign changed.
  bool sweep() {
    bool changed = false;
    for (int p = 0; p < size_; ++p) {
      const int j = pool_[p];
      if (task_.diagonal[j] > 0) changed |= minimise_over(j);
    }
    return changed;
  }

  // Returns false if no feature can be added.
  bool activate_best() {
    int chosen = -1;
    double most = 0;
    for (int p = 0; p < size_; ++p) {
      const int j = pool_[p];
      if (w_[j] != 0) continue;
      const double decrease = gain(j, curvature_.slope(at_, j));
      if (decrease > most) {
        most = decrease;
        chosen = j;
      }
    }
    if (chosen < 0) return false;
    minimise_over(chosen);
    return true;
  }

  // Minimises over feature j. Returns whether its sign changed.
  bool minimise_over(int j) {
    const double diagonal = task_.diagonal[j], z = curvature_.slope(at_, j) + diagonal * w_[j];
    const double size = std::fabs(z) - task_.lambda1;
    const double new_value = size > 0 ? std::copysign(size, z) / diagonal : 0, change = new_value - w_[j];
    if (change == 0) return false;
    const bool sign_changed = sign(new_value) != sign(w_[j]);
    w_[j] = new_value;
    curvature_.update_for_change(at_, j, change);
    return sign_changed;
  }

  bool crosses(int a) const { return task_.lambda1 > 0 && beyond_[a] * sign(w_[support_.index[a]]) <= 0; }

  void choose_support() {
    const bool all = task_.lambda1 == 0;
    support_.choose([&](int j) { return all ? task_.diagonal[j] > 0 : w_[j] != 0; });
  }

  double change_if_all_dropped() {
    double change = 0;
    for (int a = 0; a < support_.size; ++a) {
      const int j = support_.index[a];
      const double to = crosses(a) ? 0 : beyond_[a];
      move_[a] = to - w_[j];
      change += task_.lambda1 * (std::fabs(to) - std::fabs(w_[j])) - move_[a] * g_[j];
    }
    return change + curvature_.square(support_.index, support_.size, move_) / 2;
  }

  const LassoTask<F>& task_;
  Curvature& curvature_;
  int n_, d_;
  double *w_, *best_, *signs_, *g_, *beyond_, *move_, *v_, *r_, *weighted_, *misfit_;
  int* pool_;
  std::pair<double, int>* gains_;
  int size_ = 0;  // of the pool
  Iterate at_;
  double scale_ = 1, to_minimum_ = 0, at_zero_ = 0;  // at_zero_: P(0)
  bool well_regularised_ = false;
  Support<F, Curvature> support_;
};

}  // namespace sparsedis::cpu::lasso
