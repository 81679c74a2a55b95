// One task's features, of any strides and type, and the products with all of them.
#pragma once

#include "../../common/cuda/four.hpp"
#include "../../common/cuda/half.hpp"
#include "../../common/cuda/memory.hpp"
#include "../../common/cuda/triangle.hpp"

namespace sparsedis::cuda {

// The type that represents a feature exactly: double for double, otherwise float.
template <class F>
struct ValueOf {
  using Type = float;
};
template <>
struct ValueOf<double> {
  using Type = double;
};

// Classes whose sums a thread keeps in registers at once.
constexpr int kClasses = 4;

// f(first, count) for the classes 0..m, in groups of at most kClasses.
template <class F>
__device__ void each_group_of_classes(int m, F f) {
#pragma unroll
  for (int first = 0; first < m; first += kClasses) f(first, m - first < kClasses ? m - first : kClasses);
}

// Columns per thread if by_fours(): four columns of double sums would take too many registers.
template <class V>
constexpr int kMostColumns = sizeof(V) == sizeof(double) ? 1 : 4;

// The adjacent columns of a thread.
template <class T, int kColumns>
struct Columns {
  T of[kColumns];
};

// Calls to(c, sums) for all classes c < m, sums being those over i of x(i) rows[i m + c] for each column of x(i), in V;
// rows (n, m), aligned. The loads of the next samples overlap with the arithmetic on the last.
template <int kColumns, class V, class X, class To>
__device__ void multiply_columns(int n, int m, const V* rows, X x, To to) {
  constexpr int kLoadsInFlight = kColumns == 1 ? 8 : 4;
  using Values = decltype(x(0));
  each_group_of_classes(m, [&](int first, int count) {
    Columns<V, kColumns> sum[kClasses] = {};
    Values next[kLoadsInFlight];
    auto load = [&](int from) {
#pragma unroll
      for (int q = 0; q < kLoadsInFlight; ++q) next[q] = x(from + q < n ? from + q : n - 1);
    };
    load(0);
#pragma unroll 1
    for (int from = 0; from < n; from += kLoadsInFlight) {
      Values value[kLoadsInFlight];
#pragma unroll
      for (int q = 0; q < kLoadsInFlight; ++q) value[q] = next[q];
      load(from + kLoadsInFlight);
#pragma unroll
      for (int q = 0; q < kLoadsInFlight; ++q) {
        if (from + q >= n) break;
        const V* row = rows + (from + q) * m + first;
        Four<V> of_class = {};
        if (m % kClasses == 0) {
          of_class = four(row);
        } else {
#pragma unroll
          for (int c = 0; c < kClasses; ++c) {
            if (c < count) of_class.of[c] = row[c];
          }
        }
#pragma unroll
        for (int c = 0; c < kClasses; ++c) {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) {
            if (c < count) sum[c].of[j] += V(value[q].of[j]) * of_class.of[c];
          }
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      if (c < count) to(first + c, sum[c]);
    }
  });
}

// scores (n, m) of sample i and class c: the sum over a < count of x(i, a) w(c, a), in double. A warp computes kRows
// samples, so that w is read once for them.
template <class X, class W>
__device__ void multiply_rows(const Team& team, int n, int m, int count, X x, W w, double* scores) {
  constexpr int kRows = 2;
  static_assert(kRows * kClasses == 8, "eight sums");
  team.each_by_warp((n + kRows - 1) / kRows, [&](int group, int lane) {
    const int i = group * kRows, rows = n - i < kRows ? n - i : kRows;
    each_group_of_classes(m, [&](int first, int classes) {
      double sum[kRows * kClasses] = {};
#pragma unroll 1
      for (int a = lane; a < count; a += kWarp) {
        double value[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) value[r] = r < rows ? double(x(i + r, a)) : 0;
#pragma unroll
        for (int c = 0; c < kClasses; ++c) {
          if (c >= classes) continue;
          const double weight = w(first + c, a);
#pragma unroll
          for (int r = 0; r < kRows; ++r) sum[r * kClasses + c] += value[r] * weight;
        }
      }
      const double total = eight_sums_of_lanes(sum);
      const int r = lane / 4 / kClasses, c = lane / 4 % kClasses;
      if (lane % 4 == 0 && r < rows && c < classes) scores[(i + r) * m + first + c] = total;
    });
  });
}

template <class F>
class Features {
 public:
  using Value = typename ValueOf<F>::Type;

  // sample (n,): the indices in X of the task's samples.
  __device__ Features(const F* X, const int* sample, int n, int d, std::ptrdiff_t stride_n, std::ptrdiff_t stride_d)
      : X_(X), sample_(sample), n_(n), d_(d), stride_n_(stride_n), stride_d_(stride_d) {}

  __device__ int samples() const { return n_; }
  __device__ int features() const { return d_; }
  __device__ Value operator()(int i, int j) const { return Value(X_[sample_[i] * stride_n_ + j * stride_d_]); }

  // The features from j on of sample i: one, or four in a single load if by_fours().
  template <int kColumns>
  __device__ Columns<Value, kColumns> columns(int i, int j) const {
    if constexpr (kColumns == 1) {
      return {{(*this)(i, j)}};
    } else {
      static_assert(kColumns == 4, "one, or four");
      const F* const at = X_ + sample_[i] * stride_n_ + j;
#ifdef SPARSEDIS_EMULATION
      emulation::check(reinterpret_cast<std::size_t>(at) % alignof(Quad) == 0, "misaligned load of four features");
#endif
      const Quad quad = *reinterpret_cast<const Quad*>(at);
      return {{Value(quad.of[0]), Value(quad.of[1]), Value(quad.of[2]), Value(quad.of[3])}};
    }
  }
  __device__ bool by_fours() const {
    return stride_d_ == 1 && stride_n_ % 4 == 0 && d_ % 4 == 0 &&
           reinterpret_cast<std::size_t>(X_) % alignof(Quad) == 0;
  }

  // The Gram matrix X X^T, (n, n).
  __device__ void gram(const Team& team, double* K) const {
    team.each_by_warp(n_ * (n_ + 1) / 2, [&](int e, int lane) {
      const auto [i, j] = lower_entry(e);
      double sum = 0;
#pragma unroll 1
      for (int a = lane; a < d_; a += kWarp) sum += double((*this)(i, a)) * double((*this)(j, a));
      sum = sum_of_lanes(sum);
      if (lane == 0) K[i * n_ + j] = K[j * n_ + i] = sum;
    });
  }

 private:
  struct alignas(4 * sizeof(F) < 16 ? 4 * sizeof(F) : 16) Quad {
    F of[4];
  };

  const F* X_;
  const int* sample_;
  int n_, d_;
  std::ptrdiff_t stride_n_, stride_d_;
};

}  // namespace sparsedis::cuda
