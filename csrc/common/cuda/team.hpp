// The threads of a block, working on one task (Team in ../../svm/algorithm/requirements.hpp).
#pragma once

#include "platform.hpp"

namespace sparsedis::cuda {

class Team {
 public:
  static constexpr int kMostWarps = 16;
  // In shared memory.
  static constexpr std::size_t kDoubles = 2 * kMostWarps;

  __device__ explicit Team(double* shared) : pads_(shared), thread_(int(threadIdx.x)), threads_(int(blockDim.x)) {}

  __device__ int thread() const { return thread_; }
  __device__ int threads() const { return threads_; }
  __device__ int lane() const { return thread_ % kWarp; }
  __device__ int warp() const { return thread_ / kWarp; }
  __device__ int warps() const { return threads_ / kWarp; }
  __device__ void wait() const { __syncthreads(); }
  __device__ void check_interruption() const {}  // the host is asked nothing

  template <class F>
  __device__ void each(int count, F f) const {
    for (int i = thread_; i < count; i += threads_) f(i);
    wait();
  }

  template <class F>
  __device__ void once(F f) const {
    if (thread_ == 0) f();
    wait();
  }

  // f(i, lane) for i < count, by the lanes of one warp together; a barrier at the end.
  template <class F>
  __device__ void each_by_warp(int count, F f) const {
    for (int i = warp(); i < count; i += warps()) f(i, lane());
    wait();
  }

  template <class F>
  __device__ double sum(int count, F f) const {
    double part = 0;
    for (int i = thread_; i < count; i += threads_) part += f(i);
    return reduce(part, [](double a, double b) { return a + b; });
  }

  template <class F>
  __device__ double least(int count, F f) const {
    double part = INFINITY;
    for (int i = thread_; i < count; i += threads_) {
      const double value = f(i);
      part = value < part ? value : part;
    }
    return reduce(part, [](double a, double b) { return b < a ? b : a; });
  }

  template <class T>
  __device__ int partition(T* x, int count, T threshold) const {
    int above = 0;
    for (int from = 0; from < count; from += threads_) {
      const int i = from + thread_;
      const T value = i < count ? x[i] : T(0);
      const bool taken = i < count && value > threshold;
      int total;
      const int before = offset(taken ? 1 : 0, total);  // its barriers: all have read
      if (taken) x[above + before] = value;
      above += total;
      wait();
    }
    return above;
  }

  // The sum of `own` over the threads before this one, and over all of them.
  __device__ int offset(int own, int& total) const {
    int inclusive = own;
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(kAllLanes, inclusive, step);
      if (lane() >= step) inclusive += other;
    }
    double* pad = next_pad();
    if (lane() == kWarp - 1) pad[warp()] = inclusive;
    wait();
    int before = 0;
    total = 0;
    for (int w = 0; w < warps(); ++w) {
      const int sum = int(pad[w]);
      if (w < warp()) before += sum;
      total += sum;
    }
    return before + inclusive - own;
  }

 private:
  // Two pads in turn: a thread that writes the one has seen, at the barrier of the other, that nobody reads it any
  // more.
  __device__ double* next_pad() const {
    turn_ ^= 1;
    return pads_ + turn_ * kMostWarps;
  }

  template <class Combine>
  __device__ double reduce(double value, Combine combine) const {
    for (int step = kWarp / 2; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
    double* pad = next_pad();
    if (lane() == 0) pad[warp()] = value;
    wait();
    double result = pad[0];
    for (int w = 1; w < warps(); ++w) result = combine(result, pad[w]);
    return result;
  }

  double* pads_;
  int thread_, threads_;
  mutable int turn_ = 0;
};

// The sum of every lane's value, in all lanes of a warp.
template <class T>
__device__ T sum_of_lanes(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

}  // namespace sparsedis::cuda
