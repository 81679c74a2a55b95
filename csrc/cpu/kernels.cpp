// The contract's functions on the CPU: a thread per task.
#include <Eigen/Eigenvalues>
#include <stdexcept>
#include <type_traits>

#include "../algorithm/adjoint.hpp"
#include "../algorithm/first_order.hpp"
#include "../algorithm/full_form.hpp"
#include "../algorithm/newton.hpp"
#include "../contract.hpp"
#include "gram_link.hpp"
#include "link.hpp"
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
// A tolerance that the light form's float products serve; below, everything is double.
constexpr double kFloatTolerance = 1e-6;
// To which the adjoint's linear system is solved, for gradients in F.
template <class F>
constexpr double kResidual = std::is_same_v<F, float> ? 1e-7 : 1e-12;

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

// Where the solution of one task goes.
template <class F>
struct Output {
  F* W;          // (d, k)
  bool* active;  // (d,)
  int k;

  // W and the active features, from a link that has evaluated the solution.
  template <class Link>
  void write(const Link& link) const {
    for (int a = 0; a < link.candidates(); ++a) {
      if (!link.active(a)) continue;
      active[link.index(a)] = true;
      F* to = W + std::ptrdiff_t(link.index(a)) * k;
      double last = 0;
      for (int c = 0; c < k - 1; ++c) {
        const double value = link.W(c, a);
        to[c] = F(value);
        last -= value;
      }
      to[k - 1] = F(last);
    }
  }
};

template <class Link, class F>
void write_best(const Team& team, Link& link, const Progress& progress, const Output<F>& output) {
  if (!progress.current) link.evaluate(team, progress.best());
  output.write(link);
}

// Returns whether the task is done.
template <class T, class F>
bool light(Memory& memory, const Team& team, const Samples& samples, const Features<F>& features,
           const Survey<F>& survey, NewtonSystem& system, Point& at, Progress& progress, std::int64_t max_iter,
           std::int64_t patience, const Output<F>& output) {
  SparseLink<F, T> link(memory, samples, features, survey.lengths, survey.longest);
  const bool done =
      interior_point(team, samples, link, system, at, progress, max_iter, patience, kLightGap) || patience == max_iter;
  if (done) write_best(team, link, progress, output);
  return done;
}

template <class F>
void newton(Memory& memory, const Team& team, const Samples& samples, const Features<F>& features,
            const Survey<F>& survey, Progress& progress, double tol, std::int64_t max_iter, const Output<F>& output) {
  const std::size_t n = samples.n, k = samples.k, m = samples.m;
  Point at;
  at.place(memory.take<double>(Point::size(n, k)), n, k);
  NewtonSystem system(memory, samples);
  place_start(team, samples, features.features(), survey.theta, at);
  if (samples.lambda1 == 0) {
    GramLink<F> link(memory, samples, features);
    interior_point(team, samples, link, system, at, progress, max_iter, max_iter, 0);
    SparseLink<F, F> all(memory, samples, features, survey.lengths, survey.longest);
    all.evaluate(team, progress.best());
    return output.write(all);
  }
  const double strength = samples.lambda1 * samples.lambda1 / samples.lambda2;
  if (strength <= (features.features() >= samples.n ? kLight : kSurelyLight)) {
    const std::int64_t patience = strength > kNoFullForm ? kLightIterations : max_iter;
    const bool done =
        tol >= kFloatTolerance && moderate(samples)
            ? light<F>(memory, team, samples, features, survey, system, at, progress, max_iter, patience, output)
            : light<double>(memory, team, samples, features, survey, system, at, progress, max_iter, patience, output);
    if (done) return;
    place_start(team, samples, features.features(), survey.theta, at);
  }
  using Link = SparseLink<F, double>;
  Link link(memory, samples, features, survey.lengths, survey.longest);
  FullForm<Link> form(samples, link, memory.take<double>(FullForm<Link>::size(features.features(), m)),
                      memory.take<double>(2 * n * m));
  form.start(team, at.L);
  interior_point(team, samples, form, system, at, progress, max_iter, max_iter, 0);
  link.evaluate(team, progress.best());
  output.write(link);
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

template <class F>
void first_order(Memory& memory, const Team& team, const Samples& samples, const Features<F>& features,
                 const Survey<F>& survey, Progress& progress, Solver solver, std::int64_t max_iter,
                 const Output<F>& output) {
  const std::size_t n = samples.n, k = samples.k;
  SparseLink<F, double> link(memory, samples, features, survey.lengths, survey.longest);
  if (solver == Solver::fista) {
    const double constant = lipschitz(memory, samples, features);
    fista(team, samples, link, constant, memory.take<double>(4 * n * k), progress, max_iter);
  } else {
    Sweep<F, SparseLink<F, double>> sweep(memory, samples, features, link);
    bcd(team, samples, link, sweep, memory.take<double>(n * k + 3 * k), progress, max_iter);
  }
  link.evaluate(team, progress.best());
  output.write(link);
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

  double* best = memory.take<double>(std::size_t(samples.n) * k);
  const int patience = options.solver == Solver::newton ? kNewtonPatience : kFirstOrderPatience;
  Progress progress(best, options.tol, patience);
  if (samples.n == 0) {
    progress.record(team, best, 0, {0, 0}, 0);
  } else {
    const Survey<F> seen = survey(memory, team, samples, features);
    if (!seen.finite) throw std::domain_error("features: expected finite values");
    const Output<F> output{W, active, samples.k};
    if (options.solver == Solver::newton) {
      newton(memory, team, samples, features, seen, progress, options.tol, options.max_iter, output);
    } else {
      first_order(memory, team, samples, features, seen, progress, options.solver, options.max_iter, output);
    }
    for (int i = 0; i < samples.n; ++i) std::copy(best + i * k, best + (i + 1) * k, dual + task.present[i] * k);
  }
  solutions.gap[index] = task.scale * progress.certificate.gap;
  solutions.relative_gap[index] = progress.relative_gap;
  solutions.objective[index] = task.scale * progress.certificate.objective;
  solutions.n_iter[index] = progress.n_iter;
  solutions.status[index] = std::int64_t(progress.status);
}

// Blocks of the candidates' columns, put where they belong in grad_X (all samples, d).
template <class F, class Adjoint, class Link>
void write_feature_gradients(Memory& memory, const Adjoint& adjoint, const Link& link, const Task<F>& task,
                             std::size_t d, F* grad_X) {
  const int n = task.samples.n, terms = adjoint.terms(), count = link.candidates();
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
      for (int a = 0; a < here; ++a) row[link.index(from + a)] = block[std::ptrdiff_t(i) * kBlock + a];
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
  using Link = SparseLink<F, F>;
  using Adjoint = Adjoint<Team, Link, NewtonSystem>;
  Link link(memory, samples, features, nullptr, 0);
  NewtonSystem system(memory, samples);
  Adjoint adjoint(team, samples, link, system, kResidual<F>, memory.take<double>(Adjoint::size(n, k, link.ld())));
  link.evaluate_active(team, dual, solved.active + index * d);
  const ScalarGradients scalars =
      adjoint.run(dual, [&](int c, int a) { return double(grad_W[link.index(a) * k + c]); });
  write_feature_gradients(memory, adjoint, link, task, d, grad_X);
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
