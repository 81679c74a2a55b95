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

namespace sparsedis::cpu {

// Features of fewer bytes than kCachedBytes stay in the caches anyway; a working set takes at most kWorkingSetBytes
// bytes.
constexpr std::size_t kCachedBytes = std::size_t(1) << 18, kWorkingSetBytes = std::size_t(1) << 21;

// Features that are inactive by less than this also belong to the set, so that the margin of a solution rarely depends
// on those outside.
constexpr double kBand = 1e-3;

template <class F, class T>
class WorkingSet {
 public:
  // lengths (d,): ||x_j|| in units of lambda1; null for a primal map that does not screen.
  WorkingSet(Memory& memory, const Samples& samples, const Features<F>& features, const F* lengths)
      : features_(features), lengths_(lengths), n_(samples.n), m_(samples.m) {
    const std::size_t n = n_, d = features.features();
    enabled_ = lengths && samples.lambda1 > 0 && n * d * sizeof(T) >= kCachedBytes;
    if (!enabled_) return;
    capacity_ = std::ptrdiff_t(std::min<std::size_t>(d / 4, kWorkingSetBytes / (n * sizeof(T)))) / kPad * kPad;
    norm_ = memory.take<T>(d + kPad);
    index_ = memory.take<int>(d);
    columns_ = memory.take<T>(n * capacity_);
    centre_ = memory.take<double>(n * m_);
    last_ = memory.take<double>(n * m_);
  }

  // An upper bound on ||V_j||, in units of lambda1, of the features outside the set, valid where holds() is true.
  double largest_outside() const { return largest_outside_; }
  // Makes the next pass read all features.
  void forget() { radius_ = -1; }

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
    for (int j = 0; j < count; ++j) norm_[from + j] = std::sqrt(square_norm[j]);
  }

  // Rebuilds the set around A, whose norms have been recorded, for moves up to the length of the last one, because
  // steps get shorter. error: that of ||V_j|| relative to ||x_j||.
  void rebuild(const double* A, double error) {
    if (!enabled_) return;
    radius_ = -1;
    const T radius = T(moved_ + error);
    if (!std::isfinite(radius)) return;
    int count = 0;
    T outside = 0;
    for (int j = 0; j < features_.features(); ++j) {
      const T most = norm_[j] + T(lengths_[j]) * radius;
      const bool inside = most > T(1 - kBand);
      index_[count] = j;
      count += inside;
      outside = inside || most < outside ? outside : most;
    }
    largest_outside_ = outside;
    if (count > capacity_) return;
    count_ = count;
    radius_ = moved_;
    std::copy(A, A + std::size_t(n_) * m_, centre_);
    features_.gather(index_, count, columns_, capacity_);
  }

 private:
  // The Frobenius norm of the difference over all k classes.
  double distance(const double* A, const double* B) const {
    double square = 0;
    for (int i = 0; i < n_; ++i) {
      double last = 0;
      for (int c = 0; c < m_; ++c) {
        const double difference = A[i * m_ + c] - B[i * m_ + c];
        square += difference * difference;
        last += difference;
      }
      square += last * last;
    }
    return std::sqrt(square);
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
  double *centre_ = nullptr, *last_ = nullptr;
};

}  // namespace sparsedis::cpu
