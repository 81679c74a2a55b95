// How a task ended, and whether its input was valid.
#pragma once

#include "macros.hpp"

namespace sparsedis {

// The values of sparsedis.solution.Status.
enum class Status : std::int64_t { certified = 0, max_iter = 1, stalled = 2, precision = 3 };

// The status of a task whose returned weights have the relative gap `returned_gap`, after a solver that ended with
// `solver_gap` and its own status. The status is `precision` if rounding keeps the gap above tol: if the solver's own
// weights are certified, or if `attainable`, a bound on the gap that rounding in double may leave, exceeds tol and the
// solver stalled or reached it. Same rule as sparsedis.ops.common.batches.status_as_returned.
SPARSEDIS_HOST_DEVICE inline Status status_as_returned(Status ended, double solver_gap, double returned_gap,
                                                       double attainable, double tol) {
  if (returned_gap <= tol) return Status::certified;
  const bool solved = ended == Status::certified || solver_gap <= tol;
  const bool limited = attainable > tol && (ended == Status::stalled || solver_gap <= attainable);
  return solved || limited ? Status::precision : ended;
}

// If the input contains an invalid value, the output is undefined.
enum class Input { valid, invalid };

}  // namespace sparsedis
