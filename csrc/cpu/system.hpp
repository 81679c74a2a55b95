// The Newton system H + diag(bounds) in the space of zero row sums, of all entries or of the free ones: assembled and
// factored in double.
//
// Every sample drops its pivot, the class with its largest L, the one furthest from its bound: q_pivot = -sum of the
// others. The huge entries Z/L then stay on the diagonal, where a Cholesky factor is insensitive to them. Slot c of a
// sample is class c, except that the slot of the pivot holds the last class.
#pragma once

#include <algorithm>

#include "../algorithm/samples.hpp"
#include "cholesky.hpp"
#include "hessian.hpp"
#include "memory.hpp"

namespace sparsedis::cpu {

class NewtonSystem {
 public:
  NewtonSystem(Memory& memory, const Samples& samples)
      : samples_(samples),
        n_(samples.n),
        m_(samples.m),
        matrix_(memory, n_ * m_),
        reduced_(memory.take<double>(n_ * m_)),
        block_(memory.take<double>(m_ * m_)),
        row_(memory.take<double*>(m_)),
        pivot_(memory.take<int>(n_)),
        position_(memory.take<int>(n_ * m_)),
        unused_(memory.take<double>(Cholesky::column(n_ * m_ + 1))) {}

  // free (n, k): not 0 where an entry belongs to the system; every row's largest entry of L does. Null: all do.
  template <class Team, class T>
  void factor(const Team&, const Hessian<T>* hessian, const double* bounds, const double* L,
              const unsigned char* free = nullptr) {
    const int k = samples_.k;
    int order = 0;
    for (int i = 0; i < n_; ++i) {
      pivot_[i] = int(std::max_element(L + i * k, L + (i + 1) * k) - (L + i * k));
      for (int slot = 0; slot < m_; ++slot) {
        position_[i * m_ + slot] = !free || free[i * k + kept(i, slot)] ? order++ : kAbsent;
      }
    }
    matrix_.resize(order);
    // L need not be unique, M may be singular up to rounding: a relative ridge, raised where it does not do.
    for (double ridge = 50 * 2.220446049250313e-16; ridge < 1; ridge *= 100) {
      assemble(*hessian, bounds, ridge);
      if (matrix_.factor()) return;
    }
  }

  // The q (n, k), rows summing to zero, with M q = rhs (n, k) up to a constant in every row, for the entries of the
  // system. free: not 0 for those that take part, null for all: of fewer than were factored it is the inverse's
  // restriction to them, a preconditioner.
  template <class Team>
  void solve(const Team&, const double* rhs, double* q, const unsigned char* free = nullptr) const {
    const int k = samples_.k;
    auto takes_part = [&](int i, int slot) {
      return position_[i * m_ + slot] != kAbsent && (!free || free[i * k + kept(i, slot)]);
    };
    for (int i = 0; i < n_; ++i) {
      for (int slot = 0; slot < m_; ++slot) {
        const int position = position_[i * m_ + slot];
        if (position == kAbsent) continue;
        reduced_[position] = takes_part(i, slot) ? rhs[i * k + kept(i, slot)] - rhs[i * k + pivot_[i]] : 0;
      }
    }
    matrix_.solve(reduced_);
    for (int i = 0; i < n_; ++i) {
      double sum = 0;
      for (int slot = 0; slot < m_; ++slot) {
        const double value = takes_part(i, slot) ? reduced_[position_[i * m_ + slot]] : 0;
        q[i * k + kept(i, slot)] = value;
        sum += value;
      }
      q[i * k + pivot_[i]] = -sum;
    }
  }

 private:
  static constexpr int kAbsent = -1;

  int kept(int i, int slot) const { return slot == pivot_[i] ? m_ : slot; }

  template <class T>
  void assemble(const Hessian<T>& hessian, const double* bounds, double ridge) {
    switch (m_) {
      case 1:
        return assemble_of<1>(hessian, bounds, ridge);
      case 2:
        return assemble_of<2>(hessian, bounds, ridge);
      case 3:
        return assemble_of<3>(hessian, bounds, ridge);
      case 4:
        return assemble_of<4>(hessian, bounds, ridge);
      default:
        return assemble_of<0>(hessian, bounds, ridge);
    }
  }

  // M: m_ where the compiler is to know it, else 0.
  template <int M, class T>
  void assemble_of(const Hessian<T>& hessian, const double* bounds, double ridge) {
    const int k = samples_.k, m = M > 0 ? M : m_;
    const double* s = samples_.s;
    double known[M > 0 ? M * M : 1];
    double* block = M > 0 ? known : block_;  // (m, m), column by column
    const std::ptrdiff_t plane = std::ptrdiff_t(n_) * n_;
    for (int i = 0; i < n_; ++i) {
      const int* position = position_ + i * m;
      // What is not free is written to where nobody reads.
      for (int slot = 0; slot < m; ++slot) {
        row_[slot] = position[slot] == kAbsent ? unused_ : matrix_.row(position[slot]);
      }
      for (int j = 0; j <= i; ++j) {
        const double both = s[i] * s[j];
        const T* G = hessian.pair(0, 0) + std::ptrdiff_t(i) * n_ + j;
        for (int c = 0; c < m; ++c) {
          for (int other = 0; other <= c; ++other) {
            block[other * m + c] = block[c * m + other] = both * double(G[pair_index(c, other) * plane]);
          }
        }
        change_slots<M>(block, pivot_[i], pivot_[j]);
        for (int column = 0; column < m; ++column) {
          if (position_[j * m + column] == kAbsent) continue;
          const std::ptrdiff_t at = matrix_.column(position_[j * m + column]);
          for (int slot = i == j ? column : 0; slot < m; ++slot) row_[slot][at] = block[column * m + slot];
        }
      }
      const double own = bounds[i * k + pivot_[i]];
      for (int slot = 0; slot < m; ++slot) {
        if (position[slot] == kAbsent) continue;
        const std::ptrdiff_t at = matrix_.column(position[slot]);
        for (int below = slot; below < m; ++below) row_[below][at] += own;
        double& diagonal = row_[slot][at];
        diagonal += bounds[i * k + kept(i, slot)];
        // A zero is a sample without influence, whose right-hand side is 0.
        diagonal = diagonal > 0 ? diagonal * (1 + ridge) : 1 + ridge;
      }
    }
  }

  // block, from the coordinates of all classes but the last to the slots of pivots p and q: T^T B T, where T is the
  // identity with its row of the pivot set to -1.
  template <int M>
  void change_slots(double* block, int p, int q) const {
    const int m = M > 0 ? M : m_;
    if (p < m) {
      for (int column = 0; column < m; ++column) {
        double* at = block + column * m;
        const double own = at[p];
        for (int row = 0; row < m; ++row) at[row] -= own;
        at[p] = -own;
      }
    }
    if (q < m) {
      double* own = block + q * m;
      for (int column = 0; column < m; ++column) {
        if (column == q) continue;
        for (int row = 0; row < m; ++row) block[column * m + row] -= own[row];
      }
      for (int row = 0; row < m; ++row) own[row] = -own[row];
    }
  }

  const Samples& samples_;
  int n_, m_;
  Cholesky matrix_;
  double *reduced_, *block_;
  double** row_;
  int* pivot_;
  int* position_;  // (n, m): a slot's row in the matrix
  double* unused_;
};

}  // namespace sparsedis::cpu
