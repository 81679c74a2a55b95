// Batches of group-Lasso SVMs with features in float or half precision: one block per task, from the features to the
// certified weights in one launch.
#include "solve.hpp"

SPARSEDIS_KERNEL(solve_in_float, sparsedis::cuda::SolveArguments) {
  using namespace sparsedis::cuda;
  SPARSEDIS_SHARED(shared);
  each_task(arguments.problems.batch, arguments.workspace, shared,
            [&](std::int64_t index, const Team& team, Memory& memory) {
              team.once([&] { arguments.workspace.pending_gap[index] = -1; });
              if (!begin(arguments, index, team)) return;
              solve_task(arguments, index, team, memory, [&](sparsedis::Policy<Device>& policy) {
                if (policy.solve_in_float()) return;
                team.once([&] {
                  arguments.workspace.pending_gap[index] = policy.relative_gap();
                  arguments.workspace.counters[kPending] = 1;
                });
              });
            });
}
