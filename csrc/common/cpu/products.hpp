// Dense matrix products on Eigen's packets, vectorised along the features.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace sparsedis::cpu {

template <class T>
using Packet = typename Eigen::internal::packet_traits<T>::type;
template <class T>
constexpr int kWidth = Eigen::internal::packet_traits<T>::size;
// Blocks of features and every leading dimension are padded to a multiple of this.
constexpr int kPad = 16;

constexpr std::ptrdiff_t padded(std::ptrdiff_t count) { return (count + kPad - 1) / kPad * kPad; }

// A packet of T loaded from values of type S; float is converted to double in registers.
template <class T, class S>
inline Packet<T> load_as(const S* x) {
  if constexpr (std::is_same_v<S, T>) {
    return Eigen::internal::ploadu<Packet<T>>(x);
  } else {
    typedef S From __attribute__((vector_size(kWidth<T> * sizeof(S))));
    typedef T To __attribute__((vector_size(kWidth<T> * sizeof(T))));
    From from;
    std::memcpy(&from, x, sizeof from);
    return (Packet<T>)__builtin_convertvector(from, To);
  }
}

// out[r, c] += <a_r, b_c>: R x C dot products accumulated in registers.
template <int R, int C, class S, class T>
inline void dot_tile(const S* a, std::ptrdiff_t lda, const T* b, std::ptrdiff_t ldb, int length, T* out,
                     std::ptrdiff_t ldo) {
  using namespace Eigen::internal;
  Packet<T> sum[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) sum[r][c] = pset1<Packet<T>>(T(0));
  }
  for (int j = 0; j < length; j += kWidth<T>) {
    Packet<T> left[R];
    for (int r = 0; r < R; ++r) left[r] = load_as<T>(a + r * lda + j);
    for (int c = 0; c < C; ++c) {
      const Packet<T> right = ploadu<Packet<T>>(b + c * ldb + j);
      for (int r = 0; r < R; ++r) sum[r][c] = pmadd(left[r], right, sum[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) out[r * ldo + c] += predux(sum[r][c]);
  }
}

// 4 x 3 accumulators and 3 + 1 operands use the sixteen registers of AVX2; AVX-512 has twice as many. A strip of rows
// stays in the L1 cache while all columns are processed.
constexpr int kTileRows = 4, kTileColumns = kWidth<double> < 8 ? 3 : 4, kStripRows = 24;

template <int R, class S, class T>
inline void dot_tile_columns(int columns, const S* a, std::ptrdiff_t lda, const T* b, std::ptrdiff_t ldb, int length,
                             T* out, std::ptrdiff_t ldo) {
  switch (columns) {
    case 1:
      return dot_tile<R, 1>(a, lda, b, ldb, length, out, ldo);
    case 2:
      return dot_tile<R, 2>(a, lda, b, ldb, length, out, ldo);
    case 3:
      return dot_tile<R, 3>(a, lda, b, ldb, length, out, ldo);
    default:
      return dot_tile<R, kTileColumns>(a, lda, b, ldb, length, out, ldo);
  }
}

// out (rows, columns) += A B^T for A (rows, length) and B (columns, length), with length a multiple of the packet size.
// `lower`: only the tiles on and below the diagonal.
template <class S, class T>
void add_dot_products(const S* a, std::ptrdiff_t lda, int rows, const T* b, std::ptrdiff_t ldb, int columns, int length,
                      T* out, std::ptrdiff_t ldo, bool lower) {
  for (int strip = 0; strip < rows; strip += kStripRows) {
    const int end = std::min(strip + kStripRows, rows);
    for (int c = 0; c < (lower ? std::min(end, columns) : columns); c += kTileColumns) {
      const T* right = b + c * ldb;
      for (int r = lower && c > strip ? c / kTileRows * kTileRows : strip; r < end; r += kTileRows) {
        const S* left = a + r * lda;
        T* to = out + r * ldo + c;
        const int height = std::min(kTileRows, end - r);
        const int width = std::min(kTileColumns, (lower ? std::min(r + height, columns) : columns) - c);
        switch (height) {
          case 1:
            dot_tile_columns<1>(width, left, lda, right, ldb, length, to, ldo);
            break;
          case 2:
            dot_tile_columns<2>(width, left, lda, right, ldb, length, to, ldo);
            break;
          case 3:
            dot_tile_columns<3>(width, left, lda, right, ldb, length, to, ldo);
            break;
          default:
            dot_tile_columns<4>(width, left, lda, right, ldb, length, to, ldo);
        }
      }
    }
  }
}

// A product with rows that are in no cache takes kRowGroup rows at a time, because hardware prefetchers follow about 32
// streams, and prefetches the values that are kPrefetched bytes ahead.
enum class Rows { cached, streamed };
constexpr int kRowGroup = 25, kPrefetched = 512;

template <Rows where, class S>
inline void prefetch_from(const S* here) {
  if constexpr (where == Rows::streamed) __builtin_prefetch(here + kPrefetched / sizeof(S));
}

// C planes at once: out[c, j] = sum_i coefficient[i, c] x_i[j] for J packets of features; `add`: += instead.
template <int C, int J, Rows where, class S, class T>
inline void combine_tile(const S* const* x, std::ptrdiff_t from, int rows, const T* coefficient, int ld, bool add,
                         T* out, std::ptrdiff_t ldo) {
  using namespace Eigen::internal;
  Packet<T> sum[C][J];
  for (int c = 0; c < C; ++c) {
    for (int j = 0; j < J; ++j) {
      sum[c][j] = add ? ploadu<Packet<T>>(out + c * ldo + j * kWidth<T>) : pset1<Packet<T>>(T(0));
    }
  }
  for (int i = 0; i < rows; ++i) {
    Packet<T> value[J];
    for (int j = 0; j < J; ++j) {
      const S* here = x[i] + from + j * kWidth<T>;
      value[j] = load_as<T>(here);
      prefetch_from<where>(here);
    }
    for (int c = 0; c < C; ++c) {
      const Packet<T> factor = pset1<Packet<T>>(coefficient[i * ld + c]);
      for (int j = 0; j < J; ++j) sum[c][j] = pmadd(factor, value[j], sum[c][j]);
    }
  }
  for (int c = 0; c < C; ++c) {
    for (int j = 0; j < J; ++j) pstoreu(out + c * ldo + j * kWidth<T>, sum[c][j]);
  }
}

template <int C, Rows where, class S, class T>
inline void combine_planes(const S* const* x, int length, int rows, const T* coefficient, int ld, bool add, T* out,
                           std::ptrdiff_t ldo) {
  int j = 0;
  for (; j + 2 * kWidth<T> <= length; j += 2 * kWidth<T>) {
    combine_tile<C, 2, where>(x, j, rows, coefficient, ld, add, out + j, ldo);
  }
  if (j < length) combine_tile<C, 1, where>(x, j, rows, coefficient, ld, add, out + j, ldo);
}

// out (planes, length) = coefficient^T X for X given by its rows and coefficient (rows, planes), with length a multiple
// of the packet size; `add`: += instead.
template <Rows where = Rows::cached, class S, class T>
void combine(const S* const* x, int length, int rows, const T* coefficient, int planes, T* out, std::ptrdiff_t ldo,
             bool add = false) {
  for (int c = 0; c < planes; c += 4) {
    const T* factors = coefficient + c;
    T* to = out + c * ldo;
    switch (planes - c) {
      case 1:
        combine_planes<1, where>(x, length, rows, factors, planes, add, to, ldo);
        break;
      case 2:
        combine_planes<2, where>(x, length, rows, factors, planes, add, to, ldo);
        break;
      case 3:
        combine_planes<3, where>(x, length, rows, factors, planes, add, to, ldo);
        break;
      default:
        combine_planes<4, where>(x, length, rows, factors, planes, add, to, ldo);
    }
  }
}

// The same for rows that are in no cache.
template <class T>
void combine_streamed(const T* const* x, int length, int rows, const T* coefficient, int planes, T* out,
                      std::ptrdiff_t ldo) {
  for (int first = 0; first < rows; first += kRowGroup) {
    combine<Rows::streamed>(x + first, length, std::min(kRowGroup, rows - first),
                            coefficient + std::ptrdiff_t(first) * planes, planes, out, ldo, first > 0);
  }
}

// squares[j] += (unit x_i[j])^2 over rows that are in no cache, length a multiple of the packet size; false if an x is
// NaN or infinite.
template <class T>
bool add_squares(const T* const* x, int length, int rows, T unit, T* squares) {
  using namespace Eigen::internal;
  const Packet<T> zero = pset1<Packet<T>>(T(0)), factor = pset1<Packet<T>>(unit);
  Packet<T> nothing = zero;  // stays 0 if all values are finite
  for (int first = 0; first < rows; first += kRowGroup) {
    const int last = std::min(first + kRowGroup, rows);
    for (int j = 0; j < length; j += kWidth<T>) {
      Packet<T> sum = ploadu<Packet<T>>(squares + j);
      for (int i = first; i < last; ++i) {
        const Packet<T> value = ploadu<Packet<T>>(x[i] + j);
        prefetch_from<Rows::streamed>(x[i] + j);
        const Packet<T> scaled = pmul(factor, value);
        sum = pmadd(scaled, scaled, sum);
        nothing = pmadd(value, zero, nothing);
      }
      pstoreu(squares + j, sum);
    }
  }
  return predux(nothing) == T(0);
}

// Squared norms over all k classes of planes (m, ldv) whose rows sum to zero.
template <class T>
void square_norms(const T* planes, std::ptrdiff_t ldv, int m, int length, T* norms) {
  using namespace Eigen::internal;
  for (int j = 0; j < length; j += kWidth<T>) {
    Packet<T> sum = pset1<Packet<T>>(T(0)), last = sum;
    for (int c = 0; c < m; ++c) {
      const Packet<T> v = ploadu<Packet<T>>(planes + c * ldv + j);
      sum = pmadd(v, v, sum);
      last = padd(last, v);
    }
    pstoreu(norms + j, pmadd(last, last, sum));
  }
}

}  // namespace sparsedis::cpu
