// The threads of a block working on one task (Team in ../../svm/algorithm/requirements.hpp).
#pragma once

#include "platform.hpp"

namespace sparsedis::cuda {

// The sum and the minimum of all lanes' values, in all lanes of a warp.
template <class T>
__device__ T sum_of_lanes(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}
__device__ inline double smallest_of_lanes(double value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(kAllLanes, value, step);
    value = other < value ? other : value;
  }
  return value;
}

// Loops are not unrolled and functions with many call sites are compiled once, since inlining them would dominate the
// code size.
class Team {
 public:
  static constexpr int kMostWarps = 16;
  // Size in shared memory.
  static constexpr std::size_t kDoubles = 2 * kMostWarps;

  __device__ explicit Team(double* shared) : pads_(shared) {}

  // Functions rather than members: in functions compiled once, members would be read from memory instead of registers.
  __device__ static int thread() { return int(threadIdx.x); }
  __device__ static int threads() { return int(blockDim.x); }
  __device__ static int lane() { return thread() % kWarp; }
  __device__ static int warp() { return thread() / kWarp; }
  __device__ static int warps() { return threads() / kWarp; }
  __device__ void wait() const { __syncthreads(); }
  __device__ void check_interruption() const {}  // kernels do not communicate with the host

  template <class F>
  __device__ void each(int count, F f) const {
    distribute(count, f);
    wait();
  }

  template <class F>
  __device__ void each_entry(int rows, int columns, F f) const {
    each(rows * columns, [&](int e) { f(e / columns, e % columns); });
  }

  // One index, so that what a function keeps of it stays in registers.
  struct Block {
    static constexpr int kMost = 1;
    int index;

    template <class G>
    __device__ void each(G g) const {
      g(index, 0);
    }
  };

  template <class F>
  __device__ void each_block(int count, F f) const {
    each(count, [&](int i) { f(Block{i}); });
  }

  // each() without its barrier.
  template <class F>
  __device__ void distribute(int count, F f) const {
#pragma unroll 1
    for (int i = thread(); i < count; i += threads()) f(i);
  }

  template <class F>
  __device__ void once(F f) const {
    if (thread() == 0) f();
    wait();
  }

  // f(i, lane) for i < count, by all lanes of one warp together; a barrier at the end.
  template <class F>
  __device__ void each_by_warp(int count, F f) const {
#pragma unroll 1
    for (int i = warp(); i < count; i += warps()) f(i, lane());
    wait();
  }

  // The order of summation does not depend on the number of threads: it is that of kMostWarps warps, each of the actual
  // warps handling several of their parts.
  template <class F>
  __device__ double sum(int count, F f) const {
    double* const pad = next_pad();
#pragma unroll 1
    for (int part = warp(); part < kMostWarps; part += warps()) {
      double value = 0;
#pragma unroll 1
      for (int i = part * kWarp + lane(); i < count; i += kMostWarps * kWarp) value += f(i);
      if (part * kWarp < count) value = sum_of_lanes(value);
      if (lane() == 0) pad[part] = value;
    }
    return total(pad);
  }

  template <class F>
  __device__ double least(int count, F f) const {
    double part = INFINITY;
#pragma unroll 1
    for (int i = thread(); i < count; i += threads()) {
      const double value = f(i);
      part = value < part ? value : part;
    }
    return smallest(part);
  }

  template <class T>
  __device__ int partition(T* x, int count, T threshold) const {
    int above = 0;
#pragma unroll 1
    for (int from = 0; from < count; from += threads()) {
      const int i = from + thread();
      const T value = i < count ? x[i] : T(0);
      const bool taken = i < count && value > threshold;
      int total;
      const int before = offset(taken ? 1 : 0, total);  // after its barriers all threads have read x
      if (taken) x[above + before] = value;
      above += total;
      wait();
    }
    return above;
  }

  // The sum of `own` over the threads before this one; total: over all threads.
  SPARSEDIS_ONCE __device__ int offset(int own, int& total) const {
    const int inclusive = sum_up_to_lane(own);
    double* pad = next_pad();
    if (lane() == kWarp - 1) pad[warp()] = inclusive;
    wait();
    const int of_warp = lane() < warps() ? int(pad[lane()]) : 0, up_to_warp = sum_up_to_lane(of_warp);
    total = __shfl_sync(kAllLanes, up_to_warp, kWarp - 1);
    return __shfl_sync(kAllLanes, up_to_warp - of_warp, warp()) + inclusive - own;
  }

 private:
  // Two pads are used in turn: a thread that writes one has passed the barrier of the other, after which no thread
  // reads the first any more.
  __device__ double* next_pad() const {
    current_pad_ ^= 1;
    return pads_ + current_pad_ * kMostWarps;
  }

  // Inclusive prefix sum over the lanes.
  __device__ static int sum_up_to_lane(int value) {
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(kAllLanes, value, step);
      if (lane() >= step) value += other;
    }
    return value;
  }

  // Sum of the warps' partial sums.
  SPARSEDIS_ONCE __device__ double total(const double* pad) const {
    wait();
    return sum_of_lanes(lane() < kMostWarps ? pad[lane()] : 0);
  }
  // Minimum of all threads' values.
  SPARSEDIS_ONCE __device__ double smallest(double value) const {
    double* const pad = next_pad();
    value = smallest_of_lanes(value);
    if (lane() == 0) pad[warp()] = value;
    wait();
    return smallest_of_lanes(lane() < warps() ? pad[lane()] : INFINITY);
  }

  double* pads_;
  mutable int current_pad_ = 0;
};

// Sums of eight values over all lanes: lane l returns the sum of value l / 4.
template <class T>
__device__ T eight_sums_of_lanes(T (&value)[8]) {
#pragma unroll
  for (int half = 4, step = kWarp / 2; half > 0; half /= 2, step /= 2) {
    const bool upper = Team::lane() & step;
#pragma unroll
    for (int v = 0; v < half; ++v) {
      const T sent = upper ? value[v] : value[v + half], kept = upper ? value[v + half] : value[v];
      value[v] = kept + __shfl_xor_sync(kAllLanes, sent, step);
    }
  }
#pragma unroll
  for (int step = 2; step > 0; step /= 2) value[0] += __shfl_xor_sync(kAllLanes, value[0], step);
  return value[0];
}

}  // namespace sparsedis::cuda
