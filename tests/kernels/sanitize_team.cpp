// Runs every loop of csrc/algorithm with a team of three threads, for ThreadSanitizer to watch, and with one thread:
// both give the same bits.
//
// The features and the linear algebra are those of the CPU, which know one thread only: the team's first thread calls
// them. Every race that is found is one of the algorithm's.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/algorithm/adjoint.hpp"
#include "../../csrc/algorithm/first_order.hpp"
#include "../../csrc/algorithm/full_form.hpp"
#include "../../csrc/algorithm/newton.hpp"
#include "../../csrc/algorithm/requirements.hpp"
#include "../../csrc/cpu/primal_map.hpp"
#include "../../csrc/cpu/sweep.hpp"
#include "../../csrc/cpu/system.hpp"

// The loops need what requirements.hpp states, and no more.
namespace sparsedis {
using TryFinish = bool (*)();
using Gradient = double (*)(int, int);
namespace r = requirements;
template double start_on_the_line(const r::Team&, const Samples&, int, float*);
template void place_start(const r::Team&, const Samples&, int, double, Point&);
template bool interior_point(const r::Team&, const Samples&, r::Form&, r::System&, Point&, Progress&, const Limits&,
                             TryFinish);
template class FullForm<r::PrimalMap>;
template void FullForm<r::PrimalMap>::start(const r::Team&, const double*);
template bool interior_point(const r::Team&, const Samples&, FullForm<r::PrimalMap>&, r::System&, Point&, Progress&,
                             const Limits&, TryFinish);
template class Finish<r::Team, r::PrimalMap, r::System>;
template void fista(const r::Team&, const Samples&, r::PrimalMap&, double, double*, Progress&, std::int64_t, double,
                    TryFinish);
template void bcd(const r::Team&, const Samples&, r::PrimalMap&, r::Sweep&, double*, Progress&, std::int64_t);
template class Adjoint<r::Team, r::PrimalMap, r::System>;
template ScalarGradients Adjoint<r::Team, r::PrimalMap, r::System>::run(const double*, Gradient);
}  // namespace sparsedis

extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }

namespace {

using namespace sparsedis;

void check(bool fine, const char* what) {
  if (fine) return;
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);  // other threads may wait for this one
}

// What the threads of a team share. Values pass through two places in turn: who writes the one has seen, at the barrier
// of the other, that nobody reads it any more.
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
      check(std::chrono::steady_clock::now() < end, "a thread does not come to the barrier");
      std::this_thread::yield();
    }
  }

  const int threads;
  std::vector<double> values[2];

 private:
  std::atomic<int> arrived_{0}, turn_{0};
};

// One thread's view of its team. Barriers are where requirements.hpp promises them, and nowhere else; sums are added in
// the order of the indices, so that they do not depend on the number of threads.
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

  // f() of the first thread, in all threads.
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

  explicit System(Own& own) : own_(own) {}

  template <class Curvature>
  void factor(const Team& team, Curvature curvature, const double* bounds, const double* L,
              const unsigned char* free = nullptr) {
    team.once([&] { own_.factor(kAlone, curvature, bounds, L, free); });
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

// Random clusters, one for each class; a sample in four counts half.
struct Problem {
  std::vector<double> X, s, norms;
  std::vector<const double*> row;
  std::vector<int> label;
  double longest = 0;  // the largest ||x_j||
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
      double square = 0, length = 0;
      for (int l = 0; l < kClasses; ++l) {
        double V = 0;
        for (int i = 0; i < kSamples; ++i) V += row[i][j] * s[i] * ((label[i] == l ? 1 : 0) - 1.0 / kClasses);
        square += V * V;
      }
      for (int i = 0; i < kSamples; ++i) length += row[i][j] * row[i][j];
      norms.push_back(std::sqrt(square));
      longest = std::max(longest, std::sqrt(length));
    }
    lambda1 *= *std::max_element(norms.begin(), norms.end());
    samples = {kSamples, kClasses, kRows, label.data(), s.data(), lambda1, lambda2, rho};
  }
};

enum class Solve { light, light_and_finish, full_and_finish, fista, bcd };

// One problem and all memory that its threads share.
class Run {
 public:
  Run(const Problem& problem, Solve solve)
      : problem_(problem),
        samples_(problem.samples),
        solve_(solve),
        features_(problem.row.data(), kSamples, kFeatures, 1),
        primal_(memory_, samples_, features_, nullptr, problem.longest * cpu::screening_unit(samples_)),
        system_(memory_, samples_),
        sweep_(memory_, samples_, features_, primal_),
        norms_(problem.norms) {}

  // What the team finds, every thread for itself: the dual point, its gap, the gradients.
  std::vector<double> operator()(const Team& team) {
    PrimalMap primal(primal_);
    System system(system_);
    const double tol = solve_ == Solve::fista || solve_ == Solve::bcd ? 1e-5 : 1e-9;
    Progress progress(best_, tol, solve_ == Solve::light ? tol : kRounding, 500);
    const std::int64_t max_iter = 2000;
    Finish<Team, PrimalMap, System> finish(samples_, primal, system, finish_, free_);
    auto try_finish = [&](const double* L) { return finish.run(team, L, progress, max_iter); };
    if (solve_ == Solve::fista) {
      double square = 0;
      for (double x : problem_.X) square += x * x;
      fista(team, samples_, primal, square / samples_.lambda2 + samples_.rho, loop_, progress, max_iter, kFinishGap,
            [&] {
              primal.evaluate(team, progress.best());
              return try_finish(progress.best());
            });
    } else if (solve_ == Solve::bcd) {
      Sweep sweep(sweep_);
      bcd(team, samples_, primal, sweep, loop_, progress, 200);
    } else {
      Point at;
      at.place(loop_, kSamples, kClasses);
      const double theta = start_on_the_line(team, samples_, kFeatures, norms_.data());
      place_start(team, samples_, kFeatures, theta, at);
      auto iterate = [&](auto& form, double finish_gap) {
        interior_point(team, samples_, form, system, at, progress, {max_iter, max_iter, 0, finish_gap},
                       [&] { return try_finish(at.L); });
      };
      if (solve_ == Solve::full_and_finish) {
        FullForm<PrimalMap> form(samples_, primal, form_, rows_);
        form.start(team, at.L);
        iterate(form, kFinishGap);
      } else {
        iterate(primal, solve_ == Solve::light ? 0 : kFinishGap);
      }
    }
    check(progress.enough(), "a task is not certified");

    primal.evaluate(team, best_);
    if (team.by_first([&] {
          for (int j = 0; j < kFeatures; ++j) active_[j] = false;
          for (int a = 0; a < primal.candidates(); ++a) active_[primal_.index(a)] = primal.active(a);
          return 1;
        }) > 0) {
      primal.evaluate_active(team, best_, active_);
    }
    Adjoint<Team, PrimalMap, System> adjoint(team, samples_, primal, system, adjoint_, free_);
    const ScalarGradients scalars = adjoint.run(best_, [](int c, int a) { return std::cos(c + 5.0 * a); });

    std::vector<double> result = {double(progress.n_iter), progress.relative_gap, scalars.lambda1, scalars.lambda2,
                                  scalars.dual_reg};
    result.insert(result.end(), best_, best_ + kSamples * kClasses);
    for (int term = 0; term < adjoint.terms(); ++term) {
      for (int i = 0; i < kSamples; ++i) result.push_back(adjoint.column(i, term));
      result.insert(result.end(), adjoint.plane(term), adjoint.plane(term) + primal.candidates());
    }
    return result;
  }

 private:
  static constexpr std::size_t kSize = kSamples * kClasses;
  using Algorithms = Finish<Team, PrimalMap, System>;
  using Gradients = Adjoint<Team, PrimalMap, System>;

  double* take(std::size_t count) { return memory_.take<double>(count); }

  const Problem& problem_;
  const Samples& samples_;
  Solve solve_;
  cpu::Memory memory_;
  cpu::Features<double> features_;
  PrimalMap::Own primal_;
  System::Own system_;
  Sweep::Own sweep_;
  std::vector<double> norms_;
  double *best_ = take(kSize), *loop_ = take(Point::size(kSamples, kClasses)),
         *form_ = take(FullForm<PrimalMap>::size(kFeatures, kRows)), *rows_ = take(2 * kSize),
         *finish_ = take(Algorithms::size(kSamples, kClasses)),
         *adjoint_ = take(Gradients::size(kSamples, kClasses, primal_.ld()));
  unsigned char* free_ = memory_.take<unsigned char>(2 * kSize);
  bool active_[kFeatures];
};

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

std::vector<double> run(const Problem& problem, Solve solve, int threads) {
  Run task(problem, solve);
  Shared shared(threads, std::max(kSamples * kClasses, kFeatures));
  std::vector<std::vector<double>> results(threads);
  std::vector<std::thread> others;
  auto work = [&](int rank) { results[rank] = task(Team(shared, rank)); };
  for (int rank = 1; rank < threads; ++rank) others.emplace_back(work, rank);
  work(0);
  for (std::thread& thread : others) thread.join();
  for (const auto& result : results) check(same(result, results[0]), "the threads of a team disagree");
  return results[0];
}

}  // namespace

int main() {
  for (Solve solve : {Solve::light, Solve::light_and_finish, Solve::full_and_finish, Solve::fista, Solve::bcd}) {
    for (double rho : {0.0, 0.1}) {
      const Problem problem(0.2, 30, rho);
      check(same(run(problem, solve, 3), run(problem, solve, 1)), "three threads do not find what one finds");
    }
  }
  std::puts("teams of threads ran clean");
}
