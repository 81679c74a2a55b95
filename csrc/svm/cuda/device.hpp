// One task on the device, as the policy sees it (Device in ../algorithm/requirements.hpp).
#pragma once

#include "../algorithm/weights.hpp"
#include "launch.hpp"
#include "primal_map.hpp"

namespace sparsedis::cuda {

// The weights, an output.
struct Output {
  Value* W;      // (d, k)
  bool* active;  // (d,)
};

// The result of the pass over the features before the first step.
struct Scan {
  double theta;    // of minimise_on_segment()
  double longest;  // the largest ||x_j||, in screening units
};

// Writes the norms (d,) of X^T diag(s)(Y - 1/k), for rows (n, m) of diag(s)(Y - 1/k); returns the largest ||x_j||^2.
// Both in units of lambda1.
template <int kColumns>
__device__ double norms_of(const Team& team, const Samples& samples, const Features<Feature>& features,
                           const Value* rows, Value* norm) {
  const int d = features.features();
  const Value unit = Value(screening_unit(samples));
  return -team.least((d + kColumns - 1) / kColumns, [&](int group) {
    const int j = group * kColumns;
    Columns<Value, kColumns> squares = {}, last = {}, length = {};
    multiply_columns<kColumns>(
        samples.n, samples.m, rows, [&](int i) { return features.template columns<kColumns>(i, j); },
        [&](int, const Columns<Value, kColumns>& sum) {
#pragma unroll
          for (int q = 0; q < kColumns; ++q) {
            squares.of[q] += sum.of[q] * sum.of[q];
            last.of[q] += sum.of[q];
          }
        });
#pragma unroll 4
    for (int i = 0; i < samples.n; ++i) {
      const auto value = features.template columns<kColumns>(i, j);
#pragma unroll
      for (int q = 0; q < kColumns; ++q) length.of[q] += (value.of[q] * unit) * (value.of[q] * unit);
    }
    Value longest = 0;
#pragma unroll
    for (int q = 0; q < kColumns; ++q) {
      norm[j + q] = std::sqrt(squares.of[q] + last.of[q] * last.of[q]);
      longest = length.of[q] > longest ? length.of[q] : longest;
    }
    return -double(longest);
  });
}

SPARSEDIS_ONCE __device__ inline Scan scan(const Team& team, Memory& memory, const Samples& samples,
                                           const Features<Feature>& features) {
  const Memory::Scope scope(memory);
  const int m = samples.m, d = features.features();
  const double unit = screening_unit(samples);
  Value* rows = memory.take<Value>(std::size_t(samples.n) * m);
  Value* norm = memory.take_scratch<Value>(d);
  team.each(samples.n * m, [&](int e) {
    const int i = e / m;
    rows[e] = Value(unit * samples.s[i] * samples.centred_label(i, e % m));
  });
  const double longest = features.by_fours() ? norms_of<kMostColumns<Value>>(team, samples, features, rows, norm)
                                             : norms_of<1>(team, samples, features, rows, norm);
  return {minimise_on_screened_segment(team, samples, d, norm), std::sqrt(longest)};
}

class Device {
 public:
  using Team = cuda::Team;
  using Feature = Value;
  static constexpr bool kFirstOrderFirst = false;  // a step has as many barriers as an iteration (not measured)
  template <class PrimalMap>
  using System = SystemFor<PrimalMap>;

  __device__ Device(const Team& team, Memory& memory, const Samples& samples, const Features<cuda::Feature>& features,
                    const Scan& scan, const Output& output)
      : team_(team), memory_(memory), samples_(samples), features_(features), scan_(scan), output_(output) {}

  __device__ const Team& team() const { return team_; }
  __device__ const Samples& samples() const { return samples_; }
  __device__ int features() const { return features_.features(); }
  __device__ double start() const { return scan_.theta; }

  // An upper bound on the Lipschitz constant: the largest row sum of absolute values.
  __device__ double lipschitz() const {
    const Memory::Scope scope(memory_);
    const int n = samples_.n;
    double* K = memory_.take<double>(std::size_t(n) * n);
    features_.gram(team_, K);
    const double largest = -team_.least(n, [&](int i) {
      double sum = 0;
      for (int j = 0; j < n; ++j) sum += samples_.s[i] * samples_.s[j] * ::fabs(K[std::ptrdiff_t(i) * n + j]);
      return -sum;
    });
    const double bound = largest / samples_.lambda2 + samples_.rho;
    return bound > kTiny ? bound : kTiny;
  }

  struct Scope : Memory::Scope {
    __device__ explicit Scope(const Device& device) : Memory::Scope(device.memory_) {}
  };
  template <class T>
  __device__ T* take(std::size_t count) const {
    return memory_.take<T>(count);
  }
  template <class T>
  __device__ SparsePrimalMap<cuda::Feature, T> primal_map() const {
    return {memory_, samples_, features_, scan_.longest};
  }
  __device__ GramPrimalMap<cuda::Feature> gram_primal_map() const { return {memory_, team_, samples_, features_}; }
  template <class PrimalMap>
  __device__ System<PrimalMap> system() const {
    return {memory_, samples_, features()};
  }
  template <class PrimalMap>
  __device__ Weights write(PrimalMap& primal, const double* L) const {
    double* memory = memory_.take_scratch<double>(weights_size(samples_.n, samples_.m, primal.ld()));
    return write_weights(team_, samples_, primal, L, output_.W, output_.active, memory);
  }

 private:
  const Team& team_;
  Memory& memory_;
  const Samples& samples_;
  const Features<cuda::Feature>& features_;
  const Scan& scan_;
  Output output_;
};

}  // namespace sparsedis::cuda
