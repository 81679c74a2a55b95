// The adjoint of a solve: the gradients of the features and parameters from the gradient of the weights, in one launch.
#include "../algorithm/adjoint.hpp"
#include "../api.hpp"
#include "launch.hpp"
#include "primal_map.hpp"

namespace sparsedis::cuda {

struct AdjointArguments {
  Problems<Feature> problems;
  Solved solved;
  const Value* grad_W;  // (B, d, k)
  Gradients<Value> gradients;
  Workspace workspace;
};

__device__ inline void adjoint_task(const AdjointArguments& arguments, std::int64_t index, const Team& team,
                                    Memory& memory) {
  const Problems<Feature>& problems = arguments.problems;
  const Task<Feature> task(team, memory, problems, index);
  const Samples& samples = task.samples();
  const int all = int(problems.samples), d = int(problems.features), n = samples.n, k = samples.k;
  const Features<Feature> features = task.features(problems, index);
  Value* grad_X = arguments.gradients.X + index * all * d;
  for (int i = 0; i < all; ++i) team.distribute(d, [&](int j) { grad_X[std::ptrdiff_t(i) * d + j] = 0; });
  team.wait();
  if (n == 0) {
    team.once([&] {
      arguments.gradients.lambda1[index] = arguments.gradients.lambda2[index] = arguments.gradients.dual_reg[index] = 0;
    });
    return;
  }
  double* dual = memory.take<double>(std::size_t(n) * k);
  team.each(n * k, [&](int e) { dual[e] = arguments.solved.dual[(index * all + task.present(e / k)) * k + e % k]; });
  const Value* grad_W = arguments.grad_W + index * d * k;

  using PrimalMap = SparsePrimalMap<Feature, Value>;
  using Adjoint = sparsedis::Adjoint<Team, PrimalMap, SystemFor<PrimalMap>>;
  PrimalMap primal(memory, samples, features, 0);
  SystemFor<PrimalMap> system(memory, samples, d);
  double* values = memory.take<double>(Adjoint::size(n, k, primal.ld()));
  unsigned char* free = memory.take<unsigned char>(Adjoint::flags(n, k));
  Adjoint adjoint(team, samples, primal, system, values, free);
  primal.evaluate_active(team, dual, arguments.solved.active + index * d);
  const ScalarGradients scalars =
      adjoint.run(dual, [&](int c, int a) { return double(grad_W[std::ptrdiff_t(primal.index(a)) * k + c]); });
  team.each_by_warp(n, [&](int i, int lane) {
    Value* row = grad_X + std::ptrdiff_t(task.present(i)) * d;
#pragma unroll 1
    for (int a = lane; a < primal.candidates(); a += kWarp) {
      double sum = 0;
      for (int term = 0; term < adjoint.terms(); ++term) sum += adjoint.column(i, term) * adjoint.plane(term)[a];
      row[primal.index(a)] = Value(sum);
    }
  });
  team.once([&] {
    arguments.gradients.lambda1[index] = scalars.lambda1 / task.scale();
    arguments.gradients.lambda2[index] = scalars.lambda2 / task.scale();
    arguments.gradients.dual_reg[index] = scalars.dual_reg / task.scale();
  });
}

}  // namespace sparsedis::cuda

SPARSEDIS_KERNEL(adjoint, sparsedis::cuda::AdjointArguments) {
  using namespace sparsedis::cuda;
  SPARSEDIS_SHARED(shared);
  each_task(
      arguments.problems.batch, arguments.workspace, shared,
      [&](std::int64_t index, const Team& team, Memory& memory) { adjoint_task(arguments, index, team, memory); });
}
