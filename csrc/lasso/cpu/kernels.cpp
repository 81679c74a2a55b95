// The Lasso on the CPU, one thread per task: sweeps or entering features find the support, a direct solve on it the
// weights, as in sparsedis/ops/lasso/backend_torch. All arithmetic is in double.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "../../common/cpu/memory.hpp"
#include "../../common/cpu/threads.hpp"
#include "../../common/status.hpp"
#include "../api.hpp"
#include "curvature.hpp"
#include "descent.hpp"
#include "support.hpp"
#include "task.hpp"

namespace sparsedis {
namespace cpu::lasso {
namespace {

// The relative gap at which an iterate is the solution up to rounding error.
constexpr double kRounding = 1e-13;
// A task has stalled after this many checks without a smaller gap or a lower objective.
constexpr int kStallAfter = 20;
// The first kSweepIterations iterations begin with sweeps and then solve on the support at most kSupportSolves times
// (every solve but the last drops a feature), since a sweep is much cheaper than a solve on too large a support.
constexpr int kSweepIterations = 2, kSupportSolves = 10;
// H is stored as a matrix up to this many features, even with fewer samples.
constexpr int kAlwaysGram = 64;

// Whether all input values are valid.
template <class F>
bool valid(const Lassos<F>& problems, std::int64_t index) {
  auto finite_nonnegative = [](double value) { return std::isfinite(value) && value >= 0; };
  if (!finite_nonnegative(problems.lambda1[index]) || !finite_nonnegative(problems.lambda2[index])) return false;
  bool finite = true;
  for (std::int64_t i = 0; i < problems.samples; ++i) {
    if (!finite_nonnegative(problems.weight[index * problems.samples + i])) return false;
    if (!std::isfinite(problems.y[index * problems.samples + i])) return false;
    const F* x = problems.X + index * problems.stride[0] + i * problems.stride[1];
    for (std::int64_t j = 0; j < problems.features; ++j) {
      const F value = x[j * problems.stride[2]];
      finite &= value - value == 0;
    }
  }
  return finite;
}

template <class F, class Curvature>
void descend(const Lassos<F>& problems, const LassoTask<F>& task, double tol, std::int64_t max_iter,
             const LassoSolutions<F>& solutions, std::int64_t index, Memory& memory) {
  const std::size_t n_all = problems.samples, d = problems.features;
  Curvature curvature(memory, task);
  Descent<F, Curvature> descent(memory, task, curvature);
  F* w = solutions.w + index * d;
  double* dual = solutions.dual + index * n_all;
  bool* active = solutions.active + index * d;
  std::fill(dual, dual + n_all, 0.0);

  const double goal = std::min(tol, kRounding);
  LassoCertificate best{INFINITY, INFINITY, INFINITY, 1};
  double lowest = INFINITY;  // objective
  int since_progress = 0;
  Status status = Status::max_iter;
  bool last_is_best = false;
  std::int64_t iteration = 0;
  for (;; ++iteration) {
    const LassoCertificate now = descent.certify();
    last_is_best = now.relative_gap < best.relative_gap;
    since_progress = last_is_best || now.objective < lowest ? 0 : since_progress + 1;
    lowest = std::min(lowest, now.objective);
    if (last_is_best) {
      best = now;
      descent.keep();
    }
    const bool certified = best.relative_gap <= tol, signs_changed = descent.signs_changed();
    if (certified) status = Status::certified;
    // Continue beyond tol up to rounding error, because gradients need the right support.
    if (best.relative_gap <= goal || (certified && !last_is_best && !signs_changed)) break;
    if (since_progress >= kStallAfter || !std::isfinite(now.relative_gap)) {
      if (!certified) status = Status::stalled;
      break;
    }
    if (iteration == max_iter) break;
    const bool sweeping = iteration < kSweepIterations;
    if (sweeping) {
      descent.sweeps();
    } else {
      if (iteration == kSweepIterations && descent.restart_underdetermined()) lowest = INFINITY;
      descent.activate();
    }
    const int most = sweeping ? kSupportSolves : task.d + 1;  // all but the last drop a feature
    for (int solves = 0; solves < most && descent.minimise_on_support(); ++solves) {
    }
  }
  if (!last_is_best) {
    descent.restore();
    best = descent.certify();
  }
  const double solver_gap = best.relative_gap, attainable = descent.attainable();
  for (std::size_t j = 0; j < d; ++j) {
    w[j] = F(descent.w()[j]);
    active[j] = w[j] != 0;
  }
  for (int i = 0; i < task.n; ++i) dual[task.present[i]] = best.dual_scale * descent.residual()[i];
  if (!std::is_same<F, double>::value) {
    best = descent.certify_rounded(w);
  }
  solutions.gap[index] = best.gap;
  solutions.relative_gap[index] = best.relative_gap;
  solutions.objective[index] = best.objective;
  solutions.n_iter[index] = iteration;
  solutions.status[index] = std::int64_t(status_as_returned(status, solver_gap, best.relative_gap, attainable, tol));
  solutions.margin[index] = descent.margin();
}

template <class F>
void solve_task(const Lassos<F>& problems, double tol, std::int64_t max_iter, const LassoSolutions<F>& solutions,
                std::int64_t index, Memory& memory) {
  if (!valid(problems, index)) throw InvalidInput();
  const LassoTask<F> task(memory, problems, index);
  if (task.d <= std::max(task.n, kAlwaysGram)) {
    descend<F, Gram<F>>(problems, task, tol, max_iter, solutions, index, memory);
  } else {
    descend<F, Columns<F>>(problems, task, tol, max_iter, solutions, index, memory);
  }
}

template <class F>
void adjoint_task(const Lassos<F>& problems, const F* all_w, const double* all_dual, const F* all_grad_w,
                  const LassoGradients<F>& gradients, std::int64_t index, Memory& memory) {
  const LassoTask<F> task(memory, problems, index);
  const std::size_t n_all = problems.samples, d = problems.features;
  const F *w = all_w + index * d, *grad_w = all_grad_w + index * d;
  const double* dual = all_dual + index * n_all;
  F* grad_X = gradients.X + index * n_all * d;
  double* grad_y = gradients.y + index * n_all;
  std::fill(grad_X, grad_X + n_all * d, F(0));
  std::fill(grad_y, grad_y + n_all, 0.0);

  // `Columns`, since only the support's part of H is needed.
  Columns<F> curvature(memory, task);
  Support<F, Columns<F>> support(memory, task, curvature);
  support.choose([&](int j) { return w[j] != 0; });
  support.least_norm([&](int j) { return double(grad_w[j]); });
  double by_lambda1 = 0, by_lambda2 = 0;
  for (int a = 0; a < support.size; ++a) {
    const double value = double(w[support.index[a]]);
    by_lambda1 -= value > 0 ? support.step[a] : -support.step[a];
    by_lambda2 -= support.step[a] * value;
  }
  gradients.lambda1[index] = by_lambda1;
  gradients.lambda2[index] = by_lambda2;
  double* along = memory.take<double>(task.n);
  std::fill(along, along + task.n, 0.0);
  for (int a = 0; a < support.size; ++a) add(along, support.step[a], task.feature(support.index[a]), task.n);
  for (int i = 0; i < task.n; ++i) {
    const double by_target = task.weight[i] * along[i], weighted = task.weight[i] * dual[task.present[i]];
    grad_y[task.present[i]] = by_target;
    F* row = grad_X + task.present[i] * d;
    for (int a = 0; a < support.size; ++a) {
      const int j = support.index[a];
      row[j] = F(weighted * support.step[a] - by_target * double(w[j]));
    }
  }
}

}  // namespace
}  // namespace cpu::lasso

template <class F>
Input solve_lasso(const Lassos<F>& problems, double tol, std::int64_t max_iter, int threads,
                  const LassoSolutions<F>& solutions) {
  return cpu::for_each_task(problems.batch, threads, [&](std::int64_t index, cpu::Memory& memory) {
    cpu::lasso::solve_task(problems, tol, max_iter, solutions, index, memory);
  });
}

template <class F>
void adjoint_lasso(const Lassos<F>& problems, const F* w, const double* dual, const F* grad_w,
                   const LassoGradients<F>& gradients, int threads) {
  cpu::for_each_task(problems.batch, threads, [&](std::int64_t index, cpu::Memory& memory) {
    cpu::lasso::adjoint_task(problems, w, dual, grad_w, gradients, index, memory);
  });
}

template Input solve_lasso(const Lassos<float>&, double, std::int64_t, int, const LassoSolutions<float>&);
template Input solve_lasso(const Lassos<double>&, double, std::int64_t, int, const LassoSolutions<double>&);
template void adjoint_lasso(const Lassos<float>&, const float*, const double*, const float*,
                            const LassoGradients<float>&, int);
template void adjoint_lasso(const Lassos<double>&, const double*, const double*, const double*,
                            const LassoGradients<double>&, int);

}  // namespace sparsedis
