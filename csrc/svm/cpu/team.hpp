// The team of one thread that solves one task.
#pragma once

#include <cmath>

#include "../../common/cpu/threads.hpp"

// Before a loop: its iterations are independent, so that it may be vectorised without a test for overlapping arrays.
#ifdef __clang__
#define SPARSEDIS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define SPARSEDIS_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace sparsedis::cpu {

struct Team {
  // Throws Interruption if the call has been interrupted. Called once per iteration.
  void check_interruption() const {
    if (interrupted()) throw Interruption();
  }

  template <class F>
  void each(int count, F f) const {
    for (int i = 0; i < count; ++i) f(i);
  }

  template <class F>
  void each_entry(int rows, int columns, F f) const {
    for (int i = 0; i < rows; ++i) {
      for (int l = 0; l < columns; ++l) f(i, l);
    }
  }

  // Long enough for vectors, short enough for the L1 cache.
  struct Block {
    static constexpr int kMost = 64;
    int from, count;

    template <class G>
    void each(G g) const {
      SPARSEDIS_INDEPENDENT
      for (int b = 0; b < count; ++b) g(from + b, b);
    }
  };

  template <class F>
  void each_block(int count, F f) const {
    for (int from = 0; from < count; from += Block::kMost) {
      f(Block{from, count - from < Block::kMost ? count - from : Block::kMost});
    }
  }

  template <class F>
  void once(F f) const {
    f();
  }

  template <class F>
  double sum(int count, F f) const {
    // Independent partial sums hide the latency of the additions.
    double part[kParts] = {};
    int i = 0;
    for (; i + kParts <= count; i += kParts) {
      for (int p = 0; p < kParts; ++p) part[p] += f(i + p);
    }
    for (; i < count; ++i) part[i % kParts] += f(i);
    double result = 0;
    for (int p = 0; p < kParts; ++p) result += part[p];
    return result;
  }

  template <class F>
  double least(int count, F f) const {
    double part[kParts];
    for (int p = 0; p < kParts; ++p) part[p] = INFINITY;
    auto take = [](double value, double& least) { least = value < least ? value : least; };
    int i = 0;
    for (; i + kParts <= count; i += kParts) {
      for (int p = 0; p < kParts; ++p) take(f(i + p), part[p]);
    }
    for (; i < count; ++i) take(f(i), part[i % kParts]);
    for (int p = 1; p < kParts; ++p) take(part[p], part[0]);
    return part[0];
  }

  template <class T>
  int partition(T* x, int count, T threshold) const {
    int above = 0;
    for (int i = 0; i < count; ++i) {
      const T value = x[i];
      x[above] = value;
      above += value > threshold;
    }
    return above;
  }

 private:
  static constexpr int kParts = 8;
};

}  // namespace sparsedis::cpu
