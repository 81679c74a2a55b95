// The features that can be active near a point, copied together, so that later passes need not read the others.
//
// V is linear in the residual A, so ||V_j(A)|| <= ||V_j(B)|| + ||x_j|| ||A - B||: a feature that is inactive at B by
// more than ||x_j|| r is inactive within the radius r of B, and no evaluation there needs it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "../../common/cpu/memory.hpp"
#include "../../common/cpu/products.hpp"
#include "../algorithm/samples.hpp"
#include "features.hpp"
#include "scan.hpp"

namespace sparsedis::cpu {

// Features of fewer bytes than kCachedBytes stay in the caches anyway; a working set takes at most kWorkingSetBytes
// bytes.
constexpr std::size_t kCachedBytes = std::size_t(1) << 18, kWorkingSetBytes = std::size_t(1) << 21;

template <class F, class T>
class WorkingSet {
 public:
  // scan: null for a primal map that does not screen.
  WorkingSet(Memory& memory, const Samples& samples, const Features<F>& features, const Scan<F>* scan)
      : features_(features), lengths_(scan ? scan->lengths : nullptr), n_(samples.n), m_(samples.m) {
    const std::size_t n = n_, d = features.features();
    enabled_ = scan && samples.lambda1 > 0 && n * d * sizeof(T) >= kCachedBytes;
    if (!enabled_) return;
    capacity_ = std::ptrdiff_t(std::min<std::size_t>(d / 4, kWorkingSetBytes / (n * sizeof(T)))) / kPad * kPad;
    norm_ = memory.take<T>(d + kPad);
    index_ = memory.take<int>(d);
    columns_ = memory.take<T>(n * capacity_);
    centre_ = memory.take<double>(n * m_);
    last_ = memory.take<double>(n * m_);
    difference_ = memory.take<double>(m_ + 1);
    gram_ = memory.take<double>(std::size_t(m_ + 1) * (m_ + 1));
  }

  // An upper bound on ||V_j||, in units of lambda1, of the features outside the set, valid where holds() is true.
  double largest_outside() const { return largest_outside_; }
  int count() const { return count_; }
  int feature(int a) const { return index_[a]; }

  // Whether no feature outside the set can be active at A (n, m).
  bool holds(const double* A) {
    if (!enabled_) return false;
    moved_ = seen_ ? distance(A, last_) : INFINITY;
    seen_ = true;
    std::copy(A, A + std::size_t(n_) * m_, last_);
    return distance(A, centre_) <= radius_;
  }

  // Rows of a block of the set's columns, padded with zeros.
  void rows(int from, const T** rows) const {
    for (int i = 0; i < n_; ++i) rows[i] = columns_ + i * capacity_ + from;
  }

  // Records ||V_j|| of a block during a pass over all features; square_norm: ||V_j||^2.
  void record(int from, int count, const T* square_norm) {
    if (!enabled_) return;
    for (int j = 0; j < padded(count); ++j) norm_[from + j] = std::sqrt(square_norm[j]);
  }

  // Rebuilds the set around A, whose norms have been recorded, for moves up to the length of the last one, because
  // steps get shorter. error: that of ||V_j|| relative to ||x_j||.
  void rebuild(const double* A, double error) {
    if (!enabled_) return;
    radius_ = -1;
    const T radius = T(moved_ + error);
    if (!std::isfinite(radius)) return;
    T outside;
    const int count = list_possibly_active(norm_, T(1), lengths_, radius, features_.features(), index_, &outside);
    largest_outside_ = double(outside);
    if (count > capacity_) return;
    count_ = count;
    radius_ = moved_;
    std::copy(A, A + std::size_t(n_) * m_, centre_);
    features_.gather(index_, count, columns_, capacity_);
  }

 private:
  // (tr G^4)^(1/8) for the Gram matrix G of the differences over all k classes: at least their largest singular value,
  // and at most k^(1/8) times it.
  double distance(const double* A, const double* B) {
    const int k = m_ + 1;
    std::fill(gram_, gram_ + k * k, 0.0);
    for (int i = 0; i < n_; ++i) {
      double last = 0;
      for (int c = 0; c < m_; ++c) {
        difference_[c] = A[i * m_ + c] - B[i * m_ + c];
        last -= difference_[c];
      }
      difference_[m_] = last;
      for (int c = 0; c < k; ++c) {
        for (int e = 0; e <= c; ++e) gram_[c * k + e] += difference_[c] * difference_[e];
      }
    }
    double trace = 0;
    for (int c = 0; c < k; ++c) trace += gram_[c * k + c];
    if (trace == 0) return 0;
    for (int c = 0; c < k; ++c) {
      for (int e = 0; e <= c; ++e) gram_[e * k + c] = gram_[c * k + e] /= trace;  // so that no product underflows
    }
    double eighth = 0;
    for (int c = 0; c < k; ++c) {
      for (int e = 0; e < k; ++e) {
        double product = 0;
        for (int l = 0; l < k; ++l) product += gram_[c * k + l] * gram_[e * k + l];
        eighth += product * product;
      }
    }
    return std::sqrt(trace * std::sqrt(std::sqrt(eighth)));
  }

  const Features<F>& features_;
  const F* lengths_;
  int n_, m_;
  bool enabled_ = false, seen_ = false;
  std::ptrdiff_t capacity_ = 0;
  int count_ = 0;
  double radius_ = -1, moved_ = INFINITY, largest_outside_ = 0;
  T *norm_ = nullptr, *columns_ = nullptr;
  int* index_ = nullptr;
  double *centre_ = nullptr, *last_ = nullptr, *difference_ = nullptr, *gram_ = nullptr;
};

}  // namespace sparsedis::cpu
