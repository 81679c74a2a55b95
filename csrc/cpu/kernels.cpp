// The contract's functions on the CPU: a thread per task.
#include <Eigen/Eigenvalues>
#include <stdexcept>
#include <type_traits>

#include "../algorithm/adjoint.hpp"
#include "../algorithm/first_order.hpp"
#include "../algorithm/full_form.hpp"
#include "../algorithm/newton.hpp"
#include "../contract.hpp"
#include "gram_primal_map.hpp"
#include "primal_map.hpp"
#include "pages.hpp"
#include "parallel.hpp"
#include "sweep.hpp"
#include "system.hpp"
#include "task.hpp"
#include "team.hpp"

namespace sparsedis {
namespace cpu {
namespace {

// lambda1^2/lambda2, which does not depend on the scale of the features, up to which the light form is tried: with at
// least as many features as samples, and with fewer.
constexpr double kLight = 0.3, kSurelyLight = 1e-3;
// Below this there is no group Lasso to speak of, and no full form, which divides the features by lambda1.
constexpr double kNoFullForm = 1e-10;
// The light form makes way for the full one where its gap is above kLightGap from iteration kLightIterations on.
constexpr int kLightIterations = 8;
constexpr double kLightGap = 1e-2;
constexpr int kNewtonPatience = 60;
// Iterations that each form is given in float: few tasks take half as many, and where the features' means are large
// they wander without stalling. The forms in double have the rest.
constexpr std::int64_t kMostInFloat = 60;
// The interior point's iterations, in each form, and the first-order steps that a task which it does not certify falls
// back on.
constexpr std::int64_t kMostIterations = 200, kFallbackSteps = 5000;
// The solver's own gap is brought this far below tol: rounding the weights to the features' type takes some of it.
constexpr double kOwnShare = 0.9;

// Whether float holds lambda1 and lambda2 and what they are multiplied with.
bool moderate(const Samples& samples) {
  return samples.lambda1 > 1e-12 && samples.lambda1 < 1e12 && samples.lambda2 > 1e-12 && samples.lambda2 < 1e12;
}

// What one pass over the features tells before the first step.
template <class F>
struct Survey {
  double theta;      // start_on_the_line
  const F* lengths;  // (d,), ||x_j|| in screening units
  double longest;    // the largest of them
  bool finite;
};

template <class F>
Survey<F> survey(Memory& memory, const Team& team, const Samples& samples, const Features<F>& features) {
  const int n = samples.n, m = samples.m, d = features.features();
  const double unit = screening_unit(samples);
  F* rows = memory.take<F>(std::size_t(n) * m);
  F* block = memory.take<F>(std::size_t(n) * kBlock);
  const F** x = memory.take<const F*>(n);
  F* planes = memory.take<F>(std::size_t(m) * kBlock);
  F* norm = memory.take<F>(d + kPad);
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c < m; ++c) {
      rows[i * m + c] = F(unit * samples.s[i] * ((samples.is_label(i, c) ? 1 : 0) - 1.0 / samples.k));
    }
  }
  F* lengths = memory.take<F>(d + kPad);
  F longest = 0;
  for (int from = 0; from < d; from += kBlock) {
    const int here = std::min(kBlock, d - from), length = int(padded(here));
    features.rows(from, here, block, x);
    F square[kBlock] = {};
    if (!add_squares(x, length, n, F(unit), square)) return {1, lengths, 0, false};
    for (int j = 0; j < here; ++j) {
      lengths[from + j] = std::sqrt(square[j]);
      longest = square[j] > longest ? square[j] : longest;
    }
    combine(x, length, n, rows, m, planes, kBlock);
    square_norms(planes, kBlock, m, length, norm + from);
    for (int j = 0; j < length; ++j) norm[from + j] = std::sqrt(norm[from + j]);
  }
  // In units of lambda1: lambda1 is 1 (or 0), lambda2 that of features divided by lambda1.
  Samples scaled = samples;
  scaled.lambda1 *= unit;
  scaled.lambda2 *= unit * unit;
  return {start_on_the_line(team, scaled, d, norm), lengths, std::sqrt(double(longest)), true};
}

// lambda_max(D X X^T D)/lambda2 + rho.
template <class F>
double lipschitz(Memory& memory, const Samples& samples, const Features<F>& features) {
  const int n = samples.n;
  Eigen::MatrixXd K(n, n);
  features.gram(memory.take<double>(std::size_t(n) * kBlock), K.data());
  const Eigen::Map<const Eigen::VectorXd> s(samples.s, n);
  K = s.asDiagonal() * K * s.asDiagonal();
  const double largest = Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(K, Eigen::EigenvaluesOnly).eigenvalues()[n - 1];
  return std::max(largest / samples.lambda2 + samples.rho, kTiny);
}

// Where the solution of one task goes, and what is said about it.
template <class F>
struct Output {
  F* W;             // (d, k)
  bool* active;     // (d,)
  double* margin;   // one value
  Certificate* at;  // of W as written

  // From a primal map of all features and the dual point L (n, k).
  template <class PrimalMap>
  void write(Memory& memory, const Team& team, const Samples& samples, PrimalMap& primal, const double* L) const {
    const int n = samples.n, k = samples.k, m = samples.m;
    const std::ptrdiff_t ld = primal.ld();
    double* planes = memory.take<double>(m * ld);
    double* scores = memory.take<double>(std::size_t(n) * m);
    double* value = memory.take<double>(k);
    primal.evaluate(team, L);
    *margin = std::min(entry_margin(team, samples, L, primal.scores()), primal.margin(team, L));
    double slack = 0, penalty = 0;
    const int count = primal.candidates();
    for (int c = 0; c < m; ++c) std::fill(planes + c * ld, planes + c * ld + count, 0.0);
    for (int a = 0; a < count; ++a) {
      if (!primal.active(a)) continue;
      active[primal.index(a)] = true;
      F* to = W + std::ptrdiff_t(primal.index(a)) * k;
      value[m] = 0;
      for (int c = 0; c < m; ++c) {
        value[c] = primal.W(c, a);
        value[m] -= value[c];
      }
      double mean = 0, along = 0, squares = 0, distance = 0, last_unit = 0;
      for (int c = 0; c < k; ++c) {
        const double exact = value[c];
        to[c] = F(exact);
        value[c] = double(to[c]);
        mean += value[c] / k;
        if (c < m) last_unit -= primal.unit(c, a);
        along += value[c] * (c < m ? primal.unit(c, a) : last_unit);
        squares += value[c] * value[c];
        distance += (value[c] - exact) * (value[c] - exact);
      }
      // What the feature adds to the gap, by Fenchel and Young: not negative (sparsedis.problem.certificate_of).
      double across = 0;
      for (int c = 0; c < k; ++c) {
        const double off = value[c] - along * (c < m ? primal.unit(c, a) : last_unit);
        across += off * off;
      }
      const double length = std::sqrt(squares), both = length + along;
      slack += samples.lambda1 * (both > 0 ? across / both : 0) + samples.lambda2 / 2 * distance;
      penalty += samples.lambda1 * length + samples.lambda2 / 2 * squares;
      // Margins are differences of scores: rows of W may be centred.
      for (int c = 0; c < m; ++c) planes[c * ld + a] = value[c] - mean;
    }
    primal.apply_candidates(team, planes, scores);
    *at = certificate(team, samples, L, scores, penalty);
    at->gap += slack;
  }
};

// The solver's Newton system beside a primal map: its factor is of the type of the map's products.
template <class PrimalMap>
using SystemFor = NewtonSystem<typename PrimalMap::Products>;

// The finish on a primal map, with the memory that it takes.
template <class PrimalMap>
class Finisher {
 public:
  Finisher(Memory& memory, const Team& team, const Samples& samples, PrimalMap& primal, SystemFor<PrimalMap>& system,
           Progress& progress, std::int64_t max_iter)
      : team_(team),
        primal_(primal),
        progress_(progress),
        max_iter_(max_iter),
        finish_(samples, primal, system, memory.take<double>(Algorithm::size(samples.n, samples.k)),
                memory.take<unsigned char>(2 * std::size_t(samples.n) * samples.k)) {}

  // From L, at which `primal` was evaluated last.
  bool near(const double* L) { return finish_.run(team_, L, progress_, max_iter_); }

  // From the best point, which is evaluated first.
  bool from_best() {
    primal_.evaluate(team_, progress_.best());
    return near(progress_.best());
  }

 private:
  using Algorithm = Finish<Team, PrimalMap, SystemFor<PrimalMap>>;

  const Team& team_;
  PrimalMap& primal_;
  Progress& progress_;
  std::int64_t max_iter_;
  Algorithm finish_;
};

// One task that is being solved.
template <class F>
struct Job {
  Memory& memory;
  const Team& team;
  const Samples& samples;
  const Features<F>& features;
  const Survey<F>& survey;
  Progress& progress;
  std::int64_t max_iter;
  double finish_gap;  // 0: no finish

  // A primal map whose screening and whose Hessian's products are of type T.
  template <class T>
  SparsePrimalMap<F, T> primal_map() const {
    return {memory, samples, features, survey.lengths, survey.longest};
  }
};

// The interior point in one of its forms, with the finish on the primal map. Returns whether the task is done.
template <class F, class Form, class PrimalMap>
bool interior(const Job<F>& job, Form& form, PrimalMap& primal, Point& at, std::int64_t patience, double hopeless,
              std::int64_t most) {
  SystemFor<PrimalMap> system(job.memory, job.samples);
  Finisher<PrimalMap> finisher(job.memory, job.team, job.samples, primal, system, job.progress, job.max_iter);
  most = std::min(job.max_iter, job.progress.n_iter + most);
  return interior_point(job.team, job.samples, form, system, at, job.progress,
                        {most, patience, hopeless, job.finish_gap}, [&] { return finisher.near(at.L); });
}

template <class F>
void newton(const Job<F>& job, const Output<F>& output) {
  Memory& memory = job.memory;
  const Team& team = job.team;
  const Samples& samples = job.samples;
  Progress& progress = job.progress;
  const std::size_t n = samples.n, k = samples.k, m = samples.m, d = job.features.features();
  Point at;
  at.place(memory.take<double>(Point::size(n, k)), n, k);
  const double strength = samples.lambda1 * samples.lambda1 / samples.lambda2;
  const bool light = strength <= (d >= n ? kLight : kSurelyLight), full = strength > kNoFullForm;
  auto certified = [&] { return progress.status == Status::certified; };
  auto start = [&] {
    place_start(team, samples, int(d), job.survey.theta, at);
    progress.restart(kNewtonPatience);
  };
  // The forms that suit the task, with products and factor of the primal map's type and at most so many iterations
  // each. Returns whether the task is certified, and its solution written.
  auto by_forms = [&](auto&& primal, std::int64_t most) {
    if (light) {
      start();
      const std::int64_t patience = full ? progress.n_iter + kLightIterations : job.max_iter;
      interior(job, primal, primal, at, patience, kLightGap, most);
    }
    if (full && !(light && (certified() || progress.n_iter >= job.max_iter))) {
      using Full = FullForm<std::decay_t<decltype(primal)>>;
      start();
      Full form(samples, primal, memory.take<double>(Full::size(d, m)), memory.take<double>(2 * n * m));
      form.start(team, at.L);
      interior(job, form, primal, at, job.max_iter, 0, most);
    }
    if (certified()) output.write(memory, team, samples, primal, progress.best());
    return certified();
  };
  if (samples.lambda1 == 0) {
    start();
    GramPrimalMap<F> primal(memory, samples, job.features);
    interior(job, primal, primal, at, job.max_iter, 0, kMostIterations);
  } else {
    const bool in_float = std::is_same_v<F, float> && moderate(samples);
    if (in_float && by_forms(job.template primal_map<F>(), kMostInFloat)) return;
    if ((!in_float || progress.n_iter < job.max_iter) && by_forms(job.template primal_map<double>(), kMostIterations))
      return;
  }
  auto primal = job.template primal_map<double>();
  // A few iterations asked for are not exceeded by thousands of others.
  if (!certified() && (progress.n_iter < job.max_iter || job.max_iter >= kMostIterations)) {
    const std::int64_t counted = progress.n_iter, most = counted + kFallbackSteps;
    progress.restart(kFirstOrderPatience);
    SystemFor<decltype(primal)> system(memory, samples);
    Finisher<decltype(primal)> finisher(memory, team, samples, primal, system, progress, most);
    fista(team, samples, primal, lipschitz(memory, samples, job.features), at.L, progress, most, kFinishGap,
          [&] { return finisher.from_best(); });
    progress.n_iter = counted;
  }
  output.write(memory, team, samples, primal, progress.best());
}

template <class F>
void first_order(const Job<F>& job, Solver solver, const Output<F>& output) {
  const std::size_t n = job.samples.n, k = job.samples.k;
  auto primal = job.template primal_map<double>();
  if (solver == Solver::fista) {
    const double constant = lipschitz(job.memory, job.samples, job.features);
    fista(job.team, job.samples, primal, constant, job.memory.template take<double>(4 * n * k), job.progress,
          job.max_iter, 0, [] { return false; });
  } else {
    Sweep<F, SparsePrimalMap<F, double>> sweep(job.memory, job.samples, job.features, primal);
    bcd(job.team, job.samples, primal, sweep, job.memory.template take<double>(n * k + 3 * k), job.progress,
        job.max_iter);
  }
  const std::int64_t counted = job.progress.n_iter;
  bool finished = true;
  if (job.finish_gap > 0 && job.progress.status == Status::certified) {
    job.progress.n_iter = 0;  // what finishes the solution does not count, and has max_iter to itself
    SystemFor<decltype(primal)> system(job.memory, job.samples);
    Finisher<decltype(primal)> finisher(job.memory, job.team, job.samples, primal, system, job.progress, job.max_iter);
    finished = finisher.from_best();
  }
  if (finished) {
    output.write(job.memory, job.team, job.samples, primal, job.progress.best());
  } else {
    job.progress.aim(kRounding);
    newton(job, output);
  }
  job.progress.n_iter = counted;
}

// Whether all values but the present samples' features, which survey() sees, are what the problem allows.
template <class F>
bool valid(const Problems<F>& problems, std::int64_t index) {
  auto fine = [](double value) { return std::isfinite(value) && value >= 0; };
  if (!fine(problems.lambda1[index]) || !fine(problems.dual_reg[index])) return false;
  if (!fine(problems.lambda2[index]) || problems.lambda2[index] == 0) return false;
  for (std::int64_t i = 0; i < problems.samples; ++i) {
    const double weight = problems.weight[index * problems.samples + i];
    const std::int64_t label = problems.labels[index * problems.samples + i];
    if (!fine(weight)) return false;
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
  if (!valid(problems, index)) throw std::domain_error("a value that the problem does not allow");
  const Team team;
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

  const bool newton_runs = options.solver == Solver::newton;
  // Rounding is not far from a gap that only the finish's neighbourhood reaches.
  const bool exact = options.exact || (newton_runs && options.tol < kFinishGap);
  const double tol = std::is_same_v<F, float> ? kOwnShare * options.tol : options.tol;
  double* best = memory.take<double>(std::size_t(samples.n) * k);
  Progress progress(best, tol, newton_runs && exact ? std::min(kRounding, tol) : tol,
                    newton_runs ? kNewtonPatience : kFirstOrderPatience);
  Certificate at = {0, 0};
  double margin = INFINITY;
  if (samples.n > 0) {
    const Survey<F> seen = survey(memory, team, samples, features);
    if (!seen.finite) throw std::domain_error("features: expected finite values");
    const Output<F> output{W, active, &margin, &at};
    const Job<F> job{memory, team, samples, features, seen, progress, options.max_iter, exact ? kFinishGap : 0};
    if (newton_runs) {
      newton(job, output);
    } else {
      first_order(job, options.solver, output);
    }
    for (int i = 0; i < samples.n; ++i) std::copy(best + i * k, best + (i + 1) * k, dual + task.present[i] * k);
  }
  Status status = progress.status;
  if (at.relative() <= options.tol) {
    status = Status::certified;
  } else if (progress.relative_gap <= options.tol) {
    status = Status::precision;
  }
  solutions.gap[index] = task.scale * at.gap;
  solutions.relative_gap[index] = at.relative();
  solutions.objective[index] = task.scale * at.objective;
  solutions.n_iter[index] = progress.n_iter;
  solutions.status[index] = std::int64_t(status);
  solutions.margin[index] = margin;
}

// Blocks of the candidates' columns, put where they belong in grad_X (all samples, d).
template <class F, class Adjoint, class PrimalMap>
void write_feature_gradients(Memory& memory, const Adjoint& adjoint, const PrimalMap& primal, const Task<F>& task,
                             std::size_t d, F* grad_X) {
  const int n = task.samples.n, terms = adjoint.terms(), count = primal.candidates();
  F* columns = memory.take<F>(std::size_t(terms) * n);
  F* planes = memory.take<F>(std::size_t(terms) * kBlock);
  const F** plane = memory.take<const F*>(terms);
  F* block = memory.take<F>(std::size_t(n) * kBlock);
  for (int term = 0; term < terms; ++term) {
    for (int i = 0; i < n; ++i) columns[term * n + i] = F(adjoint.column(i, term));
    plane[term] = planes + std::ptrdiff_t(term) * kBlock;
  }
  for (int from = 0; from < count; from += kBlock) {
    const int here = std::min(kBlock, count - from), length = int(padded(here));
    for (int term = 0; term < terms; ++term) {
      F* to = planes + std::ptrdiff_t(term) * kBlock;
      for (int a = 0; a < here; ++a) to[a] = F(adjoint.plane(term)[from + a]);
      std::fill(to + here, to + length, F(0));
    }
    combine(plane, length, terms, columns, n, block, kBlock);
    for (int i = 0; i < n; ++i) {
      F* row = grad_X + task.present[i] * d;
      for (int a = 0; a < here; ++a) row[primal.index(from + a)] = block[std::ptrdiff_t(i) * kBlock + a];
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
  std::fill(grad_X, grad_X + all * d, F(0));
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
  PrimalMap primal(memory, samples, features, nullptr, 0);
  SystemFor<PrimalMap> system(memory, samples);
  Adjoint adjoint(team, samples, primal, system, memory.take<double>(Adjoint::size(n, k, primal.ld())),
                  memory.take<unsigned char>(n * k));
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
void solve(const Problems<F>& problems, const Options& options, const Solutions<F>& solutions) {
  cpu::for_each_task(problems.batch, options.threads, [&](std::int64_t index, cpu::Memory& memory) {
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

void share_threads(OpenMPParallel parallel) { cpu::pool().use(parallel); }

template void solve(const Problems<float>&, const Options&, const Solutions<float>&);
template void solve(const Problems<double>&, const Options&, const Solutions<double>&);
template void adjoint(const Problems<float>&, const Solved&, const float*, const Gradients<float>&, int);
template void adjoint(const Problems<double>&, const Solved&, const double*, const Gradients<double>&, int);

}  // namespace sparsedis
