// Batches of group-Lasso SVMs: those with features in double, and the tasks of others that solve_in_float.cu left.
#include "solve.hpp"

SPARSEDIS_KERNEL(solve_in_double, sparsedis::cuda::SolveArguments) {
  using namespace sparsedis::cuda;
  SPARSEDIS_SHARED(shared);
  each_task(arguments.problems.batch, arguments.workspace, shared,
            [&](std::int64_t index, const Team& team, Memory& memory) {
              std::int64_t n_iter = 0;
              double relative_gap = INFINITY;
              if constexpr (sizeof(Value) == sizeof(double)) {
                if (!begin(arguments, index, team)) return;
              } else {
                relative_gap = arguments.workspace.pending_gap[index];
                if (relative_gap < 0) return;
                n_iter = arguments.solutions.n_iter[index];
              }
              solve_task(arguments, index, team, memory,
                         [&](sparsedis::Policy<Device>& policy) { policy.solve_in_double(n_iter, relative_gap); });
            });
}
