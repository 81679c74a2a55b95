// One task of a batch, without padding and with its largest sample weight scaled to 1.
#pragma once

#include "../../common/cpu/memory.hpp"
#include "../algorithm/samples.hpp"
#include "../api.hpp"
#include "features.hpp"

namespace sparsedis::cpu {

template <class F>
struct Task {
  Task(Memory& memory, const Problems<F>& problems, std::int64_t index)
      : present(memory.take<int>(problems.samples)), row(memory.take<const F*>(problems.samples)) {
    const int all = int(problems.samples), k = int(problems.classes);
    int* label = memory.take<int>(all);
    double* s = memory.take<double>(all);
    const double* weight = problems.weight + index * all;
    int n = 0;
    scale = 0;
    for (int i = 0; i < all; ++i) {
      if (!(weight[i] > 0)) continue;
      present[n] = i;
      row[n] = problems.X + index * problems.stride[0] + i * problems.stride[1];
      label[n] = int(problems.labels[index * all + i]);
      s[n] = weight[i];
      scale = weight[i] > scale ? weight[i] : scale;
      ++n;
    }
    if (n == 0) scale = 1;
    for (int i = 0; i < n; ++i) s[i] /= scale;
    const double lambda2 = problems.lambda2[index];
    samples = {
        n, k, k - 1, label, s, problems.lambda1[index] / scale, lambda2 / scale, problems.dual_reg[index] / lambda2};
  }

  Features<F> features(const Problems<F>& problems) const {
    return {row, samples.n, int(problems.features), problems.stride[2]};
  }

  Samples samples;
  double scale;   // the largest weight; P, lambda1, lambda2 and dual_reg are divided by it
  int* present;   // (samples.n,), index in the batch's samples
  const F** row;  // (samples.n,)
};

}  // namespace sparsedis::cpu
