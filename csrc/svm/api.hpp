// The interface of the operation on every device: batches of group-Lasso multiclass SVMs, and the adjoint of their
// solutions.
//
// B tasks of n samples, d features and k classes; the mathematics is in sparsedis/ops/svm/problem.py. All arrays except
// the features are contiguous. `solve` validates the values that it reads; `adjoint` expects those of a solved problem.
#pragma once

#include "../common/macros.hpp"
#include "../common/status.hpp"

namespace sparsedis {

enum class Solver { newton, fista, bcd };

// F is the type of the features, float or double.
template <class F>
struct Problems {
  std::int64_t batch, samples, features, classes;
  const F* X;                  // (B, n, d)
  std::ptrdiff_t stride[3];    // of X, in elements; any, 0 included
  const std::int64_t* labels;  // (B, n), from 0 to k-1
  const double* lambda1;       // (B,)
  const double* lambda2;       // (B,)
  const double* dual_reg;      // (B,)
  const double* weight;        // (B, n); 0 marks padding
};

struct Options {
  Solver solver;
  double tol;  // relative duality gap to reach, for the returned weights
  std::int64_t max_iter;
  bool exact;  // solve to rounding error even if tol is looser, as accurate gradients require
  int threads;
};

template <class F>
struct Solutions {
  F* W;          // (B, d, k)
  double* dual;  // (B, n, k)
  double* gap;   // (B,), as the fields below
  double* relative_gap;
  double* objective;
  std::int64_t* n_iter;
  std::int64_t* status;
  bool* active;    // (B, d)
  double* margin;  // (B,), distance from the nearest kink
};

template <class F>
struct Gradients {
  F* X;  // (B, n, d)
  double* lambda1;
  double* lambda2;
  double* dual_reg;
};

// Parts of a solution that the adjoint needs.
struct Solved {
  const double* dual;  // (B, n, k)
  const bool* active;  // (B, d)
};

#ifndef __CUDACC_RTC__  // for the host

template <class F>
Input solve(const Problems<F>& problems, const Options& options, const Solutions<F>& solutions);

// Gradients of a loss from its gradient grad_W (B, d, k) in W.
template <class F>
void adjoint(const Problems<F>& problems, const Solved& solved, const F* grad_W, const Gradients<F>& gradients,
             int threads);

#endif

}  // namespace sparsedis
