// Compilers of device code: NVRTC or nvcc, or for tests a C++ compiler with CUDA's execution model emulated on the host
// (emulation.hpp).
#pragma once

#include "../macros.hpp"

#ifdef SPARSEDIS_EMULATION
#include "emulation.hpp"
#define SPARSEDIS_KERNEL(name, Arguments) extern "C" void name(const Arguments& arguments)
#define SPARSEDIS_SHARED(name) char* const name = emulation::shared_memory()
#else
// A kernel with one argument, `arguments`, and its dynamic shared memory.
#define SPARSEDIS_KERNEL(name, Arguments) \
  extern "C" __global__ void __launch_bounds__(SPARSEDIS_THREADS, 1) name(const __grid_constant__ Arguments arguments)
#define SPARSEDIS_SHARED(name) extern __shared__ __align__(16) char name[]
#endif

namespace sparsedis::cuda {

constexpr int kWarp = 32;
// Largest number of threads per block.
constexpr int kMostThreads = SPARSEDIS_THREADS;
constexpr unsigned kAllLanes = 0xffffffffu;

// 1/sqrt(x) for normal x, to one or two roundings.
__device__ inline double reciprocal_root(double x) { return ::rsqrt(x); }
__device__ inline float reciprocal_root(float x) {
#ifdef SPARSEDIS_EMULATION
  return ::rsqrtf(x);
#else
  float root;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#endif
}

__device__ inline std::size_t rounded_up(std::size_t count, std::size_t to) { return (count + to - 1) / to * to; }

}  // namespace sparsedis::cuda
