// How a task ended, and whether it could begin.
#pragma once

#include "macros.hpp"

namespace sparsedis {

// The values of sparsedis.solution.Status.
enum class Status : std::int64_t { certified = 0, max_iter = 1, stalled = 2, precision = 3 };

// invalid: a value that the problem does not allow; the output is undefined.
enum class Input { valid, invalid };

}  // namespace sparsedis
