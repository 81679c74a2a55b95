// One task's features, of any strides and type, read in place, in the blocks of rows that the products take.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../../common/cpu/memory.hpp"
#include "../../common/cpu/products.hpp"

namespace sparsedis::cpu {

// Features per block: a block of 25 to 75 samples stays in the L1 or L2 cache. A pass that reads features in place once
// takes longer blocks, whose rows are worth prefetching.
constexpr int kBlock = 256, kLongBlock = 1024;

template <class F>
class Features {
 public:
  Features(const F* const* row, int n, int d, std::ptrdiff_t stride) : row_(row), n_(n), d_(d), stride_(stride) {}

  int samples() const { return n_; }
  int features() const { return d_; }

  // Copies the columns from..from+count into `buffer` (n, ld) as T, with zeros up to the padded count.
  template <class T>
  void copy(int from, int count, T* buffer, std::ptrdiff_t ld) const {
    const int end = int(padded(count));
    for (int i = 0; i < n_; ++i) {
      const F* x = row_[i] + from * stride_;
      T* to = buffer + i * ld;
      if (stride_ == 1) {
        for (int j = 0; j < count; ++j) to[j] = T(x[j]);
      } else {
        for (int j = 0; j < count; ++j) to[j] = T(x[j * stride_]);
      }
      for (int j = count; j < end; ++j) to[j] = T(0);
    }
  }

  // The same for the columns index[0..count).
  template <class T>
  void gather(const int* index, int count, T* buffer, std::ptrdiff_t ld) const {
    const int end = int(padded(count));
    for (int i = 0; i < n_; ++i) {
      T* to = buffer + i * ld;
      for (int a = 0; a < count; ++a) to[a] = T(row_[i][index[a] * stride_]);
      for (int a = count; a < end; ++a) to[a] = T(0);
    }
  }

  // The number of columns from `from` on that a pass takes at a time: at most `most`, and at most kBlock if rows() has
  // to copy them.
  template <class T>
  int block(int from, int most) const {
    const int left = std::min(most, d_ - from), whole = left / kPad * kPad;
    return in_place<T>() && whole > 0 ? whole : std::min(kBlock, left);
  }

  // The rows of a block as T: the features in place if type and strides permit, else copied into `buffer` (n, kBlock).
  template <class T>
  void rows(int from, int count, T* buffer, const T** rows) const {
    if constexpr (std::is_same_v<F, T>) {
      if (in_place<T>() && count % kPad == 0) {
        for (int i = 0; i < n_; ++i) rows[i] = row_[i] + from;
        return;
      }
    }
    copy(from, count, buffer, kBlock);
    for (int i = 0; i < n_; ++i) rows[i] = buffer + std::ptrdiff_t(i) * kBlock;
  }

  // The Gram matrix X X^T, (n, n); block (n, kBlock) is scratch.
  void gram(double* block, double* K) const {
    std::fill(K, K + std::size_t(n_) * n_, 0.0);
    for (int from = 0; from < d_; from += kBlock) {
      const int here = std::min(kBlock, d_ - from);
      copy(from, here, block, kBlock);
      add_dot_products(block, kBlock, n_, block, kBlock, n_, int(padded(here)), K, n_, true);
    }
    for (int i = 0; i < n_; ++i) {
      for (int j = i + 1; j < n_; ++j) K[std::ptrdiff_t(i) * n_ + j] = K[std::ptrdiff_t(j) * n_ + i];
    }
  }

  // Copies row i into `to` (d,).
  template <class T>
  void copy_row(int i, T* to) const {
    for (int j = 0; j < d_; ++j) to[j] = T(row_[i][j * stride_]);
  }

 private:
  template <class T>
  bool in_place() const {
    return std::is_same_v<F, T> && stride_ == 1;
  }

  const F* const* row_;
  int n_, d_;
  std::ptrdiff_t stride_;
};

}  // namespace sparsedis::cpu
