// The Newton system of the free entries of the dual: M = H + diag(bounds), restricted to the free entries and to zero
// row sums. It is solved by the finish and the adjoint.
#pragma once

#include "samples.hpp"

namespace sparsedis {

// The factor may use products in float; residuals use PrimalMap::multiply, which is in double.
template <class Team, class PrimalMap, class System>
class FreeSystem {
 public:
  SPARSEDIS_HOST_DEVICE static std::size_t size(std::size_t n, std::size_t k) { return 5 * n * k; }

  SPARSEDIS_HOST_DEVICE FreeSystem(const Samples& samples, PrimalMap& primal, System& system, double* memory)
      : samples_(samples), primal_(primal), system_(system) {
    double** const rows[] = {&r_, &z_, &p_, &Mp_, &scratch_};
    for (double** one : rows) {
      *one = memory;
      memory += std::size_t(samples.n) * samples.k;
    }
  }

  // free (n, k): nonzero for free entries, which include the largest entry of L in every row. bounds (n, k): the
  // diagonal added to the curvature of the features.
  SPARSEDIS_HOST_DEVICE void factor(const Team& team, const double* L, const unsigned char* free,
                                    const double* bounds) {
    system_.factor(team, primal_, bounds, L, free);
  }

  // rhs -= M d, for d (n, k) with zero row sums.
  SPARSEDIS_HOST_DEVICE void subtract_product(const Team& team, const double* bounds, const double* d, double* rhs) {
    const int size = samples_.n * samples_.k;
    team.each(size, [&](int e) { p_[e] = d[e]; });
    multiply(team, bounds);
    team.each(size, [&](int e) { rhs[e] -= Mp_[e]; });
  }

  // Computes q (n, k) with zero row sums, 0 on bound entries, with M q = rhs on the free entries up to a constant in
  // every row. Conjugate gradients with exact products of M, preconditioned by the factor, which may be that of more
  // entries than are free now. Returns the residual relative to the initial one, in the preconditioner's norm.
  SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE double solve(const Team& team, const unsigned char* free, const double* bounds,
                                                    const double* rhs, double* q, double residual, int max_steps) {
    const int size = samples_.n * samples_.k;
    team.each(size, [&](int e) {
      q[e] = 0;
      r_[e] = rhs[e];
    });
    system_.solve(team, r_, z_, free);
    team.each(size, [&](int e) { p_[e] = z_[e]; });
    double rz = dot(team, r_, z_);
    const double first = rz;
    for (int step = 0; step < max_steps && rz > residual * residual * first; ++step) {
      multiply(team, bounds);
      const double curvature = dot(team, p_, Mp_);
      if (!(curvature > 0)) break;
      const double length = rz / curvature;
      team.each(size, [&](int e) {
        q[e] += length * p_[e];
        r_[e] -= length * Mp_[e];
      });
      system_.solve(team, r_, z_, free);
      const double next = dot(team, r_, z_), ratio = next / rz;
      rz = next;
      team.each(size, [&](int e) { p_[e] = z_[e] + ratio * p_[e]; });
    }
    return first > 0 && rz > 0 ? std::sqrt(rz / first) : 0;
  }

 private:
  // Mp = M p, up to a constant in every row.
  SPARSEDIS_ONCE SPARSEDIS_HOST_DEVICE void multiply(const Team& team, const double* bounds) {
    const int k = samples_.k, m = samples_.m;
    double *rows = scratch_, *scores = Mp_;
    team.each_entry(samples_.n, m, [&](int i, int l) { rows[i * m + l] = samples_.s[i] * p_[i * k + l]; });
    primal_.multiply(team, rows, scores);
    team.each(samples_.n * m, [&](int e) { rows[e] = scores[e]; });
    team.each_entry(samples_.n, k, [&](int i, int l) {
      const int e = i * k + l;
      Mp_[e] = bounds[e] * p_[e] + (l < m ? samples_.s[i] * rows[i * m + l] : 0);
    });
  }

  SPARSEDIS_HOST_DEVICE double dot(const Team& team, const double* a, const double* b) const {
    return team.sum(samples_.n * samples_.k, [&](int e) { return a[e] * b[e]; });
  }

  const Samples& samples_;
  PrimalMap& primal_;
  System& system_;
  double *r_, *z_, *p_, *Mp_, *scratch_;
};

}  // namespace sparsedis
