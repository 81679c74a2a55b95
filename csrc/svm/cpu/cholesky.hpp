// The Cholesky factorisation of a symmetric matrix of order up to a few thousand, in T, and solves with it.
//
// Rows are stored in panels of kRows, each column by column (Eigen's packet order within a panel) up to the diagonal,
// so that the operands of a panel's products are contiguous. A group of columns of a panel is computed in registers
// from all columns before it (left-looking): 1.3 (order 300) to 2 (order 100) times the speed of Eigen's LLT.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

#include "../../common/cpu/memory.hpp"
#include "../../common/cpu/products.hpp"

namespace sparsedis::cpu {

template <class T>
class Cholesky {
 public:
  static constexpr int kWidth = cpu::kWidth<T>;
  using Packet = cpu::Packet<T>;
  // Columns computed at once: with three packets of rows, twelve accumulators in AVX2's sixteen registers. Eight
  // columns would suit AVX-512's registers, but not the diagonal blocks, which are factored entry by entry.
  static constexpr int kGroup = std::min(kWidth * int(sizeof(T)) / 8, 4);
  static constexpr int kPackets = 12 / kGroup;
  static constexpr int kRows = kPackets * kWidth;
  // Products involve no diagonal blocks and may use twice as many columns at once, if the registers hold the sums.
  // With few rows, more independent sums hide the latency of the multiply-adds.
  static constexpr int kAccumulators = kWidth * sizeof(T) == 64 ? 24 : 12;

  // For matrices up to order `largest`.
  Cholesky(Memory& memory, int largest) {
    const int panels = (largest + kGroup - 1) / kGroup * kGroup / kRows + 1;
    matrix_ = memory.take<T>(panel_offset(panels));
    inverse_ = memory.take<T>(std::size_t(panels) * kRows);
    x_ = memory.take<T>(std::size_t(panels) * kRows);
  }

  // Starts a zero matrix of the given order.
  void clear(int order) {
    unpadded_order_ = order;
    order_ = (order + kGroup - 1) / kGroup * kGroup;
    panels_ = (order_ + kRows - 1) / kRows;
    std::fill(matrix_, matrix_ + panel_offset(panels_), T(0));
    for (int row = order; row < panels_ * kRows; ++row) entry(row, row) = 1;
  }

  // j <= i: an entry of the matrix; after factor() an entry of the factor.
  T& entry(int i, int j) const { return matrix_[panel_offset(i / kRows) + i % kRows + std::ptrdiff_t(j) * kRows]; }
  // Column j of the panel of rows first..first+kRows.
  T* panel(int first, int j) const { return &entry(first, j); }

  // Offset of row i in a matrix Z (order, columns) stored in panels like this one; column j follows after j kRows.
  static std::ptrdiff_t row_in_panels(int i, int columns) {
    return std::ptrdiff_t(i / kRows) * kRows * columns + i % kRows;
  }

  // Adds Z Z^T over the first `count` columns of Z; the rows beyond the order in Z's last panel must be 0.
  void add_square(const T* Z, int columns, int count) {
    for (int panel = 0; panel < panels_; ++panel) {
      const int first = panel * kRows, end = std::min(first + kRows, order_);
      for (int column = 0; column < end;) {
        // Packets above the diagonal are skipped.
        const int above = column > first ? (column - first) / kWidth * kWidth : 0;
        const T *own = Z + row_in_panels(first + above, columns), *other = Z + row_in_panels(column, columns);
        T* to = this->panel(first, column) + above;
        const int left = std::min(end - column, kRows - column % kRows);  // columns left in the panel of `other`
        column += with_packets(end - first - above, [&](auto R) {
          constexpr int kWide = R * 2 * kGroup <= kAccumulators ? 2 * kGroup : kGroup;
          if (left >= kWide) return add_tile<R, kWide>(own, other, count, to);
          return add_tile<R, kGroup>(own, other, count, to);
        });
      }
    }
  }

  // Returns false, with the matrix overwritten, if it is not positive definite.
  bool factor() {
    for (int panel = 0; panel < panels_; ++panel) {
      if (!factor_panel(panel)) return false;
    }
    return true;
  }

  // x (order,): in, the right-hand side; out, the solution.
  void solve(T* x) const {
    std::copy(x, x + unpadded_order_, x_);
    std::fill(x_ + unpadded_order_, x_ + std::size_t(panels_) * kRows, T(0));
    for (int panel = 0; panel < panels_; ++panel) forward(panel);
    for (int panel = panels_ - 1; panel >= 0; --panel) backward(panel);
    std::copy(x_, x_ + unpadded_order_, x);
  }

 private:
  static std::size_t panel_offset(int panel) { return std::size_t(kRows) * kRows * panel * (panel + 1) / 2; }

  bool factor_panel(int panel) {
    T* own = matrix_ + panel_offset(panel);
    const int first = panel * kRows, rows = std::min(kRows, order_ - first);
    for (int column = 0; column < first + rows; column += kGroup) {
      const T* other = matrix_ + panel_offset(column / kRows);
      const bool made = with_packets(
          rows, [&](auto R) { return make_columns<R>(own, other + column % kRows, column, column >= first); });
      if (!made) return false;
    }
    return true;
  }

  // Calls f(R) with the number R of packets that hold `rows` rows of a panel, as a compile-time constant.
  template <class Function>
  static auto with_packets(int rows, Function f) {
    switch ((rows + kWidth - 1) / kWidth) {
      case 1:
        return f(std::integral_constant<int, 1>());
      case 2:
        return f(std::integral_constant<int, 2>());
      case 3:
        return f(std::integral_constant<int, 3>());
      default:
        return f(std::integral_constant<int, kPackets>());
    }
  }

  // sum = the products of R packets of rows of one panel with C rows of another, summed over `count` columns.
  template <int R, int C>
  static void multiply(const T* own, const T* other, int count, Packet (&sum)[R][C]) {
    using namespace Eigen::internal;
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) sum[r][c] = pset1<Packet>(T(0));
    }
    for (std::ptrdiff_t p = 0; p < std::ptrdiff_t(count) * kRows; p += kRows) {
      Packet left[R];
      for (int r = 0; r < R; ++r) left[r] = pload<Packet>(own + p + r * kWidth);
      for (int c = 0; c < C; ++c) {
        const Packet right = pset1<Packet>(other[p + c]);
        for (int r = 0; r < R; ++r) sum[r][c] = pmadd(left[r], right, sum[r][c]);
      }
    }
  }

  // Adds C columns to the matrix; returns C.
  template <int R, int C>
  static int add_tile(const T* own, const T* other, int count, T* to) {
    using namespace Eigen::internal;
    Packet sum[R][C];
    multiply(own, other, count, sum);
    for (int c = 0; c < C; ++c) {
      for (int r = 0; r < R; ++r) {
        T* at = to + c * kRows + r * kWidth;
        pstore(at, padd(pload<Packet>(at), sum[r][c]));
      }
    }
    return C;
  }

  // Computes the columns column..column+kGroup of the panel `own`; other: the rows with these indices, in their panel.
  template <int R>
  bool make_columns(T* own, const T* other, int column, bool diagonal) {
    using namespace Eigen::internal;
    T* to = own + std::size_t(column) * kRows;
    Packet sum[R][kGroup];
    multiply(own, other, column, sum);
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < kGroup; ++c) sum[r][c] = psub(pload<Packet>(to + c * kRows + r * kWidth), sum[r][c]);
    }
    T* inverse = inverse_ + column;
    T lower[kGroup][kGroup];
    if (diagonal) {
      const int row = column % kRows;
      for (int c = 0; c < kGroup; ++c) {
        for (int r = 0; r < R; ++r) pstore(to + c * kRows + r * kWidth, sum[r][c]);
      }
      if (!factor_diagonal_block(to + row, lower, inverse)) return false;
    } else {
      const T* block = other + std::size_t(column) * kRows;
      for (int c = 0; c < kGroup; ++c) {
        for (int e = 0; e < c; ++e) lower[c][e] = block[e * kRows + c];
      }
    }
    for (int c = 0; c < kGroup; ++c) {
      for (int e = 0; e < c; ++e) {
        const Packet factor = pset1<Packet>(lower[c][e]);
        for (int r = 0; r < R; ++r) sum[r][c] = psub(sum[r][c], pmul(sum[r][e], factor));
      }
      const Packet scale = pset1<Packet>(inverse[c]);
      for (int r = 0; r < R; ++r) {
        sum[r][c] = pmul(sum[r][c], scale);
        pstore(to + c * kRows + r * kWidth, sum[r][c]);
      }
      // Entries above the diagonal are 0, so that solve() can read whole packets.
      if (diagonal) std::fill(to + c * kRows, to + c * kRows + column % kRows + c, T(0));
    }
    return true;
  }

  // The factor of a diagonal block, and the inverses of the factor's diagonal.
  static bool factor_diagonal_block(const T* block, T (*lower)[kGroup], T* inverse) {
    for (int c = 0; c < kGroup; ++c) {
      for (int e = 0; e <= c; ++e) {
        T value = block[e * kRows + c];
        for (int q = 0; q < e; ++q) value -= lower[c][q] * lower[e][q];
        if (e < c) {
          lower[c][e] = value * inverse[e];
        } else {
          if (!(value > 0) || !std::isfinite(value)) return false;
          inverse[c] = 1 / std::sqrt(value);
        }
      }
    }
    return true;
  }

  void forward(int panel) const {
    using namespace Eigen::internal;
    const T* own = matrix_ + panel_offset(panel);
    T* x = x_ + std::size_t(panel) * kRows;
    Packet sum[2][kPackets];
    for (int r = 0; r < kPackets; ++r) {
      sum[0][r] = sum[1][r] = pset1<Packet>(T(0));
    }
    for (int p = 0; p < panel * kRows; p += 2) {
      for (int half = 0; half < 2; ++half) {
        const Packet factor = pset1<Packet>(x_[p + half]);
        const T* column = own + std::size_t(p + half) * kRows;
        for (int r = 0; r < kPackets; ++r) {
          sum[half][r] = pmadd(pload<Packet>(column + r * kWidth), factor, sum[half][r]);
        }
      }
    }
    for (int r = 0; r < kPackets; ++r) {
      pstore(x + r * kWidth, psub(pload<Packet>(x + r * kWidth), padd(sum[0][r], sum[1][r])));
    }
    const int rows = std::min(kRows, order_ - panel * kRows);
    for (int q = 0; q < rows; q += kGroup) {
      const T *columns = own + std::size_t(panel * kRows + q) * kRows, *inverse = inverse_ + panel * kRows + q;
      T solved[kGroup];
      for (int c = 0; c < kGroup; ++c) {
        T value = x[q + c];
        for (int e = 0; e < c; ++e) value -= columns[e * kRows + q + c] * solved[e];
        solved[c] = value * inverse[c];
      }
      for (int r = (q + kGroup) / kWidth * kWidth; r < kRows; r += kWidth) {
        Packet value = pload<Packet>(x + r);
        for (int c = 0; c < kGroup; ++c) {
          value = psub(value, pmul(pload<Packet>(columns + c * kRows + r), pset1<Packet>(solved[c])));
        }
        pstore(x + r, value);
      }
      std::copy(solved, solved + kGroup, x + q);
    }
  }

  void backward(int panel) const {
    using namespace Eigen::internal;
    const T* own = matrix_ + panel_offset(panel);
    T* x = x_ + std::size_t(panel) * kRows;
    const int rows = std::min(kRows, order_ - panel * kRows);
    alignas(64) T solved[kRows] = {};  // 0 if not solved yet
    for (int q = rows - kGroup; q >= 0; q -= kGroup) {
      const T *columns = own + std::size_t(panel * kRows + q) * kRows, *inverse = inverse_ + panel * kRows + q;
      Packet sum[kGroup];
      for (int c = 0; c < kGroup; ++c) sum[c] = pset1<Packet>(T(0));
      for (int r = (q + kGroup) / kWidth * kWidth; r < kRows; r += kWidth) {
        const Packet other = pload<Packet>(solved + r);
        for (int c = 0; c < kGroup; ++c) sum[c] = pmadd(pload<Packet>(columns + c * kRows + r), other, sum[c]);
      }
      T value[kGroup];
      for (int c = kGroup - 1; c >= 0; --c) {
        value[c] = x[q + c] - predux(sum[c]);
        for (int e = c + 1; e < kGroup; ++e) value[c] -= columns[c * kRows + q + e] * value[e];
        value[c] *= inverse[c];
      }
      std::copy(value, value + kGroup, solved + q);
    }
    Packet factor[kPackets];
    for (int r = 0; r < kPackets; ++r) {
      factor[r] = pload<Packet>(solved + r * kWidth);
      pstore(x + r * kWidth, factor[r]);
    }
    for (int p = 0; p < panel * kRows; ++p) {
      Packet sum = pmul(pload<Packet>(own + std::size_t(p) * kRows), factor[0]);
      for (int r = 1; r < kPackets; ++r) {
        sum = pmadd(pload<Packet>(own + std::size_t(p) * kRows + r * kWidth), factor[r], sum);
      }
      x_[p] -= predux(sum);
    }
  }

  int unpadded_order_, order_, panels_;
  T *matrix_, *inverse_, *x_;
};

}  // namespace sparsedis::cpu
