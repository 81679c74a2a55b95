"""What every backend has to hold, of the CUDA kernels: the tests of the solver and of its gradients."""

import pytest
import torch

from sparsedis import solve_svm, svm_lambda1_max
from tests.tasks import random_task
from tests.test_gradients import test_error_quantiles_at_default_settings  # noqa: F401
from tests.test_implicit import (  # noqa: F401
    test_at_lambda1_max_every_gradient_is_zero,
    test_autocast,
    test_compile_fullgraph,
    test_directional_derivatives_on_larger_tasks,
    test_gradcheck,
    test_gradients_have_the_dtype_of_their_inputs,
    test_nothing_is_kept_but_the_problem_and_its_solution,
    test_only_the_weights_carry_gradients,
    test_opcheck_adjoint,
    test_opcheck_solve,
    test_padding_gets_no_gradient,
    test_vmap,
    test_vmap_over_a_hyperparameter,
    test_without_a_group_lasso_a_feature_that_happens_to_be_off_has_a_gradient,
)
from tests.test_solve import (  # noqa: F401
    assert_certified,
    test_a_task_without_samples,
    test_all_features_zero,
    test_an_unreachable_tolerance_is_reported_as_one_of_precision,
    test_at_lambda1_max_everything_is_off,
    test_bad_input,
    test_degenerate_tasks,
    test_features_of_few_directions_need_more_iterations_than_others,
    test_features_of_large_means_are_solved_as_well_as_float32_holds,
    test_features_of_very_different_scales,
    test_half_precision_is_computed_in_float32,
    test_newton_at_small_lambda2,
    test_one_task_has_no_batch_dimension,
    test_oracle_conic_solver,
    test_oracle_crammer_singer,
    test_permutations,
    test_separable_tasks_are_certified_in_float32,
    test_strided_features_are_read_as_they_are,
    test_tasks_stop_on_their_own,
    test_throw_names_the_task_and_its_gap,
    test_weight_zero_is_an_absent_sample,
    test_weights_are_made_longer_for_what_rounding_adds_only,
)

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.slow]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("way", "shots", "d", "lambda2", "relative"),
    [
        (2, 1, 7, 1.0, 0.1),
        (5, 5, 640, 100.0, 0.2),
        (5, 5, 640, 1.0, 0.3),
        (5, (1, 9, 3, 20, 7), 333, 10.0, 0.05),
        (20, 1, 100, 1.0, 0.2),
        (3, 4, 1, 1.0, 0.0),
        pytest.param(5, 15, 1600, 1.0, 0.1, marks=pytest.mark.exhaustive),
        pytest.param(5, 5, 16000, 100.0, 0.3, marks=pytest.mark.exhaustive),
        pytest.param(20, 5, 640, 100.0, 0.1, marks=pytest.mark.exhaustive),
    ],
)
def test_newton_over_the_grid(way, shots, d, lambda2, relative, dtype):
    X, y = random_task(d + way, way=way, shots=shots, d=d, dtype=dtype)
    tol = 1e-5 if dtype == torch.float32 else 1e-10
    lambda1 = relative * svm_lambda1_max(X, y)
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, tol=tol)
    assert solution.backend == "cuda"
    assert_certified(X, y, solution, lambda1, lambda2, tol)
    assert solution.n_iter.max() <= 30
    of_cpp = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, tol=tol, backend="cpp")
    assert (solution.n_iter - of_cpp.n_iter).abs().max() <= 3


def test_the_largest_number_of_classes(backend):
    X, y = random_task(0, way=6, shots=1, d=20)
    given = {"lambda1": 0.2 * svm_lambda1_max(X, y, n_classes=64), "lambda2": 10.0, "n_classes": 64, "tol": 1e-10}
    solution = solve_svm(X, y, **given)
    assert solution.backend == backend
    assert_certified(X, y, solution, given["lambda1"], 10.0, 1e-10)
