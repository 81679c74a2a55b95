// How one task is solved on any device: the form of the Newton iteration, the initial points, when to give up, and the
// fallbacks.
//
// Newton tries the forms that suit the task, light before full, with products in float if the features are float, then
// in double, and finally falls back to first-order steps. From a gap of kFinishGap on, the finish takes each of them to
// rounding error. If the Newton matrix is so large that factoring it costs more than many first-order steps, these are
// tried first, with a budget of half of Newton's usual cost.
#pragma once

#include "algorithm/finish.hpp"
#include "algorithm/first_order.hpp"
#include "algorithm/full_form.hpp"
#include "algorithm/newton.hpp"
#include "api.hpp"
#include "thresholds.hpp"

namespace sparsedis {

struct Outcome {
  Weights weights;
  Status status;
  std::int64_t n_iter;
};

// Device is a task together with the device that solves it (requirements.hpp).
template <class Device>
class Policy {
 public:
  // best: memory for the best dual point, (n, k).
  SPARSEDIS_HOST_DEVICE Policy(Device& device, const Options& options, double* best)
      : device_(device),
        team_(device.team()),
        samples_(device.samples()),
        options_(options),
        newton_runs_(options.solver == Solver::newton),
        // A tolerance that only the finish reaches is close to rounding error, so the solve continues to that.
        exact_(options.exact || (newton_runs_ && options.tol < kFinishGap)),
        progress_(best, solver_tol(), newton_runs_ && exact_ ? smaller(kRounding, solver_tol()) : solver_tol(),
                  newton_runs_ ? kNewtonPatience : kFirstOrderPatience) {}

  // Solve by the solver of the options. Separate functions, so that a device need not compile both.
  SPARSEDIS_HOST_DEVICE Outcome solve_by_newton() {
    if (samples_.n > 0) newton();
    return outcome();
  }
  SPARSEDIS_HOST_DEVICE Outcome solve_by_first_order() {
    if (samples_.n > 0) first_order();
    return outcome();
  }

  // newton in two parts, for devices that compile them separately: with products in float, returning whether the task
  // is solved; and in double, from the best point of the first part, which is in `best`, after n_iter iterations.
  SPARSEDIS_HOST_DEVICE bool solve_in_float() { return samples_.n == 0 || newton_in_float(); }
  SPARSEDIS_HOST_DEVICE Outcome solve_in_double(std::int64_t n_iter, double relative_gap) {
    progress_.n_iter = n_iter;
    progress_.relative_gap = relative_gap;
    if (samples_.n > 0) newton_in_double();
    return outcome();
  }
  SPARSEDIS_HOST_DEVICE double relative_gap() const { return progress_.relative_gap; }

  SPARSEDIS_HOST_DEVICE Outcome outcome() const {
    const Certificate& at = weights_.certificate;
    const double attainable = Certificate{weights_.attainable, at.objective}.relative();
    const Status status =
        status_as_returned(progress_.status, progress_.relative_gap, at.relative(), attainable, options_.tol);
    return {weights_, status, progress_.n_iter};
  }

 private:
  using Team = typename Device::Team;
  using Feature = typename Device::Feature;
  using Scope = typename Device::Scope;
  static constexpr bool kFloatFeatures = sizeof(Feature) < sizeof(double);

  SPARSEDIS_HOST_DEVICE static std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
  SPARSEDIS_HOST_DEVICE static double smaller(double a, double b) { return a < b ? a : b; }

  SPARSEDIS_HOST_DEVICE double solver_tol() const {
    return kFloatFeatures ? kSolverTolShare * options_.tol : options_.tol;
  }
  SPARSEDIS_HOST_DEVICE double finish_gap() const { return exact_ ? kFinishGap : 0; }
  SPARSEDIS_HOST_DEVICE bool certified() const { return progress_.status == Status::certified; }

  // Whether lambda1, lambda2 and their products with other values are in the range of float.
  SPARSEDIS_HOST_DEVICE bool fits_float() const {
    const double lambda1 = samples_.lambda1, lambda2 = samples_.lambda2;
    return kFloatFeatures && lambda1 > kFloatSmallest && lambda1 < kFloatLargest && lambda2 > kFloatSmallest &&
           lambda2 < kFloatLargest;
  }

  // The finish on a primal map, with its memory.
  template <class PrimalMap>
  class Finisher {
   public:
    using System = typename Device::template System<PrimalMap>;

    SPARSEDIS_HOST_DEVICE Finisher(Policy& policy, PrimalMap& primal, System& system, std::int64_t max_iter)
        : policy_(policy),
          primal_(primal),
          max_iter_(max_iter),
          finish_(policy.samples_, primal, system,
                  policy.device_.template take<double>(Algorithm::size(policy.samples_.n, policy.samples_.k)),
                  policy.device_.template take<unsigned char>(Algorithm::flags(policy.samples_.n, policy.samples_.k))) {
    }

    // From L, where the map was last evaluated.
    SPARSEDIS_HOST_DEVICE bool from_interior(const double* L) {
      return finish_.run(policy_.team_, L, policy_.progress_, max_iter_, true, default_persistence());
    }
    SPARSEDIS_HOST_DEVICE bool from_best(Persistence persistence) {
      primal_.evaluate(policy_.team_, policy_.progress_.best());
      return finish_.run(policy_.team_, policy_.progress_.best(), policy_.progress_, max_iter_, false, persistence);
    }

   private:
    using Algorithm = Finish<Team, PrimalMap, System>;

    Policy& policy_;
    PrimalMap& primal_;
    std::int64_t max_iter_;
    Algorithm finish_;
  };

  // Runs the interior point in one of its forms for at most `most` iterations, with the finish on the primal map.
  // Returns whether to try again from another initial point.
  template <class Form, class PrimalMap>
  SPARSEDIS_HOST_DEVICE bool run_form(Form& form, PrimalMap& primal, Point& at, int attempt, std::int64_t patience,
                                      double give_up_gap, std::int64_t most) {
    const Scope scope(device_);
    auto system = device_.template system<PrimalMap>();
    Finisher<PrimalMap> finisher(*this, primal, system, options_.max_iter);
    const std::int64_t max_iter = smaller(options_.max_iter, progress_.n_iter + most);
    const int short_steps = attempt + 1 < kAttempts ? kShortSteps : kNewtonIterations;
    return interior_point(team_, samples_, form, system, at, progress_,
                          {max_iter, patience, give_up_gap, finish_gap(), short_steps},
                          [&] { return finisher.from_interior(at.L); });
  }

  // Calls run(attempt) from an initial point, and while it returns true from another; the last one is centred.
  static constexpr int kAttempts = 2;
  template <class Run>
  SPARSEDIS_HOST_DEVICE void attempt(Point& at, Run run) {
    bool again = true;
    for (int attempt = 0; again && attempt < kAttempts; ++attempt) {
      const double theta = attempt + 1 < kAttempts ? device_.start() : kLargestStart;
      place_start(team_, samples_, device_.features(), theta, at);
      progress_.restart(kNewtonPatience);
      again = run(attempt);
    }
  }

  template <class PrimalMap>
  SPARSEDIS_HOST_DEVICE void write(PrimalMap& primal) {
    weights_ = device_.write(primal, progress_.best());
  }

  // Runs the forms that suit the task, with at most `most` iterations each. Returns whether the task is certified and
  // its solution written.
  template <class PrimalMap>
  SPARSEDIS_HOST_DEVICE bool solve_by_forms(PrimalMap&& primal, Point& at, std::int64_t most) {
    const int d = device_.features();
    const double strength = samples_.lambda1 * samples_.lambda1 / samples_.lambda2;
    const bool light = strength <= (d >= samples_.n ? kLightStrength : kLightStrengthFewFeatures);
    const bool full = strength > kFullStrength;
    if (light) {
      attempt(at, [&](int attempt) {
        const std::int64_t patience = full ? progress_.n_iter + kLightIterations : options_.max_iter;
        return run_form(primal, primal, at, attempt, patience, kLightGap, most);
      });
    }
    if (full && !(light && (certified() || progress_.n_iter >= options_.max_iter))) {
      using Full = FullForm<PrimalMap>;
      const Scope scope(device_);
      double* memory = device_.template take<double>(Full::size(samples_.n, samples_.k, d));
      attempt(at, [&](int attempt) {
        Full form(samples_, primal, memory);
        form.start(team_, at.L);
        return run_form(form, primal, at, attempt, options_.max_iter, 0, most);
      });
    }
    if (certified()) write(primal);
    return certified();
  }

  SPARSEDIS_HOST_DEVICE void newton() {
    if (!first_order_first() && !newton_in_float()) newton_in_double();
  }

  // Tries first-order steps with the finish where they are likely to be cheaper than Newton. Returns whether the task
  // is solved to the required accuracy and its solution written.
  SPARSEDIS_HOST_DEVICE bool first_order_first() {
    if constexpr (Device::kFirstOrderFirst) {
      // A small max_iter should not be followed by thousands of first-order steps.
      if (!is_large(samples_) || options_.max_iter < kNewtonIterations) return false;
      const double lipschitz = device_.lipschitz();
      const bool gram = samples_.lambda1 == 0 && samples_.n <= device_.features();
      const std::int64_t steps = first_order_steps(samples_, gram ? samples_.n : device_.features(), lipschitz);
      if (steps == 0) return false;
      const Scope scope(device_);
      bool solved = false;
      if (gram) {
        auto primal = device_.gram_primal_map();
        solved = run_first_order(primal, lipschitz, steps);
      } else if (fits_float()) {
        auto primal = device_.template primal_map<Feature>();
        solved = run_first_order(primal, lipschitz, steps);
      } else {
        auto primal = device_.template primal_map<double>();
        solved = run_first_order(primal, lipschitz, steps);
      }
      if (solved) {
        auto primal = device_.template primal_map<double>();
        write(primal);
      } else {
        progress_.reset();  // otherwise the certificate would end Newton before rounding error
      }
      return solved;
    }
    return false;
  }

  template <class PrimalMap>
  SPARSEDIS_HOST_DEVICE bool run_first_order(PrimalMap& primal, double lipschitz, std::int64_t steps) {
    auto system = device_.template system<PrimalMap>();
    Finisher<PrimalMap> finisher(*this, primal, system, options_.max_iter);
    bool finished = !exact_;
    std::int64_t finish_n_iter = 0;
    progress_.restart(kFirstOrderPatience);
    fista(team_, samples_, primal, lipschitz, device_.template take<double>(fista_size(samples_.n, samples_.k)),
          progress_, steps, finish_gap(), [&] {
            const std::int64_t saved_n_iter = progress_.n_iter;
            progress_.n_iter = 0;
            finished = finisher.from_best(default_persistence());
            finish_n_iter += progress_.n_iter;
            progress_.n_iter += saved_n_iter;
            return finished;
          });
    progress_.n_iter = finish_n_iter;
    return finished && progress_.enough();
  }

  SPARSEDIS_HOST_DEVICE Point take_point() {
    Point at;
    at.place(device_.template take<double>(Point::size(samples_.n, samples_.k)), samples_.n, samples_.k);
    return at;
  }

  // Returns whether the task is certified and its solution written.
  SPARSEDIS_HOST_DEVICE bool newton_in_float() {
    if constexpr (kFloatFeatures) {
      if (!fits_float()) return false;
      const Scope scope(device_);
      Point at = take_point();
      return solve_by_forms(device_.template primal_map<Feature>(), at, kFloatIterations);
    }
    return false;
  }

  SPARSEDIS_HOST_DEVICE void newton_in_double() {
    Point at = take_point();
    if (samples_.lambda1 == 0) {
      const Scope scope(device_);
      auto primal = device_.gram_primal_map();
      attempt(at, [&](int attempt) {
        return run_form(primal, primal, at, attempt, options_.max_iter, 0, kNewtonIterations);
      });
    } else if (!fits_float() || progress_.n_iter < options_.max_iter) {
      const Scope scope(device_);
      if (solve_by_forms(device_.template primal_map<double>(), at, kNewtonIterations)) return;
    }
    auto primal = device_.template primal_map<double>();
    // A small max_iter should not be followed by thousands of first-order steps.
    if (!certified() && (progress_.n_iter < options_.max_iter || options_.max_iter >= kNewtonIterations)) {
      const std::int64_t saved_n_iter = progress_.n_iter, most = saved_n_iter + kFallbackSteps;
      progress_.restart(kFirstOrderPatience);
      auto system = device_.template system<decltype(primal)>();
      Finisher<decltype(primal)> finisher(*this, primal, system, most);
      fista(team_, samples_, primal, device_.lipschitz(), at.L, progress_, most, kFinishGap,
            [&] { return finisher.from_best(default_persistence()); });
      progress_.n_iter = saved_n_iter;
      if (!progress_.enough()) finisher.from_best(last_resort_persistence());
      progress_.n_iter = saved_n_iter;
    }
    write(primal);
  }

  SPARSEDIS_HOST_DEVICE void first_order() {
    const std::size_t n = samples_.n, k = samples_.k;
    auto primal = device_.template primal_map<double>();
    if (options_.solver == Solver::fista) {
      fista(team_, samples_, primal, device_.lipschitz(), device_.template take<double>(fista_size(n, k)), progress_,
            options_.max_iter, 0, [] { return false; });
    } else {
      auto sweep = device_.sweep(primal);
      bcd(team_, samples_, primal, sweep, device_.template take<double>(bcd_size(n, k)), progress_, options_.max_iter);
    }
    const std::int64_t saved_n_iter = progress_.n_iter;
    bool finished = true;
    if (exact_ && certified()) {
      progress_.n_iter = 0;  // the finish is not counted and has its own max_iter
      auto system = device_.template system<decltype(primal)>();
      Finisher<decltype(primal)> finisher(*this, primal, system, options_.max_iter);
      finished = finisher.from_best(default_persistence());
    }
    if (finished) {
      write(primal);
    } else {
      progress_.lower_target(kRounding);
      newton();
    }
    progress_.n_iter = saved_n_iter;
  }

  Device& device_;
  const Team& team_;
  const Samples& samples_;
  const Options& options_;
  bool newton_runs_, exact_;
  Progress progress_;
  Weights weights_{{0, 0}, INFINITY, 0};
};

}  // namespace sparsedis
