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

  __device__ NewtonSystem(Memory& memory, const Samples& samples)
      : samples_(samples),
        n_(samples.n),
        slice_(samples.n * samples.m),
        z_(memory.take<T>(padded(samples.n * samples.m) * slice_.stride, kLargestSlice)),
        x_(memory.take<T>(padded(samples.n) * slice_.stride)),
        scaled_(memory.take<T>(padded(samples.n) * slice_.stride)),
        planes_(memory.take<T>(std::size_t(samples.k) * slice_.columns)),
        matrix_(memory, samples.n * samples.m) {
    const int order = n_ * samples.m;
    reduced_ = memory.take<T>(Cholesky<T>::padded(order));
    pivot_ = memory.take<int>(n_);
    first_ = memory.take<int>(n_ + 1);
    rows_ = memory.take<Row>(order);
    gram_ = memory.take<T>(std::size_t(n_) * (n_ + 1) / 2);
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
    const int k = samples_.k, order = matrix_.order();
    const Row* const rows = rows_;
    T* const reduced = reduced_;
    team.each(int(Cholesky<T>::padded(order)), [&](int r) {
      T value = 0;
      if (r < order) {
        const Row at = rows[r];
        const int e = at.sample * k + at.label;
        if (!free || free[e]) value = T(rhs[e] - rhs[at.sample * k + at.pivot]);
      }
      reduced[r] = value;
    });
    matrix_.solve(team, reduced);
    const int *const firsts = first_, *const pivots = pivot_;
    team.each(n_, [&](int i) {
      for (int l = 0; l < k; ++l) q[i * k + l] = 0;
      const int last = firsts[i + 1];
      double sum = 0;
#pragma unroll 1
      for (int r = firsts[i]; r < last; ++r) {
        const int e = i * k + rows[r].label;
        const double value = !free || free[e] ? double(reduced[r]) : 0;
        q[e] = value;
        sum += value;
      }
      q[i * k + pivots[i]] = -sum;
    });
  }

 private:
  // An entry of L that belongs to the system.
  struct alignas(4) Row {
    unsigned short sample;
    unsigned char label, pivot;
  };

  // 50 roundings of T: a relative ridge of this much is no more than that.
  static constexpr double kRidge = 50 * (sizeof(T) == 8 ? 2.220446049250313e-16 : 1.1920929e-7);
  // Of Z's slice in shared memory, in bytes.
  static constexpr std::size_t kLargestSlice = std::size_t(48) << 10;

  __device__ static std::size_t padded(int rows) { return rounded_up(rows, kTile); }

  SPARSEDIS_ONCE __device__ void number_entries(const Team& team, const double* L, const unsigned char* free) {
    const int k = samples_.k;
    int order = 0;
#pragma unroll 1
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
        rows_[row++] = {static_cast<unsigned short>(i), static_cast<unsigned char>(l),
                        static_cast<unsigned char>(pivot)};
      }
    }
    team.once([&] { first_[n_] = order; });
    matrix_.resize(order);
  }

  // Slices of the features pass through shared memory: x_, the features times their sample's weight, the same times the
  // root of alpha, and the root of beta times the units of all classes; then Z's rows of them.
  template <class X, class Alpha, class Beta, class Unit>
  __device__ void add(const Team& team, const X* x, std::ptrdiff_t ld, int count, Alpha alpha, Beta beta, Unit unit) {
    // Copies: what members point to would be read anew after everything that is written.
    const int n = n_, k = samples_.k, m = samples_.m;
    const double* const s = samples_.s;
    const Row* const rows = rows_;
    T *const z = z_, *const staged = x_, *const scaled = scaled_, *const planes = planes_;
    const Slice slice = slice_;
    const Precision precision = precision_;
    auto rounded = [=](T value) { return precision == Precision::tf32 ? tensor_cores::rounded(value) : value; };
    const SymmetricTiles whole(matrix_.order()), samples(n);
    const int together = team.warps() * HeldTiles<T>::kHeld;
#pragma unroll 1
    for (int first = 0; first < whole.count + samples.count; first += together) {
      HeldTiles<T> held(team, first, whole, samples);
      const int last = (first + together < whole.count ? first + together : whole.count) - 1;
      const NeededStrips needed(first, first <= last ? last : first);
#pragma unroll 1
      for (int from = 0; from < count; from += slice.columns) {
        team.distribute(k * slice.columns, [&](int e) {
          const int c = e >> slice.shift, a = from + (e & (slice.columns - 1));
          double direction = 0;
          if (a < count && c < m) {
            direction = unit(c, a);
          } else if (a < count) {
            for (int other = 0; other < m; ++other) direction -= unit(other, a);
          }
          planes[e] = a < count ? std::sqrt(T(beta(a))) * T(direction) : T(0);
        });
        team.each(int(padded(n)) * slice.columns, [&](int e) {
          const int i = e >> slice.shift, p = e & (slice.columns - 1), a = from + p, at = i * slice.stride + p;
          const bool there = i < n && a < count;
          const T value = there ? T(s[i]) * T(x[i * ld + a]) : T(0);
          staged[at] = value;
          scaled[at] = there ? rounded(value * std::sqrt(T(alpha(a)))) : T(0);
        });
        team.each(first <= last ? whole.strips * kTile * (slice.columns / 4) : 0, [&](int e) {
          const int row = e * 4 >> slice.shift, p = e * 4 & (slice.columns - 1);
          if (!needed(row / kTile)) return;
          Four<T> value = {};
          if (row < whole.rows) {
            const Row at = rows[row];
            const Four<T> features = four(staged + at.sample * slice.stride + p);
            const Four<T> own = four(planes + at.label * slice.columns + p);
            const Four<T> pivot = four(planes + at.pivot * slice.columns + p);
#pragma unroll
            for (int q = 0; q < 4; ++q) value.of[q] = rounded(features.of[q] * (own.of[q] - pivot.of[q]));
          }
          four(z + row * slice.stride + p) = value;
        });
        held.multiply(team, z, scaled, slice, precision);
        team.wait();
      }
      held.store(team, whole, matrix_.row(0), samples, gram_);
    }
    team.wait();
  }

  SPARSEDIS_ONCE __device__ void add_gram(const Team& team, const double* K, double scale) {
    team.each(n_ * n_, [&](int e) {
      const int i = e / n_, j = e % n_;
      if (j <= i) gram_[i * (i + 1) / 2 + j] = T(samples_.s[i] * samples_.s[j] * scale * K[e]);
    });
    team.each_by_warp(matrix_.order(), [&](int row, int lane) {
#pragma unroll 1
      for (int column = lane; column <= row; column += kWarp) matrix_.row(row)[column] = 0;
    });
  }

  // Adds gram_ [i, i'] <e_c - e_p, e_c' - e_p'>, and the bounds.
  SPARSEDIS_ONCE __device__ void add_gram_and_bounds(const Team& team, const double* bounds, T ridge) {
    const int k = samples_.k;
    const Row* const rows = rows_;
    const T* const gram = gram_;
    const Cholesky<T> matrix = matrix_;
    team.each_by_warp(matrix.order(), [&](int row, int lane) {
      const Row at = rows[row];
      const int i = at.sample, c = at.label, p = at.pivot;
      T* const to = matrix.row(row);
#pragma unroll 1
      for (int column = lane; column <= row; column += kWarp) {
        const Row other = rows[column];
        const int j = other.sample;
        const int inner = int(c == other.label) - int(c == other.pivot) - int(p == other.label) + int(p == other.pivot);
        T value = to[column] + T(inner) * gram[i * (i + 1) / 2 + j];
        if (i == j) value += T(bounds[i * k + p]);
        if (row == column) {
          value += T(bounds[i * k + c]);
          // A zero is a sample without influence, whose right-hand side is 0.
          value = value > 0 ? value * (1 + ridge) : 1 + ridge;
        }
        to[column] = value;
      }
    });
  }

  const Samples& samples_;
  int n_;
  Slice slice_;
  // Of a slice; they are used more than the factor's inverse corners, which come last.
  T *z_, *x_, *scaled_, *planes_;
  Cholesky<T> matrix_;
  Precision precision_ = Precision::tf32;
  T *reduced_, *gram_;
  int *pivot_, *first_;  // of a sample: its pivot, its first row in the system
  Row* rows_;
};

}  // namespace sparsedis::cuda
