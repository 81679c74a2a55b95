// The primal map for lambda1 = 0: W = X^T A/lambda2 is linear in L, so that the Gram matrix X X^T replaces the
// features.
#pragma once

#include "../../common/cpu/memory.hpp"
#include "../algorithm/newton.hpp"
#include "features.hpp"
#include "team.hpp"

namespace sparsedis::cpu {

template <class F>
class GramPrimalMap : public NoVariables {
 public:
  using Products = double;

  GramPrimalMap(Memory& memory, const Samples& samples, const Features<F>& features)
      : samples_(samples), n_(samples.n), m_(samples.m) {
    A_ = memory.take<double>(std::size_t(n_) * m_);
    scores_ = memory.take<double>(std::size_t(n_) * m_);
    K_ = memory.take<double>(std::size_t(n_) * n_);
    features.gram(memory.take<double>(std::size_t(n_) * kBlock), K_);
  }

  double evaluate(const Team& team, const double* L) {
    for (int i = 0; i < n_; ++i) residual_row(samples_, L, i, A_);
    for (int i = 0; i < n_; ++i) {
      double* to = scores_ + i * m_;
      std::fill(to, to + m_, 0.0);
      for (int j = 0; j < n_; ++j) {
        const double factor = K_[std::ptrdiff_t(i) * n_ + j] / samples_.lambda2;
        for (int c = 0; c < m_; ++c) to[c] += factor * A_[j * m_ + c];
      }
    }
    // lambda2/2 ||W||^2 = <A, X W>/2 over all classes.
    return team.sum(n_ * samples_.k, [&](int e) {
      const int i = e / samples_.k, l = e % samples_.k;
      return entry(A_, m_, i, l) * entry(scores_, m_, i, l) / 2;
    });
  }

  // The features' curvature times rows (n, m) of a vector: a covector (n, m).
  void multiply(const Team& team, const double* rows, double* to) const {
    std::fill(to, to + n_ * m_, 0.0);
    team.each(n_, [&](int i) {
      for (int j = 0; j < n_; ++j) {
        const double factor = K_[std::ptrdiff_t(i) * n_ + j] / samples_.lambda2;
        double sum = 0;
        for (int c = 0; c < m_; ++c) sum += rows[j * m_ + c];
        for (int c = 0; c < m_; ++c) to[i * m_ + c] += factor * (rows[j * m_ + c] + sum);
      }
    });
  }

  const double* scores() const { return scores_; }
  const double* gradient_scores() const { return scores_; }
  template <class System>
  void add_curvature(System& system) const {
    system.add_gram(K_, 1 / samples_.lambda2);
  }
  void mean_curvature(const Team& team, double* to) const {
    team.each(n_, [&](int i) { to[i] = K_[std::ptrdiff_t(i) * n_ + i] / samples_.lambda2; });
  }

 private:
  const Samples& samples_;
  int n_, m_;
  double *A_, *scores_, *K_;
};

}  // namespace sparsedis::cpu
