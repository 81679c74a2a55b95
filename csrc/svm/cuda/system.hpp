// The Newton system H + diag(bounds) in the space of zero row sums, of all entries or of the free ones: assembled and
// factored by the threads of a block.
//
// Every sample drops its pivot p, the class with its largest L, as in ../cpu/system.hpp. Of features j with curvature
// alpha_j I + beta_j u_j u_j^T two entries (i, c) and (i', c') have
//   s_i s_i' sum_j x_ij x_i'j [alpha_j <e_c - e_p, e_c' - e_p'> + beta_j (u_jc - u_jp)(u_jc' - u_jp')]:
// one n x n Gram matrix, and a symmetric product of as many rows as the system has.
#pragma once

#include "../../common/cuda/cholesky.hpp"
#include "../../common/cuda/products.hpp"
#include "../algorithm/samples.hpp"

namespace sparsedis::cuda {

// Products and factor are of type T.
template <class T>
class NewtonSystem {
 public:
  // What features are added to: the system and the threads that do it.
  struct Curvature {
    const Team& team;
    NewtonSystem& system;

    // `count` features, the columns of x (n, ld); alpha(a), beta(a), unit(c, a) for a < count.
    template <class X, class Alpha, class Beta, class Unit>
    __device__ void add(const X* x, std::ptrdiff_t ld, int count, Alpha alpha, Beta beta, Unit unit) {
      system.add(team, x, ld, count, alpha, beta, unit);
    }
    // K (n, n) scaled, for features that all have curvature `scale` in every direction.
    __device__ void add_gram(const double* K, double scale) { system.add_gram(team, K, scale); }
  };

  // For up to `features` features.
  __device__ NewtonSystem(Memory& memory, const Samples& samples, int features)
      : samples_(samples),
        n_(samples.n),
        product_(memory, samples.n * samples.m),
        matrix_(memory, samples.n * samples.m),
        ld_(features) {
    const int order = n_ * samples.m;
    reduced_ = memory.take<T>(order);
    pivot_ = memory.take<int>(n_);
    first_ = memory.take<int>(n_ + 1);
    class_ = memory.take<int>(order);
    sample_ = memory.take<int>(order);
    gram_ = memory.take<T>(std::size_t(n_) * (n_ + 1) / 2);
    root_alpha_ = memory.take_scratch<T>(ld_);
    planes_ = memory.take_scratch<T>(std::size_t(samples.k) * ld_);
  }

  // free (n, k): not 0 where an entry belongs to the system; every row's largest entry of L does. Null: all do.
  template <class Form>
  SPARSEDIS_ONCE __device__ void factor(const Team& team, Form& form, const double* bounds, const double* L,
                                        const unsigned char* free = nullptr) {
    number_entries(team, L, free);
    // The finish and the adjoint need a preconditioner that is right to float, the interior point a direction.
    precision_ = free ? Precision::split : Precision::tf32;
    // L need not be unique, M may be singular up to rounding: a relative ridge, raised where it does not do.
    for (double ridge = kRidge; ridge < 1; ridge *= 100) {
      Curvature into{team, *this};
      form.add_curvature(into);
      add_gram_and_bounds(team, bounds, T(ridge));
      if (matrix_.factor(team)) return;
    }
  }

  // The q (n, k), rows summing to zero, with M q = rhs (n, k) up to a constant in every row, for the entries of the
  // system. free: not 0 for those that take part, null for all.
  SPARSEDIS_ONCE __device__ void solve(const Team& team, const double* rhs, double* q,
                                       const unsigned char* free = nullptr) const {
    const int k = samples_.k;
    team.each(matrix_.order(), [&](int r) {
      const int i = sample_[r], e = i * k + class_[r];
      reduced_[r] = !free || free[e] ? T(rhs[e] - rhs[i * k + pivot_[i]]) : T(0);
    });
    matrix_.solve(team, reduced_);
    team.each(n_, [&](int i) {
      for (int l = 0; l < k; ++l) q[i * k + l] = 0;
      double sum = 0;
      for (int r = first_[i]; r < first_[i + 1]; ++r) {
        const int e = i * k + class_[r];
        q[e] = !free || free[e] ? double(reduced_[r]) : 0;
        sum += q[e];
      }
      q[i * k + pivot_[i]] = -sum;
    });
  }

 private:
  // 50 roundings of T: a relative ridge of this much is no more than that.
  static constexpr double kRidge = 50 * (sizeof(T) == 8 ? 2.220446049250313e-16 : 1.1920929e-7);

  SPARSEDIS_ONCE __device__ void number_entries(const Team& team, const double* L, const unsigned char* free) {
    const int k = samples_.k;
    int order = 0;
    for (int from = 0; from < n_; from += team.threads()) {
      const int i = from + team.thread();
      int pivot = 0, count = 0, total;
      if (i < n_) {
        for (int l = 1; l < k; ++l) pivot = L[i * k + l] > L[i * k + pivot] ? l : pivot;
        for (int l = 0; l < k; ++l) count += l != pivot && (!free || free[i * k + l]);
      }
      int row = order + team.offset(count, total);
      order += total;
      if (i >= n_) continue;
      pivot_[i] = pivot;
      first_[i] = row;
      for (int l = 0; l < k; ++l) {
        if (l == pivot || (free && !free[i * k + l])) continue;
        class_[row] = l;
        sample_[row++] = i;
      }
    }
    team.once([&] { first_[n_] = order; });
    matrix_.resize(order);
  }

  template <class X, class Alpha, class Beta, class Unit>
  __device__ void add(const Team& team, const X* x, std::ptrdiff_t ld, int count, Alpha alpha, Beta beta, Unit unit) {
    const int m = samples_.m;
    // planes_ (k, ld_): the units times the root of beta, of all classes.
    team.each(count, [&](int a) {
      root_alpha_[a] = T(std::sqrt(alpha(a)));
      const T root = T(std::sqrt(beta(a)));
      T last = 0;
      for (int c = 0; c < m; ++c) {
        const T value = root * T(unit(c, a));
        planes_[c * ld_ + a] = value;
        last -= value;
      }
      planes_[m * ld_ + a] = last;
    });
    product_.compute(
        team, n_, count, precision_, [&](int i, int a) { return T(samples_.s[i]) * T(x[i * ld + a]) * root_alpha_[a]; },
        [&](int i, int j, T value) { gram_[i * (i + 1) / 2 + j] = value; });
    product_.compute(
        team, matrix_.order(), count, precision_,
        [&](int r, int a) {
          const int i = sample_[r];
          return T(samples_.s[i]) * T(x[i * ld + a]) * (planes_[class_[r] * ld_ + a] - planes_[pivot_[i] * ld_ + a]);
        },
        [&](int row, int column, T value) { matrix_.row(row)[column] = value; });
  }

  SPARSEDIS_ONCE __device__ void add_gram(const Team& team, const double* K, double scale) {
    team.each(n_ * n_, [&](int e) {
      const int i = e / n_, j = e % n_;
      if (j <= i) gram_[i * (i + 1) / 2 + j] = T(samples_.s[i] * samples_.s[j] * scale * K[e]);
    });
    team.each_by_warp(matrix_.order(), [&](int row, int lane) {
      for (int column = lane; column <= row; column += kWarp) matrix_.row(row)[column] = 0;
    });
  }

  // Adds gram_ [i, i'] <e_c - e_p, e_c' - e_p'>, and the bounds.
  SPARSEDIS_ONCE __device__ void add_gram_and_bounds(const Team& team, const double* bounds, T ridge) {
    const int k = samples_.k;
    team.each_by_warp(matrix_.order(), [&](int row, int lane) {
      const int i = sample_[row], c = class_[row], p = pivot_[i];
      for (int column = lane; column <= row; column += kWarp) {
        const int j = sample_[column], other = class_[column], q = pivot_[j];
        const int inner = int(c == other) - int(c == q) - int(p == other) + int(p == q);
        T value = matrix_.row(row)[column] + T(inner) * gram_[i * (i + 1) / 2 + j];
        if (i == j) value += T(bounds[i * k + p]);
        if (row == column) {
          value += T(bounds[i * k + c]);
          // A zero is a sample without influence, whose right-hand side is 0.
          value = value > 0 ? value * (1 + ridge) : 1 + ridge;
        }
        matrix_.row(row)[column] = value;
      }
    });
  }

  const Samples& samples_;
  int n_;
  SymmetricProduct<T> product_;  // whose memory is used more than the factor's inverse corners, which come last
  Cholesky<T> matrix_;
  std::ptrdiff_t ld_;
  Precision precision_ = Precision::tf32;
  T *reduced_, *gram_, *root_alpha_, *planes_;
  int *pivot_, *first_;   // of a sample: its pivot, its first row in the system
  int *class_, *sample_;  // of a row
};

}  // namespace sparsedis::cuda
