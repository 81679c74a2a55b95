// The Newton system H + diag(bounds) in the space of zero row sums: assembled and factored in double.
//
// Every sample drops its pivot, the class with its largest L, the one furthest from its bound: q_pivot = -sum of the
// others. The huge entries Z/L then stay on the diagonal, where a Cholesky factor is insensitive to them. Slot c of a
// sample is class c, except that the slot of the pivot holds the last class.
#pragma once

#include <Eigen/Cholesky>

#include "../algorithm/samples.hpp"
#include "hessian.hpp"
#include "memory.hpp"

namespace sparsedis::cpu {

class NewtonSystem {
 public:
  NewtonSystem(Memory& memory, const Samples& samples)
      : samples_(samples),
        n_(samples.n),
        m_(samples.m),
        order_(n_ * m_),
        matrix_(memory.take<double>(std::size_t(order_) * order_)),
        reduced_(memory.take<double>(order_)),
        block_(memory.take<double>(m_ * m_)),
        pivot_(memory.take<int>(n_)) {}

  template <class Team, class T>
  void factor(const Team&, const Hessian<T>* hessian, const double* bounds, const double* L) {
    const int k = samples_.k;
    for (int i = 0; i < n_; ++i) pivot_[i] = int(std::max_element(L + i * k, L + (i + 1) * k) - (L + i * k));
    // L need not be unique, M may be singular up to rounding: a relative ridge, raised where it does not do.
    for (double ridge = 50 * 2.220446049250313e-16; ridge < 1; ridge *= 100) {
      assemble(*hessian, bounds, ridge);
      Eigen::Map<Eigen::MatrixXd> M(matrix_, order_, order_);
      const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>, Eigen::Lower> factor(M);
      if (factor.info() == Eigen::Success) return;
    }
  }

  // The q (n, k), rows summing to zero, with M q = rhs (n, k) up to a constant in every row.
  template <class Team>
  void solve(const Team&, const double* rhs, double* q) const {
    const int k = samples_.k;
    for (int i = 0; i < n_; ++i) {
      for (int slot = 0; slot < m_; ++slot)
        reduced_[i * m_ + slot] = rhs[i * k + kept(i, slot)] - rhs[i * k + pivot_[i]];
    }
    const Eigen::Map<const Eigen::MatrixXd> M(matrix_, order_, order_);
    Eigen::Map<Eigen::VectorXd> r(reduced_, order_);
    M.triangularView<Eigen::Lower>().solveInPlace(r);
    M.triangularView<Eigen::Lower>().transpose().solveInPlace(r);
    for (int i = 0; i < n_; ++i) {
      double sum = 0;
      for (int slot = 0; slot < m_; ++slot) {
        q[i * k + kept(i, slot)] = reduced_[i * m_ + slot];
        sum += reduced_[i * m_ + slot];
      }
      q[i * k + pivot_[i]] = -sum;
    }
  }

 private:
  int kept(int i, int slot) const { return slot == pivot_[i] ? m_ : slot; }
  double& entry(int row, int column) { return matrix_[std::size_t(column) * order_ + row]; }

  template <class T>
  void assemble(const Hessian<T>& hessian, const double* bounds, double ridge) {
    const int k = samples_.k;
    const double* s = samples_.s;
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j <= i; ++j) {
        const double both = s[i] * s[j];
        const T* G = hessian.pair(0, 0) + std::ptrdiff_t(i) * n_ + j;
        for (int c = 0; c < m_; ++c) {
          for (int other = 0; other <= c; ++other, G += std::ptrdiff_t(n_) * n_) {
            block_[other * m_ + c] = block_[c * m_ + other] = both * double(*G);
          }
        }
        change_slots(pivot_[i], pivot_[j]);
        for (int column = 0; column < m_; ++column) {
          std::copy(block_ + column * m_, block_ + (column + 1) * m_, &entry(i * m_, j * m_ + column));
        }
      }
    }
    for (int i = 0; i < n_; ++i) {
      const double own = bounds[i * k + pivot_[i]];
      for (int slot = 0; slot < m_; ++slot) {
        for (int below = slot; below < m_; ++below) entry(i * m_ + below, i * m_ + slot) += own;
        double& diagonal = entry(i * m_ + slot, i * m_ + slot);
        diagonal += bounds[i * k + kept(i, slot)];
        // A zero is a sample without influence, whose right-hand side is 0.
        diagonal = diagonal > 0 ? diagonal * (1 + ridge) : 1 + ridge;
      }
    }
  }

  // block_ (column by column), from the coordinates of all classes but the last to the slots of pivots p and q: T^T B
  // T, where T is the identity with its row of the pivot set to -1.
  void change_slots(int p, int q) {
    if (p < m_) {
      for (int column = 0; column < m_; ++column) {
        double* at = block_ + column * m_;
        const double own = at[p];
        for (int row = 0; row < m_; ++row) at[row] = row == p ? -own : at[row] - own;
      }
    }
    if (q < m_) {
      double* own = block_ + q * m_;
      for (int column = 0; column < m_; ++column) {
        if (column == q) continue;
        double* at = block_ + column * m_;
        for (int row = 0; row < m_; ++row) at[row] -= own[row];
      }
      for (int row = 0; row < m_; ++row) own[row] = -own[row];
    }
  }

  const Samples& samples_;
  int n_, m_, order_;
  double *matrix_, *reduced_, *block_;
  int* pivot_;
};

}  // namespace sparsedis::cpu
