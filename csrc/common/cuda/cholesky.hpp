// The Cholesky factor of one symmetric matrix, and solves with it, by the threads of a block.
//
// The lower triangle is packed row by row. Every block of kBlock columns: the corner on the diagonal is factored and
// inverted by one warp, the rows below are multiplied with the inverse, the rest is updated in square tiles.
#pragma once

#include "memory.hpp"
#include "triangle.hpp"

namespace sparsedis::cuda {

template <class T>
class Cholesky {
 public:
  // For matrices up to that order.
  __device__ Cholesky(Memory& memory, int largest) {
    const std::size_t blocks = (largest + kBlock - 1) / kBlock;
    matrix_ = memory.take<T>(std::size_t(largest) * (largest + 1) / 2, ~std::size_t(0));
    inverse_ = memory.take<T>(blocks * kBlock * kBlock, ~std::size_t(0));
    failed_ = memory.take<int>(1);
  }

  __device__ void resize(int order) { order_ = order; }
  __device__ int order() const { return order_; }
  // Entries 0 to i of row i.
  __device__ T* row(int i) const { return matrix_ + std::size_t(i) * (i + 1) / 2; }

  // False where the matrix is not positive definite: it is lost then too.
  SPARSEDIS_ONCE __device__ bool factor(const Team& team) {
    team.once([&] { *failed_ = 0; });
    for (int first = 0; first < order_; first += kBlock) {
      const int own = order_ - first < kBlock ? order_ - first : kBlock, rest = first + own;
      if (team.warp() == 0) factor_corner(team.lane(), first, own);
      team.wait();
      if (*failed_) return false;
      const T* inverse = inverse_ + std::size_t(first) * kBlock;
      team.each(order_ - rest, [&](int r) { multiply_by_inverse(row(rest + r) + first, inverse); });
      const int strips = (order_ - rest + kTile - 1) / kTile;
      team.each(strips * (strips + 1) / 2, [&](int e) {
        int down, across;
        lower_entry(e, down, across);
        update(rest + down * kTile, rest + across * kTile, first);
      });
    }
    return true;
  }

  // x (order,): the right-hand side, then the solution.
  SPARSEDIS_ONCE __device__ void solve(const Team& team, T* x) const {
    for (int first = 0; first < order_; first += kBlock) {
      const int own = order_ - first < kBlock ? order_ - first : kBlock, rest = first + own;
      solve_corner(team, first, own, x, false);
      team.each(order_ - rest, [&](int r) {
        const T* at = row(rest + r) + first;
        T sum = 0;
#pragma unroll
        for (int q = 0; q < kBlock; ++q) sum += at[q] * x[first + q];
        x[rest + r] -= sum;
      });
    }
    for (int first = (order_ - 1) / kBlock * kBlock; first >= 0; first -= kBlock) {
      const int own = order_ - first < kBlock ? order_ - first : kBlock;
      solve_corner(team, first, own, x, true);
      team.each(first, [&](int j) {
        T sum = 0;
        for (int q = 0; q < own; ++q) sum += row(first + q)[j] * x[first + q];
        x[j] -= sum;
      });
    }
  }

 private:
  static constexpr int kBlock = 16;
  static constexpr int kTile = 4;

  // The factor of the corner and its inverse, by one warp: lane r has row r.
  __device__ void factor_corner(int lane, int first, int own) {
    T a[kBlock];
#pragma unroll
    for (int c = 0; c < kBlock; ++c) a[c] = lane < own && c <= lane ? row(first + lane)[first + c] : T(lane == c);
    bool fine = true;
#pragma unroll
    for (int p = 0; p < kBlock; ++p) {
      const T pivot = __shfl_sync(kAllLanes, a[p], p);
      fine = fine && pivot > 0 && pivot - pivot == 0;
      a[p] *= T(1) / std::sqrt(pivot > 0 ? pivot : T(1));
#pragma unroll
      for (int c = p + 1; c < kBlock; ++c) a[c] -= a[p] * __shfl_sync(kAllLanes, a[p], c);
    }
    // Lane c: column c of the inverse.
    T x[kBlock];
#pragma unroll
    for (int q = 0; q < kBlock; ++q) {
      T sum = q == lane ? 1 : 0;
#pragma unroll
      for (int p = 0; p < q; ++p) sum -= __shfl_sync(kAllLanes, a[p], q) * x[p];
      x[q] = sum / __shfl_sync(kAllLanes, a[q], q);
    }
    if (lane < own) {
#pragma unroll
      for (int c = 0; c < kBlock; ++c) {
        if (c <= lane) row(first + lane)[first + c] = a[c];
      }
    }
    if (lane < kBlock) {
#pragma unroll
      for (int q = 0; q < kBlock; ++q) inverse_[std::size_t(first + q) * kBlock + lane] = x[q];
    }
    if (!fine && lane == 0) *failed_ = 1;
  }

  // A row of the panel below a whole corner, times the inverse's transpose.
  __device__ static void multiply_by_inverse(T* at, const T* inverse) {
    T old[kBlock];
#pragma unroll
    for (int c = 0; c < kBlock; ++c) old[c] = at[c];
#pragma unroll
    for (int c = 0; c < kBlock; ++c) {
      T sum = 0;
#pragma unroll
      for (int q = 0; q <= c; ++q) sum += old[q] * inverse[c * kBlock + q];
      at[c] = sum;
    }
  }

  // A tile of the rest, less the product of its rows' and its columns' parts of the panel.
  __device__ void update(int down, int across, int first) {
    T sum[kTile][kTile] = {};
    const T *left[kTile], *right[kTile];
#pragma unroll
    for (int t = 0; t < kTile; ++t) {
      left[t] = row(down + t < order_ ? down + t : order_ - 1) + first;
      right[t] = row(across + t < order_ ? across + t : order_ - 1) + first;
    }
#pragma unroll 4
    for (int q = 0; q < kBlock; ++q) {
      T a[kTile], b[kTile];
#pragma unroll
      for (int t = 0; t < kTile; ++t) {
        a[t] = left[t][q];
        b[t] = right[t][q];
      }
#pragma unroll
      for (int r = 0; r < kTile; ++r) {
#pragma unroll
        for (int c = 0; c < kTile; ++c) sum[r][c] += a[r] * b[c];
      }
    }
#pragma unroll
    for (int r = 0; r < kTile; ++r) {
#pragma unroll
      for (int c = 0; c < kTile; ++c) {
        if (down + r < order_ && across + c <= down + r) row(down + r)[across + c] -= sum[r][c];
      }
    }
  }

  // x[first..first+own] times the corner's inverse, or its transpose.
  __device__ void solve_corner(const Team& team, int first, int own, T* x, bool transposed) const {
    const T* inverse = inverse_ + std::size_t(first) * kBlock;
    const int lane = team.lane();
    if (team.warp() == 0) {
      T sum = 0;
      if (lane < own) {
        // The inverse is 0 above its diagonal.
#pragma unroll
        for (int q = 0; q < kBlock; ++q) {
          if (q >= own) continue;
          sum += (transposed ? inverse[q * kBlock + lane] : inverse[lane * kBlock + q]) * x[first + q];
        }
      }
      __syncwarp();
      if (lane < own) x[first + lane] = sum;
    }
    team.wait();
  }

  int order_ = 0;
  T *matrix_, *inverse_;
  int* failed_;
};

}  // namespace sparsedis::cuda
