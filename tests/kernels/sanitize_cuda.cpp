// Runs the emulated CUDA kernels under sanitizers. ThreadSanitizer finds data races between the threads of a block,
// which are fibers here. SPARSEDIS_ADJOINT_ONLY runs only the adjoint, which compiles in a third of the time and covers
// the team and the linear algebra.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#define SPARSEDIS_THREADS 64
#include "../../csrc/svm/cuda/adjoint.cu"
#ifndef SPARSEDIS_ADJOINT_ONLY
#include "../../csrc/svm/cuda/solve_in_double.cu"
#include "../../csrc/svm/cuda/solve_in_float.cu"
#endif

#ifdef SPARSEDIS_TSAN
extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }
#endif

namespace {

using namespace sparsedis;
using namespace sparsedis::cuda;

constexpr int kBatch = 3, kAll = 14, kFeatures = 70, kClasses_ = 3;
// Three tasks for two blocks of two warps, so that one block solves a second task.
constexpr unsigned kBlocks = 2, kThreads = SPARSEDIS_THREADS;
constexpr std::size_t kShared = 40000, kScratch = 400000;

template <class Arguments>
void launch(void (*kernel)(const Arguments&), Arguments& given) {
  std::vector<char> scratch(kBlocks * kScratch);
  int counters[cuda::kCounters] = {};
  std::vector<double> pending_gap(kBatch, INFINITY);
  given.workspace.shared_bytes = kShared;
  given.workspace.scratch = scratch.data();
  given.workspace.scratch_bytes = kScratch;
  given.workspace.counters = counters;
  if (!given.workspace.pending_gap) given.workspace.pending_gap = pending_gap.data();
  emulation::emulation_launch(reinterpret_cast<void (*)(const void*)>(kernel), &given, kBlocks, kThreads, kShared);
  if (counters[cuda::kRefused]) std::exit((std::puts("a value is not allowed"), 1));
}

// Random clusters, one per class; one sample in four has weight 0.5, and one has weight 0.
struct Batch {
  std::vector<float> X;
  std::vector<std::int64_t> labels;
  std::vector<double> lambda1, lambda2, dual_reg, weight;

  Batch(double l1, double l2, double rho) : lambda1(kBatch, l1), lambda2(kBatch, l2), dual_reg(kBatch, rho) {
    std::mt19937 generator(0);
    std::normal_distribution<float> normal;
    for (int b = 0; b < kBatch; ++b) {
      float centre[kClasses_][kFeatures];
      for (auto& of_class : centre) {
        for (float& value : of_class) value = normal(generator);
      }
      for (int i = 0; i < kAll; ++i) {
        labels.push_back(i % kClasses_);
        weight.push_back(i == 5 ? 0 : i % 4 ? 1 : 0.5);
        for (int j = 0; j < kFeatures; ++j) X.push_back(centre[i % kClasses_][j] + 2 * normal(generator));
      }
    }
  }

  Problems<float> problems() const {
    return {
        kBatch,        kAll,           kFeatures,      kClasses_,       X.data(),     {kAll * kFeatures, kFeatures, 1},
        labels.data(), lambda1.data(), lambda2.data(), dual_reg.data(), weight.data()};
  }
};

struct Result {
  std::vector<float> W = std::vector<float>(kBatch * kFeatures * kClasses_);
  std::vector<double> dual = std::vector<double>(kBatch * kAll * kClasses_, 1.0 / kClasses_);
  std::vector<double> gap = std::vector<double>(kBatch), relative = gap, objective = gap, margin = gap;
  std::vector<std::int64_t> n_iter = std::vector<std::int64_t>(kBatch), status = n_iter;
  std::unique_ptr<bool[]> active{new bool[kBatch * kFeatures]};

  Solutions<float> solutions() {
    return {W.data(),      dual.data(),   gap.data(),   relative.data(), objective.data(),
            n_iter.data(), status.data(), active.get(), margin.data()};
  }
};

void run(double lambda1, double lambda2, double rho) {
  const Batch batch(lambda1, lambda2, rho);
  Result result;
#ifdef SPARSEDIS_ADJOINT_ONLY
  for (int e = 0; e < kBatch * kFeatures; ++e) result.active[e] = true;
#else
  std::vector<double> pending_gap(kBatch);
  SolveArguments solve{batch.problems(), {Solver::newton, 1e-5, 1000, true, 1}, result.solutions(), {}};
  solve.workspace.pending_gap = pending_gap.data();
  launch(solve_in_float, solve);
  launch(solve_in_double, solve);
  for (std::int64_t status : result.status) {
    if (status != 0) std::exit((std::puts("a task is not certified"), 1));
  }
#endif
  std::vector<float> grad_W(result.W.size(), 0.5f), grad_X(batch.X.size());
  for (std::size_t e = 0; e < grad_W.size(); ++e) grad_W[e] = std::cos(float(e));
  std::vector<double> grad_lambda1(kBatch), grad_lambda2(kBatch), grad_dual_reg(kBatch);
  AdjointArguments adjoint{batch.problems(),
                           {result.dual.data(), result.active.get()},
                           grad_W.data(),
                           {grad_X.data(), grad_lambda1.data(), grad_lambda2.data(), grad_dual_reg.data()},
                           {}};
  launch(::adjoint, adjoint);
  std::printf("%g %g %g: gap %.1e, gradients %.6e %.6e\n", lambda1, lambda2, rho, result.relative[0], grad_lambda1[0],
              grad_lambda2[0]);
}

}  // namespace

int main() {
  run(10, 3000, 0);  // the light form
#ifndef SPARSEDIS_ADJOINT_ONLY
  run(10, 1, 0.1);  // the full one
  run(0, 30, 0);    // no group Lasso
#endif
  std::puts("the CUDA kernels ran clean");
}
