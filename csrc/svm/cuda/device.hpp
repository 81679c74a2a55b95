// One task on the device, as the policy sees it (Device in ../algorithm/requirements.hpp).
#pragma once

#include "../algorithm/weights.hpp"
#include "launch.hpp"
#include "primal_map.hpp"

namespace sparsedis::cuda {

// Where the weights go.
struct Output {
  Value* W;      // (d, k)
  bool* active;  // (d,)
};

// The result of one pass over the features before the first step.
struct Scan {
  double theta;    // minimise_on_segment()
  double longest;  // the largest ||x_j||, in screening units
};

SPARSEDIS_ONCE __device__ inline Scan scan(const Team& team, Memory& memory, const Samples& samples,
                                           const Features<Feature>& features) {
  const Memory::Scope scope(memory);
  const int m = samples.m, d = features.features();
  const double unit = screening_unit(samples);
  Value* rows = memory.take<Value>(std::size_t(samples.n) * m);
  Value* norm = memory.take_scratch<Value>(d);
  team.each(samples.n * m, [&](int e) {
    const int i = e / m;
    rows[e] = Value(unit * samples.s[i] * ((samples.is_label(i, e % m) ? 1 : 0) - 1.0 / samples.k));
  });
  const double longest = -team.least(d, [&](int j) {
    Value squares = 0, last = 0, length = 0;
    for (int i = 0; i < samples.n; ++i) {
      const Value scaled = features(i, j) * Value(unit);
      length += scaled * scaled;
    }
    multiply_column(
        samples.n, m, rows, [&](int i) { return features(i, j); },
        [&](int, Value value) {
          squares += value * value;
          last += value;
        });
    norm[j] = std::sqrt(squares + last * last);
    return -double(length);
  });
  return {minimise_on_screened_segment(team, samples, d, norm), std::sqrt(longest)};
}

class Device {
 public:
  using Team = cuda::Team;
  using Feature = Value;
  static constexpr bool kFirstOrderFirst = false;  // a step has as many barriers as an iteration; not measured
  template <class PrimalMap>
  using System = SystemFor<PrimalMap>;

  __device__ Device(const Team& team, Memory& memory, const Samples& samples, const Features<cuda::Feature>& features,
                    const Scan& scan, const Output& output)
      : team_(team), memory_(memory), samples_(samples), features_(features), scan_(scan), output_(output) {}

  __device__ const Team& team() const { return team_; }
  __device__ const Samples& samples() const { return samples_; }
  __device__ int features() const { return features_.features(); }
  __device__ double start() const { return scan_.theta; }

  // A bound: the largest sum of absolute values of a row.
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
    return {memory_, samples_};
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
