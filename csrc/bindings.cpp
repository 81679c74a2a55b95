// The Python module, the only file that depends on Python.
//
// Tensors are passed as addresses and no torch header is included, so that the module's ABI does not depend on torch.
// The only caller, sparsedis's backend_cpp.py, checks shapes, types and contiguity.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/cpu/threads.hpp"
#include "lasso/api.hpp"
#include "svm/api.hpp"
#include "svm/thresholds.hpp"

namespace py = pybind11;
using namespace sparsedis;

namespace {

// Throws ValueError for invalid input; the caller, backend_cpp.py, then finds the offending argument.
void require_valid(Input input) {
  if (input == Input::invalid) throw py::value_error("a value that the problem does not allow");
}

// Calls f() without the GIL.
template <class F>
auto without_gil(F f) {
  const py::gil_scoped_release release;
  return f();
}

template <class P>
P pointer(std::uintptr_t address) {
  return reinterpret_cast<P>(address);
}

template <class F>
Problems<F> problems(std::array<std::int64_t, 4> shape, std::array<std::int64_t, 3> stride, std::uintptr_t X,
                     std::uintptr_t labels, std::array<std::uintptr_t, 4> parameters) {
  Problems<F> result{shape[0],
                     shape[1],
                     shape[2],
                     shape[3],
                     pointer<const F*>(X),
                     {},
                     pointer<const std::int64_t*>(labels),
                     pointer<const double*>(parameters[0]),
                     pointer<const double*>(parameters[1]),
                     pointer<const double*>(parameters[2]),
                     pointer<const double*>(parameters[3])};
  for (int i = 0; i < 3; ++i) result.stride[i] = stride[i];
  return result;
}

Solver solver_of(const std::string& name) {
  if (name == "newton") return Solver::newton;
  if (name == "fista") return Solver::fista;
  if (name == "bcd") return Solver::bcd;
  throw std::invalid_argument("solver: expected 'newton', 'fista' or 'bcd', got '" + name + "'");
}

template <class F>
void solve_of(std::array<std::int64_t, 4> shape, std::array<std::int64_t, 3> stride, std::uintptr_t X,
              std::uintptr_t labels, std::array<std::uintptr_t, 4> parameters, const std::string& solver, double tol,
              std::int64_t max_iter, bool exact, int threads, std::array<std::uintptr_t, 9> out) {
  const Solutions<F> solutions{pointer<F*>(out[0]),
                               pointer<double*>(out[1]),
                               pointer<double*>(out[2]),
                               pointer<double*>(out[3]),
                               pointer<double*>(out[4]),
                               pointer<std::int64_t*>(out[5]),
                               pointer<std::int64_t*>(out[6]),
                               pointer<bool*>(out[7]),
                               pointer<double*>(out[8])};
  const Options options{solver_of(solver), tol, max_iter, exact, threads};
  require_valid(
      without_gil([&] { return solve(problems<F>(shape, stride, X, labels, parameters), options, solutions); }));
}

template <class F>
void adjoint_of(std::array<std::int64_t, 4> shape, std::array<std::int64_t, 3> stride, std::uintptr_t X,
                std::uintptr_t labels, std::array<std::uintptr_t, 4> parameters, std::array<std::uintptr_t, 2> solved,
                std::uintptr_t grad_W, int threads, std::array<std::uintptr_t, 4> out) {
  const Gradients<F> gradients{pointer<F*>(out[0]), pointer<double*>(out[1]), pointer<double*>(out[2]),
                               pointer<double*>(out[3])};
  const py::gil_scoped_release release;
  adjoint(problems<F>(shape, stride, X, labels, parameters),
          {pointer<const double*>(solved[0]), pointer<const bool*>(solved[1])}, pointer<const F*>(grad_W), gradients,
          threads);
}

// Runs tasks on the threads of the OpenMP runtime whose GOMP_parallel is at this address.
void use_openmp(std::uintptr_t parallel) { cpu::pool().use(pointer<cpu::OpenMPParallel>(parallel)); }

// Runs the Python handlers of pending signals on the main thread. The kernels run without the GIL.
void handle_signals() {
  const py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

template <class F>
Lassos<F> lassos(std::array<std::int64_t, 3> shape, std::array<std::int64_t, 3> stride, std::uintptr_t X,
                 std::array<std::uintptr_t, 4> others) {
  Lassos<F> result{shape[0],
                   shape[1],
                   shape[2],
                   pointer<const F*>(X),
                   {},
                   pointer<const double*>(others[0]),
                   pointer<const double*>(others[1]),
                   pointer<const double*>(others[2]),
                   pointer<const double*>(others[3])};
  for (int i = 0; i < 3; ++i) result.stride[i] = stride[i];
  return result;
}

template <class F>
void solve_lasso_of(std::array<std::int64_t, 3> shape, std::array<std::int64_t, 3> stride, std::uintptr_t X,
                    std::array<std::uintptr_t, 4> others, double tol, std::int64_t max_iter, int threads,
                    std::array<std::uintptr_t, 9> out) {
  const LassoSolutions<F> solutions{pointer<F*>(out[0]),
                                    pointer<double*>(out[1]),
                                    pointer<double*>(out[2]),
                                    pointer<double*>(out[3]),
                                    pointer<double*>(out[4]),
                                    pointer<std::int64_t*>(out[5]),
                                    pointer<std::int64_t*>(out[6]),
                                    pointer<bool*>(out[7]),
                                    pointer<double*>(out[8])};
  require_valid(
      without_gil([&] { return solve_lasso(lassos<F>(shape, stride, X, others), tol, max_iter, threads, solutions); }));
}

template <class F>
void adjoint_lasso_of(std::array<std::int64_t, 3> shape, std::array<std::int64_t, 3> stride, std::uintptr_t X,
                      std::array<std::uintptr_t, 4> others, std::uintptr_t w, std::uintptr_t dual,
                      std::uintptr_t grad_w, int threads, std::array<std::uintptr_t, 4> out) {
  const LassoGradients<F> gradients{pointer<F*>(out[0]), pointer<double*>(out[1]), pointer<double*>(out[2]),
                                    pointer<double*>(out[3])};
  const py::gil_scoped_release release;
  adjoint_lasso(lassos<F>(shape, stride, X, others), pointer<const F*>(w), pointer<const double*>(dual),
                pointer<const F*>(grad_w), gradients, threads);
}

// The thresholds shared with the other backends, by their names in thresholds.py.
py::dict thresholds() {
  using namespace py::literals;
  return py::dict(
      "FRACTION_TO_BOUNDARY"_a = kFractionToBoundary, "SHORT_STEP"_a = kShortStep, "CURVATURE_CUT"_a = kCurvatureCut,
      "LARGEST_START"_a = kLargestStart, "SMALLEST_START"_a = kSmallestStart,
      "SMALLEST_START_FEW_FEATURES"_a = kSmallestStartFewFeatures, "START_BARRIER"_a = kStartBarrier,
      "START_NORM"_a = kStartNorm, "START_SLACK"_a = kStartSlack, "START_PRODUCT"_a = kStartProduct,
      "LIGHT_STRENGTH"_a = kLightStrength, "LIGHT_STRENGTH_FEW_FEATURES"_a = kLightStrengthFewFeatures,
      "FULL_STRENGTH"_a = kFullStrength, "LIGHT_ITERATIONS"_a = kLightIterations, "LIGHT_GAP"_a = kLightGap,
      "NEWTON_PATIENCE"_a = kNewtonPatience, "FIRST_ORDER_PATIENCE"_a = kFirstOrderPatience,
      "FLOAT_ITERATIONS"_a = kFloatIterations, "FALLBACK_STEPS"_a = kFallbackSteps,
      "FIRST_ORDER_ORDER"_a = kFirstOrderOrder, "FIRST_ORDER_SHARE"_a = kFirstOrderShare, "ENTRY_COST"_a = kEntryCost,
      "FIRST_ORDER_TRIAL"_a = kFirstOrderTrial, "EXPECTED_STEPS"_a = kExpectedSteps,
      "NEWTON_ITERATIONS"_a = kNewtonIterations, "SHORT_STEPS"_a = kShortSteps, "CHECK_EVERY"_a = kCheckEvery,
      "FINISH_GAP"_a = kFinishGap, "WELL_ROUNDED"_a = kWellRounded, "LENGTHEN_LEAST"_a = kLengthenLeast,
      "LENGTHEN_FACTOR"_a = kLengthenFactor, "LENGTHEN_MOST"_a = kLengthenMost);
}

// The optional builds of this module that run on this processor, best first. Called in the baseline build, since the
// others must not be imported on processors that they do not support.
std::vector<std::string> instruction_sets() {
  std::vector<std::string> result;
#if defined(__x86_64__) && defined(__GNUC__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    result.push_back("avx512");
  }
  if (avx2) result.push_back("avx2");
#endif
  return result;
}

void define(py::module_& module) {
  cpu::poll = &handle_signals;
  module.def("instruction_sets", &instruction_sets);
  module.def("thresholds", &thresholds);
  module.def("use_openmp", &use_openmp);
  module.def("solve_float32", &solve_of<float>);
  module.def("solve_float64", &solve_of<double>);
  module.def("adjoint_float32", &adjoint_of<float>);
  module.def("adjoint_float64", &adjoint_of<double>);
  module.def("solve_lasso_float32", &solve_lasso_of<float>);
  module.def("solve_lasso_float64", &solve_lasso_of<double>);
  module.def("adjoint_lasso_float32", &adjoint_lasso_of<float>);
  module.def("adjoint_lasso_float64", &adjoint_lasso_of<double>);
}

}  // namespace

// This file is compiled once, and the object is linked with the kernels of every instruction set. Python looks up the
// entry point that matches the name of the module.
PYBIND11_MODULE(_cpp_baseline, module) { define(module); }
PYBIND11_MODULE(_cpp_avx2, module) { define(module); }
PYBIND11_MODULE(_cpp_avx512, module) { define(module); }
