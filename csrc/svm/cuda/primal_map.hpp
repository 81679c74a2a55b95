// The primal map over the features of one task (PrimalMap in ../algorithm/requirements.hpp), for the threads of a
// block.
#pragma once

#include "../algorithm/screening.hpp"
#include "features.hpp"

namespace sparsedis::cuda {

// F is the features' type, T that of the screening and of the Newton system's products. Screening computes V in T for
// all features and gathers those that may be active within T's rounding error. Their V, W and scores are computed in
// double, so that the certificate has double precision whatever T is.
template <class F, class T>
class SparsePrimalMap : public NoVariables {
 public:
  using Products = T;
  using Value = typename Features<F>::Value;

  // longest: the largest ||x_j|| in screening units; ignored if only evaluate_active() is called.
  __device__ SparsePrimalMap(Memory& memory, const Samples& samples, const Features<F>& features, double longest)
      : samples_(samples),
        features_(features),
        n_(samples.n),
        d_(features.features()),
        width_(rounded_up(d_, 4)),
        longest_(longest),
        ratio_(samples.lambda1 / samples.lambda2),
        A_(memory.take<double>(std::size_t(n_) * samples.m)),
        next_(memory.take<double>(std::size_t(n_) * samples.m)),
        scores_(memory.take<double>(std::size_t(n_) * samples.m)),
        screening_(memory.take<T>(std::size_t(n_) * samples.m)),
        gathered_(memory.take_scratch<Value>(n_ * width_)),
        V_(memory.take_scratch<double>(std::size_t(samples.m) * d_)),
        product_(memory.take_scratch<double>(std::size_t(samples.m) * d_)),
        norm_(memory.take_scratch<double>(d_)),
        inverse_(memory.take_scratch<double>(d_)),
        shrinkage_(memory.take_scratch<double>(d_)),
        index_(memory.take_scratch<int>(d_)),
        bits_(memory.take_scratch<unsigned>(words())) {}

  __device__ int features() const { return d_; }
  __device__ int candidates() const { return count_; }
  __device__ int index(int a) const { return index_[a]; }
  __device__ bool active(int a) const { return norm_[a] > samples_.lambda1; }
  __device__ double V(int c, int a) const { return V_[c * ld() + a]; }
  __device__ double W(int c, int a) const { return shrinkage_[a] * V(c, a); }
  __device__ double alpha(int a) const { return shrinkage_[a]; }
  __device__ double beta(int a) const { return active(a) ? ratio_ * inverse_[a] : 0; }
  __device__ double unit(int c, int a) const { return V(c, a) * inverse_[a]; }
  __device__ const double* residual() const { return A_; }
  __device__ const double* scores() const { return scores_; }
  __device__ const double* gradient_scores() const { return scores_; }
  __device__ std::ptrdiff_t ld() const { return d_; }

  // Evaluates at L (n, k); returns lambda1 sum ||W_j|| + lambda2/2 ||W||^2. Returns at once if L is that of the last
  // call.
  SPARSEDIS_ONCE __device__ double evaluate(const Team& team, const double* L) {
    const int m = samples_.m;
    const double changed = team.sum(n_, [&](int i) {
      residual_row(samples_, L, i, next_);
      double count = 0;
      for (int e = i * m; e < (i + 1) * m; ++e) count += !evaluated_ || next_[e] != A_[e];
      return count;
    });
    if (changed == 0) return penalty_;
    double* const last = A_;
    A_ = next_;
    next_ = last;
    evaluated_ = true;
    const double unit = screening_unit(samples_);
    const double square = team.sum(n_ * m, [&](int e) {
      screening_[e] = T(unit * A_[e]);
      return A_[e] * A_[e];
    });
    const double error = screening_error(samples_, kEpsilon, square);
    screen(team, T(screening_threshold(samples_, error, longest_)));
    penalty_ = take_candidates(team);
    return penalty_;
  }

  SPARSEDIS_ONCE __device__ double margin(const Team& team) {
    if (samples_.lambda1 == 0) return INFINITY;
    const double least = team.least(count_, [&](int a) { return ::fabs(norm_[a] / samples_.lambda1 - 1); });
    const double off = 1 - std::sqrt(nearest_inactive_);
    return least < off ? least : off;
  }

  // Evaluates at L with known active features (d,); these are the candidates, or all features if lambda1 is 0.
  __device__ void evaluate_active(const Team& team, const double* L, const bool* active) {
    evaluated_ = false;
    team.each(n_, [&](int i) { residual_row(samples_, L, i, A_); });
    find(team, [&](int j) { return active[j] || samples_.lambda1 == 0; });
    take_candidates(team);
  }

  template <class Curvature>
  __device__ void add_curvature(Curvature& into) {
    into.add(
        gathered_, width_, count_, [&](int a) { return alpha(a); }, [&](int a) { return beta(a); },
        [&](int c, int a) { return unit(c, a); });
  }

  // Adds the curvature of all features with keep(j), instead of the active ones.
  template <class Curvature, class Keep, class Alpha, class Beta, class Unit>
  __device__ void add_curvature_of(Curvature& into, Keep keep, Alpha alpha, Beta beta, Unit unit) {
    evaluated_ = false;  // the candidates are overwritten
    find(into.team, keep);
    gather(into.team);
    into.add(
        gathered_, width_, count_, [&](int a) { return alpha(index_[a]); }, [&](int a) { return beta(index_[a]); },
        [&](int c, int a) { return unit(c, index_[a]); });
  }

  SPARSEDIS_ONCE __device__ void mean_curvature(const Team& team, double* to) {
    const int m = samples_.m, count = count_;
    const auto x = gathered();
    team.each_by_warp(n_, [&](int i, int lane) {
      double sum = 0;
#pragma unroll 1
      for (int a = lane; a < count; a += kWarp) sum += double(x(i, a)) * double(x(i, a)) * (alpha(a) + beta(a) / m);
      sum = sum_of_lanes(sum);
      if (lane == 0) to[i] = sum;
    });
  }

  // X^T R for rows (n, m), over all features: planes (m, d).
  SPARSEDIS_ONCE __device__ void correlate(const Team& team, const double* rows, double* planes) {
    const Features<F> features = features_;
    correlate_columns(team, d_, [=](int i, int j) { return features(i, j); }, rows, planes);
  }

  // X W for planes W (m, d): scores (n, m).
  SPARSEDIS_ONCE __device__ void apply(const Team& team, const double* planes, double* scores) {
    const Features<F> features = features_;
    const std::ptrdiff_t ld = this->ld();
    multiply_rows(
        team, n_, samples_.m, d_, [=](int i, int j) { return features(i, j); },
        [=](int c, int j) { return planes[c * ld + j]; }, scores);
  }

  SPARSEDIS_ONCE __device__ void correlate_candidates(const Team& team, const double* rows, double* planes) {
    correlate_columns(team, count_, gathered(), rows, planes);
  }

  SPARSEDIS_ONCE __device__ void apply_candidates(const Team& team, const double* planes, double* scores) {
    const std::ptrdiff_t ld = this->ld();
    multiply_rows(team, n_, samples_.m, count_, gathered(), [=](int c, int a) { return planes[c * ld + a]; }, scores);
  }

  // The features' curvature times rows (n, m) of a vector: a covector (n, m).
  SPARSEDIS_ONCE __device__ void multiply(const Team& team, const double* rows, double* to) {
    correlate_candidates(team, rows, product_);
    const int m = samples_.m;
    const std::ptrdiff_t ld = this->ld();
    const double *const V = V_, *const inverses = inverse_;
    double* const product = product_;
    // Converts the vector to a covector and applies alpha I + beta u u^T.
    team.each(count_, [&](int a) {
      const double inverse = inverses[a];
      double sum = 0, along = 0, units = 0;
      for (int c = 0; c < m; ++c) {
        const double unit = V[c * ld + a] * inverse;
        sum += product[c * ld + a];
        along += unit * product[c * ld + a];
        units += unit;
      }
      along = beta(a) * (along + units * sum);
      const double alpha = this->alpha(a);
      for (int c = 0; c < m; ++c) {
        double& value = product[c * ld + a];
        value = alpha * (value + sum) + along * (V[c * ld + a] * inverse + units);
      }
    });
    apply_candidates(team, product_, to);
  }

 private:
  static constexpr double kEpsilon = sizeof(T) == 8 ? 2.220446049250313e-16 : 1.1920929e-7;

  __device__ int words() const { return (d_ + kWarp - 1) / kWarp; }
  // The candidates' features. The pointer is copied, because the compiler reloads a member after every store.
  __device__ auto gathered() const {
    return [x = gathered_, width = width_](int i, int a) { return x[i * width + a]; };
  }

  // X^T R for the columns x(i, a), a < count. The rows are copied to next_, free between evaluations, for alignment.
  template <class X>
  __device__ void correlate_columns(const Team& team, int count, X x, const double* rows, double* planes) const {
    const int n = n_, m = samples_.m;
    const std::ptrdiff_t ld = this->ld();
    double* const aligned = next_;
    team.each(n * m, [&](int e) { aligned[e] = rows[e]; });
    team.each(count, [&](int a) {
      multiply_columns<1>(
          n, m, aligned, [&](int i) { return Columns<decltype(x(i, a)), 1>{{x(i, a)}}; },
          [&](int c, const Columns<double, 1>& sum) { planes[c * ld + a] = sum.of[0]; });
    });
  }

  // Makes the features whose squared norm exceeds `least` the candidates, and keeps the largest squared norm of the
  // rest.
  __device__ void screen(const Team& team, T least) {
    if (features_.by_fours()) {
      screen_columns<kMostColumns<T>>(team, least);
    } else {
      screen_columns<1>(team, least);
    }
    collect(team);
  }

  template <int kColumns>
  __device__ void screen_columns(const Team& team, T least) {
    constexpr int kLanes = kWarp / kColumns;  // whose bits form a word
    const int n = n_, d = d_, m = samples_.m;
    const Features<F> features = features_;
    const T* const rows = screening_;
    unsigned* const on_bits = bits_;
    T nearest = 0;
    team.each_by_warp((words() + kColumns - 1) / kColumns, [&](int group, int lane) {
      const int j = (group * kWarp + lane) * kColumns;
      Columns<T, kColumns> squares = {}, last = {};
      if (j < d) {
        multiply_columns<kColumns>(
            n, m, rows, [=](int i) { return features.template columns<kColumns>(i, j); },
            [&](int, const Columns<T, kColumns>& sum) {
#pragma unroll
              for (int q = 0; q < kColumns; ++q) {
                squares.of[q] += sum.of[q] * sum.of[q];
                last.of[q] += sum.of[q];
              }
            });
      }
      unsigned bits = 0;
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const T square = squares.of[q] + last.of[q] * last.of[q];
        if (j + q >= d) continue;
        if (!(square <= least)) {
          bits |= 1u << (lane * kColumns + q) % kWarp;
        } else if (square > nearest) {
          nearest = square;
        }
      }
#pragma unroll
      for (int step = 1; step < kLanes; step *= 2) bits |= __shfl_xor_sync(kAllLanes, bits, step);
      const int word = group * kColumns + lane / kLanes;
      if (lane % kLanes == 0 && word < words()) on_bits[word] = bits;
    });
    nearest_inactive_ = -team.least(team.threads(), [&](int) { return -double(nearest); });
  }

  template <class Keep>
  __device__ void find(const Team& team, Keep keep) {
    team.each_by_warp(words(), [&](int word, int lane) {
      const int j = word * kWarp + lane;
      const unsigned bits = __ballot_sync(kAllLanes, j < d_ && keep(j));
      if (lane == 0) bits_[word] = bits;
    });
    collect(team);
  }

  // Lists the features whose bit is set, in ascending order.
  SPARSEDIS_ONCE __device__ void collect(const Team& team) {
    int count = 0;
    for (int from = 0; from < words(); from += team.threads()) {
      const int word = from + team.thread();
      unsigned bits = word < words() ? bits_[word] : 0;
      int total, place = count + team.offset(__popc(bits), total);
#pragma unroll 1
      for (; bits; bits &= bits - 1) index_[place++] = word * kWarp + __ffs(bits) - 1;
      count += total;
    }
    team.wait();
    count_ = count;
  }

  SPARSEDIS_ONCE __device__ void gather(const Team& team) {
    constexpr int kLoadsInFlight = 8;  // loads in flight at once
    const int count = count_, n = n_;
    const std::ptrdiff_t width = width_;
    const Features<F> features = features_;
    Value* const to = gathered_;
    const int* const index = index_;
    team.each(int(rounded_up(count, 4)), [&](int a) {
      const bool there = a < count;
      const int j = index[there ? a : count - 1];
#pragma unroll 1
      for (int from = 0; from < n; from += kLoadsInFlight) {
        Value value[kLoadsInFlight];
#pragma unroll
        for (int q = 0; q < kLoadsInFlight; ++q) value[q] = features(from + q < n ? from + q : n - 1, j);
#pragma unroll
        for (int q = 0; q < kLoadsInFlight; ++q) {
          if (from + q < n) to[(from + q) * width + a] = there ? value[q] : Value(0);
        }
      }
    });
  }

  // Computes V, W and the scores of the candidates in double; returns the penalty.
  SPARSEDIS_ONCE __device__ double take_candidates(const Team& team) {
    gather(team);
    correlate_candidates(team, A_, V_);
    const int m = samples_.m;
    const std::ptrdiff_t ld = this->ld();
    const double lambda1 = samples_.lambda1, lambda2 = samples_.lambda2;
    const double* const V = V_;
    double *const W = product_, *const norms = norm_, *const inverses = inverse_, *const shrinkages = shrinkage_;
    const double penalty = team.sum(count_, [&](int a) {
      double squares = 0, last = 0;
      for (int c = 0; c < m; ++c) {
        const double value = V[c * ld + a];
        squares += value * value;
        last += value;
      }
      const double norm = std::sqrt(squares + last * last), inverse = norm > 0 ? 1 / norm : 0;
      // With lambda1 = 0 also if V_j is 0.
      const double shrinkage = lambda1 == 0 ? 1 / lambda2 : norm > lambda1 ? (1 - lambda1 * inverse) / lambda2 : 0;
      for (int c = 0; c < m; ++c) W[c * ld + a] = shrinkage * V[c * ld + a];
      norms[a] = norm;
      inverses[a] = inverse;
      shrinkages[a] = shrinkage;
      const double length = shrinkage * norm;
      return lambda1 * length + lambda2 / 2 * length * length;
    });
    apply_candidates(team, W, scores_);
    return penalty;
  }

  const Samples& samples_;
  const Features<F>& features_;
  int n_, d_, count_ = 0;
  std::size_t width_;                     // of a row of gathered_
  double longest_, ratio_, penalty_ = 0;  // ratio_: lambda1 / lambda2
  double nearest_inactive_ = 0;           // the largest ||V_j||^2 outside the candidates, in units of lambda1
  bool evaluated_ = false;
  double *A_, *next_, *scores_;
  T* screening_;
  Value* gathered_;  // (n, width): the candidates' features, zero-padded to a multiple of four
  double *V_, *product_, *norm_, *inverse_, *shrinkage_;
  int* index_;
  unsigned* bits_;
};

// The primal map for lambda1 = 0: W = X^T A/lambda2 is linear in L, so that the Gram matrix X X^T replaces the
// features.
template <class F>
class GramPrimalMap : public NoVariables {
 public:
  using Products = double;

  __device__ GramPrimalMap(Memory& memory, const Team& team, const Samples& samples, const Features<F>& features)
      : samples_(samples),
        n_(samples.n),
        A_(memory.take<double>(std::size_t(n_) * samples.m)),
        scores_(memory.take<double>(std::size_t(n_) * samples.m)),
        K_(memory.take<double>(std::size_t(n_) * n_)) {
    features.gram(team, K_);
  }

  __device__ double evaluate(const Team& team, const double* L) {
    team.each(n_, [&](int i) { residual_row(samples_, L, i, A_); });
    apply_gram(team, A_, scores_);
    // lambda2/2 ||W||^2 = <A, X W>/2 over all classes.
    return team.sum(n_ * samples_.k, [&](int e) {
      const int i = e / samples_.k, l = e % samples_.k, m = samples_.m;
      return entry(A_, m, i, l) * entry(scores_, m, i, l) / 2;
    });
  }

  // The features' curvature times rows (n, m) of a vector: a covector (n, m).
  __device__ void multiply(const Team& team, const double* rows, double* to) const {
    apply_gram(team, rows, to);
    const int m = samples_.m;
    team.each(n_, [&](int i) {
      double sum = 0;
      for (int c = 0; c < m; ++c) sum += to[i * m + c];
      for (int c = 0; c < m; ++c) to[i * m + c] += sum;
    });
  }

  __device__ const double* scores() const { return scores_; }
  __device__ const double* gradient_scores() const { return scores_; }
  template <class Curvature>
  __device__ void add_curvature(Curvature& into) const {
    into.add_gram(K_, 1 / samples_.lambda2);
  }
  __device__ void mean_curvature(const Team& team, double* to) const {
    team.each(n_, [&](int i) { to[i] = K_[std::ptrdiff_t(i) * n_ + i] / samples_.lambda2; });
  }

 private:
  // X X^T rows/lambda2, (n, m).
  __device__ void apply_gram(const Team& team, const double* rows, double* to) const {
    const int m = samples_.m;
    multiply_rows(
        team, n_, m, n_, [&](int i, int j) { return K_[std::ptrdiff_t(i) * n_ + j] / samples_.lambda2; },
        [&](int c, int j) { return rows[j * m + c]; }, to);
  }

  const Samples& samples_;
  int n_;
  double *A_, *scores_, *K_;
};

}  // namespace sparsedis::cuda
