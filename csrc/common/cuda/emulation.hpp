// CUDA's execution model on the host, for tests: the threads of a block are fibers of one host thread and run until
// they wait for others. Defines what device code uses of CUDA.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __host__

namespace emulation {

struct Index {
  unsigned x, y, z;
};

// Runs kernel(arguments) in all threads of all blocks, one block after another. Aborts with a message on a deadlock.
extern "C" void emulation_launch(void (*kernel)(const void*), const void* arguments, unsigned blocks, unsigned threads,
                                 std::size_t shared_bytes);
// Number of block barriers passed since the start.
extern "C" long emulation_barriers();

Index& thread_index();
Index& block_index();
Index& block_size();
char* shared_memory();
unsigned lane();
void wait_for_block(const char* file, int line);
// memory: whether the barrier also orders memory accesses.
void wait_for_warp(unsigned mask, bool memory);
// Waits for the lanes of the mask and returns every lane's value.
const std::uint64_t* exchange(unsigned mask, std::uint64_t own);
void check(bool condition, const char* what);
// Fills memory with bytes 255, which are NaN as floating point, to expose reads of uninitialised values.
void poison(void* memory, std::size_t bytes);

template <class T>
std::uint64_t pack(T value) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T unpack(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// x rounded to TF32, which keeps 10 bits after the binary point, with ties away from zero.
inline float tf32(float x) {
  const auto bits = unpack<std::uint32_t>(pack(x));
  return (bits & 0x7f800000u) == 0x7f800000u ? x : unpack<float>((bits + 0x1000u) & ~0x1fffu);
}

// x rounded to float towards zero, as reported for tensor core additions (Fasi et al. 2021, PeerJ Computer Science
// 330).
inline float truncated(double x) {
  const auto nearest = float(x);
  return std::fabs(double(nearest)) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

// The warp's mma.m16n8k8 in TF32: sum (16 x 8) += a (16 x 8) b (8 x 8).
inline void multiply_add_tf32(float* sum, const float (&a)[4], const float (&b)[2]) {
  struct Pair {
    float first, second;
  };
  const unsigned row = lane() / 4, column = lane() % 4 * 2;
  float left[2][8], right[8][2];
  for (int half = 0; half < 2; ++half) {
    const std::uint64_t* all = exchange(0xffffffffu, pack(Pair{a[half * 2], a[half * 2 + 1]}));
    for (unsigned p = 0; p < 4; ++p) {
      const auto pair = unpack<Pair>(all[row * 4 + p]);
      left[0][half * 4 + p] = tf32(pair.first);
      left[1][half * 4 + p] = tf32(pair.second);
    }
  }
  const std::uint64_t* all = exchange(0xffffffffu, pack(Pair{b[0], b[1]}));
  for (unsigned p = 0; p < 4; ++p) {
    for (unsigned c = 0; c < 2; ++c) {
      const auto pair = unpack<Pair>(all[(column + c) * 4 + p]);
      right[p][c] = tf32(pair.first);
      right[p + 4][c] = tf32(pair.second);
    }
  }
  for (int e = 0; e < 4; ++e) {
    double total = sum[e];
    for (int p = 0; p < 8; ++p) total += double(left[e / 2][p]) * double(right[p][e % 2]);
    sum[e] = truncated(total);
  }
}

}  // namespace emulation

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index())
#define blockDim (emulation::block_size())
#define __syncthreads() emulation::wait_for_block(__FILE__, __LINE__)
#define __syncwarp() emulation::wait_for_warp(0xffffffffu, true)

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulation::unpack<T>(emulation::exchange(mask, emulation::pack(value))[source & 31]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other) {
  return emulation::unpack<T>(emulation::exchange(mask, emulation::pack(value))[emulation::lane() ^ other]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int step) {
  const int from = int(emulation::lane()) - step;
  const std::uint64_t* all = emulation::exchange(mask, emulation::pack(value));
  return from < 0 ? value : emulation::unpack<T>(all[from]);
}
inline unsigned __ballot_sync(unsigned mask, bool on) {
  const std::uint64_t* all = emulation::exchange(mask, on);
  unsigned bits = 0;
  for (int l = 0; l < 32; ++l) bits |= unsigned((mask >> l & 1) && all[l]) << l;
  return bits;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(int(x)); }
inline int atomicAdd(int* address, int value) {
  const int old = *address;
  *address += value;
  return old;
}
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __uint_as_float(unsigned bits) { return emulation::unpack<float>(bits); }
