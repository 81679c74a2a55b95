// The primal map over the features of one task (PrimalMap in ../algorithm/requirements.hpp).
#pragma once

#include <cmath>
#include <limits>

#include "../../common/cpu/memory.hpp"
#include "../../common/cpu/products.hpp"
#include "../algorithm/screening.hpp"
#include "features.hpp"
#include "scan.hpp"
#include "team.hpp"
#include "working_set.hpp"

namespace sparsedis::cpu {

// Gathered features are stored up to this many bytes; beyond it they are gathered again in every pass.
constexpr std::size_t kGathered = std::size_t(1) << 20;

// The number of columns of n values, of up to d, that are stored at once; a multiple of kPad.
template <class T>
int gathered_capacity(int n, int d) {
  const std::size_t fit = kGathered / (std::size_t(n) * sizeof(T)) / kPad * kPad;
  return int(std::min<std::size_t>(padded(std::max(d, 1)), std::max<std::size_t>(kBlock, fit)));
}

// F is the features' type, T that of the screening and of the Hessian's products. Screening computes V in T for all
// features and gathers those that may be active within T's rounding error. Their V, W and scores are computed in
// double, so that the certificate has double precision whatever T is.
template <class F, class T>
class SparsePrimalMap : public NoVariables {
 public:
  using Products = T;

  // scan: may be null if only evaluate_active() is called.
  SparsePrimalMap(Memory& memory, const Samples& samples, const Features<F>& features, const Scan<F>* scan)
      : samples_(samples),
        features_(features),
        n_(samples.n),
        d_(features.features()),
        m_(samples.m),
        capacity_(gathered_capacity<T>(n_, d_)),
        working_(memory, samples, features, scan),
        scan_(scan),
        ratio_(samples.lambda1 / samples.lambda2) {
    A_ = memory.take<double>(std::size_t(n_) * m_);
    next_ = memory.take<double>(std::size_t(n_) * m_);
    screening_ = memory.take<T>(std::size_t(n_) * m_);
    scores_ = memory.take<double>(std::size_t(n_) * m_);
    block_ = memory.take<T>(std::size_t(n_) * kBlock);
    rows_ = memory.take<const T*>(n_);
    planes_ = memory.take<T>(std::size_t(m_) * kLongBlock);
    gathered_ = memory.take<T>(std::size_t(n_) * capacity_);
    exact_ = memory.take<double>(std::size_t(n_) * kBlock);
    exact_rows_ = memory.take<const double*>(n_);
    columns_ = memory.take<const T*>(n_);
    W_ = memory.take<double>(std::size_t(m_) * kBlock);
    index_ = memory.take<int>(d_);
    norm_ = memory.take<double>(d_ + kPad);
    inverse_ = memory.take<double>(d_ + kPad);
    shrink_ = memory.take<double>(d_ + kPad);
    V_ = memory.take<double>(std::size_t(m_) * (d_ + kPad));
    K_ = memory.take<double>(samples.lambda1 == 0 ? std::size_t(n_) * n_ : 0);
  }

  int features() const { return d_; }
  int candidates() const { return count_; }
  int index(int a) const { return index_[a]; }
  bool active(int a) const { return norm_[a] > samples_.lambda1; }
  double V(int c, int a) const { return V_[c * ld() + a]; }
  double W(int c, int a) const { return shrink_[a] * V(c, a); }
  // alpha, beta and u of the active features (0 elsewhere).
  double alpha(int a) const { return shrink_[a]; }
  double beta(int a) const { return active(a) ? ratio_ * inverse_[a] : 0; }
  double unit(int c, int a) const { return V(c, a) * inverse_[a]; }

  const double* residual() const { return A_; }
  const double* scores() const { return scores_; }
  const double* gradient_scores() const { return scores_; }

  // Evaluates at L (n, k); returns lambda1 sum ||W_j|| + lambda2/2 ||W||^2. Returns at once if L is that of the last
  // call.
  double evaluate(const Team& team, const double* L) {
    for (int i = 0; i < n_; ++i) residual_row(samples_, L, i, next_);
    if (evaluated_ && std::equal(next_, next_ + n_ * m_, A_)) return penalty_;
    std::swap(A_, next_);
    evaluated_ = true;
    evaluate_residual(team, false);
    return penalty_;
  }

  // min_j | ||V_j||/lambda1 - 1 | at the L that was evaluated last.
  double margin(const Team& team) {
    if (samples_.lambda1 == 0) return INFINITY;
    if (margin_here() > 1 - outside_) {
      // A feature that was not evaluated may have a smaller margin: evaluate all.
      evaluate_residual(team, true);
    }
    return margin_here();
  }

  // Evaluates at L with known active features (d,); these are the candidates, or all features if lambda1 is 0.
  void evaluate_active(const Team& team, const double* L, const bool* active) {
    evaluated_ = false;
    n_gathered_ = 0;
    for (int i = 0; i < n_; ++i) residual_row(samples_, L, i, A_);
    start_scores();
    int listed = 0;
    for (int j = 0; j < d_; ++j) {
      index_[listed] = j;
      listed += active[j] || samples_.lambda1 == 0;
    }
    gather_listed(team, listed);
  }

  // f(columns (n, ld), ld, first candidate, count) over all candidates; the columns are padded with zeros.
  template <class Visit>
  void visit_gathered(Visit visit) {
    if (!spilled_) return visit(static_cast<const T*>(gathered_), std::ptrdiff_t(capacity_), 0, count_);
    for (int from = 0; from < count_; from += capacity_) {
      const int here = std::min(capacity_, count_ - from);
      features_.gather(index_ + from, here, gathered_, capacity_);
      visit(static_cast<const T*>(gathered_), std::ptrdiff_t(capacity_), from, here);
    }
  }

  // Adds the curvature at the last evaluated point to a Newton system.
  template <class System>
  void add_curvature(System& system) {
    if (samples_.lambda1 == 0) return add_dense_curvature(system);
    visit_gathered([&](const T* x, std::ptrdiff_t ld, int from, int here) {
      system.add(
          x, ld, here, [&](int a) { return alpha(from + a); }, [&](int a) { return beta(from + a); },
          [&](int c, int a) { return unit(c, from + a); });
    });
  }

  // The mean curvature along the directions of each sample, (n,).
  void mean_curvature(const Team&, double* to) {
    std::fill(to, to + n_, 0.0);
    visit_gathered([&](const T* x, std::ptrdiff_t ld, int from, int here) {
      for (int first = 0; first < here; first += kBlock) {
        const int length = std::min(kBlock, here - first);
        double weight[kBlock] = {};
        for (int a = 0; a < length; ++a) weight[a] = alpha(from + first + a) + beta(from + first + a) / m_;
        for (int i = 0; i < n_; ++i) {
          const T* row = x + i * ld + first;
          double part[kPad] = {};
          for (int a = 0; a < length; a += kPad) {
            for (int p = 0; p < kPad; ++p) part[p] += weight[a + p] * double(row[a + p]) * double(row[a + p]);
          }
          for (int p = 0; p < kPad; ++p) to[i] += part[p];
        }
      }
    });
  }

  // X^T R for rows (n, m), over all features: planes (m, d).
  void correlate(const Team&, const double* rows, double* planes) {
    for (int from = 0; from < d_; from += kBlock) {
      const int here = std::min(kBlock, d_ - from);
      features_.rows(from, here, exact_, exact_rows_);
      combine(exact_rows_, int(padded(here)), n_, rows, m_, W_, kBlock);
      for (int c = 0; c < m_; ++c)
        std::copy(W_ + c * kBlock, W_ + c * kBlock + here, planes + std::ptrdiff_t(c) * d_ + from);
    }
  }

  // X W for planes W (m, d): scores (n, m).
  void apply(const Team&, const double* planes, double* scores) {
    std::fill(scores, scores + n_ * m_, 0.0);
    for (int from = 0; from < d_; from += kBlock) {
      const int here = std::min(kBlock, d_ - from), length = int(padded(here));
      features_.copy(from, here, exact_, kBlock);
      for (int c = 0; c < m_; ++c) {
        std::copy(planes + std::ptrdiff_t(c) * d_ + from, planes + std::ptrdiff_t(c) * d_ + from + here,
                  W_ + c * kBlock);
        std::fill(W_ + c * kBlock + here, W_ + c * kBlock + length, 0.0);
      }
      add_dot_products(exact_, kBlock, n_, W_, kBlock, m_, length, scores, m_, false);
    }
  }

  // Adds the curvature of all features with keep(j), instead of the active ones, to a Newton system.
  template <class System, class Keep, class Alpha, class Beta, class Unit>
  void add_curvature_of(System& system, Keep keep, Alpha alpha, Beta beta, Unit unit) {
    evaluated_ = false;  // the candidates are overwritten
    n_gathered_ = 0;
    int count = 0;
    for (int j = 0; j < d_; ++j) {
      index_[count] = j;
      count += keep(j);
    }
    for (int from = 0; from < count; from += capacity_) {
      const int here = std::min(capacity_, count - from);
      const int* index = index_ + from;
      features_.gather(index, here, gathered_, capacity_);
      system.add(
          gathered_, capacity_, here, [&](int a) { return alpha(index[a]); }, [&](int a) { return beta(index[a]); },
          [&](int c, int a) { return unit(c, index[a]); });
    }
  }

  // X^T R over the candidates: planes (m, ld()); rows (n, m).
  void correlate_candidates(const Team&, const double* rows, double* planes) {
    visit_blocks([&](const T* x, std::ptrdiff_t ldx, int from, int length) {
      combine(columns(x, ldx), length, n_, rows, m_, planes + from, ld());
    });
  }

  // X W over the candidates: scores (n, m); planes (m, ld()), which this function pads with zeros.
  void apply_candidates(const Team&, double* planes, double* scores) {
    for (int c = 0; c < m_; ++c) std::fill(planes + c * ld() + count_, planes + c * ld() + padded(count_), 0.0);
    std::fill(scores, scores + n_ * m_, 0.0);
    visit_blocks([&](const T* x, std::ptrdiff_t ldx, int from, int length) {
      add_dot_products(x, ldx, n_, planes + from, ld(), m_, length, scores, m_, false);
    });
  }
  std::ptrdiff_t ld() const { return d_ + kPad; }

  // The features' curvature times rows (n, m) of a vector: a covector (n, m).
  void multiply(const Team&, const double* rows, double* to) {
    std::fill(to, to + n_ * m_, 0.0);
    visit_blocks([&](const T* x, std::ptrdiff_t ldx, int from, int length) {
      combine(columns(x, ldx), length, n_, rows, m_, W_, kBlock);
      double sum[kBlock] = {}, along[kBlock] = {}, units[kBlock] = {};
      for (int c = 0; c < m_; ++c) {
        for (int a = 0; a < length; ++a) sum[a] += W_[c * kBlock + a];
      }
      // Converts the vector to a covector and applies alpha I + beta u u^T.
      for (int c = 0; c < m_; ++c) {
        for (int a = 0; a < length; ++a) {
          W_[c * kBlock + a] += sum[a];
          along[a] += unit(c, from + a) * W_[c * kBlock + a];
          units[a] += unit(c, from + a);
        }
      }
      double alphas[kBlock];
      for (int a = 0; a < length; ++a) {
        alphas[a] = alpha(from + a);
        along[a] *= beta(from + a);
      }
      for (int c = 0; c < m_; ++c) {
        for (int a = 0; a < length; ++a) {
          W_[c * kBlock + a] = alphas[a] * W_[c * kBlock + a] + along[a] * (unit(c, from + a) + units[a]);
        }
      }
      add_dot_products(x, ldx, n_, W_, kBlock, m_, length, to, m_, false);
    });
  }

 private:
  // f(columns (n, ld), ld, first candidate, padded count) over the candidates, in blocks of kBlock.
  template <class Visit>
  void visit_blocks(Visit visit) {
    visit_gathered([&](const T* x, std::ptrdiff_t ld, int first, int count) {
      for (int from = 0; from < count; from += kBlock) {
        visit(x + from, ld, first + from, int(padded(std::min(kBlock, count - from))));
      }
    });
  }

  // Pointers to the rows of a block, as the products take them.
  const T* const* columns(const T* x, std::ptrdiff_t ld) {
    for (int i = 0; i < n_; ++i) columns_[i] = x + i * ld;
    return columns_;
  }

  // Without a group Lasso every feature has curvature 1/lambda2, so that a Gram matrix suffices.
  template <class System>
  void add_dense_curvature(System& system) {
    std::fill(K_, K_ + std::size_t(n_) * n_, 0.0);
    visit_blocks([&](const T* x, std::ptrdiff_t ld, int, int length) {
      for (int i = 0; i < n_; ++i) {
        for (int a = 0; a < length; ++a) exact_[std::ptrdiff_t(i) * kBlock + a] = double(x[i * ld + a]);
      }
      add_dot_products(exact_, kBlock, n_, exact_, kBlock, n_, length, K_, n_, true);
    });
    system.add_gram(K_, 1 / samples_.lambda2);
  }

  // The margin over the features of the last evaluation.
  double margin_here() const {
    double least = 1 - std::sqrt(double(nearest_inactive_));
    for (int a = 0; a < count_; ++a) least = std::min(least, std::abs(norm_[a] / samples_.lambda1 - 1));
    return least;
  }

  // Evaluates at A_. all: without bounds on ||V_j||, so that margin_here() covers all features.
  void evaluate_residual(const Team& team, bool all) {
    double square = 0;
    const double unit = screening_unit(samples_);
    for (int e = 0; e < n_ * m_; ++e) {
      screening_[e] = T(unit * A_[e]);
      square += A_[e] * A_[e];
    }
    const double error = screening_error(samples_, double(std::numeric_limits<T>::epsilon()), square);

    start_scores();
    nearest_inactive_ = 0;
    outside_ = -INFINITY;
    const T least = T(screening_threshold(samples_, error, scan_->longest));
    const bool held = working_.holds(A_);  // in any case, because it records the move to A
    const int listed = all || held ? -1 : list_on_segment(samples_, *scan_, A_, d_, index_, &outside_);
    if (listed >= 0) return gather_listed(team, listed);
    if (held && !all) {
      outside_ = working_.largest_outside();
      for (int from = 0; from < working_.count(); from += kBlock) {
        const int here = std::min(kBlock, working_.count() - from);
        working_.rows(from, rows_);
        screen(team, here, least, [&](int j) { return working_.feature(from + j); });
      }
    } else {
      for (int from = 0, here = 0; from < d_; from += here) {
        here = features_.template block<T>(from, std::min(kLongBlock, capacity_));
        features_.rows(from, here, block_, rows_);
        working_.record(from, here, screen(team, here, least, [&](int j) { return from + j; }));
      }
      working_.rebuild(A_, error);
    }
    spilled_ = first_ > 0;
    take_gathered(team);
    n_gathered_ = spilled_ ? 0 : count_;
  }

  void start_scores() {
    std::fill(scores_, scores_ + n_ * m_, 0.0);
    penalty_ = 0;
    count_ = first_ = 0;
  }

  // Makes the features index_[0..listed) the candidates and computes their scores.
  void gather_listed(const Team& team, int listed) {
    spilled_ = listed > capacity_;
    for (int from = 0; from < listed; from += capacity_) {
      count_ = std::min(listed, from + capacity_);
      features_.gather(index_ + from, count_ - from, gathered_, capacity_);
      take_gathered(team);
    }
    n_gathered_ = spilled_ ? 0 : count_;
  }

  // Gathers the columns of rows_, of `here`, whose squared norm exceeds `least`; feature(j) is the index of column j.
  // Returns the squared norms.
  template <class Index>
  const T* screen(const Team& team, int here, T least, Index feature) {
    const int length = int(padded(here));
    combine_streamed(rows_, length, n_, screening_, m_, planes_, kLongBlock);
    square_norms(planes_, kLongBlock, m_, length, square_norm_);
    if (count_ - first_ + here > capacity_) {
      take_gathered(team);
      n_gathered_ = 0;
    }
    using namespace Eigen::internal;
    const Packet<T> zero = pset1<Packet<T>>(T(0)), bound = pset1<Packet<T>>(least);
    Packet<T> largest_inactive = zero;  // the largest squared norm up to `least`
    int n_found = 0;
    for (int from = 0; from < here; from += kWidth<T>) {
      const Packet<T> norms = ploadu<Packet<T>>(square_norm_ + from);
      largest_inactive = pmax(largest_inactive, pselect(pcmp_le(norms, bound), norms, zero));
      if (predux_max(norms) <= least) continue;  // nearly all packets, if there are many features
      for (int j = from; j < std::min(here, from + kWidth<T>); ++j) {
        block_candidates_[n_found] = j;
        n_found += square_norm_[j] > least;
      }
    }
    nearest_inactive_ = std::max(nearest_inactive_, predux_max(largest_inactive));
    // Near the solution the candidates are those of the last evaluation, whose columns are already gathered.
    bool still_gathered = count_ + n_found <= n_gathered_;
    for (int a = 0; a < n_found; ++a) {
      still_gathered = still_gathered && index_[count_ + a] == feature(block_candidates_[a]);
      index_[count_ + a] = feature(block_candidates_[a]);
    }
    if (!still_gathered) {
      n_gathered_ = 0;
      for (int i = 0; i < n_; ++i) {
        T* to = gathered_ + std::ptrdiff_t(i) * capacity_ + (count_ - first_);
        for (int a = 0; a < n_found; ++a) to[a] = rows_[i][block_candidates_[a]];
      }
    }
    count_ += n_found;
    return square_norm_;
  }

  // Computes V, W and the scores, in double, of the candidates gathered since `first_`.
  void take_gathered(const Team& team) {
    const std::ptrdiff_t ldv = ld();
    for (int from = first_; from < count_; from += kBlock) {
      const int here = std::min(kBlock, count_ - from), length = int(padded(here));
      T* x = gathered_ + (from - first_);
      for (int i = 0; i < n_; ++i) std::fill(x + i * capacity_ + here, x + i * capacity_ + length, T(0));
      combine(columns(x, capacity_), length, n_, A_, m_, V_ + from, ldv);
      square_norms(V_ + from, ldv, m_, length, norm_ + from);
      for (int a = from; a < from + length; ++a) {
        norm_[a] = std::sqrt(norm_[a]);
        inverse_[a] = norm_[a] > 0 ? 1 / norm_[a] : 0;
      }
      // Without a group Lasso also if V_j is 0.
      const double full = 1 / samples_.lambda2;
      for (int a = from; a < from + length; ++a) {
        shrink_[a] = samples_.lambda1 == 0 ? full : active(a) ? full * (1 - samples_.lambda1 * inverse_[a]) : 0;
      }
      penalty_ += team.sum(length, [&](int a) {
        const double length_of_W = shrink_[from + a] * norm_[from + a];
        return samples_.lambda1 * length_of_W + samples_.lambda2 / 2 * length_of_W * length_of_W;
      });
      for (int c = 0; c < m_; ++c) {
        for (int a = 0; a < length; ++a) W_[c * kBlock + a] = shrink_[from + a] * V_[c * ldv + from + a];
      }
      add_dot_products(x, capacity_, n_, W_, kBlock, m_, length, scores_, m_, false);
    }
    first_ = count_;
  }

  const Samples& samples_;
  const Features<F>& features_;
  int n_, d_, m_, capacity_;
  WorkingSet<F, T> working_;
  double *A_, *next_, *scores_, *exact_, *W_, *norm_, *inverse_, *shrink_, *V_, *K_;
  T *screening_, *block_, *planes_, *gathered_;
  const T **rows_, **columns_;
  const double** exact_rows_;
  int* index_;
  int block_candidates_[kLongBlock];
  T square_norm_[kLongBlock];
  const Scan<F>* scan_;
  double ratio_, penalty_ = 0;
  T nearest_inactive_ = 0;      // the largest ||V_j||^2 of the features that are no candidates, in units of lambda1
  double outside_ = -INFINITY;  // an upper bound on ||V_j|| of the features not evaluated, in units of lambda1
  int count_ = 0, first_ = 0;
  int n_gathered_ = 0;  // the number of the last evaluation's candidates whose columns gathered_ holds
  bool spilled_ = false, evaluated_ = false;
};

}  // namespace sparsedis::cpu
