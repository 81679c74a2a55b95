// Common parts of the two kernels of a solve.
//
// solve_in_double.cu solves tasks whose features are in double. solve_in_float.cu solves all others and leaves the few
// tasks that it does not certify to solve_in_double.cu. In a CUDA graph the host cannot check whether there are any, so
// solve_in_double.cu is always launched after it.
#pragma once

#include "../policy.hpp"
#include "device.hpp"

namespace sparsedis::cuda {

struct SolveArguments {
  Problems<Feature> problems;
  Options options;
  Solutions<Value> solutions;
  Workspace workspace;
};

// The weights and active features of one task, 0 until they are written.
__device__ inline Output output_of(const SolveArguments& arguments, std::int64_t index) {
  const Problems<Feature>& problems = arguments.problems;
  return {arguments.solutions.W + index * problems.features * problems.classes,
          arguments.solutions.active + index * problems.features};
}

// Returns false and sets the launch's flag if a value is invalid; otherwise initialises the dual point, weights and
// active features.
__device__ inline bool begin(const SolveArguments& arguments, std::int64_t index, const Team& team) {
  const Problems<Feature>& problems = arguments.problems;
  const Solutions<Value>& solutions = arguments.solutions;
  if (!valid(team, problems, index)) {
    team.once([&] {
      arguments.workspace.counters[kRefused] = 1;
      solutions.status[index] = std::int64_t(Status::stalled);
    });
    return false;
  }
  const int k = int(problems.classes), d = int(problems.features), size = int(problems.samples) * k;
  const Output output = output_of(arguments, index);
  team.each(size, [&](int e) { solutions.dual[index * size + e] = 1.0 / k; });
  team.each(d * k, [&](int e) { output.W[e] = 0; });
  team.each(d, [&](int j) { output.active[j] = false; });
  return true;
}

// Calls solve(policy) for one task after begin(). The initial dual point is read from the output `dual`, and the best
// one is written to it.
template <class Solve>
__device__ void solve_task(const SolveArguments& arguments, std::int64_t index, const Team& team, Memory& memory,
                           Solve solve) {
  const Problems<Feature>& problems = arguments.problems;
  const Solutions<Value>& solutions = arguments.solutions;
  const Task<Feature> task(team, memory, problems, index);
  const Samples& samples = task.samples();
  const int k = samples.k, size = samples.n * k;
  const Features<Feature> features = task.features(problems, index);
  double* dual = solutions.dual + index * problems.samples * k;
  double* best = memory.take<double>(size);
  const Scan seen = scan(team, memory, samples, features);
  Device device(team, memory, samples, features, seen, output_of(arguments, index));
  Policy<Device> policy(device, arguments.options, best);
  team.each(size, [&](int e) { best[e] = dual[task.present(e / k) * k + e % k]; });
  solve(policy);
  team.each(size, [&](int e) { dual[task.present(e / k) * k + e % k] = best[e]; });
  const Outcome outcome = policy.outcome();
  team.once([&] {
    const Certificate& at = outcome.weights.certificate;
    solutions.gap[index] = task.scale() * at.gap;
    solutions.relative_gap[index] = at.relative();
    solutions.objective[index] = task.scale() * at.objective;
    solutions.n_iter[index] = outcome.n_iter;
    solutions.status[index] = std::int64_t(outcome.status);
    solutions.margin[index] = outcome.weights.margin;
  });
}

}  // namespace sparsedis::cuda
