// One task as the solver stores it, and vector operations.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../../common/cpu/memory.hpp"
#include "../api.hpp"

namespace sparsedis::cpu::lasso {

inline double dot(const double* a, const double* b, int count) {
  double part[4] = {0, 0, 0, 0};
  int i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int p = 0; p < 4; ++p) part[p] += a[i + p] * b[i + p];
  }
  for (; i < count; ++i) part[0] += a[i] * b[i];
  return (part[0] + part[1]) + (part[2] + part[3]);
}

// to += factor * from
inline void add(double* to, double factor, const double* from, int count) {
  for (int i = 0; i < count; ++i) to[i] += factor * from[i];
}

// A task without padding, in double; the weights sum to 1.
template <class F>
struct LassoTask {
  int n, d;
  int* present;  // (n,), index in the batch's samples
  double *y, *weight;
  double* X;         // (d, n): a feature's values are contiguous
  double* diagonal;  // (d,), of H = X^T diag(weight) X + lambda2
  double lambda1, lambda2;

  LassoTask(Memory& memory, const Lassos<F>& problems, std::int64_t index)
      : n(0), d(int(problems.features)), lambda1(problems.lambda1[index]), lambda2(problems.lambda2[index]) {
    const int all = int(problems.samples);
    present = memory.take<int>(all);
    y = memory.take<double>(all);
    weight = memory.take<double>(all);
    X = memory.take<double>(std::size_t(all) * d);
    diagonal = memory.take<double>(d);
    const double* sample_weight = problems.weight + index * all;
    double largest = 0;
    for (int i = 0; i < all; ++i) largest = std::max(largest, sample_weight[i]);
    double total = 0;
    for (int i = 0; i < all; ++i) {
      if (!(sample_weight[i] > 0)) continue;
      present[n] = i;
      y[n] = problems.y[index * all + i];
      weight[n] = sample_weight[i] / largest;
      total += weight[n++];
    }
    for (int i = 0; i < n; ++i) weight[i] /= total;
    const F* from = problems.X + index * problems.stride[0];
    // A few features at a time, so that their columns stay in the cache while rows are read.
    for (int start = 0; start < d; start += kTransposed) {
      const int end = std::min(start + kTransposed, d);
      for (int i = 0; i < n; ++i) {
        const F* row = from + present[i] * problems.stride[1];
        for (int j = start; j < end; ++j) X[std::size_t(j) * n + i] = double(row[j * problems.stride[2]]);
      }
    }
    for (int j = 0; j < d; ++j) {
      const double* x = feature(j);
      double square = 0;
      for (int i = 0; i < n; ++i) square += weight[i] * x[i] * x[i];
      diagonal[j] = square + lambda2;
    }
  }

  const double* feature(int j) const { return X + std::size_t(j) * n; }

 private:
  static constexpr int kTransposed = 16;
};

}  // namespace sparsedis::cpu::lasso
