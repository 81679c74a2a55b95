// Sweep of block coordinate descent (../algorithm/requirements.hpp).
#pragma once

#include <cmath>

#include "../../common/cpu/memory.hpp"
#include "../algorithm/samples.hpp"
#include "features.hpp"
#include "team.hpp"

namespace sparsedis::cpu {

template <class F, class PrimalMap>
class Sweep {
 public:
  Sweep(Memory& memory, const Samples& samples, const Features<F>& features, PrimalMap& primal)
      : samples_(samples),
        features_(features),
        primal_(primal),
        d_(features.features()),
        m_(samples.m),
        rows_(memory.take<double>(std::size_t(samples.n) * m_)),
        V_(memory.take<double>(std::size_t(m_) * d_)),
        x_(memory.take<double>(d_ + kPad)),
        factor_(memory.take<double>(d_)),
        scores_(memory.take<double>(m_)),
        square_(memory.take<double>(samples.n)) {
    for (int i = 0; i < samples.n; ++i) {
      read(i);
      square_[i] = 0;
      for (int j = 0; j < d_; ++j) square_[i] += x_[j] * x_[j];
    }
  }

  const double* scores() const { return scores_; }
  double square(int i) const { return square_[i]; }

  void restart(const Team& team, const double* L) {
    for (int i = 0; i < samples_.n; ++i) residual_row(samples_, L, i, rows_);
    primal_.correlate(team, rows_, V_);
  }

  void visit(const Team&, int i) {
    read(i);
    for (int j = 0; j < d_; ++j) {
      double sum = 0, last = 0;
      for (int c = 0; c < m_; ++c) {
        const double v = V_[std::ptrdiff_t(c) * d_ + j];
        sum += v * v;
        last += v;
      }
      const double norm = std::sqrt(sum + last * last);
      factor_[j] = norm > samples_.lambda1 ? x_[j] * (1 - samples_.lambda1 / norm) / samples_.lambda2 : 0;
    }
    for (int c = 0; c < m_; ++c) {
      const double* V = V_ + std::ptrdiff_t(c) * d_;
      double part[4] = {0, 0, 0, 0};
      int j = 0;
      for (; j + 4 <= d_; j += 4) {
        for (int p = 0; p < 4; ++p) part[p] += factor_[j + p] * V[j + p];
      }
      for (; j < d_; ++j) part[0] += factor_[j] * V[j];
      scores_[c] = (part[0] + part[1]) + (part[2] + part[3]);
    }
  }

  // V += x_i change for the last visited sample.
  void update(const Team&, const double* change) {
    for (int c = 0; c < m_; ++c) {
      double* V = V_ + std::ptrdiff_t(c) * d_;
      for (int j = 0; j < d_; ++j) V[j] += x_[j] * change[c];
    }
  }

 private:
  void read(int i) { features_.copy_row(i, x_); }

  const Samples& samples_;
  const Features<F>& features_;
  PrimalMap& primal_;
  int d_, m_;
  double *rows_, *V_, *x_, *factor_, *scores_, *square_;
};

}  // namespace sparsedis::cpu
