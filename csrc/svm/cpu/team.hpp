// One thread working on one task.
#pragma once

#include <cmath>

#include "../../common/cpu/threads.hpp"

namespace sparsedis::cpu {

struct Team {
  // Leaves the task where its call has ended. Once per iteration.
  void check_interruption() const {
    if (interrupted()) throw Interruption();
  }

  template <class F>
  void each(int count, F f) const {
    for (int i = 0; i < count; ++i) f(i);
  }

  template <class F>
  void once(F f) const {
    f();
  }

  template <class F>
  double sum(int count, F f) const {
    // Four partial sums: one would wait for itself.
    double part[4] = {0, 0, 0, 0};
    int i = 0;
    for (; i + 4 <= count; i += 4) {
      for (int p = 0; p < 4; ++p) part[p] += f(i + p);
    }
    for (; i < count; ++i) part[0] += f(i);
    return (part[0] + part[1]) + (part[2] + part[3]);
  }

  template <class F>
  double least(int count, F f) const {
    double result = INFINITY;
    for (int i = 0; i < count; ++i) {
      const double value = f(i);
      result = value < result ? value : result;
    }
    return result;
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
};

}  // namespace sparsedis::cpu
