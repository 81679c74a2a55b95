// Lower triangles, whose entries are numbered row by row.
#pragma once

#include "platform.hpp"

namespace sparsedis::cuda {

// Row i and column j <= i of entry e of a lower triangle, row by row.
__device__ inline void lower_entry(int e, int& i, int& j) {
  i = int((std::sqrt(8.0f * float(e) + 1) - 1) / 2);
  while (i * (i + 1) / 2 > e) --i;
  while ((i + 1) * (i + 2) / 2 <= e) ++i;
  j = e - i * (i + 1) / 2;
}

}  // namespace sparsedis::cuda
