// Half-precision storage formats of features; the arithmetic is in float.
#pragma once

#include "platform.hpp"

namespace sparsedis::cuda {

// IEEE binary16.
struct Half {
  unsigned short bits;

  __device__ operator float() const {
    const unsigned magnitude = unsigned(bits & 0x7fff) << 13;
    // The exponent bias is smaller by 112; infinity and NaN keep the largest exponent.
    const float value = (bits & 0x7c00) == 0x7c00 ? __uint_as_float(magnitude | 0x7f800000u)
                                                  : __uint_as_float(magnitude) * __uint_as_float(0x77800000u);
    return bits & 0x8000 ? -value : value;
  }
};

struct BFloat16 {
  unsigned short bits;

  __device__ operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

}  // namespace sparsedis::cuda
