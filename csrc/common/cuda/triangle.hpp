// Lower triangles with entries numbered row by row.
#pragma once

#include "platform.hpp"

namespace sparsedis::cuda {

struct Entry {
  int i, j;  // row and column, j <= i
};

// Position of entry e of a lower triangle.
SPARSEDIS_ONCE __device__ inline Entry lower_entry(int e) {
  int i = int((std::sqrt(8.0f * float(e) + 1) - 1) / 2);
#pragma unroll 1
  while (i * (i + 1) / 2 > e) --i;
#pragma unroll 1
  while ((i + 1) * (i + 2) / 2 <= e) ++i;
  return {i, e - i * (i + 1) / 2};
}

}  // namespace sparsedis::cuda
