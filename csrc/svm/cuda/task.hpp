// One task of a batch, for the threads of a block, without padding and with its largest sample weight scaled to 1.
#pragma once

#include "../algorithm/samples.hpp"
#include "../api.hpp"
#include "features.hpp"

namespace sparsedis::cuda {

template <class F>
class Task {
 public:
  __device__ Task(const Team& team, Memory& memory, const Problems<F>& problems, std::int64_t index)
      : present_(memory.take<int>(problems.samples)) {
    const int all = int(problems.samples);
    int* label = memory.take<int>(all);
    double* s = memory.take<double>(all);
    const double* weight = problems.weight + index * all;
    int n = 0;
    for (int from = 0; from < all; from += team.threads()) {
      const int i = from + team.thread();
      const bool there = i < all && weight[i] > 0;
      int total;
      const int place = n + team.offset(there ? 1 : 0, total);
      n += total;
      if (!there) continue;
      present_[place] = i;
      label[place] = int(problems.labels[index * all + i]);
      s[place] = weight[i];
    }
    team.wait();
    scale_ = n == 0 ? 1 : -team.least(n, [&](int i) { return -s[i]; });
    team.each(n, [&](int i) { s[i] /= scale_; });
    samples_.n = n;
#ifndef SPARSEDIS_CLASSES
    samples_.k = int(problems.classes);
    samples_.m = samples_.k - 1;
#endif
    samples_.label = label;
    samples_.s = s;
    const double lambda2 = problems.lambda2[index];
    samples_.lambda1 = problems.lambda1[index] / scale_;
    samples_.lambda2 = lambda2 / scale_;
    samples_.rho = problems.dual_reg[index] / lambda2;
  }

  __device__ const Samples& samples() const { return samples_; }
  __device__ double scale() const { return scale_; }           // P, lambda1, lambda2 and dual_reg are divided by it
  __device__ int present(int i) const { return present_[i]; }  // a sample's index in the batch's samples
  __device__ Features<F> features(const Problems<F>& problems, std::int64_t index) const {
    return {problems.X + index * problems.stride[0],
            present_,
            samples_.n,
            int(problems.features),
            problems.stride[1],
            problems.stride[2]};
  }

 private:
  Samples samples_;
  double scale_;
  int* present_;
};

// Whether all input values are valid, including the features of samples without weight.
template <class F>
SPARSEDIS_ONCE __device__ bool valid(const Team& team, const Problems<F>& problems, std::int64_t index) {
  auto finite_nonnegative = [](double value) { return std::isfinite(value) && value >= 0; };
  const double lambda2 = problems.lambda2[index];
  if (!finite_nonnegative(problems.lambda1[index]) || !finite_nonnegative(problems.dual_reg[index]) ||
      !finite_nonnegative(lambda2) || lambda2 == 0)
    return false;
  const int all = int(problems.samples), d = int(problems.features);
  const double bad = team.sum(all, [&](int i) {
    const double weight = problems.weight[index * all + i];
    const std::int64_t label = problems.labels[index * all + i];
    return double(!finite_nonnegative(weight) || (weight > 0 && (label < 0 || label >= problems.classes)));
  });
  if (bad > 0) return false;
  const F* X = problems.X + index * problems.stride[0];
  const double infinite = team.sum(d, [&](int j) {
    double count = 0;
#pragma unroll 8
    for (int i = 0; i < all; ++i) count += !std::isfinite(double(X[i * problems.stride[1] + j * problems.stride[2]]));
    return count;
  });
  return infinite == 0;
}

}  // namespace sparsedis::cuda
