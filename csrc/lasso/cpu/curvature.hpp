// Two ways to work with H = X^T diag(weight) X + lambda2. `Gram` stores H and keeps the gradient of all features up to
// date, for tasks with more samples than features. `Columns` stores neither and keeps the residual up to date; its
// memory and time grow with n d, for any number of features.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "linear.hpp"
#include "task.hpp"

namespace sparsedis::cpu::lasso {

// The weights and the quantities that the loops update with them.
struct Iterate {
  double* w;         // (d,)
  double* g;         // (d,), X^T diag(weight) (y - X w) - lambda2 w; see refresh()
  double* weighted;  // (n,), diag(weight) (y - X w); with `Columns` only
};

// Scratch memory whose size is known only when it is used.
class Scratch {
 public:
  explicit Scratch(Memory& memory) : memory_(memory) {}

  double* of(std::size_t count) {
    if (count > size_) {
      size_ = std::max(count, 2 * size_);
      data_ = memory_.take<double>(size_);
    }
    return data_;
  }

 private:
  Memory& memory_;
  double* data_ = nullptr;
  std::size_t size_ = 0;
};

template <class F>
class Gram {
 public:
  // Sweeps and activate() consider all features.
  static constexpr bool kAllFeatures = true;

  Gram(Memory& memory, const LassoTask<F>& task)
      : task_(task), H_(memory.take<double>(std::size_t(task.d) * task.d)), b_(memory.take<double>(task.d)) {
    const int n = task.n, d = task.d;
    double* weighted = memory.take<double>(std::size_t(d) * n);
    for (int j = 0; j < d; ++j) {
      double* to = weighted + std::size_t(j) * n;
      for (int i = 0; i < n; ++i) to[i] = task.weight[i] * task.feature(j)[i];
      b_[j] = dot(to, task.y, n);
    }
    if (d < kBlocked || n == 0) {  // Eigen divides by n
      for (int j = 0; j < d; ++j) {
        for (int l = 0; l < j; ++l) row(j)[l] = dot(weighted + std::size_t(j) * n, task.feature(l), n);
      }
    } else {
      Rows(H_, d, d).triangularView<Eigen::Lower>() = Rows(weighted, d, n) * Rows(task.X, d, n).transpose();
    }
    for (int j = 0; j < d; ++j) {
      row(j)[j] = task.diagonal[j];
      for (int l = 0; l < j; ++l) row(l)[j] = row(j)[l];
    }
  }

  // Computes g for all features.
  void refresh(const Iterate& at) const {
    std::copy(b_, b_ + task_.d, at.g);
    for (int j = 0; j < task_.d; ++j) {
      if (at.w[j] != 0) add(at.g, -at.w[j], row(j), task_.d);
    }
  }

  double slope(const Iterate& at, int j) const { return at.g[j]; }
  void update_for_change(const Iterate& at, int j, double change) const { add(at.g, -change, row(j), task_.d); }

  // matrix = diag(scale) H_A diag(scale), strictly below the diagonal; the scale makes the diagonal 1.
  void restrict_to(const int* support, int size, const double* scale, double* matrix) {
    for (int a = 0; a < size; ++a) {
      const double* from = row(support[a]);
      double* to = matrix + std::size_t(a) * size;
      for (int c = 0; c < a; ++c) to[c] = scale[a] * scale[c] * from[support[c]];
    }
  }

  // <move, H move> for a move (size,) on the support.
  double square(const int* support, int size, const double* move) {
    double sum = 0;
    for (int a = 0; a < size; ++a) {
      double along = 0;
      for (int c = 0; c < size; ++c) along += row(support[a])[support[c]] * move[c];
      sum += move[a] * along;
    }
    return sum;
  }

 private:
  double* row(int j) const { return H_ + std::size_t(j) * task_.d; }

  const LassoTask<F>& task_;
  double *H_, *b_;
};

template <class F>
class Columns {
 public:
  // Sweeps and activate() consider a pool of features.
  static constexpr bool kAllFeatures = false;

  Columns(Memory& memory, const LassoTask<F>& task)
      : task_(task), root_(memory.take<double>(task.n)), residual_(memory.take<double>(task.n)), rows_(memory) {
    for (int i = 0; i < task.n; ++i) root_[i] = std::sqrt(task.weight[i]);
  }

  // Computes g on the support only.
  void refresh(const Iterate& at) const {
    std::copy(task_.y, task_.y + task_.n, residual_);
    for (int j = 0; j < task_.d; ++j) {
      if (at.w[j] != 0) add(residual_, -at.w[j], task_.feature(j), task_.n);
    }
    for (int i = 0; i < task_.n; ++i) at.weighted[i] = task_.weight[i] * residual_[i];
    for (int j = 0; j < task_.d; ++j) {
      if (at.w[j] != 0) at.g[j] = slope(at, j);
    }
  }

  double slope(const Iterate& at, int j) const {
    return dot(task_.feature(j), at.weighted, task_.n) - task_.lambda2 * at.w[j];
  }
  void update_for_change(const Iterate& at, int j, double change) const {
    const double* x = task_.feature(j);
    for (int i = 0; i < task_.n; ++i) at.weighted[i] -= change * task_.weight[i] * x[i];
  }

  void restrict_to(const int* support, int size, const double* scale, double* matrix) {
    double* P = rows_.of(std::size_t(size) * task_.n);
    for (int a = 0; a < size; ++a) {
      const double* x = task_.feature(support[a]);
      for (int i = 0; i < task_.n; ++i) P[std::size_t(a) * task_.n + i] = scale[a] * root_[i] * x[i];
    }
    outer_square(P, size, task_.n, matrix);
  }

  // diag(weight)^1/2 X_A diag(scale), (n, size): the support's features, row by row.
  const double* samples(const int* support, int size, const double* scale) {
    double* P = rows_.of(std::size_t(size) * task_.n);
    for (int a = 0; a < size; ++a) {
      const double* x = task_.feature(support[a]);
      for (int i = 0; i < task_.n; ++i) P[std::size_t(i) * size + a] = scale[a] * root_[i] * x[i];
    }
    return P;
  }

  double square(const int* support, int size, const double* move) {
    std::fill(residual_, residual_ + task_.n, 0.0);
    double sum = 0;
    for (int a = 0; a < size; ++a) {
      add(residual_, move[a], task_.feature(support[a]), task_.n);
      sum += task_.lambda2 * move[a] * move[a];
    }
    for (int i = 0; i < task_.n; ++i) sum += task_.weight[i] * residual_[i] * residual_[i];
    return sum;
  }

 private:
  const LassoTask<F>& task_;
  double *root_, *residual_;
  Scratch rows_;
};

}  // namespace sparsedis::cpu::lasso
