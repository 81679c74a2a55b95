// Cholesky factorisation of a symmetric matrix by the threads of a block, and solves with the factor.
//
// The lower triangle is packed row by row. For every block of kBlock columns, one warp factors the block on the
// diagonal, the rows below are solved with it, and the trailing matrix is updated in square tiles. The first warp
// updates and factors the next diagonal block while the others update the rest. The last warp inverts the diagonal
// block for later solves while the rows below are solved.
#pragma once

#include "four.hpp"
#include "memory.hpp"
#include "triangle.hpp"

namespace sparsedis::cuda {

template <class T>
class Cholesky {
 public:
  static constexpr int kBlock = 16;

  __device__ static std::size_t padded(int order) { return rounded_up(order, kBlock); }
  // Row stride of inverted diagonal blocks; the padding puts rows that lanes read at once into different banks.
  static constexpr int kInverseStride = kBlock + 4;

  // For matrices up to order `largest`. `inverse` (padded(largest), kInverseStride), aligned and provided by the
  // caller, holds the inverted diagonal blocks from factor() to the last solve().
  __device__ Cholesky(Memory& memory, int largest, T* inverse) : inverse_(inverse) {
    matrix_ = memory.take<T>(std::size_t(largest) * (largest + 1) / 2, ~std::size_t(0));
    diagonal_block_ = memory.take<T>(kSteps * kStepSize + kBlock * kStep);
    panel_ = memory.take<T>(kBlock * kInverseStride);
    between_ = memory.take<T>(padded(largest));
    failed_ = memory.take<int>(1);
  }

  __device__ void resize(int order) { order_ = order; }
  __device__ int order() const { return order_; }
  // Row i of the lower triangle, entries 0 to i.
  __device__ T* row(int i) const { return matrix_ + std::size_t(i) * (i + 1) / 2; }

  // Returns false if the matrix is not positive definite; it is overwritten in either case.
  SPARSEDIS_ONCE __device__ bool factor(const Team& team) {
    const int order = order_;
    team.once([&] { *failed_ = 0; });
    if (team.warp() == 0) factor_diagonal_block(0, false);
    team.wait();
#pragma unroll 1
    for (int first = 0; first < order; first += kBlock) {
      const int rest = first + kBlock;
      if (*failed_) return false;
      team.distribute(order - rest, [&](int r) { solve_row(row(rest + r) + first, r); });
      if (team.warp() == team.warps() - 1) invert_diagonal_block(first);
      team.wait();
      if (rest < order) update(team, first, rest);
      team.wait();
    }
    return true;
  }

  // x (padded(order),), aligned and 0 from `order` on: the right-hand side on entry, the solution on return. Every warp
  // with remaining rows solves with the diagonal block itself, so that one barrier per block suffices.
  SPARSEDIS_ONCE __device__ void solve(const Team& team, T* x) const {
    const int order = order_, r = team.lane() % kBlock;
    const bool writes = team.thread() < kBlock;
    T *const matrix = matrix_, *const between = between_;
    const T* const inverses = inverse_;
    auto has_rows = [&](int rows) { return team.warp() == 0 || team.warp() * kWarp < rows; };
    T value[kBlock];
#pragma unroll 1
    for (int first = 0; first < order; first += kBlock) {
      const int rest = first + kBlock;
      if (has_rows(order - rest)) {
        const T own = row_product(inverses + (first + r) * kInverseStride, x + first);
        if (writes) between[first + r] = own;
        spread(own, value);
        team.distribute(order - rest, [&](int e) {
          const int i = rest + e;
          const T* at = matrix + std::size_t(i) * (i + 1) / 2 + first;
          T sum = 0;
#pragma unroll
          for (int q = 0; q < kBlock; ++q) sum += at[q] * value[q];
          x[i] -= sum;
        });
      }
      team.wait();
    }
#pragma unroll 1
    for (int first = (order - 1) / kBlock * kBlock; first >= 0; first -= kBlock) {
      if (has_rows(first)) {
        const T own = column_product(inverses + first * kInverseStride + r, between + first);
        if (writes) x[first + r] = own;
        spread(own, value);
        team.distribute(first, [&](int j) {
          T sum = 0;
#pragma unroll
          for (int q = 0; q < kBlock; ++q) {
            const int i = first + q < order ? first + q : order - 1;  // value is 0 beyond the last row
            sum += matrix[std::size_t(i) * (i + 1) / 2 + j] * value[q];
          }
          between[j] -= sum;
        });
      }
      team.wait();
    }
  }

 private:
  static constexpr int kTile = 4;
  // A diagonal block is factored a few columns at a time. For each step diagonal_block_ holds the columns, row by row,
  // and the reciprocals of the diagonal.
  static constexpr int kStep = 4, kSteps = kBlock / kStep, kStepSize = kBlock * kStep + kStep;
  static constexpr int kHalf = kBlock / 2;
  // The smallest normal number; a smaller pivot would have an infinite reciprocal root.
  static constexpr T kLeastPivot = sizeof(T) == 8 ? 2.2250738585072014e-308 : 1.17549435e-38f;

  // Number of columns of the block that starts at `first`.
  __device__ int of_block(int first) const { return order_ - first < kBlock ? order_ - first : kBlock; }

  // Products of a row and of a column of an inverted diagonal block with x; each half of a warp sums half of the terms.
  // x and the row are aligned.
  __device__ static T row_product(const T* row, const T* x) {
    const int from = Team::lane() / kBlock * kHalf;
    T sum = 0;
#pragma unroll
    for (int q = 0; q < kHalf; q += kStep) {
      const Four<T> a = four(row + from + q), b = four(x + from + q);
#pragma unroll
      for (int t = 0; t < kStep; ++t) sum += a.of[t] * b.of[t];
    }
    return sum + __shfl_xor_sync(kAllLanes, sum, kBlock);
  }
  __device__ static T column_product(const T* column, const T* x) {
    const int from = Team::lane() / kBlock * kHalf;
    T sum = 0;
#pragma unroll
    for (int q = 0; q < kHalf; q += kStep) {
      const Four<T> b = four(x + from + q);
#pragma unroll
      for (int t = 0; t < kStep; ++t) sum += column[(from + q + t) * kInverseStride] * b.of[t];
    }
    return sum + __shfl_xor_sync(kAllLanes, sum, kBlock);
  }

  // Broadcasts the values of the first kBlock lanes to all lanes.
  __device__ static void spread(T own, T (&value)[kBlock]) {
#pragma unroll
    for (int q = 0; q < kBlock; ++q) value[q] = __shfl_sync(kAllLanes, own, q);
  }

  // Factors a diagonal block with one warp: lane r holds row r, from the first column of the step on. updated: first
  // subtracts the products of the previous panel, whose first rows are in panel_.
  SPARSEDIS_ONCE __device__ void factor_diagonal_block(int first, bool updated) {
    const int own = of_block(first), lane = Team::lane(), r = lane % kBlock;
    T* const to = row(first + (r < own ? r : 0)) + first;
    T x[kBlock];
#pragma unroll
    for (int c = 0; c < kBlock; ++c) x[c] = T(r == c);
    if (r < own) {
#pragma unroll
      for (int c = 0; c < kBlock; ++c) {
        if (c <= r) x[c] = to[c];
      }
    }
    if (updated) subtract_products(x, r < own ? r : -1);
    bool positive_definite = true;
    T* columns = diagonal_block_;
#pragma unroll 1
    for (int begin = 0; begin < kBlock; begin += kStep, columns += kStepSize) {
      // The rows of the step are shared, and every lane computes their factor itself.
      if (lane < kBlock && r >= begin && r < begin + kStep) four(columns + r * kStep) = {x[0], x[1], x[2], x[3]};
      __syncwarp();
      Four<T> l[kStep], reciprocal;
#pragma unroll
      for (int p = 0; p < kStep; ++p) l[p] = four(columns + (begin + p) * kStep);
#pragma unroll
      for (int q = 0; q < kStep; ++q) {
        const T pivot = l[q].of[q];
        positive_definite = positive_definite && pivot >= kLeastPivot && pivot - pivot == 0;
        reciprocal.of[q] = reciprocal_root(pivot >= kLeastPivot ? pivot : T(1));
#pragma unroll
        for (int p = q + 1; p < kStep; ++p) l[p].of[q] *= reciprocal.of[q];
#pragma unroll
        for (int p = q + 1; p < kStep; ++p) {
#pragma unroll
          for (int c = q + 1; c <= p; ++c) l[p].of[c] -= l[p].of[q] * l[c].of[q];
        }
      }
      substitute(x, l, reciprocal);
      __syncwarp();
      if (lane < kBlock && r >= begin) four(columns + r * kStep) = {x[0], x[1], x[2], x[3]};
      if (lane == 0) four(columns + kBlock * kStep) = reciprocal;
      if (lane < own) {
#pragma unroll
        for (int q = 0; q < kStep; ++q) {
          if (begin + q <= r) to[begin + q] = x[q];
        }
      }
      __syncwarp();
      eliminate(x, columns + begin * kStep);
    }
    if (!positive_definite && lane == 0) *failed_ = 1;
  }

  // Subtracts the products of panel_'s rows from entries 0 to r of row r, x; r is the lane's row, or -1 for none. Each
  // half of a warp computes every second column for both halves.
  __device__ void subtract_products(T (&x)[kBlock], int r) const {
    const int half = Team::lane() / kBlock;
    const T *const own = panel_ + Team::lane() % kBlock * kInverseStride, *other = panel_ + half * kInverseStride;
    Four<T> row[kBlock / kStep];
#pragma unroll
    for (int q = 0; q < kBlock / kStep; ++q) row[q] = four(own + q * kStep);
#pragma unroll
    for (int c = 0; c < kBlock; c += 2, other += 2 * kInverseStride) {
      T sum = 0;
#pragma unroll
      for (int q = 0; q < kBlock / kStep; ++q) {
        const Four<T> value = four(other + q * kStep);
#pragma unroll
        for (int t = 0; t < kStep; ++t) sum += row[q].of[t] * value.of[t];
      }
      const T of_other = __shfl_xor_sync(kAllLanes, sum, kBlock);
      if (c <= r) x[c] -= half == 0 ? sum : of_other;
      if (c + 1 <= r) x[c + 1] -= half == 0 ? of_other : sum;
    }
  }

  // Inverts the diagonal block in diagonal_block_ with one warp: lane c holds column c of the inverse.
  SPARSEDIS_ONCE __device__ void invert_diagonal_block(int first) {
    const int own = of_block(first), lane = Team::lane();
    T x[kBlock];
#pragma unroll
    for (int q = 0; q < kBlock; ++q) x[q] = T(q == lane);
    T* const inverse = inverse_ + first * kInverseStride + lane;
    solve_with_diagonal_block(x, [&](int q, T value) {
      if (lane < kBlock) inverse[q * kInverseStride] = q < own ? value : T(0);
    });
  }

  // Solves a row below the diagonal block in diagonal_block_; the first such rows are also copied to panel_.
  __device__ void solve_row(T* at, int r) const {
    T x[kBlock];
#pragma unroll
    for (int c = 0; c < kBlock; ++c) x[c] = at[c];
    T* const kept = panel_ + r * kInverseStride;
    solve_with_diagonal_block(x, [&](int q, T value) {
      at[q] = value;
      if (r < kBlock) kept[q] = value;
    });
  }

  // Solves x with the diagonal block in diagonal_block_ and calls store(q, value) for every entry.
  template <class Store>
  __device__ void solve_with_diagonal_block(T (&x)[kBlock], Store store) const {
    const T* columns = diagonal_block_;
#pragma unroll 1
    for (int begin = 0; begin < kBlock; begin += kStep, columns += kStepSize) {
      substitute(x, columns, begin);
#pragma unroll
      for (int q = 0; q < kStep; ++q) store(begin + q, x[q]);
      eliminate(x, columns + begin * kStep);
    }
  }

  // Solves the first kStep entries of a row x, starting at a step's first column; l holds the rows of the step.
  __device__ static void substitute(T (&x)[kBlock], const Four<T> (&l)[kStep], const Four<T>& reciprocal) {
#pragma unroll
    for (int q = 0; q < kStep; ++q) {
#pragma unroll
      for (int p = 0; p < q; ++p) x[q] -= x[p] * l[q].of[p];
      x[q] *= reciprocal.of[q];
    }
  }
  __device__ static void substitute(T (&x)[kBlock], const T* columns, int begin) {
    Four<T> l[kStep];
#pragma unroll
    for (int p = 0; p < kStep; ++p) l[p] = four(columns + (begin + p) * kStep);
    substitute(x, l, four(columns + kBlock * kStep));
  }

  // Subtracts the products of a row's first entries from the others, which are shifted to the front. rows: the step's
  // columns of the factor from the step's first row on; values read beyond the last row are not used.
  __device__ static void eliminate(T (&x)[kBlock], const T* rows) {
    const T first[kStep] = {x[0], x[1], x[2], x[3]};
#pragma unroll
    for (int c = kStep; c < kBlock; ++c) {
      const Four<T> l = four(rows + c * kStep);
      T value = x[c];
#pragma unroll
      for (int q = 0; q < kStep; ++q) value -= first[q] * l.of[q];
      x[c - kStep] = value;
    }
  }

  // Updates the trailing matrix, from row and column `rest` on, with the panel's products; factors its diagonal block.
  __device__ void update(const Team& team, int first, int rest) {
    constexpr int kBlockStrips = kBlock / kTile;
    const int strips = (order_ - rest + kTile - 1) / kTile,
              block_strips = strips < kBlockStrips ? strips : kBlockStrips;
    // The tiles of the diagonal block come first.
    const int next = block_strips * (block_strips + 1) / 2, tiles = strips * (strips + 1) / 2;
    const bool of_first = team.warp() == 0, single_warp = team.warps() == 1;
    if (of_first) factor_diagonal_block(rest, true);
    if (!of_first || single_warp) {
      const int skipped = single_warp ? 0 : kWarp;
      update_tiles(first, rest, next + team.thread() - skipped, team.threads() - skipped, tiles);
    }
  }

  // Subtracts from every `step`-th tile of the trailing matrix, from `tile` on, the product of its rows' and columns'
  // parts of the panel.
  SPARSEDIS_ONCE __device__ void update_tiles(int first, int rest, int tile, int step, int end) {
    const int order = order_;
    T* const matrix = matrix_;
    auto row = [=](int i) { return matrix + std::size_t(i) * (i + 1) / 2; };
#pragma unroll 1
    for (; tile < end; tile += step) {
      const Entry at = lower_entry(tile);
      const int down = rest + at.i * kTile, across = rest + at.j * kTile;
      T sum[kTile][kTile] = {};
      const T *left[kTile], *right[kTile];
#pragma unroll
      for (int t = 0; t < kTile; ++t) {
        left[t] = row(down + t < order ? down + t : order - 1) + first;
        right[t] = row(across + t < order ? across + t : order - 1) + first;
      }
#pragma unroll 2
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
          if (down + r < order && across + c <= down + r) row(down + r)[across + c] -= sum[r][c];
        }
      }
    }
  }

  int order_ = 0;
  T *matrix_, *inverse_, *diagonal_block_, *panel_, *between_;
  int* failed_;
};

}  // namespace sparsedis::cuda
