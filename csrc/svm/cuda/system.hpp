// The Newton system H + diag(bounds) in the space of zero row sums, over all entries or the free ones: assembly and
// factorisation by the threads of a block.
//
// Each sample eliminates its pivot p, the class with its largest L, as in ../cpu/system.hpp. Features j with curvature
// alpha_j I + beta_j u_j u_j^T add to the entries (i, c) and (i', c')
//   s_i s_i' sum_j x_ij x_i'j [alpha_j <e_c - e_p, e_c' - e_p'> + beta_j (u_jc - u_jp)(u_jc' - u_jp')]:
// one n x n Gram matrix, and a symmetric product with as many rows as the system.
#pragma once

#include "../../common/cuda/cholesky.hpp"
#include "../../common/cuda/products.hpp"
#include "../algorithm/samples.hpp"

namespace sparsedis::cuda {

// Products and the factor are of type T.
template <class T>
class NewtonSystem {
 public:
  // An assumption (not measured): a solve leaves most threads of a block idle.
  static constexpr bool kCheapSolves = false;

  // The system that features are added to, and the team that adds them.
  struct Curvature {
    const Team& team;
    NewtonSystem& system;

    // `count` features, the columns of x (n, ld), laid out as for multiply(); alpha(a), beta(a) and unit(c, a) of each.
    template <class X, class Alpha, class Beta, class Unit>
    __device__ void add(const X* x, std::ptrdiff_t ld, int count, Alpha alpha, Beta beta, Unit unit) {
      system.add(team, x, ld, count, alpha, beta, unit);
    }
    // Scaled K (n, n), for features with curvature `scale` in all directions.
    __device__ void add_gram(const double* K, double scale) { system.add_gram(team, K, scale); }
  };

  // features: the largest number that is added at once.
  __device__ NewtonSystem(Memory& memory, const Samples& samples, int features)
      : samples_(samples),
        n_(samples.n),
        width_(rounded_up(features, 4)),
        slice_size_((padded(samples.n * samples.m) + padded(samples.n)) * kSliceStride),
        slices_(memory.take<T>(slices(samples.n * samples.m) * slice_size_, ~std::size_t(0))),
        matrix_(memory, samples.n * samples.m, slices_) {
    static_assert(Cholesky<T>::kInverseStride <= kSliceStride, "the inverted diagonal blocks reuse the slices' memory");
    const int order = n_ * samples.m;
    reduced_ = memory.take<T>(Cholesky<T>::padded(order));
    rows_ = memory.take<Row>(order);
    pivot_ = memory.take<int>(n_);
    first_ = memory.take<int>(n_ + 1);
    gram_ = memory.take<T>(std::size_t(n_) * (n_ + 1) / 2);
    planes_ = memory.take_scratch<T>(width_ * (samples.k + 1));
  }

  // free (n, k): nonzero where an entry belongs to the system, which must include the largest entry of L in each row;
  // null for all.
  template <class Form>
  SPARSEDIS_ONCE __device__ void factor(const Team& team, Form& form, const double* bounds, const double* L,
                                        const unsigned char* free = nullptr) {
    number_entries(team, L, free);
    // The finish and the adjoint need a preconditioner of float accuracy, the interior-point method only a direction.
    precision_ = free ? Precision::split : Precision::tf32;
    // If L is not unique, M is singular up to rounding: a relative ridge is added, and raised if it does not suffice.
    for (double ridge = kRidge; ridge < 1; ridge *= 100) {
      Curvature into{team, *this};
      form.add_curvature(into);
      add_gram_and_bounds(team, bounds, T(ridge));
      if (matrix_.factor(team)) return;
    }
  }

  // Solves M q = rhs (n, k) up to a constant in each row, on the entries of the system; q (n, k) has zero row sums.
  // free: nonzero for the entries to solve for, null for all.
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
  // A row of the system: an entry of L.
  struct alignas(4) Row {
    unsigned short sample;
    unsigned char label, pivot;
  };

  // 50 unit roundoffs of T: a relative ridge of this size is within rounding error.
  static constexpr double kRidge = 50 * (sizeof(T) == 8 ? 2.220446049250313e-16 : 1.1920929e-7);
  // Up to this order, two alternating slices halve the number of barriers.
  static constexpr int kOrderOfTwoSlices = 128;

  __device__ static std::size_t padded(int rows) { return rounded_up(rows, kTile); }
  __device__ static int slices(int order) { return order <= kOrderOfTwoSlices ? 2 : 1; }

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

  // Adds features. First computes the planes that all slices are formed from: the root of beta times the units of all
  // classes, and the root of alpha.
  template <class X, class Alpha, class Beta, class Unit>
  __device__ void add(const Team& team, const X* x, std::ptrdiff_t ld, int count, Alpha alpha, Beta beta, Unit unit) {
    const int k = samples_.k, m = samples_.m;
    const std::size_t width = width_;
    T* const planes = planes_;
    team.each(int(rounded_up(count, 4)), [&](int a) {
      const bool there = a < count;
      const T root = there ? std::sqrt(T(beta(a))) : T(0);
      double last = 0;
      for (int c = 0; c < m; ++c) {
        const double direction = there ? unit(c, a) : 0;
        planes[c * width + a] = root * T(direction);
        last -= direction;
      }
      planes[m * width + a] = root * T(last);
      planes[k * width + a] = there ? std::sqrt(T(alpha(a))) : T(0);
    });
    multiply(team, x, ld, count);
  }

  // Slices of a few features pass through shared memory: first the rows of Z, which are the features times the sample's
  // weight and the difference of two planes; then the samples' rows times the root of alpha. x (n, ld): ld is a
  // multiple of 4, and the features from `count` to the next multiple of 4 are 0.
  template <class X>
  SPARSEDIS_ONCE __device__ void multiply(const Team& team, const X* x, std::ptrdiff_t ld, int count) {
    constexpr int kGroups = kSlice / 4, kLoadsInFlight = 2;
    // Local copies, because the compiler reloads what members point to after every store.
    const int n = n_, order = matrix_.order(), turns = slices(n * samples_.m);
    const double* const s = samples_.s;
    const Row* const rows = rows_;
    const T *const planes = planes_, *const alphas = planes_ + samples_.k * width_;
    const std::size_t width = width_, size = slice_size_;
    T* const slices = slices_;
    const Precision precision = precision_;
    const TwoProducts products{SymmetricTiles(order), SymmetricTiles(n)};
    const int above = products.one.strips * kTile, entries = products.strips() * kTile * kGroups;
    auto row = [=](int r, int a) {
      Four<T> value = {};
      if (a >= count) return value;
      if (r < order) {
        const Row at = rows[r];
        const T weight = T(s[at.sample]);
        const Four<X> features = four(x + at.sample * ld + a);
        const Four<T> own = four(planes + at.label * width + a), pivot = four(planes + at.pivot * width + a);
#pragma unroll
        for (int q = 0; q < 4; ++q) value.of[q] = weight * T(features.of[q]) * (own.of[q] - pivot.of[q]);
      } else if (r >= above && r < above + n) {
        const T weight = T(s[r - above]);
        const Four<X> features = four(x + (r - above) * ld + a);
        const Four<T> alpha = four(alphas + a);
#pragma unroll
        for (int q = 0; q < 4; ++q) value.of[q] = weight * T(features.of[q]) * alpha.of[q];
      }
      if (precision == Precision::tf32) {
#pragma unroll
        for (int q = 0; q < 4; ++q) value.of[q] = tensor_cores::rounded(value.of[q]);
      }
      return value;
    };
#pragma unroll 1
    for (int first = 0; first < products.count();) {
      HeldTiles<T> held(team, products, first);
      const NeededStrips needed(products, first, first + held.held() - 1);
      int turn = 0;
#pragma unroll 1
      for (int from = 0; from < count; from += kSlice) {
        T* const slice = slices + turn * size;
        turn = turn + 1 < turns ? turn + 1 : 0;
#pragma unroll 1
        for (int begin = team.thread(); begin < entries; begin += kLoadsInFlight * team.threads()) {
          Four<T> value[kLoadsInFlight];
          bool there[kLoadsInFlight];
#pragma unroll
          for (int t = 0; t < kLoadsInFlight; ++t) {
            const int e = begin + t * team.threads();
            there[t] = e < entries && needed(e / (kTile * kGroups));
            if (there[t]) value[t] = row(e / kGroups, from + e % kGroups * 4);
          }
#pragma unroll
          for (int t = 0; t < kLoadsInFlight; ++t) {
            const int e = begin + t * team.threads();
            if (there[t]) four(slice + e / kGroups * kSliceStride + e % kGroups * 4) = value[t];
          }
        }
        team.wait();
        held.multiply(team, slice, precision);
        if (turns == 1) team.wait();
      }
      held.store(team, products, matrix_.row(0), gram_);
      first += held.held();
      team.wait();
    }
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

  // Adds gram_[i, i'] <e_c - e_p, e_c' - e_p'> and the bounds.
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
          // A zero on the diagonal belongs to a sample without influence, whose right-hand side is 0.
          value = value > 0 ? value * (1 + ridge) : 1 + ridge;
        }
        to[column] = value;
      }
    });
  }

  const Samples& samples_;
  int n_;
  std::size_t width_, slice_size_;  // of a plane; of a slice
  T* slices_;
  Cholesky<T> matrix_;
  Precision precision_ = Precision::tf32;
  T *reduced_, *gram_, *planes_;  // planes (k + 1, width)
  int *pivot_, *first_;           // per sample: its pivot, its first row in the system
  Row* rows_;
};

}  // namespace sparsedis::cuda
