// How a task ended, and whether it could begin.
#pragma once

#include "macros.hpp"

namespace sparsedis {

// The values of sparsedis.solution.Status.
enum class Status : std::int64_t { certified = 0, max_iter = 1, stalled = 2, precision = 3 };

// The status of a task that is returned with the relative gap `returned`, after a solver that ended with its own gap
// and status. Rounding keeps the gap above tol where the solver's own weights are certified, or where `attainable`, a
// bound on the gap that double may leave, is above tol, and the solver stalled or came as far; one that max_iter cut
// off before did not get to rounding. The same as sparsedis.ops.common.batches.status_as_returned.
SPARSEDIS_HOST_DEVICE inline Status status_as_returned(Status ended, double own, double returned, double attainable,
                                                       double tol) {
  if (returned <= tol) return Status::certified;
  const bool solved = ended == Status::certified || own <= tol;
  const bool limited = attainable > tol && (ended == Status::stalled || own <= attainable);
  return solved || limited ? Status::precision : ended;
}

// invalid: a value that the problem does not allow; the output is undefined.
enum class Input { valid, invalid };

}  // namespace sparsedis
