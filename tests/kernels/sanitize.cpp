// Runs the kernels under sanitizers on random problems of odd sizes, layouts and values; built by .ci/run.
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "../../csrc/svm/api.hpp"

using namespace sparsedis;

namespace {

std::mt19937 generator(0);

int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

// Every array has exactly the documented length, so that accesses out of bounds are detected.
template <class F>
void run(int n, int d, int k, Solver solver, double lambda1, double lambda2, double dual_reg, bool transposed) {
  const int batch = 3;
  std::normal_distribution<double> normal;
  std::vector<F> X(std::size_t(batch) * n * d);
  for (F& x : X) x = pick(0, 9) ? F(normal(generator)) : F(0);
  std::vector<std::int64_t> labels(batch * n);
  for (auto& label : labels) label = pick(0, k - 1);
  std::vector<double> weight(batch * n, 1.0), l1(batch, lambda1), l2(batch, lambda2), reg(batch, dual_reg);
  for (double& w : weight) w = pick(0, 5) ? 1.0 : pick(0, 1) * 2.5;
  for (int i = 0; i < n; ++i) weight[i] = 0;  // a task without samples
  for (int i = 0; i < n; ++i) labels[i] = -100;

  Problems<F> problems{batch, n, d, k, X.data(), {}, labels.data(), l1.data(), l2.data(), reg.data(), weight.data()};
  problems.stride[0] = std::ptrdiff_t(n) * d;
  problems.stride[1] = transposed ? 1 : d;
  problems.stride[2] = transposed ? n : 1;

  std::vector<F> W(std::size_t(batch) * d * k), grad_W(W.size()), grad_X(X.size());
  std::vector<double> dual(batch * n * k), gap(batch), relative(batch), objective(batch), margin(batch), g1(batch),
      g2(batch), g3(batch);
  std::vector<std::int64_t> n_iter(batch), status(batch);
  const std::unique_ptr<bool[]> active(new bool[std::size_t(batch) * d]);
  const Options options{solver, 1e-5, solver == Solver::newton ? 40 : 15, pick(0, 1) == 1, 2};
  solve(problems, options,
        Solutions<F>{W.data(), dual.data(), gap.data(), relative.data(), objective.data(), n_iter.data(), status.data(),
                     active.get(), margin.data()});
  for (F& g : grad_W) g = F(normal(generator));
  adjoint(problems, {dual.data(), active.get()}, grad_W.data(),
          Gradients<F>{grad_X.data(), g1.data(), g2.data(), g3.data()}, 2);
  for (F g : grad_X) {
    if (!std::isfinite(g)) throw std::runtime_error("a gradient is not finite");
  }

  X[X.size() - 1] = F(NAN);
  weight[batch * n - 1] = 1;
  if (solve(problems, options,
            Solutions<F>{W.data(), dual.data(), gap.data(), relative.data(), objective.data(), n_iter.data(),
                         status.data(), active.get(), margin.data()}) != Input::invalid)
    throw std::runtime_error("NaN was not refused");
}

}  // namespace

int main() {
  const int sizes[][3] = {{1, 1, 2},   {7, 63, 3},    {25, 640, 5}, {10, 1601, 2},
                          {40, 17, 4}, {20, 300, 20}, {9, 12000, 3}};
  for (const auto& size : sizes) {
    for (Solver solver : {Solver::newton, Solver::fista, Solver::bcd}) {
      for (double lambda1 : {0.0, 0.5, 3.0, 1e3}) {
        for (double lambda2 : {0.01, 30.0}) {
          // The large problems take most of the time, so each lambda1 has one lambda2.
          if (size[0] * size[1] > 5000 && (lambda2 < 1) != (lambda1 == 0.0 || lambda1 == 3.0)) continue;
          const double reg = pick(0, 1) * 0.5;
          const auto run_one = pick(0, 1) ? run<float> : run<double>;  // one of the two, to halve the time
          run_one(size[0], size[1], size[2], solver, lambda1, lambda2, reg, pick(0, 1));
        }
      }
    }
  }
  std::puts("the kernels ran clean");
}
