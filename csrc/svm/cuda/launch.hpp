// What the kernels of this folder have in common: they are compiled at run time for one type of features,
// SPARSEDIS_FEATURE, one number of classes, SPARSEDIS_CLASSES, and at most SPARSEDIS_THREADS threads in a block.
#pragma once

#include "../../common/cuda/memory.hpp"
#include "features.hpp"
#include "system.hpp"
#include "task.hpp"

namespace sparsedis::cuda {

using Feature = SPARSEDIS_FEATURE;
using Value = typename ValueOf<Feature>::Type;

// The Newton system beside a primal map: its factor is of the type of the map's products.
template <class PrimalMap>
using SystemFor = NewtonSystem<typename PrimalMap::Products>;

// Of Workspace::counters: tasks taken from the queue, whether a value was not allowed, whether a task waits.
constexpr int kTaken = 0, kRefused = 1, kWaiting = 2, kCounters = 3;

// A launch's memory. Blocks take tasks from a queue, so that their number, and with it the scratch memory, is bounded.
struct Workspace {
  std::int64_t shared_bytes;   // dynamic shared memory of a block
  char* scratch;               // (blocks, scratch_bytes)
  std::int64_t scratch_bytes;  // of a block
  int* counters;               // (kCounters,), 0 at the start
  double* waiting;             // (B,): the gap of a task that waits for solve_in_double, -1 for others
};

// run(index, team, memory) for the tasks of a batch, as this block takes them from the queue.
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
