// What the loops in this folder, and policy.hpp above them, ask of a device. The classes below
// are documentation that compiles: tests/kernels/sanitize_team.cpp instantiates every loop with them, so that none asks
// for more than stands here.
//
// A task is solved by a team: one thread on the CPU, the threads of a block on a GPU.
// - Every thread runs the loop. Objects (Progress, Point, Finish, ...), scalars and the control flow are each thread's
//   own and the same in all, because a reduction returns the same bits to every thread.
// - Arrays are shared. They are written by functions that the team is given (each, once; what f(i) writes, no other
//   f(i') reads or writes), and by collective functions.
// - A function with a Team among its arguments is collective: all threads call it, with the same arguments. It may read
//   all that was written before the call, and what it writes is seen by all threads once it returns. It does not begin
//   with a barrier. So between two collective calls threads do not read what the later one writes.
// - A function without a Team reads only, and any thread may call it, also from within a function given to the team.
//
// n samples, k classes, m = k-1 coordinates, d features; planes (m, d) are kept class by class.
#pragma once

#include "samples.hpp"

namespace sparsedis::requirements {

struct Team {
  // Ends the task, by leaving the loop in all threads alike, where nobody waits for it any more. Once per iteration.
  SPARSEDIS_HOST_DEVICE void check_interruption() const {}
  // f(i) for i < count, in any order and by any thread; a barrier at the end.
  template <class F>
  SPARSEDIS_HOST_DEVICE void each(int, F f) const {
    f(0);
  }
  // f(i, l) for i < rows and l < columns, likewise: a division for every entry is more than what most of them cost.
  template <class F>
  SPARSEDIS_HOST_DEVICE void each_entry(int, int, F f) const {
    f(0, 0);
  }
  // f() by one thread; a barrier at the end.
  template <class F>
  SPARSEDIS_HOST_DEVICE void once(F f) const {
    f();
  }
  // The sum of f(i), in an order that depends on count and on the size of the team alone. f is called once for every i
  // and may write what is i's own.
  template <class F>
  SPARSEDIS_HOST_DEVICE double sum(int, F f) const {
    return f(0);
  }
  // The smallest f(i), infinity for none.
  template <class F>
  SPARSEDIS_HOST_DEVICE double least(int, F f) const {
    return f(0);
  }
  // The values of x (count,) above the threshold to its front; how many there are.
  template <class T>
  SPARSEDIS_HOST_DEVICE int partition(T*, int, T) const {
    return 0;
  }
};

// What factors and solves the Newton system M = H + diag(bounds) in the space of zero row sums.
struct System {
  // Whether a solve costs so little beside a factor that a further corrector pays.
  static constexpr bool kSolvesAreCheap = true;
  // What a form adds its curvature to; form and system agree on how.
  struct Curvature {};

  // Has form.add_curvature(into) add H's part of the features; by which threads is the system's business. L (n, k):
  // each row's largest entry is eliminated. free (n, k), where given: the entries that belong to the system, nonzero;
  // every row's largest entry of L does. M may be singular up to rounding: the system adds what ridge it needs.
  template <class Form>
  SPARSEDIS_HOST_DEVICE void factor(const Team&, Form& form, const double*, const double*,
                                    const unsigned char* = nullptr) {
    Curvature into;
    form.add_curvature(into);
  }
  // q (n, k), of zero row sums, with M q = rhs up to a constant in every row. free, where given: the entries that take
  // part now; of fewer than were factored it is the inverse's restriction to them. Writes q.
  SPARSEDIS_HOST_DEVICE void solve(const Team&, const double*, double*, const unsigned char* = nullptr) const {}
};

// The features' part of the Newton iteration, and the variables that a form of it has besides L and Z: see NoVariables
// (newton.hpp) for a form without any.
struct Form {
  // The certificate's scores and penalty lambda1 sum ||W_j|| + lambda2/2 ||W||^2 at W(L); returns the penalty.
  SPARSEDIS_HOST_DEVICE double evaluate(const Team&, const double*) { return 0; }
  SPARSEDIS_HOST_DEVICE const double* scores() const { return nullptr; }  // (n, m)
  SPARSEDIS_HOST_DEVICE const double* gradient_scores() const {
    return nullptr;
  }  // (n, m), those that the dual gradient is made of
  // What the Newton system needs at L, where evaluate() was called last: curvature, residuals.
  SPARSEDIS_HOST_DEVICE void linearise(const Team&, const double*) {}
  SPARSEDIS_HOST_DEVICE void add_curvature(System::Curvature&) {}
  // What the residuals and targets of the form's own pairs, mu - damping * (the predictor's products), add to the
  // right- hand side: scores (n, m). False: nothing, and the scores are left alone.
  SPARSEDIS_HOST_DEVICE bool shift(const Team&, double, double, double*) { return false; }
  // The direction of the form's own variables, for the direction dL (n, k) of L.
  SPARSEDIS_HOST_DEVICE void complete(const Team&, const double*) {}
  // The longest step that keeps the form's own pairs positive.
  SPARSEDIS_HOST_DEVICE double max_step(const Team&) const { return 0; }
  // The sum of the pairs' products after a step; and how many there are.
  SPARSEDIS_HOST_DEVICE double products(const Team&, double) const { return 0; }
  SPARSEDIS_HOST_DEVICE int pairs() const { return 0; }
  // Keeps the products of the predictor's directions, for the corrector.
  SPARSEDIS_HOST_DEVICE void keep_products(const Team&) {}
  SPARSEDIS_HOST_DEVICE void move(const Team&, double) {}
};

// The primal point of a dual point L: with A = diag(s)(Y - L) and V = X^T A, W = BST(V, lambda1)/lambda2, the gradient
// of the penalty's conjugate at V; and the conjugate's second derivative there, alpha I + beta u u^T for every feature
// with u = V_j/||V_j||. Candidates are the features looked at closely, all active ones among them.
struct PrimalMap : Form {
  SPARSEDIS_HOST_DEVICE int features() const { return 0; }         // d
  SPARSEDIS_HOST_DEVICE int candidates() const { return 0; }       // of the point evaluated last
  SPARSEDIS_HOST_DEVICE int index(int) const { return 0; }         // the feature that candidate a is
  SPARSEDIS_HOST_DEVICE bool active(int) const { return false; }   // candidate a: ||V_j|| > lambda1
  SPARSEDIS_HOST_DEVICE double W(int, int) const { return 0; }     // class c < m, candidate a
  SPARSEDIS_HOST_DEVICE double unit(int, int) const { return 0; }  // u, likewise
  SPARSEDIS_HOST_DEVICE double alpha(int) const { return 0; }      // 0 where not active
  SPARSEDIS_HOST_DEVICE double beta(int) const { return 0; }
  SPARSEDIS_HOST_DEVICE const double* residual() const { return nullptr; }  // A (n, m)
  SPARSEDIS_HOST_DEVICE std::ptrdiff_t ld() const { return 0; }             // of planes over the candidates

  // The least of | ||V_j||/lambda1 - 1 | over all features at L (n, k), where evaluate() was called last; infinity for
  // lambda1 = 0.
  SPARSEDIS_HOST_DEVICE double margin(const Team&, const double*) { return 0; }

  // Form::linearise and so on are those of NoVariables: a map is the light form.
  // The mean curvature of the directions of every sample: (n,).
  SPARSEDIS_HOST_DEVICE void mean_curvature(const Team&, double*) {}
  // The curvature X (alpha I + beta u u^T) X^T times rows (n, m) of a vector: a covector (n, m), in double.
  SPARSEDIS_HOST_DEVICE void multiply(const Team&, const double*, double*) {}
  // Over the candidates: X^T R for rows R (n, m), to planes (m, ld()).
  SPARSEDIS_HOST_DEVICE void correlate_candidates(const Team&, const double*, double*) {}
  // X W for planes (m, ld()), to scores (n, m). May write the planes behind the last candidate.
  SPARSEDIS_HOST_DEVICE void apply_candidates(const Team&, double*, double*) {}
  // Over all features: X^T R to planes (m, d), and X W to scores (n, m).
  SPARSEDIS_HOST_DEVICE void correlate(const Team&, const double*, double*) {}
  SPARSEDIS_HOST_DEVICE void apply(const Team&, const double*, double*) {}
  // The curvature of all features j with keep(j), with alpha(j), beta(j) and u = unit(c, j), into the Newton system;
  // the candidates are lost.
  template <class Keep, class Alpha, class Beta, class Unit>
  SPARSEDIS_HOST_DEVICE void add_curvature_of(System::Curvature&, Keep keep, Alpha alpha, Beta beta, Unit unit) {
    if (keep(0)) alpha(0), beta(0), unit(0, 0);
  }
};

// Block coordinate descent's pass over the samples, V kept up to date.
struct Sweep {
  SPARSEDIS_HOST_DEVICE double square(int) const { return 0; }            // ||x_i||^2
  SPARSEDIS_HOST_DEVICE void restart(const Team&, const double*) {}       // V = X^T A(L)
  SPARSEDIS_HOST_DEVICE void visit(const Team&, int) {}                   // sample i: its scores
  SPARSEDIS_HOST_DEVICE const double* scores() const { return nullptr; }  // x_i W, (m,)
  SPARSEDIS_HOST_DEVICE void update(const Team&, const double*) {}  // V += x_i change (m,), for the sample visited last
};

// One task where it is solved, for policy.hpp. All functions are collective, and return the same in every thread.
struct Device {
  using Team = requirements::Team;
  using Feature = double;  // of the features, float or double
  // Whether first-order steps are tried before a large Newton system (first_order_steps).
  static constexpr bool kFirstOrderFirst = true;
  template <class PrimalMap>
  using System = requirements::System;

  SPARSEDIS_HOST_DEVICE const Team& team() const { return team_; }
  SPARSEDIS_HOST_DEVICE const Samples& samples() const { return samples_; }
  SPARSEDIS_HOST_DEVICE int features() const { return 0; }
  // At its end all memory that has been taken since is free again.
  struct Scope {
    SPARSEDIS_HOST_DEVICE explicit Scope(const Device&) {}
    SPARSEDIS_HOST_DEVICE ~Scope() {}
  };
  // Uninitialised memory for so many values, until the innermost scope ends.
  template <class T>
  SPARSEDIS_HOST_DEVICE T* take(std::size_t) const {
    return nullptr;
  }
  // theta of minimise_on_segment() for the task.
  SPARSEDIS_HOST_DEVICE double start() const { return 0; }
  // The largest eigenvalue of D X X^T D/lambda2, D = diag(s), plus rho, or a bound on it.
  SPARSEDIS_HOST_DEVICE double lipschitz() const { return 0; }
  // A primal map with products of the Newton system in T; with lambda1 = 0, one that may be made of the Gram matrix.
  template <class T>
  SPARSEDIS_HOST_DEVICE PrimalMap primal_map() const {
    return {};
  }
  SPARSEDIS_HOST_DEVICE PrimalMap gram_primal_map() const { return {}; }
  template <class PrimalMap>
  SPARSEDIS_HOST_DEVICE System<PrimalMap> system() const {
    return {};
  }
  SPARSEDIS_HOST_DEVICE Sweep sweep(PrimalMap&) const { return {}; }
  // Writes the weights at the dual point L (n, k); returns their certificate, as rounded to Feature, and their margin.
  SPARSEDIS_HOST_DEVICE Weights write(PrimalMap&, const double*) const { return {}; }

 private:
  Team team_;
  Samples samples_;
};

}  // namespace sparsedis::requirements
