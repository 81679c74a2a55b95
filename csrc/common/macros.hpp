// Macros that device-neutral code needs for its compilers: a C++ compiler, nvcc, or NVRTC without standard headers.
#pragma once

// SPARSEDIS_ONCE marks functions with several call sites that device compilers must not inline. The cost of a call is
// small compared with these functions, while inlining them makes the kernels take minutes to compile.
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define SPARSEDIS_HOST_DEVICE __host__ __device__
#define SPARSEDIS_ONCE __noinline__
#else
#define SPARSEDIS_HOST_DEVICE
#define SPARSEDIS_ONCE
#endif

#if defined(__CUDACC_RTC__)
// The names of the standard library that device-neutral code uses.
namespace std {
using size_t = decltype(sizeof(0));
using ptrdiff_t = long;
using int64_t = long;
SPARSEDIS_HOST_DEVICE inline double sqrt(double x) { return ::sqrt(x); }
SPARSEDIS_HOST_DEVICE inline float sqrt(float x) { return ::sqrtf(x); }
SPARSEDIS_HOST_DEVICE inline bool isfinite(double x) { return x - x == 0; }
}  // namespace std
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#else
#include <cmath>
#include <cstddef>
#include <cstdint>
#endif
