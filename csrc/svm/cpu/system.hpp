// The Newton system H + diag(bounds) in the space of zero row sums, over all entries or the free ones: assembly and
// factorisation.
//
// Each sample eliminates its pivot, the class with its largest L and thus furthest from its bound: q_pivot = -(sum of
// the others). The huge entries Z/L then stay on the diagonal, where a Cholesky factor is insensitive to them. A
// remaining entry (i, class c) stands for the direction e_c - e_p, with the sample's pivot p, and feature j adds
//   x_ij x_i'j [alpha_j <e_c - e_p, e_c' - e_p'> + beta_j (u_jc - u_jp)(u_jc' - u_jp')]
// for each pair of them: the first summand is one n x n Gram matrix, the second a symmetric product with as many rows
// as the system.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "../../common/cpu/memory.hpp"
#include "../../common/cpu/products.hpp"
#include "../algorithm/samples.hpp"
#include "cholesky.hpp"
#include "team.hpp"

namespace sparsedis::cpu {

// Products and the factor are of type T.
template <class T>
class NewtonSystem {
 public:
  static constexpr bool kCheapSolves = true;

  NewtonSystem(Memory& memory, const Samples& samples)
      : samples_(samples),
        n_(samples.n),
        k_(samples.k),
        m_(samples.m),
        matrix_(memory, n_ * m_),
        gram_(memory.take<T>(std::size_t(n_) * n_)),
        scaled_(memory.take<T>(std::size_t(n_) * kDirections)),
        weighted_(memory.take<T>(std::size_t(n_) * kDirections)),
        directions_(memory.take<T>(std::size_t(n_ * m_ + kRows) * kDirections)),
        alpha_(memory.take<T>(kDirections)),
        root_(memory.take<T>(kDirections)),
        planes_(memory.take<T>(std::size_t(k_) * kDirections)),
        reduced_(memory.take<T>(n_ * m_)),
        pivot_(memory.take<int>(n_)),
        first_(memory.take<int>(n_ + 1)),
        class_(memory.take<int>(n_ * m_)),
        sample_(memory.take<int>(n_ * m_)),
        ld_(padded(n_ * m_) + Cholesky<T>::kRows),
        column_(memory.take<T>(n_)),
        value_(memory.take<T>(ld_)),
        unit_(memory.take<T>(k_ * ld_)) {}

  // free (n, k): nonzero where an entry belongs to the system, which must include the largest entry of L in each row;
  // null for all. form.add_curvature(system) calls add() or add_gram() for the features that make up H.
  template <class Form>
  void factor(const Team&, Form& form, const double* bounds, const double* L, const unsigned char* free = nullptr) {
    int order = 0;
    for (int i = 0; i < n_; ++i) {
      pivot_[i] = int(std::max_element(L + i * k_, L + (i + 1) * k_) - (L + i * k_));
      first_[i] = order;
      for (int c = 0; c < k_; ++c) {
        if (c == pivot_[i] || (free && !free[i * k_ + c])) continue;
        class_[order] = c;
        sample_[order++] = i;
      }
    }
    first_[n_] = order;
    // If L is not unique, M is singular up to rounding: a relative ridge is added, and raised if it does not suffice.
    for (double ridge = kRidge; ridge < 1; ridge *= 100) {
      matrix_.clear(order);
      std::fill(gram_, gram_ + std::size_t(n_) * n_, T(0));
      form.add_curvature(*this);
      spread_gram();
      add_bounds(bounds, T(ridge));
      if (matrix_.factor()) return;
    }
  }

  // Adds `count` features, the columns of x (n, ld), padded with zeros; alpha(a), beta(a) and unit(c, a) for a < count.
  template <class Alpha, class Beta, class Unit>
  void add(const T* x, std::ptrdiff_t ld, int count, Alpha alpha, Beta beta, Unit unit) {
    for (int from = 0; from < count; from += kDirections) {
      const int here = std::min(kDirections, count - from), length = int(padded(here));
      T* last = planes_ + m_ * kDirections;
      std::fill(alpha_, alpha_ + length, T(0));
      std::fill(planes_, planes_ + k_ * kDirections, T(0));
      for (int a = 0; a < here; ++a) {
        alpha_[a] = T(alpha(from + a));
        root_[a] = T(std::sqrt(beta(from + a)));
      }
      for (int c = 0; c < m_; ++c) {
        T* plane = planes_ + c * kDirections;
        for (int a = 0; a < here; ++a) {
          plane[a] = root_[a] * T(unit(c, from + a));
          last[a] -= plane[a];
        }
      }
      for (int i = 0; i < n_; ++i) {
        const T *row = x + from + i * ld, s = T(samples_.s[i]);
        T *scaled = scaled_ + i * kDirections, *weighted = weighted_ + i * kDirections;
        for (int a = 0; a < length; ++a) {
          scaled[a] = s * row[a];
          weighted[a] = alpha_[a] * scaled[a];
        }
      }
      make_directions(length);
      add_dot_products(weighted_, kDirections, n_, scaled_, kDirections, n_, length, gram_, n_, true);
      matrix_.add_square(directions_, length, here);
    }
  }

  // Adds scaled K (n, n), of which the lower triangle is read, for features with curvature `scale` in all directions.
  void add_gram(const double* K, double scale) {
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j <= i; ++j) {
        const std::ptrdiff_t e = std::ptrdiff_t(i) * n_ + j;
        gram_[e] += T(scale * samples_.s[i] * samples_.s[j] * K[e]);
      }
    }
  }

  // Solves M q = rhs (n, k) up to a constant in each row, on the entries of the system; q (n, k) has zero row sums.
  // free: nonzero for the entries to solve for, null for all. For fewer entries than were factored, q is the inverse
  // restricted to them, a preconditioner.
  void solve(const Team&, const double* rhs, double* q, const unsigned char* free = nullptr) const {
    for (int i = 0; i < n_; ++i) {
      for (int r = first_[i]; r < first_[i + 1]; ++r) {
        const int e = i * k_ + class_[r];
        reduced_[r] = !free || free[e] ? T(rhs[e] - rhs[i * k_ + pivot_[i]]) : T(0);
      }
    }
    matrix_.solve(reduced_);
    std::fill(q, q + n_ * k_, 0.0);
    for (int i = 0; i < n_; ++i) {
      double sum = 0;
      for (int r = first_[i]; r < first_[i + 1]; ++r) {
        const int e = i * k_ + class_[r];
        q[e] = !free || free[e] ? double(reduced_[r]) : 0;
        sum += q[e];
      }
      q[i * k_ + pivot_[i]] = -sum;
    }
  }

 private:
  static constexpr int kRows = Cholesky<T>::kRows;
  // Features at once: two panels of directions fit into the L1 cache.
  static constexpr int kDirections = 128;
  // A relative ridge of this size is within rounding error.
  static constexpr double kRidge = 50 * double(std::numeric_limits<T>::epsilon());

  // directions_: s_i x_ij sqrt(beta_j) (u_jc - u_jp) for each row (i, c) of the system, one packet of rows at a time.
  void make_directions(int length) {
    using namespace Eigen::internal;
    using Packet = typename Cholesky<T>::Packet;
    constexpr int kWidth = Cholesky<T>::kWidth;
    const int order = first_[n_], end = (order + kRows - 1) / kRows * kRows;
    for (int from = 0; from < end; from += kWidth) {
      const T *row[kWidth], *own[kWidth], *off[kWidth];
      for (int r = 0; r < kWidth; ++r) {
        const bool inside = from + r < order;
        const int sample = inside ? sample_[from + r] : 0;
        row[r] = scaled_ + sample * kDirections;
        off[r] = planes_ + pivot_[sample] * kDirections;
        own[r] = inside ? planes_ + class_[from + r] * kDirections : off[r];  // beyond the order the difference is 0
      }
      T* to = directions_ + Cholesky<T>::row_in_panels(from, length);
      for (int a = 0; a < length; a += kWidth) {
        PacketBlock<Packet, kWidth> block;
        for (int r = 0; r < kWidth; ++r) {
          const Packet change = psub(pload<Packet>(own[r] + a), pload<Packet>(off[r] + a));
          block.packet[r] = pmul(pload<Packet>(row[r] + a), change);
        }
        ptranspose(block);
        for (int c = 0; c < kWidth; ++c) pstore(to + (a + c) * kRows, block.packet[c]);
      }
    }
  }

  // Adds gram_[i, i'] <e_c - e_p, e_c' - e_p'>.
  void spread_gram() {
    using namespace Eigen::internal;
    using Packet = typename Cholesky<T>::Packet;
    constexpr int kWidth = Cholesky<T>::kWidth;
    const int order = first_[n_];
    // unit_ (k, ld): the vectors e_c - e_p of all rows, class by class.
    std::fill(unit_, unit_ + k_ * ld_, T(0));
    for (int i = 0; i < n_; ++i) {
      for (int r = first_[i]; r < first_[i + 1]; ++r) {
        unit_[class_[r] * ld_ + r] = 1;
        unit_[pivot_[i] * ld_ + r] = -1;
      }
    }
    std::fill(value_, value_ + ld_, T(0));
    for (int j = 0; j < n_; ++j) {
      if (first_[j] == first_[j + 1]) continue;
      for (int i = j; i < n_; ++i) column_[i] = gram_[std::ptrdiff_t(i) * n_ + j];
      for (int row = first_[j]; row < order; ++row) value_[row] = column_[sample_[row]];
      const T* minus = unit_ + pivot_[j] * ld_;
      for (int column = first_[j]; column < first_[j + 1]; ++column) {
        const T* plus = unit_ + class_[column] * ld_;
        // Starts at the packet that contains the diagonal; entries above it are ignored.
        for (int row = column / kWidth * kWidth; row < order; row += kWidth) {
          T* to = &matrix_.entry(row, column);
          const Packet product = psub(pload<Packet>(plus + row), pload<Packet>(minus + row));
          pstore(to, pmadd(pload<Packet>(value_ + row), product, pload<Packet>(to)));
        }
      }
    }
  }

  void add_bounds(const double* bounds, T ridge) {
    for (int i = 0; i < n_; ++i) {
      const T own = T(bounds[i * k_ + pivot_[i]]);
      for (int column = first_[i]; column < first_[i + 1]; ++column) {
        for (int row = column; row < first_[i + 1]; ++row) matrix_.entry(row, column) += own;
        T& diagonal = matrix_.entry(column, column);
        diagonal += T(bounds[i * k_ + class_[column]]);
        // A zero on the diagonal belongs to a sample without influence, whose right-hand side is 0.
        diagonal = diagonal > 0 ? diagonal * (1 + ridge) : 1 + ridge;
      }
    }
  }

  const Samples& samples_;
  int n_, k_, m_;
  Cholesky<T> matrix_;
  T* gram_;  // (n, n), lower triangle: sum_j alpha_j s_i x_ij s_i' x_i'j
  T *scaled_, *weighted_, *directions_, *alpha_, *root_, *planes_, *reduced_;
  int *pivot_, *first_;   // per sample: its pivot, its first row in the system
  int *class_, *sample_;  // per row of the system
  std::ptrdiff_t ld_;
  T *column_, *value_, *unit_;
};

}  // namespace sparsedis::cpu
