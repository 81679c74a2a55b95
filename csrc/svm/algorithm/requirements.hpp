// The interface that the loops in this folder, and policy.hpp, require of a device. The classes below are documentation
// that compiles: tests/kernels/sanitize_team.cpp instantiates every loop with them, which ensures that no loop requires
// more.
//
// A task is solved by a team: one thread on the CPU, the threads of a block on a GPU.
// - Every thread executes the loop. Objects (Progress, Point, Finish, ...), scalars and control flow are private to
//   each thread and equal in all of them, because reductions return the same bits to every thread.
// - Arrays are shared. They are written by functions passed to the team (each, once; no f(i') reads or writes what f(i)
//   writes) and by collective functions.
// - A function with a Team among its arguments is collective: all threads call it with the same arguments. It may read
//   everything written before the call, and all threads see its writes when it returns. It does not begin with a
//   barrier, so between two collective calls threads must not read what the later one writes.
// - A function without a Team argument only reads, and any thread may call it, also within a function passed to the
//   team.
//
// n samples, k classes, m = k-1 coordinates, d features; planes (m, d) are stored class by class.
#pragma once

#include "samples.hpp"

namespace sparsedis::requirements {

struct Team {
  // Ends an interrupted task by leaving the loop in all threads, once its result is no longer needed. Called once per
  // iteration.
  SPARSEDIS_HOST_DEVICE void check_interruption() const {}
  // f(i) for i < count, in any order and on any thread; a barrier at the end.
  template <class F>
  SPARSEDIS_HOST_DEVICE void each(int, F f) const {
    f(0);
  }
  // f(i, l) for i < rows and l < columns, likewise. Avoids a division per entry, which would exceed the cost of most f.
  template <class F>
  SPARSEDIS_HOST_DEVICE void each_entry(int, int, F f) const {
    f(0, 0);
  }
  // f(block) for blocks of the indices below count, likewise. block.each(g) calls g(i, b), b < kMost, for the index i
  // at position b of the block, on the same thread; the loop may be vectorised, so g(i', b') must not read what g(i, b)
  // writes.
  struct Block {
    static constexpr int kMost = 1;
    template <class G>
    SPARSEDIS_HOST_DEVICE void each(G g) const {
      g(0, 0);
    }
  };
  template <class F>
  SPARSEDIS_HOST_DEVICE void each_block(int, F f) const {
    f(Block());
  }
  // f() on one thread; a barrier at the end.
  template <class F>
  SPARSEDIS_HOST_DEVICE void once(F f) const {
    f();
  }
  // The sum of f(i), in an order that depends only on count and on the size of the team. f is called once for every i
  // and may write data that belongs to i.
  template <class F>
  SPARSEDIS_HOST_DEVICE double sum(int, F f) const {
    return f(0);
  }
  // The minimum of f(i); infinity if count is 0.
  template <class F>
  SPARSEDIS_HOST_DEVICE double least(int, F f) const {
    return f(0);
  }
  // Moves the values of x (count,) above the threshold to its front; returns their number.
  template <class T>
  SPARSEDIS_HOST_DEVICE int partition(T*, int, T) const {
    return 0;
  }
};

// Factors and solves the Newton system M = H + diag(bounds) in the space of zero row sums.
struct System {
  // Whether a solve is so cheap compared with a factorisation that a further corrector pays off.
  static constexpr bool kCheapSolves = true;
  // The object to which a form adds its curvature; form and system agree on its interface.
  struct Curvature {};

  // Calls form.add_curvature(into) to add the features' part of H, on threads of the system's choice. L (n, k): the
  // largest entry of each row is eliminated. free (n, k), optional: nonzero for the entries in the system, which
  // include the largest entry of L in every row. M may be singular up to rounding; the system adds the necessary ridge.
  template <class Form>
  SPARSEDIS_HOST_DEVICE void factor(const Team&, Form& form, const double*, const double*,
                                    const unsigned char* = nullptr) {
    Curvature into;
    form.add_curvature(into);
  }
  // Computes q (n, k) with zero row sums and M q = rhs up to a constant in every row. free, optional: the entries that
  // currently participate; if they are fewer than were factored, the inverse is restricted to them.
  SPARSEDIS_HOST_DEVICE void solve(const Team&, const double*, double*, const unsigned char* = nullptr) const {}
};

// The features' part of the Newton iteration, and the variables of a form other than L and Z. NoVariables (newton.hpp)
// is a form without such variables.
struct Form {
  // Computes the certificate's scores and the penalty lambda1 sum ||W_j|| + lambda2/2 ||W||^2 at W(L); returns the
  // penalty.
  SPARSEDIS_HOST_DEVICE double evaluate(const Team&, const double*) { return 0; }
  SPARSEDIS_HOST_DEVICE const double* scores() const { return nullptr; }  // (n, m)
  SPARSEDIS_HOST_DEVICE const double* gradient_scores() const {
    return nullptr;
  }  // (n, m), the scores in the dual gradient
  // Prepares the Newton system at L, where evaluate() was last called: curvature and residuals.
  SPARSEDIS_HOST_DEVICE void linearise(const Team&, const double*) {}
  SPARSEDIS_HOST_DEVICE void add_curvature(System::Curvature&) {}
  // The contribution of the residuals and targets of the form's own pairs, mu - damping * (the predictor's products),
  // to the right-hand side, as scores (n, m). Returns false, without writing, if there is none.
  SPARSEDIS_HOST_DEVICE bool shift(const Team&, double, double, double*) { return false; }
  // Computes the direction of the form's own variables from the direction dL (n, k) of L.
  SPARSEDIS_HOST_DEVICE void complete(const Team&, const double*) {}
  // The longest step that keeps the form's own pairs positive.
  SPARSEDIS_HOST_DEVICE double max_step(const Team&) const { return 0; }
  // The sum of the pairs' products after a step, and the number of pairs.
  SPARSEDIS_HOST_DEVICE double products(const Team&, double) const { return 0; }
  SPARSEDIS_HOST_DEVICE int pairs() const { return 0; }
  // Stores the products of the predictor's directions for the corrector.
  SPARSEDIS_HOST_DEVICE void keep_products(const Team&) {}
  SPARSEDIS_HOST_DEVICE void move(const Team&, double) {}
};

// The primal point of a dual point L. With A = diag(s)(Y - L) and V = X^T A it is W = BST(V, lambda1)/lambda2, the
// gradient at V of the conjugate of the penalty. The second derivative of the conjugate is alpha I + beta u u^T for
// every feature, with u = V_j/||V_j||. Candidates are the features that pass the screening; they include all active
// ones.
struct PrimalMap : Form {
  SPARSEDIS_HOST_DEVICE int features() const { return 0; }         // d
  SPARSEDIS_HOST_DEVICE int candidates() const { return 0; }       // of the last evaluated point
  SPARSEDIS_HOST_DEVICE int index(int) const { return 0; }         // feature index of candidate a
  SPARSEDIS_HOST_DEVICE bool active(int) const { return false; }   // candidate a: ||V_j|| > lambda1
  SPARSEDIS_HOST_DEVICE double W(int, int) const { return 0; }     // class c < m, candidate a
  SPARSEDIS_HOST_DEVICE double unit(int, int) const { return 0; }  // u, for the same arguments
  SPARSEDIS_HOST_DEVICE double alpha(int) const { return 0; }      // 0 if inactive
  SPARSEDIS_HOST_DEVICE double beta(int) const { return 0; }
  SPARSEDIS_HOST_DEVICE const double* residual() const { return nullptr; }  // A (n, m)
  SPARSEDIS_HOST_DEVICE std::ptrdiff_t ld() const { return 0; }             // of planes over the candidates

  // The minimum of | ||V_j||/lambda1 - 1 | over all features at the L where evaluate() was last called; infinity for
  // lambda1 = 0.
  SPARSEDIS_HOST_DEVICE double margin(const Team&) { return 0; }

  // Form::linearise and the other functions of Form are those of NoVariables: a primal map is the light form.
  // The mean curvature in the directions of every sample, (n,).
  SPARSEDIS_HOST_DEVICE void mean_curvature(const Team&, double*) {}
  // The curvature X (alpha I + beta u u^T) X^T times a vector in rows (n, m): a covector (n, m), in double.
  SPARSEDIS_HOST_DEVICE void multiply(const Team&, const double*, double*) {}
  // X^T R over the candidates, for rows R (n, m), into planes (m, ld()).
  SPARSEDIS_HOST_DEVICE void correlate_candidates(const Team&, const double*, double*) {}
  // X W for planes (m, ld()), into scores (n, m). May write the planes beyond the last candidate.
  SPARSEDIS_HOST_DEVICE void apply_candidates(const Team&, double*, double*) {}
  // Over all features: X^T R into planes (m, d), and X W into scores (n, m).
  SPARSEDIS_HOST_DEVICE void correlate(const Team&, const double*, double*) {}
  SPARSEDIS_HOST_DEVICE void apply(const Team&, const double*, double*) {}
  // Adds the curvature of all features j with keep(j), given by alpha(j), beta(j) and u = unit(c, j), to the Newton
  // system; invalidates the candidates.
  template <class Keep, class Alpha, class Beta, class Unit>
  SPARSEDIS_HOST_DEVICE void add_curvature_of(System::Curvature&, Keep keep, Alpha alpha, Beta beta, Unit unit) {
    if (keep(0)) alpha(0), beta(0), unit(0, 0);
  }
};

// A pass of block coordinate descent over the samples, which keeps V up to date.
struct Sweep {
  SPARSEDIS_HOST_DEVICE double square(int) const { return 0; }            // ||x_i||^2
  SPARSEDIS_HOST_DEVICE void restart(const Team&, const double*) {}       // V = X^T A(L)
  SPARSEDIS_HOST_DEVICE void visit(const Team&, int) {}                   // computes the scores of sample i
  SPARSEDIS_HOST_DEVICE const double* scores() const { return nullptr; }  // x_i W, (m,)
  SPARSEDIS_HOST_DEVICE void update(const Team&, const double*) {}  // V += x_i change (m,), for the last visited sample
};

// A task and the device that solves it, for policy.hpp. All functions are collective and return the same in every
// thread.
struct Device {
  using Team = requirements::Team;
  using Feature = double;  // type of the features, float or double
  // Whether first-order steps are tried before a large Newton system (first_order_steps).
  static constexpr bool kFirstOrderFirst = true;
  template <class PrimalMap>
  using System = requirements::System;

  SPARSEDIS_HOST_DEVICE const Team& team() const { return team_; }
  SPARSEDIS_HOST_DEVICE const Samples& samples() const { return samples_; }
  SPARSEDIS_HOST_DEVICE int features() const { return 0; }
  // Releases the memory taken during its lifetime.
  struct Scope {
    SPARSEDIS_HOST_DEVICE explicit Scope(const Device&) {}
    SPARSEDIS_HOST_DEVICE ~Scope() {}
  };
  // Uninitialised memory for a number of values, until the innermost scope ends.
  template <class T>
  SPARSEDIS_HOST_DEVICE T* take(std::size_t) const {
    return nullptr;
  }
  // theta of minimise_on_segment() for the task.
  SPARSEDIS_HOST_DEVICE double start() const { return 0; }
  // The largest eigenvalue of D X X^T D/lambda2, D = diag(s), plus rho, or an upper bound.
  SPARSEDIS_HOST_DEVICE double lipschitz() const { return 0; }
  // A primal map with the Newton system's products in T; and for lambda1 = 0 one that may use the Gram matrix.
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
  // Writes the weights at the dual point L (n, k); returns their certificate after rounding to Feature, and their
  // margin.
  SPARSEDIS_HOST_DEVICE Weights write(PrimalMap&, const double*) const { return {}; }

 private:
  Team team_;
  Samples samples_;
};

}  // namespace sparsedis::requirements
