// Gradients of the solution by implicit differentiation (sparsedis.ops.svm.backend_torch.adjoint): one linear system,
// independent of the solver.
//
// A vector whose k entries sum to zero is stored in m coordinates as its first m entries; a covector c (a gradient with
// respect to such a vector) as the differences c_l - c_k. u, W and q are vectors; c, J(c) and the scores of J(c) are
// covectors.
#pragma once

#include "free_system.hpp"
#include "samples.hpp"

namespace sparsedis {

struct ScalarGradients {
  double lambda1, lambda2, dual_reg;
};

template <class Team, class PrimalMap, class System>
class Adjoint {
 public:
  SPARSEDIS_HOST_DEVICE static std::size_t size(std::size_t n, std::size_t k, std::size_t ld) {
    return 4 * n * k + Free::size(n, k) + 2 * (k - 1) * ld + ld;
  }
  SPARSEDIS_HOST_DEVICE static std::size_t flags(std::size_t n, std::size_t k) { return n * k; }

  // memory, free: size() and flags() values.
  SPARSEDIS_HOST_DEVICE Adjoint(const Team& team, const Samples& samples, PrimalMap& primal, System& system,
                                double* memory, unsigned char* free)
      : team_(team),
        samples_(samples),
        primal_(primal),
        system_(samples, primal, system, memory + 4 * std::size_t(samples.n) * samples.k),
        free_(free),
        k_(samples.k),
        m_(samples.m),
        ld_(primal.ld()) {
    double** const rows[] = {&rhs_, &q_, &bounds_, &scratch_};
    for (double** one : rows) {
      *one = memory;
      memory += std::size_t(samples.n) * k_;
    }
    c_ = memory + Free::size(samples.n, k_);
    J_ = c_ + m_ * ld_;
  }

  // L: the solution, where `primal` was last evaluated. grad(c, a): gradient of the loss in W, for class c of k and
  // candidate a.
  template <class Grad>
  SPARSEDIS_HOST_DEVICE ScalarGradients run(const double* L, Grad grad) {
    const int n = samples_.n, size = n * k_;
    const int count = primal_.candidates();
    team_.each(n, [&](int i) {
      dual_gradient_row(samples_, L, primal_.scores(), i, rhs_);
      double least = rhs_[i * k_];
      for (int l = 1; l < k_; ++l) least = rhs_[i * k_ + l] < least ? rhs_[i * k_ + l] : least;
      for (int l = 0; l < k_; ++l) {
        const int e = i * k_ + l;
        const double multiplier = rhs_[e] - least;
        const bool noise = multiplier < kMultiplierNoise && multiplier < L[e];
        free_[e] = L[e] > kAtBound * multiplier;
        bounds_[e] = (noise || !free_[e] ? 0 : multiplier / L[e]) + samples_.s[i] * samples_.rho;
      }
    });
    system_.factor(team_, L, free_, bounds_);

    team_.each(count, [&](int a) {
      const double last = grad(m_, a);
      for (int c = 0; c < m_; ++c) c_[c * ld_ + a] = grad(c, a) - last;
    });
    primal_derivative(count);
    primal_.apply_candidates(team_, J_, scratch_);
    team_.each_entry(n, k_,
                     [&](int i, int l) { rhs_[i * k_ + l] = l < m_ ? -samples_.s[i] * scratch_[i * m_ + l] : 0; });
    system_.solve(team_, free_, bounds_, rhs_, q_, kAdjointResidual, kAdjointSteps);

    correlate_weighted(q_, J_);
    team_.each(count, [&](int a) {
      double sum = 0;
      for (int c = 0; c < m_; ++c) sum += J_[c * ld_ + a];
      for (int c = 0; c < m_; ++c) c_[c * ld_ + a] += J_[c * ld_ + a] + sum;
    });
    primal_derivative(count);

    const double along_u = team_.sum(count, [&](int a) { return primal_.active(a) ? along(c_, a) : 0; });
    const double along_W = team_.sum(count, [&](int a) {
      double sum = 0;
      for (int c = 0; c < m_; ++c) sum += c_[c * ld_ + a] * primal_.W(c, a);
      return sum;
    });
    // c~ is no longer needed; its memory is reused for W as a covector.
    team_.each(count, [&](int a) {
      double sum = 0;
      for (int c = 0; c < m_; ++c) sum += primal_.W(c, a);
      for (int c = 0; c < m_; ++c) c_[c * ld_ + a] = primal_.W(c, a) + sum;
    });
    const double smoothing = team_.sum(
        size, [&](int e) { return samples_.s[e / k_] * q_[e] * (L[e] - (samples_.is_label(e / k_, e % k_) ? 1 : 0)); });
    const double lambda2 = samples_.lambda2;
    return {-along_u / lambda2, (samples_.rho * smoothing - along_W) / lambda2, -smoothing / lambda2};
  }

  // After run(): dloss/dX over the candidates is A J(c~) + diag(s) q W, a product of `terms` columns and planes.
  SPARSEDIS_HOST_DEVICE int terms() const { return 2 * m_; }
  SPARSEDIS_HOST_DEVICE double column(int i, int term) const {
    return term < m_ ? samples_.s[i] * q_[i * k_ + term] : primal_.residual()[i * m_ + term - m_];
  }
  SPARSEDIS_HOST_DEVICE const double* plane(int term) const { return c_ + term * ld_; }

 private:
  using Free = FreeSystem<Team, PrimalMap, System>;

  // <u_a, covector a> for planes (m, ld).
  SPARSEDIS_HOST_DEVICE double along(const double* covector, int a) const {
    double sum = 0;
    for (int c = 0; c < m_; ++c) sum += primal_.unit(c, a) * covector[c * ld_ + a];
    return sum;
  }

  // J = J(c), as covectors.
  SPARSEDIS_HOST_DEVICE void primal_derivative(int count) {
    team_.each(count, [&](int a) { derivative_of(c_, a); });
  }

  SPARSEDIS_HOST_DEVICE void derivative_of(const double* covector, int a) {
    const double inner = primal_.beta(a) * along(covector, a), alpha = primal_.alpha(a);
    double last = 0;
    for (int c = 0; c < m_; ++c) last -= primal_.unit(c, a);
    for (int c = 0; c < m_; ++c) {
      J_[c * ld_ + a] = alpha * covector[c * ld_ + a] + inner * (primal_.unit(c, a) - last);
    }
  }

  // X^T diag(s) rows, for rows (n, k), over the candidates, as vectors.
  SPARSEDIS_HOST_DEVICE void correlate_weighted(const double* rows, double* planes) {
    team_.each_entry(samples_.n, m_, [&](int i, int c) { scratch_[i * m_ + c] = samples_.s[i] * rows[i * k_ + c]; });
    primal_.correlate_candidates(team_, scratch_, planes);
  }

  const Team& team_;
  const Samples& samples_;
  PrimalMap& primal_;
  Free system_;
  unsigned char* free_;
  int k_, m_;
  std::ptrdiff_t ld_;
  double *rhs_, *q_, *bounds_, *scratch_, *c_, *J_;
};

}  // namespace sparsedis
