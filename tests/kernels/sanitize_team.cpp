// Runs every loop of csrc/svm/algorithm with a team of three threads under ThreadSanitizer, and with one thread; the
// results are bitwise equal.
//
// The features and the linear algebra are those of the CPU, which are for one thread and called by the team's first
// thread, so any data race is one of the algorithms.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/svm/algorithm/adjoint.hpp"
#include "../../csrc/svm/algorithm/requirements.hpp"
#include "../../csrc/svm/algorithm/weights.hpp"
#include "../../csrc/svm/cpu/primal_map.hpp"
#include "../../csrc/svm/cpu/sweep.hpp"
#include "../../csrc/svm/cpu/system.hpp"
#include "../../csrc/svm/policy.hpp"

// The loops compile with exactly what requirements.hpp states.
template class sparsedis::Policy<sparsedis::requirements::Device>;
template class sparsedis::Adjoint<sparsedis::requirements::Team, sparsedis::requirements::PrimalMap,
                                  sparsedis::requirements::System>;
template sparsedis::ScalarGradients
sparsedis::Adjoint<sparsedis::requirements::Team, sparsedis::requirements::PrimalMap,
                   sparsedis::requirements::System>::run(const double*, double (*)(int, int));
template double sparsedis::minimise_on_segment(const sparsedis::requirements::Team&, const sparsedis::Samples&, int,
                                               float*);

extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }

namespace {

using namespace sparsedis;

void check(bool fine, const char* what) {
  if (fine) return;
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);  // other threads may wait for this one
}

// The shared state of a team. Values are exchanged through two alternating buffers: before a buffer is written again,
// the barrier of the other one ensures that no thread still reads it.
class Shared {
 public:
  Shared(int threads, int most) : threads(threads), values{std::vector<double>(most), std::vector<double>(most)} {}

  void wait() {
    const int turn = turn_;
    if (++arrived_ == threads) {
      arrived_ = 0;
      ++turn_;
      return;
    }
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (turn_ == turn) {
      check(std::chrono::steady_clock::now() < end, "a thread does not reach the barrier");
      std::this_thread::yield();
    }
  }

  const int threads;
  std::vector<double> values[2];

 private:
  std::atomic<int> arrived_{0}, turn_{0};
};

// One thread's view of its team. There are barriers exactly where requirements.hpp promises them. Sums are in the order
// of the indices, so that they do not depend on the number of threads.
class Team {
 public:
  Team(Shared& shared, int rank) : shared_(shared), rank_(rank) {}

  void check_interruption() const {}

  template <class F>
  void each(int count, F f) const {
    for (int i = rank_; i < count; i += shared_.threads) f(i);
    shared_.wait();
  }

  template <class F>
  void each_entry(int rows, int columns, F f) const {
    each(rows * columns, [&](int e) { f(e / columns, e % columns); });
  }

  struct Block {
    static constexpr int kMost = 3;
    int from, count;

    template <class G>
    void each(G g) const {
      for (int b = 0; b < count; ++b) g(from + b, b);
    }
  };

  template <class F>
  void each_block(int count, F f) const {
    each((count + Block::kMost - 1) / Block::kMost, [&](int block) {
      const int from = block * Block::kMost;
      f(Block{from, std::min(Block::kMost, count - from)});
    });
  }

  template <class F>
  void once(F f) const {
    if (rank_ == 0) f();
    shared_.wait();
  }

  template <class F>
  double sum(int count, F f) const {
    double result = 0;
    for (double value : all(count, f)) result += value;
    return result;
  }

  template <class F>
  double least(int count, F f) const {
    double result = INFINITY;
    for (double value : all(count, f)) result = value < result ? value : result;
    return result;
  }

  template <class T>
  int partition(T* x, int count, T threshold) const {
    return int(by_first([&] { return cpu::Team().partition(x, count, threshold); }));
  }

  // The result of f() in the first thread, for all threads.
  template <class F>
  double by_first(F f) const {
    return all(1, [&](int) { return double(f()); })[0];
  }

 private:
  struct Values {
    const double *first, *last;
    const double* begin() const { return first; }
    const double* end() const { return last; }
    double operator[](int i) const { return first[i]; }
  };

  template <class F>
  Values all(int count, F f) const {
    turn_ ^= 1;
    std::vector<double>& values = shared_.values[turn_];
    check(count <= int(values.size()), "a team has too little memory");
    for (int i = rank_; i < count; i += shared_.threads) values[i] = f(i);
    shared_.wait();
    return {values.data(), values.data() + count};
  }

  Shared& shared_;
  int rank_;
  mutable int turn_ = 0;
};

const cpu::Team kAlone;

// The CPU's primal map, for a team.
class PrimalMap : public NoVariables {
 public:
  using Own = cpu::SparsePrimalMap<double, double>;

  explicit PrimalMap(Own& own) : own_(own) {}

  int features() const { return own_.features(); }
  int candidates() const { return own_.candidates(); }
  int index(int a) const { return own_.index(a); }
  bool active(int a) const { return own_.active(a); }
  double W(int c, int a) const { return own_.W(c, a); }
  double alpha(int a) const { return own_.alpha(a); }
  double beta(int a) const { return own_.beta(a); }
  double unit(int c, int a) const { return own_.unit(c, a); }
  std::ptrdiff_t ld() const { return own_.ld(); }
  const double* residual() const { return own_.residual(); }
  const double* scores() const { return own_.scores(); }
  const double* gradient_scores() const { return own_.gradient_scores(); }

  double evaluate(const Team& team, const double* L) {
    return team.by_first([&] { return own_.evaluate(kAlone, L); });
  }
  double margin(const Team& team) {
    return team.by_first([&] { return own_.margin(kAlone); });
  }
  void evaluate_active(const Team& team, const double* L, const bool* active) {
    team.once([&] { own_.evaluate_active(kAlone, L, active); });
  }
  void mean_curvature(const Team& team, double* to) {
    team.once([&] { own_.mean_curvature(kAlone, to); });
  }
  void correlate(const Team& team, const double* rows, double* planes) {
    team.once([&] { own_.correlate(kAlone, rows, planes); });
  }
  void apply(const Team& team, const double* planes, double* scores) {
    team.once([&] { own_.apply(kAlone, planes, scores); });
  }
  void correlate_candidates(const Team& team, const double* rows, double* planes) {
    team.once([&] { own_.correlate_candidates(kAlone, rows, planes); });
  }
  void apply_candidates(const Team& team, double* planes, double* scores) {
    team.once([&] { own_.apply_candidates(kAlone, planes, scores); });
  }
  void multiply(const Team& team, const double* rows, double* to) {
    team.once([&] { own_.multiply(kAlone, rows, to); });
  }
  template <class System>
  void add_curvature(System& system) {
    own_.add_curvature(system);
  }
  template <class System, class Keep, class Alpha, class Beta, class Unit>
  void add_curvature_of(System& system, Keep keep, Alpha alpha, Beta beta, Unit unit) {
    own_.add_curvature_of(system, keep, alpha, beta, unit);
  }

 private:
  Own& own_;
};

// The CPU's Newton system, for a team.
class System {
 public:
  using Own = cpu::NewtonSystem<double>;
  static constexpr bool kCheapSolves = Own::kCheapSolves;

  explicit System(Own& own) : own_(own) {}

  template <class Form>
  void factor(const Team& team, Form& form, const double* bounds, const double* L,
              const unsigned char* free = nullptr) {
    team.once([&] { own_.factor(kAlone, form, bounds, L, free); });
  }
  void solve(const Team& team, const double* rhs, double* q, const unsigned char* free = nullptr) const {
    team.once([&] { own_.solve(kAlone, rhs, q, free); });
  }

 private:
  Own& own_;
};

// The CPU's sweep of coordinate descent, for a team.
class Sweep {
 public:
  using Own = cpu::Sweep<double, PrimalMap::Own>;

  explicit Sweep(Own& own) : own_(own) {}

  double square(int i) const { return own_.square(i); }
  const double* scores() const { return own_.scores(); }
  void restart(const Team& team, const double* L) {
    team.once([&] { own_.restart(kAlone, L); });
  }
  void visit(const Team& team, int i) {
    team.once([&] { own_.visit(kAlone, i); });
  }
  void update(const Team& team, const double* change) {
    team.once([&] { own_.update(kAlone, change); });
  }

 private:
  Own& own_;
};

constexpr int kSamples = 14, kFeatures = 60, kClasses = 3, kRows = kClasses - 1;

// Random clusters, one per class; one sample in four has weight 0.5.
struct Problem {
  std::vector<double> X, s, norms;
  std::vector<const double*> row;
  std::vector<int> label;
  Samples samples;

  Problem(double lambda1, double lambda2, double rho) {
    std::mt19937 generator(0);
    std::normal_distribution<double> normal;
    double centre[kClasses][kFeatures];
    for (auto& of_class : centre) {
      for (double& value : of_class) value = normal(generator);
    }
    for (int i = 0; i < kSamples; ++i) {
      label.push_back(i % kClasses);
      s.push_back(i % 4 ? 1 : 0.5);
      for (int j = 0; j < kFeatures; ++j) X.push_back(centre[label[i]][j] + 2 * normal(generator));
    }
    for (int i = 0; i < kSamples; ++i) row.push_back(X.data() + i * kFeatures);
    for (int j = 0; j < kFeatures; ++j) {
      double square = 0;
      for (int l = 0; l < kClasses; ++l) {
        double V = 0;
        for (int i = 0; i < kSamples; ++i) V += row[i][j] * s[i] * ((label[i] == l ? 1 : 0) - 1.0 / kClasses);
        square += V * V;
      }
      norms.push_back(std::sqrt(square));
    }
    lambda1 *= *std::max_element(norms.begin(), norms.end());
    samples = {kSamples, kClasses, kRows, label.data(), s.data(), lambda1, lambda2, rho};
  }
};

// One problem and the shared state of its team.
struct Task {
  explicit Task(const Problem& problem)
      : samples(problem.samples),
        features(problem.row.data(), kSamples, kFeatures, 1),
        scan(cpu::scan(memory, cpu::Team(), samples, features)),
        primal(memory, samples, features, &scan),
        system(memory, samples),
        sweep(memory, samples, features, primal),
        norms(problem.norms) {
    for (double x : problem.X) lipschitz += x * x / samples.lambda2;
    lipschitz += samples.rho;
  }

  const Samples& samples;
  cpu::Memory memory;
  cpu::Features<double> features;
  cpu::Scan<double> scan;
  PrimalMap::Own primal;
  System::Own system;
  Sweep::Own sweep;
  std::vector<double> norms;
  double lipschitz = 0;
  bool active[kFeatures] = {};
  double W[kFeatures * kClasses];
  std::vector<std::unique_ptr<char[]>> arrays;  // in the order of allocation
};

// One thread's view of a task.
class Device {
 public:
  using Team = ::Team;
  using Feature = double;
  static constexpr bool kFirstOrderFirst = true;
  template <class>
  using System = ::System;

  Device(const Team& team, Task& task) : team_(team), task_(task) {}

  const Team& team() const { return team_; }
  const Samples& samples() const { return task_.samples; }
  int features() const { return kFeatures; }
  double lipschitz() const { return task_.lipschitz; }
  double start() const { return minimise_on_segment(team_, task_.samples, kFeatures, task_.norms.data()); }
  template <class>
  PrimalMap primal_map() const {
    return PrimalMap(task_.primal);
  }
  PrimalMap gram_primal_map() const { return PrimalMap(task_.primal); }
  template <class>
  ::System system() const {
    return ::System(task_.system);
  }
  Sweep sweep(PrimalMap&) const { return Sweep(task_.sweep); }

  // Memory is not reused, so that reads of stale arrays are detected.
  struct Scope {
    explicit Scope(const Device&) {}
    ~Scope() {}
  };
  // Arrays are filled with NaN.
  template <class T>
  T* take(std::size_t count) const {
    team_.once([&] {
      task_.arrays.emplace_back(new char[count * sizeof(T)]);
      std::memset(task_.arrays.back().get(), 0xff, count * sizeof(T));
    });
    char* const array = task_.arrays[taken_++].get();
    team_.once([] {});  // all threads have this array before the next one is allocated
    return reinterpret_cast<T*>(array);
  }

  Weights write(PrimalMap& primal, const double* L) const {
    team_.each(kFeatures, [&](int j) { task_.active[j] = false; });
    team_.each(kFeatures * kClasses, [&](int e) { task_.W[e] = 0; });
    return write_weights(team_, task_.samples, primal, L, task_.W, task_.active,
                         take<double>(weights_size(kSamples, kRows, primal.ld())));
  }

 private:
  const Team& team_;
  Task& task_;
  mutable std::size_t taken_ = 0;
};

// Solution and gradients, from one thread of the team.
std::vector<double> solve(const Team& team, Task& task, const Options& options) {
  Device device(team, task);
  double* best = device.take<double>(kSamples * kClasses);
  Policy<Device> policy(device, options, best);
  const Outcome found = options.solver == Solver::newton ? policy.solve_by_newton() : policy.solve_by_first_order();
  check(found.status == Status::certified, "a task is not certified");

  PrimalMap primal(task.primal);
  System system(task.system);
  primal.evaluate_active(team, best, task.active);
  using Gradients = Adjoint<Team, PrimalMap, System>;
  Gradients adjoint(team, task.samples, primal, system,
                    device.take<double>(Gradients::size(kSamples, kClasses, primal.ld())),
                    device.take<unsigned char>(Gradients::flags(kSamples, kClasses)));
  const ScalarGradients scalars = adjoint.run(best, [](int c, int a) { return std::cos(c + 5.0 * a); });

  std::vector<double> result = {double(found.n_iter), found.weights.certificate.gap,
                                found.weights.margin, scalars.lambda1,
                                scalars.lambda2,      scalars.dual_reg};
  result.insert(result.end(), best, best + kSamples * kClasses);
  for (int term = 0; term < adjoint.terms(); ++term) {
    for (int i = 0; i < kSamples; ++i) result.push_back(adjoint.column(i, term));
    result.insert(result.end(), adjoint.plane(term), adjoint.plane(term) + primal.candidates());
  }
  return result;
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

std::vector<double> run(const Problem& problem, const Options& options, int threads) {
  Task task(problem);
  Shared shared(threads, std::max(kSamples * kClasses, kFeatures));
  std::vector<std::vector<double>> results(threads);
  std::vector<std::thread> others;
  auto work = [&](int rank) { results[rank] = solve(Team(shared, rank), task, options); };
  for (int rank = 1; rank < threads; ++rank) others.emplace_back(work, rank);
  work(0);
  for (std::thread& thread : others) thread.join();
  for (const auto& result : results) check(same(result, results[0]), "the threads of a team disagree");
  return results[0];
}

}  // namespace

int main() {
  // lambda1 relative to its maximum, and lambda2: the light form, the full form, no group Lasso.
  const double penalties[][2] = {{0.2, 3000}, {0.2, 1}, {0, 30}};
  for (const auto& penalty : penalties) {
    for (double rho : {0.0, 0.1}) {
      const Problem problem(penalty[0], penalty[1], rho);
      for (Solver solver : {Solver::newton, Solver::fista, Solver::bcd}) {
        if (solver != Solver::newton && penalty[1] < 10) continue;  // thousands of steps
        for (bool exact : {false, true}) {
          const Options options{solver, exact ? 1e-5 : 3e-3, 1000, exact, 1};
          check(same(run(problem, options, 3), run(problem, options, 1)),
                "three threads and one thread have different results");
        }
      }
    }
  }
  std::puts("teams of threads ran clean");
}
