// The operations of ../api.hpp on the CPU, one thread per task.
#include <type_traits>

#include "../../common/cpu/pages.hpp"
#include "../../common/cpu/threads.hpp"
#include "../algorithm/adjoint.hpp"
#include "../algorithm/weights.hpp"
#include "../api.hpp"
#include "../policy.hpp"
#include "gram_primal_map.hpp"
#include "lipschitz.hpp"
#include "primal_map.hpp"
#include "scan.hpp"
#include "sweep.hpp"
#include "system.hpp"
#include "task.hpp"
#include "team.hpp"

namespace sparsedis {
namespace cpu {
namespace {

// The weights of one task, an output.
template <class F>
struct Output {
  F* W;          // (d, k)
  bool* active;  // (d,)
};

// The Newton system of a primal map; its factor has the type of the map's products.
template <class PrimalMap>
using SystemFor = NewtonSystem<typename PrimalMap::Products>;

// One task on the CPU (Device in ../algorithm/requirements.hpp).
template <class F>
class Device {
 public:
  using Team = cpu::Team;
  using Feature = F;
  static constexpr bool kFirstOrderFirst = true;
  template <class PrimalMap>
  using System = SystemFor<PrimalMap>;

  Device(Memory& memory, const Samples& samples, const Features<F>& features, const Scan<F>& scan,
         const Output<F>& output)
      : memory_(memory), samples_(samples), features_(features), scan_(scan), output_(output) {}

  const Team& team() const { return team_; }
  const Samples& samples() const { return samples_; }
  int features() const { return features_.features(); }
  double start() const { return scan_.theta; }
  double lipschitz() const { return cpu::lipschitz(memory_, samples_, features_); }

  struct Scope : Memory::Scope {
    explicit Scope(const Device& device) : Memory::Scope(device.memory_) {}
  };
  template <class T>
  T* take(std::size_t count) const {
    return memory_.take<T>(count);
  }
  template <class T>
  SparsePrimalMap<F, T> primal_map() const {
    return {memory_, samples_, features_, &scan_};
  }
  GramPrimalMap<F> gram_primal_map() const { return {memory_, samples_, features_}; }
  template <class PrimalMap>
  System<PrimalMap> system() const {
    return {memory_, samples_};
  }
  template <class PrimalMap>
  Sweep<F, PrimalMap> sweep(PrimalMap& primal) const {
    return {memory_, samples_, features_, primal};
  }
  template <class PrimalMap>
  Weights write(PrimalMap& primal, const double* L) const {
    double* memory = memory_.take<double>(weights_size(samples_.n, samples_.m, primal.ld()));
    return write_weights(team_, samples_, primal, L, output_.W, output_.active, memory);
  }

 private:
  Memory& memory_;
  const Samples& samples_;
  const Features<F>& features_;
  const Scan<F>& scan_;
  const Output<F>& output_;
  Team team_;
};

// Whether all input values are valid, except the features of the present samples, which scan() checks.
template <class F>
bool valid(const Problems<F>& problems, std::int64_t index) {
  auto finite_nonnegative = [](double value) { return std::isfinite(value) && value >= 0; };
  if (!finite_nonnegative(problems.lambda1[index]) || !finite_nonnegative(problems.dual_reg[index])) return false;
  if (!finite_nonnegative(problems.lambda2[index]) || problems.lambda2[index] == 0) return false;
  for (std::int64_t i = 0; i < problems.samples; ++i) {
    const double weight = problems.weight[index * problems.samples + i];
    const std::int64_t label = problems.labels[index * problems.samples + i];
    if (!finite_nonnegative(weight)) return false;
    if (weight > 0) {
      if (label < 0 || label >= problems.classes) return false;
    } else {
      const F* x = problems.X + index * problems.stride[0] + i * problems.stride[1];
      for (std::int64_t j = 0; j < problems.features; ++j) {
        if (!std::isfinite(x[j * problems.stride[2]])) return false;
      }
    }
  }
  return true;
}

template <class F>
void solve_task(const Problems<F>& problems, const Options& options, const Solutions<F>& solutions, std::int64_t index,
                Memory& memory) {
  if (!valid(problems, index)) throw InvalidInput();
  const Task<F> task(memory, problems, index);
  const Samples& samples = task.samples;
  const std::size_t all = problems.samples, d = problems.features, k = samples.k;
  const Features<F> features = task.features(problems);

  double* dual = solutions.dual + index * all * k;
  F* W = solutions.W + index * d * k;
  bool* active = solutions.active + index * d;
  std::fill(dual, dual + all * k, 1.0 / double(k));
  std::fill(W, W + d * k, F(0));
  std::fill(active, active + d, false);

  double* best = memory.take<double>(std::size_t(samples.n) * k);
  const Scan<F> seen = scan(memory, Team(), samples, features);
  if (!seen.finite) throw InvalidInput();
  const Output<F> output{W, active};
  Device<F> device(memory, samples, features, seen, output);
  Policy<Device<F>> policy(device, options, best);
  const Outcome outcome = options.solver == Solver::newton ? policy.solve_by_newton() : policy.solve_by_first_order();
  for (int i = 0; i < samples.n; ++i) std::copy(best + i * k, best + (i + 1) * k, dual + task.present[i] * k);
  const Certificate& at = outcome.weights.certificate;
  solutions.gap[index] = task.scale * at.gap;
  solutions.relative_gap[index] = at.relative();
  solutions.objective[index] = task.scale * at.objective;
  solutions.n_iter[index] = outcome.n_iter;
  solutions.status[index] = std::int64_t(outcome.status);
  solutions.margin[index] = outcome.weights.margin;
}

// Writes dloss/dX of the candidates, and zeros elsewhere, into the rows of grad_X (all samples, d) of present samples.
// A row is filled with zeros just before its candidates are written, while it is in the cache.
template <class F, class Adjoint, class PrimalMap>
void write_feature_gradients(Memory& memory, const Adjoint& adjoint, const PrimalMap& primal, const Task<F>& task,
                             std::size_t d, F* grad_X) {
  const int n = task.samples.n, terms = adjoint.terms(), count = primal.candidates();
  const int capacity = gathered_capacity<F>(n, count);
  F* columns = memory.take<F>(std::size_t(terms) * n);
  F* planes = memory.take<F>(std::size_t(terms) * kBlock);
  const F** plane = memory.take<const F*>(terms);
  F* gathered = memory.take<F>(std::size_t(n) * capacity);
  for (int term = 0; term < terms; ++term) {
    for (int i = 0; i < n; ++i) columns[term * n + i] = F(adjoint.column(i, term));
    plane[term] = planes + std::ptrdiff_t(term) * kBlock;
  }
  for (int first = 0; first == 0 || first < count; first += capacity) {
    const int end = std::min(count, first + capacity);
    for (int from = first; from < end; from += kBlock) {
      const int here = std::min(kBlock, end - from), length = int(padded(here));
      for (int term = 0; term < terms; ++term) {
        F* to = planes + std::ptrdiff_t(term) * kBlock;
        for (int a = 0; a < here; ++a) to[a] = F(adjoint.plane(term)[from + a]);
        std::fill(to + here, to + length, F(0));
      }
      combine(plane, length, terms, columns, n, gathered + (from - first), capacity);
    }
    for (int i = 0; i < n; ++i) {
      F* row = grad_X + task.present[i] * d;
      if (first == 0) std::fill(row, row + d, F(0));
      for (int a = first; a < end; ++a) row[primal.index(a)] = gathered[std::ptrdiff_t(i) * capacity + (a - first)];
    }
  }
}

template <class F>
void adjoint_task(const Problems<F>& problems, const Solved& solved, const F* all_grad_W, const Gradients<F>& gradients,
                  std::int64_t index, Memory& memory) {
  const Team team;
  const Task<F> task(memory, problems, index);
  const Samples& samples = task.samples;
  const std::size_t all = problems.samples, d = problems.features, n = samples.n, k = samples.k;
  const Features<F> features = task.features(problems);
  F* grad_X = gradients.X + index * all * d;
  for (std::size_t i = 0; i < all; ++i) {
    if (!(problems.weight[index * all + i] > 0)) std::fill(grad_X + i * d, grad_X + (i + 1) * d, F(0));
  }
  gradients.lambda1[index] = gradients.lambda2[index] = gradients.dual_reg[index] = 0;
  if (n == 0) return;

  double* dual = memory.take<double>(n * k);
  for (std::size_t i = 0; i < n; ++i) {
    const double* from = solved.dual + (index * all + task.present[i]) * k;
    std::copy(from, from + k, dual + i * k);
  }
  const F* grad_W = all_grad_W + index * d * k;
  using PrimalMap = SparsePrimalMap<F, F>;
  using Adjoint = Adjoint<Team, PrimalMap, SystemFor<PrimalMap>>;
  PrimalMap primal(memory, samples, features, nullptr);
  SystemFor<PrimalMap> system(memory, samples);
  Adjoint adjoint(team, samples, primal, system, memory.take<double>(Adjoint::size(n, k, primal.ld())),
                  memory.take<unsigned char>(Adjoint::flags(n, k)));
  primal.evaluate_active(team, dual, solved.active + index * d);
  const ScalarGradients scalars =
      adjoint.run(dual, [&](int c, int a) { return double(grad_W[primal.index(a) * k + c]); });
  write_feature_gradients(memory, adjoint, primal, task, d, grad_X);
  gradients.lambda1[index] = scalars.lambda1 / task.scale;
  gradients.lambda2[index] = scalars.lambda2 / task.scale;
  gradients.dual_reg[index] = scalars.dual_reg / task.scale;
}

}  // namespace
}  // namespace cpu

template <class F>
Input solve(const Problems<F>& problems, const Options& options, const Solutions<F>& solutions) {
  return cpu::for_each_task(problems.batch, options.threads, [&](std::int64_t index, cpu::Memory& memory) {
    cpu::solve_task(problems, options, solutions, index, memory);
  });
}

template <class F>
void adjoint(const Problems<F>& problems, const Solved& solved, const F* grad_W, const Gradients<F>& gradients,
             int threads) {
  const auto entries = std::size_t(problems.batch * problems.samples * problems.features);
  cpu::prefer_huge_pages(gradients.X, entries * sizeof(F));
  cpu::for_each_task(problems.batch, threads, [&](std::int64_t index, cpu::Memory& memory) {
    cpu::adjoint_task(problems, solved, grad_W, gradients, index, memory);
  });
}

template Input solve(const Problems<float>&, const Options&, const Solutions<float>&);
template Input solve(const Problems<double>&, const Options&, const Solutions<double>&);
template void adjoint(const Problems<float>&, const Solved&, const float*, const Gradients<float>&, int);
template void adjoint(const Problems<double>&, const Solved&, const double*, const Gradients<double>&, int);

}  // namespace sparsedis
