// Linear systems with H_A, the rows and columns of H that belong to a support A.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "curvature.hpp"
#include "linear.hpp"
#include "task.hpp"

namespace sparsedis::cpu::lasso {

// With a unit diagonal, a smaller squared pivot means that features, or samples, may be linearly dependent; the
// eigenvalues then decide.
constexpr double kSafePivot = 1e-9;
// Woodbury's identity loses digits to cancellation if lambda2 is below this times the trace of the samples' Gram
// matrix.
constexpr double kSafePenalty = 1e-8;

template <class F, class Curvature>
class Support {
 public:
  int* index;  // (size,)
  int size = 0;
  double* step;  // (size,)

  Support(Memory& memory, const LassoTask<F>& task, Curvature& curvature)
      : index(memory.take<int>(task.d)),
        step(memory.take<double>(task.d)),
        task_(task),
        curvature_(curvature),
        scale_(memory.take<double>(task.d)),
        matrix_(memory),
        right_(memory),
        along_(memory.take<double>(task.n)) {}

  // active(j): feature j is in the support.
  template <class Active>
  void choose(Active active) {
    size = 0;
    for (int j = 0; j < task_.d; ++j) {
      if (!active(j)) continue;
      index[size] = j;
      scale_[size++] = task_.diagonal[j] > 0 ? 1 / std::sqrt(task_.diagonal[j]) : 1;
    }
  }

  // step = (H_A + shift)^-1 gradient, with a shift relative to the diagonal. The tiny shift makes the factorisation
  // succeed for dependent features; the step is then long in directions that do not change the fit.
  template <class Gradient>
  void damped(Gradient gradient) {
    if (task_.lambda2 > 0 && underdetermined()) return by_samples(gradient);
    double* matrix = restricted();
    for (int a = 0; a < size; ++a) matrix[std::size_t(a) * size + a] += rounding(task_.d);
    scaled(gradient);
    if (factor(matrix, size) > 0) substitute(matrix, size, step);
    for (int a = 0; a < size; ++a) step[a] *= scale_[a];
  }

  // step = H_A^+ gradient: for dependent features the solution of least norm, the norm being that of the weights
  // divided by their scale, the inverse root of the diagonal.
  template <class Gradient>
  void least_norm(Gradient gradient) {
    if (underdetermined()) return by_samples(gradient);
    double* matrix = restricted();
    scaled(gradient);
    if (factor(matrix, size) > kSafePivot) {
      substitute(matrix, size, step);
    } else if (size > 0) {
      const auto of = spectrum(restricted(), size);
      const Eigen::VectorXd& values = of.eigenvalues();
      const double cut = 100 * rounding(task_.d) * std::max(values[size - 1], 1.0);
      Eigen::VectorXd along = of.eigenvectors().transpose() * Vector(step, size);
      for (int a = 0; a < size; ++a) along[a] = values[a] > cut ? along[a] / values[a] : 0;
      Vector(step, size) = of.eigenvectors() * along;
    }
    for (int a = 0; a < size; ++a) step[a] *= scale_[a];
  }

 private:
  // Whether the samples' system (n, n) is the smaller one.
  bool underdetermined() const { return !Curvature::kAllFeatures && size > task_.n; }

  double* restricted() {
    double* matrix = matrix_.of(std::size_t(size) * size);
    curvature_.restrict_to(index, size, scale_, matrix);
    for (int a = 0; a < size; ++a) matrix[std::size_t(a) * size + a] = 1;
    return matrix;
  }

  template <class Gradient>
  void scaled(Gradient gradient) {
    for (int a = 0; a < size; ++a) step[a] = scale_[a] * gradient(index[a]);
  }

  // step = H_A^+ gradient, of least norm as above, from K = P P^T with P = diag(weight)^1/2 X_A (n, size):
  //
  //     lambda2 > 0:  H_A^-1 q = (q - P^T (K + lambda2)^-1 P q) / lambda2 with one step of refinement; from the
  //                   eigenvalues of K if this cancels;
  //     lambda2 = 0:  H_A^+ q = P^T (K^+)^2 P q, with the features scaled.
  template <class Gradient>
  void by_samples(Gradient gradient) {
    if constexpr (!Curvature::kAllFeatures) {
      const double lambda2 = task_.lambda2;
      if (lambda2 > 0) std::fill(scale_, scale_ + size, 1.0);
      const double* P = curvature_.samples(index, size, scale_);
      double* q = right_.of(size);
      for (int a = 0; a < size; ++a) q[a] = scale_[a] * gradient(index[a]);
      std::copy(q, q + size, step);
      if (task_.n == 0) return;
      double* K = matrix_.of(std::size_t(task_.n) * task_.n);
      outer_square(P, task_.n, size, K);
      double trace = 0;
      for (int i = 0; i < task_.n; ++i) trace += K[std::size_t(i) * task_.n + i];
      if (lambda2 >= kSafePenalty * trace) {
        woodbury(P, K, q);
      } else if (lambda2 > 0 || !(factor(K, task_.n) > kSafePivot * trace)) {
        outer_square(P, task_.n, size, K);
        by_spectrum(P, K, q);
      } else {
        times(P, q);
        for (int round = 0; round < 2; ++round) substitute(K, task_.n, along_);
        std::fill(step, step + size, 0.0);
        add_transposed(P, 1, step);
      }
      if (lambda2 == 0) {
        for (int a = 0; a < size; ++a) step[a] *= scale_[a];
      }
    }
  }

  void woodbury(const double* P, double* K, double* q) {
    const double lambda2 = task_.lambda2;
    for (int i = 0; i < task_.n; ++i) K[std::size_t(i) * task_.n + i] += lambda2;
    factor(K, task_.n);
    std::fill(step, step + size, 0.0);
    for (int round = 0; round < 2; ++round) {
      times(P, q);
      substitute(K, task_.n, along_);
      for (int a = 0; a < size; ++a) step[a] += q[a] / lambda2;
      add_transposed(P, -1 / lambda2, step);
      if (round > 0) break;
      // The residual q - H_A step.
      times(P, step);
      for (int a = 0; a < size; ++a) q[a] -= lambda2 * step[a];
      add_transposed(P, -1, q);
    }
  }

  void by_spectrum(const double* P, double* K, double* q) {
    const double lambda2 = task_.lambda2;
    const int n = task_.n;
    const auto of = spectrum(K, n);
    const Eigen::VectorXd& values = of.eigenvalues();
    const double cut = 100 * rounding(std::max(n, size)) * values[n - 1];
    times(P, q);
    const Eigen::VectorXd right = of.eigenvectors().transpose() * Vector(along_, n);
    auto back = [&](auto&& weigh, double* to) {
      Eigen::VectorXd weighed(n);
      for (int i = 0; i < n; ++i) weighed[i] = values[i] > cut ? right[i] * weigh(values[i]) : 0;
      Vector(along_, n) = of.eigenvectors() * weighed;
      add_transposed(P, 1, to);
    };
    std::fill(step, step + size, 0.0);
    if (lambda2 > 0) {  // the part of q outside the span of the samples
      back([](double value) { return -1 / value; }, q);
      for (int a = 0; a < size; ++a) step[a] = q[a] / lambda2;
    }
    back([&](double value) { return 1 / value / (value + lambda2); }, step);
  }

  // along = P from
  void times(const double* P, const double* from) {
    for (int i = 0; i < task_.n; ++i) along_[i] = dot(P + std::size_t(i) * size, from, size);
  }

  // to += factor P^T along
  void add_transposed(const double* P, double factor, double* to) const {
    for (int i = 0; i < task_.n; ++i) add(to, factor * along_[i], P + std::size_t(i) * size, size);
  }

  const LassoTask<F>& task_;
  Curvature& curvature_;
  double* scale_;  // (size,)
  Scratch matrix_, right_;
  double* along_;  // (n,)
};

}  // namespace sparsedis::cpu::lasso
