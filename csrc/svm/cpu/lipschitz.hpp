// The Lipschitz constant of the dual gradient on the CPU.
#pragma once

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "../../common/cpu/memory.hpp"
#include "../algorithm/samples.hpp"
#include "features.hpp"

namespace sparsedis::cpu {

// D X X^T D, D = diag(s), as an operator in double, evaluated in blocks of features.
template <class F>
class SampleGram {
 public:
  SampleGram(Memory& memory, const Samples& samples, const Features<F>& features)
      : samples_(samples),
        features_(features),
        weighted_(memory.take<double>(samples.n)),
        block_(memory.take<double>(std::size_t(samples.n) * kBlock)),
        plane_(memory.take<double>(kBlock)),
        x_(memory.take<const double*>(samples.n)) {}

  // result = D X X^T D v, both (n,).
  void multiply(const double* v, double* result) {
    const int n = samples_.n, d = features_.features();
    for (int i = 0; i < n; ++i) weighted_[i] = samples_.s[i] * v[i];
    std::fill(result, result + n, 0.0);
    for (int from = 0; from < d; from += kBlock) {
      const int here = std::min(kBlock, d - from), length = int(padded(here));
      features_.rows(from, here, block_, x_);
      combine(x_, length, n, weighted_, 1, plane_, kBlock);
      const Eigen::Map<const Eigen::VectorXd> plane(plane_, here);
      for (int i = 0; i < n; ++i) result[i] += plane.dot(Eigen::Map<const Eigen::VectorXd>(x_[i], here));
    }
    for (int i = 0; i < n; ++i) result[i] *= samples_.s[i];
  }

 private:
  const Samples& samples_;
  const Features<F>& features_;
  double *weighted_, *block_, *plane_;
  const double** x_;
};

// The largest eigenvalue of a positive semidefinite operator on (n,), by Lanczos with full reorthogonalisation. The
// error of a Ritz value is about the square of its residual. If the residual is not small after kSteps, it is added,
// because an eigenvalue lies within that distance.
template <class Operator>
double largest_eigenvalue(Memory& memory, int n, Operator& gram) {
  constexpr int kSteps = 200;
  constexpr double kResidual = 1e-5;
  const int most = std::min(n, kSteps);
  Eigen::Map<Eigen::MatrixXd> basis(memory.take<double>(std::size_t(n) * (most + 1)), n, most + 1);
  Eigen::VectorXd diagonal(most), beside(most);
  // A fixed initial vector that is unlikely to be orthogonal to the leading eigenvector of any task.
  for (int i = 0; i < n; ++i) basis(i, 0) = 1 + 0.5 * std::sin(1.0 + 2.3 * i);
  basis.col(0).normalize();
  double value = 0, residual = 0;
  for (int step = 0; step < most; ++step) {
    auto next = basis.col(step + 1);
    gram.multiply(basis.col(step).data(), next.data());
    diagonal[step] = basis.col(step).dot(next);
    for (int twice = 0; twice < 2; ++twice) {
      next -= basis.leftCols(step + 1) * (basis.leftCols(step + 1).transpose() * next);
    }
    beside[step] = next.norm();
    Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> ritz;
    ritz.computeFromTridiagonal(diagonal.head(step + 1), beside.head(step), Eigen::ComputeEigenvectors);
    value = ritz.eigenvalues()[step];
    residual = beside[step] * std::abs(ritz.eigenvectors()(step, step));
    if (residual <= kResidual * value) return value;
    next /= beside[step];
  }
  return value + residual;
}

// lambda_max(D X X^T D)/lambda2 + rho.
template <class F>
double lipschitz(Memory& memory, const Samples& samples, const Features<F>& features) {
  const Memory::Scope scope(memory);
  SampleGram<F> gram(memory, samples, features);
  return std::max(largest_eigenvalue(memory, samples.n, gram) / samples.lambda2 + samples.rho, kTiny);
}

}  // namespace sparsedis::cpu
