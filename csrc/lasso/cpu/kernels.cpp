// The Lasso on the CPU, a thread per task: sweeps or entering features find the support, a direct solve on it the
// weights, as sparsedis/ops/lasso/descent.py does it. Everything is double inside.
#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "../../common/cpu/memory.hpp"
#include "../../common/cpu/threads.hpp"
#include "../../common/status.hpp"
#include "../api.hpp"

namespace sparsedis {
namespace cpu {
namespace {

using Matrix = Eigen::Map<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>>;
using Rows = Eigen::Map<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
using Vector = Eigen::Map<Eigen::VectorXd>;

constexpr double kSmallest = std::numeric_limits<double>::min();
// The relative gap at which an iterate is the solution to rounding.
constexpr double kRounding = 1e-13;
// Checks without a better gap or a lower objective after which a task has stalled.
constexpr int kStallAfter = 20;
// The first kSweepIterations iterations begin with kSweeps sweeps each and then solve on the support at most
// kSupportSolves times; every solve but the last drops a feature. A sweep is much cheaper than a solve on a support
// that is too large.
constexpr int kSweepIterations = 2, kSweeps = 10, kSupportSolves = 10;
// In the other iterations one feature enters, and one more for every kInPerEntry in the support.
constexpr int kInPerEntry = 4;
// Products of at least this many features use Eigen.
constexpr int kBlocked = 24;
// With a unit diagonal, a smaller pivot means that features may be dependent: the eigenvalues decide.
constexpr double kSafePivot = 1e-9;

double dot(const double* a, const double* b, int count) {
  double part[4] = {0, 0, 0, 0};
  int i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int p = 0; p < 4; ++p) part[p] += a[i + p] * b[i + p];
  }
  for (; i < count; ++i) part[0] += a[i] * b[i];
  return (part[0] + part[1]) + (part[2] + part[3]);
}

// A bound on what rounding makes of a zero eigenvalue of a matrix with a unit diagonal.
double shift_of(int order) { return 16 * order * std::numeric_limits<double>::epsilon(); }

// One task without its absent samples; weights sum to 1; H = X^T diag(weight) X + lambda2 and b = X^T diag(weight) y.
template <class F>
struct LassoTask {
  int n, d;
  int* present;  // (n,), index in the batch's samples
  double *X, *y, *weight, *H, *b;
  double lambda1, lambda2;

  LassoTask(Memory& memory, const Lassos<F>& problems, std::int64_t index)
      : n(0), d(int(problems.features)), lambda1(problems.lambda1[index]), lambda2(problems.lambda2[index]) {
    const int all = int(problems.samples);
    present = memory.take<int>(all);
    X = memory.take<double>(std::size_t(all) * d);
    y = memory.take<double>(all);
    weight = memory.take<double>(all);
    H = memory.take<double>(std::size_t(d) * d);
    b = memory.take<double>(d);
    const double* sample_weight = problems.weight + index * all;
    double largest = 0;
    for (int i = 0; i < all; ++i) largest = std::max(largest, sample_weight[i]);
    double total = 0;
    for (int i = 0; i < all; ++i) {
      if (!(sample_weight[i] > 0)) continue;
      const F* from = problems.X + index * problems.stride[0] + i * problems.stride[1];
      double* to = X + std::size_t(n) * d;
      if (problems.stride[2] == 1) {
        for (int j = 0; j < d; ++j) to[j] = double(from[j]);
      } else {
        for (int j = 0; j < d; ++j) to[j] = double(from[j * problems.stride[2]]);
      }
      present[n] = i;
      y[n] = problems.y[index * all + i];
      weight[n] = sample_weight[i] / largest;
      total += weight[n++];
    }
    for (int i = 0; i < n; ++i) weight[i] /= total;
    gram(memory);
  }

  void gram(Memory& memory) {
    double* weighted = memory.take<double>(std::size_t(n) * d);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < d; ++j) weighted[std::size_t(i) * d + j] = weight[i] * X[std::size_t(i) * d + j];
    }
    std::fill(b, b + d, 0.0);
    for (int i = 0; i < n; ++i) {
      const double* row = weighted + std::size_t(i) * d;
      for (int j = 0; j < d; ++j) b[j] += row[j] * y[i];
    }
    if (d < kBlocked || n == 0) {  // Eigen divides by the number of samples
      std::fill(H, H + std::size_t(d) * d, 0.0);
      for (int i = 0; i < n; ++i) {
        const double *row = weighted + std::size_t(i) * d, *x = X + std::size_t(i) * d;
        for (int j = 0; j < d; ++j) {
          for (int l = 0; l <= j; ++l) H[j * d + l] += row[j] * x[l];
        }
      }
    } else {
      Rows(H, d, d).triangularView<Eigen::Lower>() = Rows(weighted, n, d).transpose() * Rows(X, n, d);
    }
    for (int j = 0; j < d; ++j) {
      H[std::size_t(j) * d + j] += lambda2;
      for (int l = 0; l < j; ++l) H[std::size_t(l) * d + j] = H[std::size_t(j) * d + l];
    }
  }

  const double* row(int i) const { return X + std::size_t(i) * d; }
};

// The rows and columns of H that belong to a support, with a unit diagonal.
struct Support {
  int* index;  // (size,)
  int size = 0;
  double* scale;  // (size,)
  double* matrix;
  double* step;

  Support(Memory& memory, int d)
      : index(memory.take<int>(d)),
        scale(memory.take<double>(d)),
        matrix(memory.take<double>(std::size_t(d) * d)),
        step(memory.take<double>(d)) {}

  // active(j): feature j is in the support.
  template <class Active>
  void choose(const double* H, int d, Active active) {
    size = 0;
    for (int j = 0; j < d; ++j) {
      const double diagonal = H[std::size_t(j) * d + j];
      if (!active(j)) continue;
      index[size] = j;
      scale[size++] = diagonal > 0 ? 1 / std::sqrt(diagonal) : 1;
    }
    fill(H, d);
  }

  void fill(const double* H, int d) {
    for (int a = 0; a < size; ++a) {
      const double* from = H + std::size_t(index[a]) * d;
      double* to = matrix + std::size_t(a) * size;
      for (int c = 0; c <= a; ++c) to[c] = scale[a] * scale[c] * from[index[c]];
      to[a] = 1;
    }
  }

  // Factors in place, lower triangle, row-major. Returns the smallest squared pivot, 0 where there is no factor.
  double factor(double shift) {
    for (int a = 0; a < size; ++a) matrix[std::size_t(a) * size + a] += shift;
    if (size >= kBlocked) {
      // Row-major lower is column-major upper.
      Eigen::Ref<Eigen::MatrixXd> view = Matrix(matrix, size, size);
      const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>, Eigen::Upper> done(view);
      if (done.info() != Eigen::Success) return 0;
    } else {
      for (int a = 0; a < size; ++a) {
        double* row = matrix + std::size_t(a) * size;
        for (int c = 0; c <= a; ++c) {
          const double* other = matrix + std::size_t(c) * size;
          double value = row[c];
          for (int l = 0; l < c; ++l) value -= row[l] * other[l];
          if (c < a) {
            row[c] = value / other[c];
          } else {
            if (!(value > 0)) return 0;
            row[c] = std::sqrt(value);
          }
        }
      }
    }
    double least = INFINITY;
    for (int a = 0; a < size; ++a) {
      const double pivot = matrix[std::size_t(a) * size + a];
      least = std::min(least, pivot * pivot);
    }
    return least > 0 ? least : 0;
  }

  // step = matrix^-1 of itself, by the factor.
  void substitute() {
    for (int a = 0; a < size; ++a) {
      const double* row = matrix + std::size_t(a) * size;
      step[a] = (step[a] - dot(row, step, a)) / row[a];
    }
    for (int a = size - 1; a >= 0; --a) {
      const double* row = matrix + std::size_t(a) * size;
      step[a] /= row[a];
      for (int c = 0; c < a; ++c) step[c] -= row[c] * step[a];
    }
  }

  // step = (H_A + shift)^-1 of gradient(j), the shift relative to the diagonal. A tiny one makes a factor exist where
  // features are dependent: there the step is long along what does not change the fit.
  template <class Gradient>
  void damped(int d, Gradient gradient) {
    const bool factored = factor(shift_of(d)) > 0;
    for (int a = 0; a < size; ++a) step[a] = scale[a] * gradient(index[a]);
    if (factored) substitute();
    for (int a = 0; a < size; ++a) step[a] *= scale[a];
  }

  // step = H_A^+ of gradient(j): of least norm where features are dependent.
  template <class Gradient>
  void least_norm(const double* H, int d, Gradient gradient) {
    const bool safe = factor(0) > kSafePivot;
    for (int a = 0; a < size; ++a) step[a] = scale[a] * gradient(index[a]);
    if (safe) {
      substitute();
    } else if (size > 0) {
      fill(H, d);
      // Row-major lower is column-major upper: as the lower triangle of the transpose.
      Eigen::MatrixXd full = Matrix(matrix, size, size).transpose();
      const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> spectrum(full);
      const Eigen::VectorXd& values = spectrum.eigenvalues();
      const double cut = 100 * shift_of(d) * std::max(values[size - 1], 1.0);
      Eigen::VectorXd along = spectrum.eigenvectors().transpose() * Vector(step, size);
      for (int a = 0; a < size; ++a) along[a] = values[a] > cut ? along[a] / values[a] : 0;
      Vector(step, size) = spectrum.eigenvectors() * along;
    }
    for (int a = 0; a < size; ++a) step[a] *= scale[a];
  }
};

struct LassoCertificate {
  double gap, relative_gap, objective;
  double dual_scale;  // the dual point is this times the residual of w
};

template <class F>
class Descent {
 public:
  Descent(Memory& memory, const LassoTask<F>& task)
      : task_(task),
        n_(task.n),
        d_(task.d),
        w_(memory.take<double>(task.d)),
        best_(memory.take<double>(task.d)),
        signs_(memory.take<double>(task.d)),
        g_(memory.take<double>(task.d)),
        beyond_(memory.take<double>(task.d)),
        v_(memory.take<double>(task.d)),
        r_(memory.take<double>(task.n)),
        support_(memory, task.d) {
    std::fill(w_, w_ + d_, 0.0);
    std::fill(signs_, signs_ + d_, 0.0);
    keep();
    for (int i = 0; i < n_; ++i) at_zero_ += task.weight[i] * task.y[i] * task.y[i] / 2;
  }

  const double* w() const { return w_; }
  const double* residual() const { return r_; }

  // Whether a sign has changed since the last call.
  bool turned() {
    bool any = false;
    for (int j = 0; j < d_; ++j) {
      const double now = sign(w_[j]);
      any |= now != signs_[j];
      signs_[j] = now;
    }
    return any;
  }

  void keep() { std::copy(w_, w_ + d_, best_); }
  void restore() { std::copy(best_, best_ + d_, w_); }

  // Sweeps over the features until no sign changes.
  void sweeps() {
    if (task_.lambda1 == 0) return;
    for (int count = 0; count < kSweeps && sweep(); ++count) {
    }
    refresh();
  }

  // Sets w to zero where its support is larger than the number of samples. Returns whether it did.
  bool restart_crowded() {
    if (task_.lambda1 == 0 || in() <= n_) return false;
    std::fill(w_, w_ + d_, 0.0);
    refresh();
    return true;
  }

  // Adds to the support, one after the other, the features that alone lower the objective most.
  void enter() {
    if (task_.lambda1 == 0) return;
    const int size = in();
    int room = std::max(std::min(1 + size / kInPerEntry, n_ - size), 1);
    while (room-- > 0 && enter_best()) {
    }
  }

  // Moves w towards the minimiser over its support, within the orthant of its signs. Returns whether it ended at the
  // boundary.
  bool minimise_on_support() {
    const double lambda1 = task_.lambda1;
    choose_support();
    if (lambda1 == 0) {
      support_.least_norm(task_.H, d_, [&](int j) { return g_[j]; });
    } else {
      support_.damped(d_, [&](int j) { return g_[j] - lambda1 * sign(w_[j]); });
    }
    bool crossed = false;
    double length = 1;
    for (int a = 0; a < support_.size; ++a) {
      const int j = support_.index[a];
      beyond_[a] = w_[j] + support_.step[a];
      if (crosses(a)) {
        crossed = true;
        length = std::min(length, w_[j] / (w_[j] - beyond_[a]));
      }
    }
    if (!crossed) {
      for (int a = 0; a < support_.size; ++a) w_[support_.index[a]] = beyond_[a];
      refresh();
      return false;
    }
    // All features that would change sign become 0, where that lowers the objective; else the step ends at the first
    // of them.
    if (change_if_all_dropped() < 0) {
      for (int a = 0; a < support_.size; ++a) {
        const int j = support_.index[a];
        w_[j] = crosses(a) ? 0 : beyond_[a];
      }
    } else {
      for (int a = 0; a < support_.size; ++a) {
        const int j = support_.index[a];
        const bool first = crosses(a) && w_[j] / (w_[j] - beyond_[a]) <= length;
        w_[j] = first ? 0 : w_[j] + length * support_.step[a];
      }
    }
    refresh();
    return true;
  }

  // The certificate of sparsedis/ops/lasso/problem.py. The gradient is of the features: that of H cancels.
  LassoCertificate certify() {
    const double lambda1 = task_.lambda1, lambda2 = task_.lambda2;
    double square = 0;
    std::fill(v_, v_ + d_, 0.0);
    for (int i = 0; i < n_; ++i) {
      const double* x = task_.row(i);
      r_[i] = task_.y[i] - dot(x, w_, d_);
      const double weighted = task_.weight[i] * r_[i];
      for (int j = 0; j < d_; ++j) v_[j] += weighted * x[j];
      square += weighted * r_[i];
    }
    double largest = 0;
    for (int j = 0; j < d_; ++j) {
      g_[j] = v_[j] - lambda2 * w_[j];
      largest = std::max(largest, std::fabs(g_[j]));
      square += lambda2 * w_[j] * w_[j];
    }
    scale_ = largest > lambda1 ? lambda1 / largest : 1;
    if (lambda1 == 0) {
      choose_support();
      support_.least_norm(task_.H, d_, [&](int j) { return g_[j]; });
      to_minimum_ = 0;
      for (int s = 0; s < support_.size; ++s) to_minimum_ += g_[support_.index[s]] * support_.step[s];
      to_minimum_ = std::max(to_minimum_ / 2, 0.0);
    }
    return smallest(w_, {(1 - scale_) * (1 - scale_) / 2 * square, 0, 0}, square);
  }

  // The certificate of w, the last certified, rounded to float, with the dual point of w.
  LassoCertificate certify_rounded(const F* rounded) const {
    const double lambda2 = task_.lambda2;
    Distances away{0, 0, 0};
    double square = 0;
    auto add = [&](double weight, double value, double exact) {
      const double scaled = value - scale_ * exact, moved = value - exact;
      square += weight * value * value;
      away.scaled += weight * scaled * scaled / 2;
      away.w += weight * moved * moved / 2;
    };
    for (int i = 0; i < n_; ++i) {
      const double* x = task_.row(i);
      double residual = task_.y[i];
      for (int j = 0; j < d_; ++j) residual -= x[j] * double(rounded[j]);
      add(task_.weight[i], residual, r_[i]);
    }
    away.residual = away.w;
    for (int j = 0; j < d_; ++j) add(lambda2, double(rounded[j]), w_[j]);
    return smallest(rounded, away, square);
  }

  // min_j | |z_j| / lambda1 - 1 |, z_j being what a sweep thresholds, at the w that was last certified.
  double margin() const {
    double least = INFINITY;
    if (task_.lambda1 == 0) return least;
    for (int j = 0; j < d_; ++j) {
      const double z = v_[j] + (task_.H[std::size_t(j) * d_ + j] - task_.lambda2) * w_[j];
      least = std::min(least, std::fabs(std::fabs(z) / task_.lambda1 - 1));
    }
    return least;
  }

 private:
  static double sign(double value) { return value > 0 ? 1 : value < 0 ? -1 : 0; }

  // Half the squared distances of weights: from the scaled w and from w, in the norm of H, and of the residuals alone.
  struct Distances {
    double scaled, residual, w;
  };

  // The smallest gap of weights, by the dual points of w; `square` is sum weight r^2 + lambda2 w^2 at the weights.
  template <class W>
  LassoCertificate smallest(const W* weights, const Distances& away, double square) const {
    const double lambda1 = task_.lambda1, lambda2 = task_.lambda2;
    double norm = 0, gap = away.scaled, by_conjugate = away.residual, scale = scale_;
    for (int j = 0; j < d_; ++j) {
      const double value = double(weights[j]), size = std::fabs(value), correlation = std::fabs(v_[j]);
      norm += size;
      gap += std::max(lambda1 * size - scale_ * g_[j] * value, 0.0);
      if (lambda2 > 0) {
        const double above = std::max(correlation - lambda1, 0.0);
        if (v_[j] * value < 0) {
          by_conjugate += (lambda1 + correlation) * size + lambda2 / 2 * size * size + above * above / (2 * lambda2);
        } else {
          const double off = lambda2 * size - above;
          by_conjugate += std::max(lambda1 - correlation, 0.0) * size + off * off / (2 * lambda2);
        }
      }
    }
    if (lambda2 > 0 && by_conjugate < gap) gap = by_conjugate, scale = 1;
    if (lambda1 == 0) {
      // The triangle inequality in the norm of H.
      const double way = std::sqrt(away.w) + std::sqrt(to_minimum_);
      if (way * way < gap) gap = way * way, scale = 1;
    }
    const double relative = gap / std::max(at_zero_, kSmallest), objective = square / 2 + lambda1 * norm;
    if (!std::isfinite(relative) || !std::isfinite(objective)) return {INFINITY, INFINITY, INFINITY, scale};
    return {gap, relative, objective, scale};
  }

  int in() const {
    return int(std::count_if(w_, w_ + d_, [](double value) { return value != 0; }));
  }

  // One sweep over the features. Returns whether a sign changed.
  bool sweep() {
    bool changed = false;
    for (int j = 0; j < d_; ++j) {
      if (task_.H[std::size_t(j) * d_ + j] > 0) changed |= minimise_over(j);
    }
    return changed;
  }

  // Returns whether there was a feature to add.
  bool enter_best() {
    int chosen = -1;
    double most = 0;
    for (int j = 0; j < d_; ++j) {
      const double diagonal = task_.H[std::size_t(j) * d_ + j], excess = std::fabs(g_[j]) - task_.lambda1;
      if (w_[j] != 0 || !(diagonal > 0) || !(excess > 0)) continue;
      const double gain = excess * excess / diagonal;
      if (gain > most) {
        most = gain;
        chosen = j;
      }
    }
    if (chosen < 0) return false;
    minimise_over(chosen);
    return true;
  }

  // Over one feature; whether its sign changed.
  bool minimise_over(int j) {
    const double* row = task_.H + std::size_t(j) * d_;
    const double diagonal = row[j], z = g_[j] + diagonal * w_[j], size = std::fabs(z) - task_.lambda1;
    const double to = size > 0 ? std::copysign(size, z) / diagonal : 0, change = to - w_[j];
    if (change == 0) return false;
    const bool turned = sign(to) != sign(w_[j]);
    w_[j] = to;
    for (int l = 0; l < d_; ++l) g_[l] -= row[l] * change;
    return turned;
  }

  bool crosses(int a) const { return task_.lambda1 > 0 && beyond_[a] * sign(w_[support_.index[a]]) <= 0; }

  void choose_support() {
    const bool all = task_.lambda1 == 0;
    support_.choose(task_.H, d_, [&](int j) { return all ? task_.H[std::size_t(j) * d_ + j] > 0 : w_[j] != 0; });
  }

  // g = b - H w.
  void refresh() {
    std::copy(task_.b, task_.b + d_, g_);
    for (int j = 0; j < d_; ++j) {
      if (w_[j] == 0) continue;
      const double *row = task_.H + std::size_t(j) * d_, value = w_[j];
      for (int l = 0; l < d_; ++l) g_[l] -= row[l] * value;
    }
  }

  double change_if_all_dropped() {
    double change = 0;
    for (int a = 0; a < support_.size; ++a) {
      const int j = support_.index[a];
      const double* row = task_.H + std::size_t(j) * d_;
      const double to = crosses(a) ? 0 : beyond_[a];
      double curvature = 0;
      for (int c = 0; c < support_.size; ++c) {
        const int l = support_.index[c];
        curvature += row[l] * ((crosses(c) ? 0 : beyond_[c]) - w_[l]);
      }
      change += (to - w_[j]) * (curvature / 2 - g_[j]) + task_.lambda1 * (std::fabs(to) - std::fabs(w_[j]));
    }
    return change;
  }

  const LassoTask<F>& task_;
  int n_, d_;
  double *w_, *best_, *signs_, *g_, *beyond_, *v_, *r_;
  double scale_ = 1, to_minimum_ = 0, at_zero_ = 0;  // the latter P(0)
  Support support_;
};

// Whether all values are what the problem allows.
template <class F>
bool valid(const Lassos<F>& problems, std::int64_t index) {
  auto fine = [](double value) { return std::isfinite(value) && value >= 0; };
  if (!fine(problems.lambda1[index]) || !fine(problems.lambda2[index])) return false;
  bool finite = true;
  for (std::int64_t i = 0; i < problems.samples; ++i) {
    if (!fine(problems.weight[index * problems.samples + i])) return false;
    if (!std::isfinite(problems.y[index * problems.samples + i])) return false;
    const F* x = problems.X + index * problems.stride[0] + i * problems.stride[1];
    for (std::int64_t j = 0; j < problems.features; ++j) {
      const F value = x[j * problems.stride[2]];
      finite &= value - value == 0;
    }
  }
  return finite;
}

template <class F>
void solve_task(const Lassos<F>& problems, double tol, std::int64_t max_iter, const LassoSolutions<F>& solutions,
                std::int64_t index, Memory& memory) {
  if (!valid(problems, index)) throw InvalidInput();
  const LassoTask<F> task(memory, problems, index);
  const std::size_t all = problems.samples, d = problems.features;
  Descent<F> descent(memory, task);
  F* w = solutions.w + index * d;
  double* dual = solutions.dual + index * all;
  bool* active = solutions.active + index * d;
  std::fill(dual, dual + all, 0.0);

  const double goal = std::min(tol, kRounding);
  LassoCertificate best{INFINITY, INFINITY, INFINITY, 1};
  double lowest = INFINITY;  // objective
  int since_progress = 0;
  Status status = Status::max_iter;
  bool last_is_best = false;
  std::int64_t iteration = 0;
  for (;; ++iteration) {
    const LassoCertificate now = descent.certify();
    last_is_best = now.relative_gap < best.relative_gap;
    since_progress = last_is_best || now.objective < lowest ? 0 : since_progress + 1;
    lowest = std::min(lowest, now.objective);
    if (last_is_best) {
      best = now;
      descent.keep();
    }
    const bool certified = best.relative_gap <= tol, turned = descent.turned();
    if (certified) status = Status::certified;
    // To rounding: a gradient takes the right support.
    if (best.relative_gap <= goal || (certified && !last_is_best && !turned)) break;
    if (since_progress >= kStallAfter || !std::isfinite(now.relative_gap)) {
      if (!certified) status = Status::stalled;
      break;
    }
    if (iteration == max_iter) break;
    const bool sweeping = iteration < kSweepIterations;
    if (sweeping) {
      descent.sweeps();
    } else {
      if (iteration == kSweepIterations && descent.restart_crowded()) lowest = INFINITY;
      descent.enter();
    }
    const int most = sweeping ? kSupportSolves : task.d + 1;  // all but the last drop a feature
    for (int solves = 0; solves < most && descent.minimise_on_support(); ++solves) {
    }
  }
  if (!last_is_best) {
    descent.restore();
    best = descent.certify();
  }
  for (std::size_t j = 0; j < d; ++j) {
    w[j] = F(descent.w()[j]);
    active[j] = w[j] != 0;
  }
  for (int i = 0; i < task.n; ++i) dual[task.present[i]] = best.dual_scale * descent.residual()[i];
  if (!std::is_same<F, double>::value) {
    best = descent.certify_rounded(w);
    if (status == Status::certified && !(best.relative_gap <= tol)) status = Status::precision;
  }
  solutions.gap[index] = best.gap;
  solutions.relative_gap[index] = best.relative_gap;
  solutions.objective[index] = best.objective;
  solutions.n_iter[index] = iteration;
  solutions.status[index] = std::int64_t(status);
  solutions.margin[index] = descent.margin();
}

template <class F>
void adjoint_task(const Lassos<F>& problems, const F* all_w, const double* all_dual, const F* all_grad_w,
                  const LassoGradients<F>& gradients, std::int64_t index, Memory& memory) {
  const LassoTask<F> task(memory, problems, index);
  const std::size_t all = problems.samples, d = problems.features;
  const F *w = all_w + index * d, *grad_w = all_grad_w + index * d;
  const double* dual = all_dual + index * all;
  F* grad_X = gradients.X + index * all * d;
  double* grad_y = gradients.y + index * all;
  std::fill(grad_X, grad_X + all * d, F(0));
  std::fill(grad_y, grad_y + all, 0.0);

  Support support(memory, task.d);
  support.choose(task.H, task.d, [&](int j) { return w[j] != 0; });
  support.least_norm(task.H, task.d, [&](int j) { return double(grad_w[j]); });
  double by_lambda1 = 0, by_lambda2 = 0;
  for (int a = 0; a < support.size; ++a) {
    const double value = double(w[support.index[a]]);
    by_lambda1 -= value > 0 ? support.step[a] : -support.step[a];
    by_lambda2 -= support.step[a] * value;
  }
  gradients.lambda1[index] = by_lambda1;
  gradients.lambda2[index] = by_lambda2;
  for (int i = 0; i < task.n; ++i) {
    const double* x = task.row(i);
    double along = 0;
    for (int a = 0; a < support.size; ++a) along += x[support.index[a]] * support.step[a];
    const double by_target = task.weight[i] * along, weighted = task.weight[i] * dual[task.present[i]];
    grad_y[task.present[i]] = by_target;
    F* row = grad_X + task.present[i] * d;
    for (int a = 0; a < support.size; ++a) {
      const int j = support.index[a];
      row[j] = F(weighted * support.step[a] - by_target * double(w[j]));
    }
  }
}

}  // namespace
}  // namespace cpu

template <class F>
Input solve_lasso(const Lassos<F>& problems, double tol, std::int64_t max_iter, int threads,
                  const LassoSolutions<F>& solutions) {
  return cpu::for_each_task(problems.batch, threads, [&](std::int64_t index, cpu::Memory& memory) {
    cpu::solve_task(problems, tol, max_iter, solutions, index, memory);
  });
}

template <class F>
void adjoint_lasso(const Lassos<F>& problems, const F* w, const double* dual, const F* grad_w,
                   const LassoGradients<F>& gradients, int threads) {
  cpu::for_each_task(problems.batch, threads, [&](std::int64_t index, cpu::Memory& memory) {
    cpu::adjoint_task(problems, w, dual, grad_w, gradients, index, memory);
  });
}

template Input solve_lasso(const Lassos<float>&, double, std::int64_t, int, const LassoSolutions<float>&);
template Input solve_lasso(const Lassos<double>&, double, std::int64_t, int, const LassoSolutions<double>&);
template void adjoint_lasso(const Lassos<float>&, const float*, const double*, const float*,
                            const LassoGradients<float>&, int);
template void adjoint_lasso(const Lassos<double>&, const double*, const double*, const double*,
                            const LassoGradients<double>&, int);

}  // namespace sparsedis
