// The full primal-dual form: besides L and Z it iterates the dual variables U of the group norms (||U_j|| <= 1),
// multipliers th and slacks w; the variables of every feature are eliminated separately from the Newton system
// (sparsedis, newton.FullForm). Derived in docs/newton.md.
//
// Works on features divided by lambda1. `Base` is the primal map that computes the certificate.
#pragma once

#include "newton.hpp"

namespace sparsedis {

template <class Base>
class FullForm {
 public:
  SPARSEDIS_HOST_DEVICE static std::size_t size(std::size_t n, std::size_t k, std::size_t d) {
    return (4 * (k - 1) + 12) * d + 2 * n * (k - 1);
  }

  SPARSEDIS_HOST_DEVICE FullForm(const Samples& samples, Base& base, double* memory)
      : samples_(samples),
        base_(base),
        d_(base.features()),
        m_(samples.m),
        lambda1_(samples.lambda1),
        lambda2_(samples.lambda2 / (samples.lambda1 * samples.lambda1)) {
    double** const planes[] = {&U_, &dU_, &V_, &e_};
    for (double** one : planes) {
      *one = memory;
      memory += std::size_t(m_) * d_;
    }
    double** const vectors[] = {&th_, &w_, &dth_, &dw_, &product_, &u_, &rw_, &q_, &rr_, &rC_, &alpha_, &beta_};
    for (double** one : vectors) {
      *one = memory;
      memory += d_;
    }
    rows_ = memory;
  }

  template <class Team>
  SPARSEDIS_HOST_DEVICE void start(const Team& team, const double* L) {
    correlate_residual(team, L);
    team.each(d_, [&](int j) {
      const double norm = length(V_, j);
      const double clip = norm > kStartNorm ? kStartNorm / norm : 1;
      for (int c = 0; c < m_; ++c) U_[at(c, j)] = clip * V_[at(c, j)];
      const double inside = (1 - clip * norm * clip * norm) / 2;
      w_[j] = inside > kStartSlack ? inside : kStartSlack;
      const double active = (norm / kStartNorm - 1) / lambda2_;
      const double th = (active > 0 ? active : 0) + kStartProduct / w_[j];
      th_[j] = th < 1 / w_[j] ? th : 1 / w_[j];
    });
  }

  template <class Team>
  SPARSEDIS_HOST_DEVICE double evaluate(const Team& team, const double* L) {
    return base_.evaluate(team, L);
  }
  SPARSEDIS_HOST_DEVICE const double* scores() const { return base_.scores(); }
  SPARSEDIS_HOST_DEVICE const double* gradient_scores() const { return scores_of_U_; }

  template <class Team>
  SPARSEDIS_HOST_DEVICE void linearise(const Team& team, const double* L) {
    correlate_residual(team, L);
    team.each(d_, [&](int j) {
      const double u = length(U_, j), stretch = 1 + lambda2_ * th_[j];
      for (int c = 0; c < m_; ++c) e_[at(c, j)] = U_[at(c, j)] / (u > kTiny ? u : kTiny);
      u_[j] = u;
      rw_[j] = (1 - u * u) / 2 - w_[j];
      q_[j] = stretch + lambda2_ * u * u * th_[j] / w_[j];
      // <e, rU> of the rounded rU: near the solution, the component of rU - rr e along e must not exceed the slack w.
      for (int c = 0; c < m_; ++c) dU_[at(c, j)] = V_[at(c, j)] - stretch * U_[at(c, j)];
      rr_[j] = inner(e_, dU_, j);
      alpha_[j] = th_[j] / stretch;
      beta_[j] = (1 - 1 / q_[j]) / lambda2_;
      for (int c = 0; c < m_; ++c) dU_[at(c, j)] = th_[j] * U_[at(c, j)] / lambda1_;
    });
    scores_of_U_ = rows_;
    base_.apply(team, dU_, scores_of_U_);
    least_ = -kCurvatureCut * team.least(d_, [&](int j) { return -beta_[j]; });
  }

  template <class System>
  SPARSEDIS_HOST_DEVICE void add_curvature(System& system) {
    const double scale = 1 / (lambda1_ * lambda1_);
    base_.add_curvature_of(
        system, [&](int j) { return beta_[j] > least_; }, [&](int j) { return scale * alpha_[j]; },
        [&](int j) {
          const double beta = beta_[j] - alpha_[j];
          return beta > 0 ? scale * beta : 0;
        },
        [&](int c, int j) { return e_[at(c, j)]; });
  }

  template <class Team>
  SPARSEDIS_HOST_DEVICE bool shift(const Team& team, double centre, double damping, double* scores) {
    team.each(d_, [&](int j) {
      const double stretch = 1 + lambda2_ * th_[j], u = u_[j];
      rC_[j] = centre - (damping == 0 ? 0 : damping * product_[j]) - th_[j] * w_[j] - th_[j] * rw_[j];
      const double dUr = (rr_[j] - lambda2_ * u * rC_[j] / w_[j]) / q_[j];
      const double dth = (rC_[j] + th_[j] * u * dUr) / w_[j];
      dth_[j] = dth;
      for (int c = 0; c < m_; ++c) {
        const int p = at(c, j);
        const double rU = V_[p] - stretch * U_[p];
        dU_[p] = (dth * U_[p] + th_[j] * ((rU - rr_[j] * e_[p]) / stretch + dUr * e_[p])) / lambda1_;
      }
    });
    base_.apply(team, dU_, scores);
    return true;
  }

  template <class Team>
  SPARSEDIS_HOST_DEVICE void complete(const Team& team, const double* dL) {
    const int k = samples_.k;
    double* rows = rows_ + std::size_t(samples_.n) * m_;
    team.each_entry(samples_.n, m_,
                    [&](int i, int c) { rows[i * m_ + c] = -samples_.s[i] * dL[i * k + c] / lambda1_; });
    base_.correlate(team, rows, dU_);  // dV, overwritten by dU below
    team.each(d_, [&](int j) {
      const double stretch = 1 + lambda2_ * th_[j], u = u_[j];
      const double along = inner(e_, dU_, j);
      const double dUr0 = (rr_[j] - lambda2_ * u * rC_[j] / w_[j]) / q_[j];
      for (int c = 0; c < m_; ++c) {
        const int p = at(c, j);
        const double rU = V_[p] - stretch * U_[p];
        dU_[p] = (rU - rr_[j] * e_[p] + dU_[p] - along * e_[p]) / stretch + (dUr0 + along / q_[j]) * e_[p];
      }
      dth_[j] += th_[j] * u * (along / q_[j]) / w_[j];
      dw_[j] = rw_[j] - inner(U_, dU_, j);
    });
  }

  template <class Team>
  SPARSEDIS_HOST_DEVICE double max_step(const Team& team) const {
    return team.least(d_, [&](int j) {
      const double a = dth_[j] < 0 ? th_[j] / -dth_[j] : INFINITY;
      const double b = dw_[j] < 0 ? w_[j] / -dw_[j] : INFINITY;
      return a < b ? a : b;
    });
  }

  template <class Team>
  SPARSEDIS_HOST_DEVICE double products(const Team& team, double step) const {
    return team.sum(
        d_, [&](int j) { return step == 0 ? th_[j] * w_[j] : (th_[j] + step * dth_[j]) * (w_[j] + step * dw_[j]); });
  }
  SPARSEDIS_HOST_DEVICE int pairs() const { return d_; }

  template <class Team>
  SPARSEDIS_HOST_DEVICE void keep_products(const Team& team) {
    team.each(d_, [&](int j) { product_[j] = dth_[j] * dw_[j]; });
  }

  template <class Team>
  SPARSEDIS_HOST_DEVICE void move(const Team& team, double step) {
    team.each(d_, [&](int j) {
      th_[j] += step * dth_[j];
      w_[j] += step * dw_[j];
    });
    team.each(m_ * d_, [&](int p) { U_[p] += step * dU_[p]; });
  }

 private:
  SPARSEDIS_HOST_DEVICE int at(int c, int j) const { return c * d_ + j; }

  // <a_j, b_j> over all k classes.
  SPARSEDIS_HOST_DEVICE double inner(const double* a, const double* b, int j) const {
    double sum = 0, last_a = 0, last_b = 0;
    for (int c = 0; c < m_; ++c) {
      const double x = a[at(c, j)], y = b[at(c, j)];
      sum += x * y;
      last_a += x;
      last_b += y;
    }
    return sum + last_a * last_b;
  }
  SPARSEDIS_HOST_DEVICE double length(const double* a, int j) const { return std::sqrt(inner(a, a, j)); }

  template <class Team>
  SPARSEDIS_HOST_DEVICE void correlate_residual(const Team& team, const double* L) {
    double* rows = rows_ + std::size_t(samples_.n) * m_;
    team.each(samples_.n, [&](int i) {
      residual_row(samples_, L, i, rows);
      for (int c = 0; c < m_; ++c) rows[i * m_ + c] /= lambda1_;
    });
    base_.correlate(team, rows, V_);
  }

  const Samples& samples_;
  Base& base_;
  double* rows_;  // 2 (n, m): scores of th U, and input of correlate()
  double* scores_of_U_ = nullptr;
  int d_, m_;
  double lambda1_, lambda2_;
  double least_ = 0;  // largest curvature beta of features left out of H
  double *U_, *dU_, *V_, *e_;
  double *th_, *w_, *dth_, *dw_, *product_, *u_, *rw_, *q_, *rr_, *rC_, *alpha_, *beta_;
};

}  // namespace sparsedis
