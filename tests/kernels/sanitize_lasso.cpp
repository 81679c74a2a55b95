// Runs the Lasso's kernels under sanitizers on random problems of odd sizes, layouts and values.
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "../../csrc/lasso/api.hpp"

using namespace sparsedis;

namespace {

std::mt19937 generator(0);

int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

// Every array has exactly the documented length, so that accesses out of bounds are detected.
template <class F>
void run(int n, int d, double lambda1, double lambda2, bool transposed) {
  const int batch = 3;
  std::normal_distribution<double> normal;
  std::vector<F> X(std::size_t(batch) * n * d);
  for (F& x : X) x = pick(0, 9) ? F(normal(generator)) : F(0);
  std::vector<double> y(batch * n), weight(batch * n, 1.0), l1(batch, lambda1), l2(batch, lambda2);
  for (double& value : y) value = normal(generator);
  for (double& w : weight) w = pick(0, 5) ? 1.0 : pick(0, 1) * 2.5;
  for (int i = 0; i < n; ++i) weight[i] = 0;  // a task without samples

  Lassos<F> problems{batch, n, d, X.data(), {}, y.data(), l1.data(), l2.data(), weight.data()};
  problems.stride[0] = std::ptrdiff_t(n) * d;
  problems.stride[1] = transposed ? 1 : d;
  problems.stride[2] = transposed ? n : 1;

  std::vector<F> w(batch * d), grad_w(batch * d), grad_X(X.size());
  std::vector<double> dual(batch * n), gap(batch), relative(batch), objective(batch), margin(batch), grad_y(batch * n),
      g1(batch), g2(batch);
  std::vector<std::int64_t> n_iter(batch), status(batch);
  const std::unique_ptr<bool[]> active(new bool[std::size_t(batch) * d]);
  const LassoSolutions<F> solutions{w.data(),      dual.data(),   gap.data(),   relative.data(), objective.data(),
                                    n_iter.data(), status.data(), active.get(), margin.data()};
  solve_lasso(problems, 1e-10, 200, 2, solutions);
  for (int i = 0; i < batch; ++i) {
    if (status[i] != 0) throw std::runtime_error("a task is not certified");
  }
  for (F& g : grad_w) g = F(normal(generator));
  adjoint_lasso(problems, w.data(), dual.data(), grad_w.data(),
                LassoGradients<F>{grad_X.data(), grad_y.data(), g1.data(), g2.data()}, 2);
  for (F g : grad_X) {
    if (!std::isfinite(g)) throw std::runtime_error("a gradient is not finite");
  }

  X[X.size() - 1] = F(NAN);
  if (solve_lasso(problems, 1e-10, 200, 2, solutions) != Input::invalid)
    throw std::runtime_error("NaN was not refused");
}

}  // namespace

int main() {
  const int sizes[][2] = {{1, 1}, {7, 3}, {50, 6}, {20, 23}, {20, 24}, {10, 65}, {40, 100}, {9, 130}, {3, 400}};
  for (const auto& size : sizes) {
    for (double lambda1 : {0.0, 0.01, 0.3, 1e3}) {
      for (double lambda2 : {0.0, 0.1}) {
        run<float>(size[0], size[1], lambda1, lambda2, pick(0, 1));
        run<double>(size[0], size[1], lambda1, lambda2, pick(0, 1));
      }
    }
  }
  std::puts("the Lasso's kernels ran clean");
}
