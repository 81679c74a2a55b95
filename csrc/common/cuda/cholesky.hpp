// The Cholesky factor of one symmetric matrix, and solves with it, by the threads of a block.
//
// The lower triangle is packed row by row. Every block of kBlock columns: the corner on the diagonal is factored by one
// warp, the rows below are solved with it, the rest is updated in square tiles. The first warp updates and factors the
// next corner while the others update the rest, and the last one inverts the corner, for the solves, beside the rows.
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
  // Rows of inverse corners stand further apart than they are long: lanes read one each, from different banks.
  static constexpr int kInverseStride = kBlock + 4;

  // For matrices up to that order. inverse (padded(largest), kInverseStride), aligned, which the caller lends: the
  // inverse corners, from factor() to the last solve().
  __device__ Cholesky(Memory& memory, int largest, T* inverse) : inverse_(inverse) {
    matrix_ = memory.take<T>(std::size_t(largest) * (largest + 1) / 2, ~std::size_t(0));
    corner_ = memory.take<T>(kSteps * kStepSize + kBlock * kStep);
    panel_ = memory.take<T>(kBlock * kInverseStride);
    between_ = memory.take<T>(padded(largest));
    failed_ = memory.take<int>(1);
  }

  __device__ void resize(int order) { order_ = order; }
  __device__ int order() const { return order_; }
  // Entries 0 to i of row i.
  __device__ T* row(int i) const { return matrix_ + std::size_t(i) * (i + 1) / 2; }

  // False where the matrix is not positive definite: it is lost then too.
  SPARSEDIS_ONCE __device__ bool factor(const Team& team) {
    const int order = order_;
    team.once([&] { *failed_ = 0; });
    if (team.warp() == 0) factor_corner(0, false);
    team.wait();
#pragma unroll 1
    for (int first = 0; first < order; first += kBlock) {
      const int rest = first + kBlock;
      if (*failed_) return false;
      team.distribute(order - rest, [&](int r) { solve_row(row(rest + r) + first, r); });
      if (team.warp() == team.warps() - 1) invert_corner(first);
      team.wait();
      if (rest < order) update(team, first, rest);
      team.wait();
    }
    return true;
  }

  // x (padded(order),), aligned, 0 from `order` on: the right-hand side, then the solution. Every warp that has rows of
  // the rest solves with the corner for itself, so that there is one barrier for a block.
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
            const int i = first + q < order ? first + q : order - 1;  // beyond, value is 0
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
  // A corner is factored a few columns at a time. Of each step corner_ holds the columns, row by row, and the
  // reciprocals of the diagonal.
  static constexpr int kStep = 4, kSteps = kBlock / kStep, kStepSize = kBlock * kStep + kStep;
  static constexpr int kHalf = kBlock / 2;
  // The smallest normal number: with less, a reciprocal root is infinite.
  static constexpr T kLeastPivot = sizeof(T) == 8 ? 2.2250738585072014e-308 : 1.17549435e-38f;

  // Columns of the block that begins with `first`.
  __device__ int of_block(int first) const { return order_ - first < kBlock ? order_ - first : kBlock; }

  // A row of an inverse corner with x, and a column: sums over a block, of which each half of a warp takes a part. x
  // and the row aligned.
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

  // The values of the first kBlock lanes, in all lanes.
  __device__ static void spread(T own, T (&value)[kBlock]) {
#pragma unroll
    for (int q = 0; q < kBlock; ++q) value[q] = __shfl_sync(kAllLanes, own, q);
  }

  // The factor of the corner, by one warp: lane r has row r, from the step's first column on. updated: less the
  // products of the panel before, whose first rows panel_ holds.
  SPARSEDIS_ONCE __device__ void factor_corner(int first, bool updated) {
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
    bool fine = true;
    T* columns = corner_;
#pragma unroll 1
    for (int begin = 0; begin < kBlock; begin += kStep, columns += kStepSize) {
      // The step's own rows, then their factor: every lane computes it for itself.
      if (lane < kBlock && r >= begin && r < begin + kStep) four(columns + r * kStep) = {x[0], x[1], x[2], x[3]};
      __syncwarp();
      Four<T> l[kStep], reciprocal;
#pragma unroll
      for (int p = 0; p < kStep; ++p) l[p] = four(columns + (begin + p) * kStep);
#pragma unroll
      for (int q = 0; q < kStep; ++q) {
        const T pivot = l[q].of[q];
        fine = fine && pivot >= kLeastPivot && pivot - pivot == 0;
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
    if (!fine && lane == 0) *failed_ = 1;
  }

  // Takes the products of panel_'s rows off the entries 0 to r of row r, x; r: of the lane, -1 for none. Each half of a
  // warp sums up every second column, for the other one too.
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

  // The inverse of the corner that corner_ holds, by one warp: lane c has its column c.
  SPARSEDIS_ONCE __device__ void invert_corner(int first) {
    const int own = of_block(first), lane = Team::lane();
    T x[kBlock];
#pragma unroll
    for (int q = 0; q < kBlock; ++q) x[q] = T(q == lane);
    T* const inverse = inverse_ + first * kInverseStride + lane;
    solve_with_corner(x, [&](int q, T value) {
      if (lane < kBlock) inverse[q * kInverseStride] = q < own ? value : T(0);
    });
  }

  // A row's part of the panel below the corner that corner_ holds; the first ones go into panel_ too.
  __device__ void solve_row(T* at, int r) const {
    T x[kBlock];
#pragma unroll
    for (int c = 0; c < kBlock; ++c) x[c] = at[c];
    T* const kept = panel_ + r * kInverseStride;
    solve_with_corner(x, [&](int q, T value) {
      at[q] = value;
      if (r < kBlock) kept[q] = value;
    });
  }

  // store(q, value) for the entries of x, solved with the corner that corner_ holds.
  template <class Store>
  __device__ void solve_with_corner(T (&x)[kBlock], Store store) const {
    const T* columns = corner_;
#pragma unroll 1
    for (int begin = 0; begin < kBlock; begin += kStep, columns += kStepSize) {
      substitute(x, columns, begin);
#pragma unroll
      for (int q = 0; q < kStep; ++q) store(begin + q, x[q]);
      eliminate(x, columns + begin * kStep);
    }
  }

  // The first entries of a row x, which is at a step's first column, of the factor: l has the step's own rows.
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

  // Takes the products of a row's first entries off the others, which move up. rows: of the factor's columns of the
  // step, from the step's first row on; what is read beyond the last one is never used.
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

  // The rest, from row and column `rest` on, less the products of the panel; and the factor of its corner.
  __device__ void update(const Team& team, int first, int rest) {
    constexpr int kCorner = kBlock / kTile;
    const int strips = (order_ - rest + kTile - 1) / kTile, corners = strips < kCorner ? strips : kCorner;
    // The tiles of the corner come first.
    const int next = corners * (corners + 1) / 2, tiles = strips * (strips + 1) / 2;
    const bool of_first = team.warp() == 0, alone = team.warps() == 1;
    if (of_first) factor_corner(rest, true);
    if (!of_first || alone) {
      const int skipped = alone ? 0 : kWarp;
      update_tiles(first, rest, next + team.thread() - skipped, team.threads() - skipped, tiles);
    }
  }

  // Tiles of the rest, every `step`-th from `tile` on, less the products of their rows' and their columns' parts of the
  // panel.
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
  T *matrix_, *inverse_, *corner_, *panel_, *between_;
  int* failed_;
};

}  // namespace sparsedis::cuda
