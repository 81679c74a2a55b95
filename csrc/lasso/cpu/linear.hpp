// Dense symmetric systems, row-major, given by their lower triangle.
#pragma once

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>

#include "task.hpp"

namespace sparsedis::cpu::lasso {

using Matrix = Eigen::Map<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>>;
using Rows = Eigen::Map<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
using Vector = Eigen::Map<Eigen::VectorXd>;

// Products and factors of at least this order use Eigen.
constexpr int kBlocked = 24;

// A bound on the rounding error in a zero eigenvalue of a matrix with unit diagonal.
inline double rounding(int order) { return 16 * order * std::numeric_limits<double>::epsilon(); }

// matrix = the lower triangle of P P^T; P: (order, inner), row-major.
inline void outer_square(const double* P, int order, int inner, double* matrix) {
  if (order < kBlocked || inner == 0) {  // Eigen divides by `inner`
    for (int a = 0; a < order; ++a) {
      for (int c = 0; c <= a; ++c) {
        matrix[std::size_t(a) * order + c] = dot(P + std::size_t(a) * inner, P + std::size_t(c) * inner, inner);
      }
    }
    return;
  }
  const Eigen::Map<const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> view(P, order, inner);
  Rows(matrix, order, order).triangularView<Eigen::Lower>() = view * view.transpose();
}

// Replaces the matrix by its Cholesky factor. Returns the smallest squared pivot, 0 if the factorisation fails.
inline double factor(double* matrix, int order) {
  if (order >= kBlocked) {
    // The row-major lower triangle is the column-major upper one.
    Eigen::Ref<Eigen::MatrixXd> view = Matrix(matrix, order, order);
    const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>, Eigen::Upper> done(view);
    if (done.info() != Eigen::Success) return 0;
  } else {
    for (int a = 0; a < order; ++a) {
      double* row = matrix + std::size_t(a) * order;
      for (int c = 0; c <= a; ++c) {
        const double* other = matrix + std::size_t(c) * order;
        double value = row[c];
        for (int l = 0; l < c; ++l) value -= row[l] * other[l];
        if (c < a) {
          row[c] = value / other[c];
        } else {
          if (!(value > 0)) return 0;
          row[c] = std::sqrt(value);
        }
      }
    }
  }
  double least = INFINITY;
  for (int a = 0; a < order; ++a) {
    const double pivot = matrix[std::size_t(a) * order + a];
    least = std::min(least, pivot * pivot);
  }
  return least > 0 ? least : 0;
}

// x = matrix^-1 x, given the Cholesky factor.
inline void substitute(const double* factor, int order, double* x) {
  for (int a = 0; a < order; ++a) {
    const double* row = factor + std::size_t(a) * order;
    x[a] = (x[a] - dot(row, x, a)) / row[a];
  }
  for (int a = order - 1; a >= 0; --a) {
    const double* row = factor + std::size_t(a) * order;
    x[a] /= row[a];
    for (int c = 0; c < a; ++c) x[c] -= row[c] * x[a];
  }
}

// The eigenvalues in ascending order, and the eigenvectors.
inline Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> spectrum(double* matrix, int order) {
  // Eigen reads the lower triangle; the row-major lower triangle is the column-major upper one, hence the transpose.
  return Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(Eigen::MatrixXd(Matrix(matrix, order, order).transpose()));
}

}  // namespace sparsedis::cpu::lasso
