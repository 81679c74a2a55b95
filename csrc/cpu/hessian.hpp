// The features' part of the Newton matrix: for every pair of classes c' <= c (m coordinates) the n x n weighted Gram
// matrix
//   G[c, c'] = sum_j w_j x_j x_j^T,   w_j = alpha_j ([c = c'] + 1) + beta_j v_jc v_jc',   v_jc = u_jc - u_jk,
// lower triangles only: every product of the Newton matrix is computed once.
#pragma once

#include <algorithm>

#include "features.hpp"
#include "products.hpp"

namespace sparsedis::cpu {

inline int pair_index(int c, int other) { return c * (c + 1) / 2 + other; }

// T is the type of the products.
template <class T>
class Hessian {
 public:
  Hessian(Memory& memory, int n, int m)
      : n_(n),
        m_(m),
        G_(memory.take<T>(std::size_t(m) * (m + 1) / 2 * n * n)),
        weighted_(memory.take<T>(std::size_t(n) * kBlock)),
        weight_(memory.take<T>(kBlock)),
        alpha_(memory.take<T>(kBlock)),
        beta_(memory.take<T>(kBlock)),
        v_(memory.take<T>(std::size_t(m) * kBlock)) {}

  void clear() { std::fill(G_, G_ + std::size_t(m_) * (m_ + 1) / 2 * n_ * n_, T(0)); }

  // Adds `count` features, the columns of x (n, ld), padded with zeros; alpha(a), beta(a), unit(c, a) for a < count.
  template <class Alpha, class Beta, class Unit>
  void add(const T* x, std::ptrdiff_t ld, int count, Alpha alpha, Beta beta, Unit unit) {
    for (int from = 0; from < count; from += kBlock) {
      const int here = std::min(kBlock, count - from), length = int(padded(here));
      T last[kBlock] = {};
      for (int a = 0; a < here; ++a) {
        alpha_[a] = T(alpha(from + a));
        beta_[a] = T(beta(from + a));
      }
      for (int a = here; a < length; ++a) alpha_[a] = beta_[a] = T(0);
      for (int c = 0; c < m_; ++c) {
        T* v = v_ + c * kBlock;
        for (int a = 0; a < here; ++a) {
          v[a] = T(unit(c, from + a));
          last[a] += v[a];
        }
        std::fill(v + here, v + length, T(0));
      }
      for (int c = 0; c < m_; ++c) {
        for (int a = 0; a < here; ++a) v_[c * kBlock + a] += last[a];
      }
      for (int c = 0; c < m_; ++c) {
        for (int other = 0; other <= c; ++other) add_pair(x + from, ld, length, c, other);
      }
    }
  }

  // Adds K (n, n) scaled, for features that all have curvature `scale` in every direction; K's lower triangle.
  void add_gram(const double* K, double scale) {
    for (int c = 0; c < m_; ++c) {
      for (int other = 0; other <= c; ++other) {
        T* G = pair(c, other);
        const double factor = scale * (c == other ? 2 : 1);
        for (std::ptrdiff_t e = 0; e < std::ptrdiff_t(n_) * n_; ++e) G[e] += T(factor * K[e]);
      }
    }
  }

  // The mean curvature of the entries of sample i.
  double mean_curvature(int i) const {
    double sum = 0;
    for (int c = 0; c < m_; ++c) sum += double(pair(c, c)[std::ptrdiff_t(i) * n_ + i]);
    return sum / (2 * m_);
  }

  const T* pair(int c, int other) const { return G_ + std::size_t(pair_index(c, other)) * n_ * n_; }

 private:
  T* pair(int c, int other) { return G_ + std::size_t(pair_index(c, other)) * n_ * n_; }

  void add_pair(const T* x, std::ptrdiff_t ld, int length, int c, int other) {
    const T *v = v_ + c * kBlock, *w = v_ + other * kBlock;
    const T both = c == other ? 2 : 1;
    for (int a = 0; a < length; ++a) weight_[a] = both * alpha_[a] + beta_[a] * v[a] * w[a];
    for (int i = 0; i < n_; ++i) {
      const T* row = x + i * ld;
      T* to = weighted_ + std::ptrdiff_t(i) * kBlock;
      for (int a = 0; a < length; ++a) to[a] = weight_[a] * row[a];
    }
    add_dot_products(weighted_, kBlock, n_, x, ld, n_, length, pair(c, other), n_, true);
  }

  int n_, m_;
  T *G_, *weighted_, *weight_, *alpha_, *beta_, *v_;
};

}  // namespace sparsedis::cpu
