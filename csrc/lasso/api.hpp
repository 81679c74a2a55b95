// The Lasso operations on every device: batches of Lassos and the adjoint of their solutions.
//
// B tasks of n samples and d features. The mathematics is in sparsedis/ops/lasso/problem.py. All arrays but the
// features are contiguous. `solve_lasso` validates its input; `adjoint_lasso` assumes the values of a solved problem.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/status.hpp"

namespace sparsedis {

// F is the features' type, float or double.
template <class F>
struct Lassos {
  std::int64_t batch, samples, features;
  const F* X;                // (B, n, d)
  std::ptrdiff_t stride[3];  // of X, in elements; any value, including 0
  const double* y;           // (B, n)
  const double* lambda1;     // (B,)
  const double* lambda2;     // (B,)
  const double* weight;      // (B, n); 0 marks padding
};

template <class F>
struct LassoSolutions {
  F* w;          // (B, d)
  double* dual;  // (B, n)
  double* gap;   // (B,), like the next ones
  double* relative_gap;
  double* objective;
  std::int64_t* n_iter;
  std::int64_t* status;
  bool* active;  // (B, d)
  double* margin;
};

template <class F>
struct LassoGradients {
  F* X;       // (B, n, d)
  double* y;  // (B, n)
  double* lambda1;
  double* lambda2;
};

template <class F>
Input solve_lasso(const Lassos<F>& problems, double tol, std::int64_t max_iter, int threads,
                  const LassoSolutions<F>& solutions);

// Gradients of a loss whose gradient in w is grad_w (B, d), at the solutions w and their residuals `dual` (B, n).
template <class F>
void adjoint_lasso(const Lassos<F>& problems, const F* w, const double* dual, const F* grad_w,
                   const LassoGradients<F>& gradients, int threads);

}  // namespace sparsedis
