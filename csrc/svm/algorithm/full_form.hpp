// The full primal-dual form: besides L and Z it iterates the dual variables U of the group norms (||U_j|| <= 1),
// multipliers th and slacks w; the variables of every feature are eliminated separately from the Newton system
// (sparsedis, newton.FullForm). Derived in docs/newton.md.
//
// Works on features divided by lambda1. `Base` is the primal map that computes the certificate. The loops over blocks
// of features use copies of the scalars, because a compiler must assume that writing to an array changes a member.
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
    const double lambda2 = lambda2_;
    team.each_block(d_, [&](const typename Team::Block& block) {
      double square[Team::Block::kMost], clip[Team::Block::kMost];
      inner(block, V_, V_, square);
      block.each([&](int j, int b) {
        const double norm = std::sqrt(square[b]);
        clip[b] = norm > kStartNorm ? kStartNorm / norm : 1;
        const double inside = (1 - clip[b] * norm * clip[b] * norm) / 2;
        w_[j] = inside > kStartSlack ? inside : kStartSlack;
        const double active = (norm / kStartNorm - 1) / lambda2;
        const double th = (active > 0 ? active : 0) + kStartProduct / w_[j];
        th_[j] = th < 1 / w_[j] ? th : 1 / w_[j];
      });
      for (int c = 0; c < m_; ++c) block.each([&](int j, int b) { U_[at(c, j)] = clip[b] * V_[at(c, j)]; });
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
    const double lambda1 = lambda1_, lambda2 = lambda2_;
    team.each_block(d_, [&](const typename Team::Block& block) {
      double square[Team::Block::kMost], along[Team::Block::kMost], stretch[Team::Block::kMost];
      inner(block, U_, U_, square);
      block.each([&](int j, int b) {
        const double u = std::sqrt(square[b]);
        stretch[b] = 1 + lambda2 * th_[j];
        u_[j] = u;
        rw_[j] = (1 - u * u) / 2 - w_[j];
        q_[j] = stretch[b] + lambda2 * u * u * th_[j] / w_[j];
        alpha_[j] = th_[j] / stretch[b];
        beta_[j] = (1 - 1 / q_[j]) / lambda2;
      });
      // <e, rU> of the rounded rU: near the solution, the component of rU - rr e along e must not exceed the slack w.
      for (int c = 0; c < m_; ++c) {
        block.each([&](int j, int b) {
          const int p = at(c, j);
          e_[p] = U_[p] / (u_[j] > kTiny ? u_[j] : kTiny);
          dU_[p] = V_[p] - stretch[b] * U_[p];
        });
      }
      inner(block, e_, dU_, along);
      block.each([&](int j, int b) { rr_[j] = along[b]; });
      for (int c = 0; c < m_; ++c) block.each([&](int j, int) { dU_[at(c, j)] = th_[j] * U_[at(c, j)] / lambda1; });
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
    const double lambda1 = lambda1_, lambda2 = lambda2_;
    team.each_block(d_, [&](const typename Team::Block& block) {
      double dUr[Team::Block::kMost], stretch[Team::Block::kMost];
      block.each([&](int j, int b) {
        stretch[b] = 1 + lambda2 * th_[j];
        rC_[j] = centre - (damping == 0 ? 0 : damping * product_[j]) - th_[j] * w_[j] - th_[j] * rw_[j];
        dUr[b] = (rr_[j] - lambda2 * u_[j] * rC_[j] / w_[j]) / q_[j];
        dth_[j] = (rC_[j] + th_[j] * u_[j] * dUr[b]) / w_[j];
      });
      for (int c = 0; c < m_; ++c) {
        block.each([&](int j, int b) {
          const int p = at(c, j);
          const double rU = V_[p] - stretch[b] * U_[p];
          dU_[p] = (dth_[j] * U_[p] + th_[j] * ((rU - rr_[j] * e_[p]) / stretch[b] + dUr[b] * e_[p])) / lambda1;
        });
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
    const double lambda2 = lambda2_;
    team.each_block(d_, [&](const typename Team::Block& block) {
      double along[Team::Block::kMost], dUr[Team::Block::kMost], stretch[Team::Block::kMost];
      inner(block, e_, dU_, along);
      block.each([&](int j, int b) {
        const double dUr0 = (rr_[j] - lambda2 * u_[j] * rC_[j] / w_[j]) / q_[j];
        stretch[b] = 1 + lambda2 * th_[j];
        dUr[b] = dUr0 + along[b] / q_[j];
        dth_[j] += th_[j] * u_[j] * (along[b] / q_[j]) / w_[j];
      });
      for (int c = 0; c < m_; ++c) {
        block.each([&](int j, int b) {
          const int p = at(c, j);
          const double rU = V_[p] - stretch[b] * U_[p];
          dU_[p] = (rU - rr_[j] * e_[p] + dU_[p] - along[b] * e_[p]) / stretch[b] + dUr[b] * e_[p];
        });
      }
      inner(block, U_, dU_, along);
      block.each([&](int j, int b) { dw_[j] = rw_[j] - along[b]; });
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

  // <x_j, y_j> over all k classes, for the features j of a block.
  template <class Block>
  SPARSEDIS_HOST_DEVICE void inner(const Block& block, const double* x, const double* y, double* products) const {
    double last_x[Block::kMost], last_y[Block::kMost];
    block.each([&](int, int b) { products[b] = last_x[b] = last_y[b] = 0; });
    for (int c = 0; c < m_; ++c) {
      block.each([&](int j, int b) {
        products[b] += x[at(c, j)] * y[at(c, j)];
        last_x[b] += x[at(c, j)];
        last_y[b] += y[at(c, j)];
      });
    }
    block.each([&](int, int b) { products[b] += last_x[b] * last_y[b]; });
  }

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
