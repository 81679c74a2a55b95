// Common parts of the kernels of this folder. They are compiled at run time for one type of features,
// SPARSEDIS_FEATURE, one number of classes, SPARSEDIS_CLASSES, and at most SPARSEDIS_THREADS threads per block.
#pragma once

#include "../../common/cuda/memory.hpp"
#include "features.hpp"
#include "system.hpp"
#include "task.hpp"

namespace sparsedis::cuda {

using Feature = SPARSEDIS_FEATURE;
using Value = typename ValueOf<Feature>::Type;

// The Newton system of a primal map; its factor has the type of the map's products.
template <class PrimalMap>
using SystemFor = NewtonSystem<typename PrimalMap::Products>;

// Entries of Workspace::counters: the tasks taken from the queue; flags: a value was invalid, a task waits.
constexpr int kTaken = 0, kRefused = 1, kPending = 2, kCounters = 3;

// A launch's memory. Blocks take tasks from a queue, which bounds their number and thus the scratch memory.
struct Workspace {
  std::int64_t shared_bytes;   // dynamic shared memory of a block
  char* scratch;               // (blocks, scratch_bytes)
  std::int64_t scratch_bytes;  // per block
  int* counters;               // (kCounters,), initially 0
  double* pending_gap;         // (B,): the gap of a task that waits for solve_in_double, -1 for others
};

// run(index, team, memory) for each task of the batch that this block takes from the queue.
template <class Run>
__device__ void each_task(std::int64_t batch, const Workspace& workspace, char* shared, Run run) {
  const Team team(reinterpret_cast<double*>(shared));
  char* free = shared + Team::kDoubles * sizeof(double);
  std::int64_t* next = reinterpret_cast<std::int64_t*>(free);
  free += Memory::kAlign;
  Memory memory(team, free, std::size_t(workspace.shared_bytes - (free - shared)),
                workspace.scratch + blockIdx.x * workspace.scratch_bytes, std::size_t(workspace.scratch_bytes));
  for (;;) {
    team.once([&] { *next = atomicAdd(workspace.counters + kTaken, 1); });
    const std::int64_t index = *next;
    if (index >= batch) return;
    const Memory::Scope scope(memory);
    run(index, team, memory);
  }
}

}  // namespace sparsedis::cuda
