"""The tests of the SVM and its gradients that all backends have to pass, for the CUDA kernels."""

import pytest
import torch

from sparsedis import solve_svm, svm_lambda1_max
from tests.tasks import random_task
from tests.test_gradients import test_error_quantiles_at_default_settings  # noqa: F401
from tests.test_implicit import (  # noqa: F401
    test_at_lambda1_max_every_gradient_is_zero,
    test_autocast_does_not_change_the_solution,
    test_compile_fullgraph,
    test_directional_derivatives_on_larger_tasks,
    test_gradcheck,
    test_gradients_have_the_dtype_of_their_inputs,
    test_only_the_problem_and_its_solution_are_saved_for_backward,
    test_only_the_weights_carry_gradients,
    test_opcheck_adjoint,
    test_opcheck_solve,
    test_padding_gets_no_gradient,
    test_vmap,
    test_vmap_over_a_hyperparameter,
    test_without_group_lasso_a_feature_with_zero_weights_has_a_gradient,
)
from tests.test_solve import (  # noqa: F401
    assert_certified,
    test_a_task_without_samples_has_zero_weights,
    test_agrees_with_a_conic_solver,
    test_agrees_with_scikit_learns_crammer_singer_svm,
    test_an_unreachable_tolerance_has_status_precision,
    test_at_lambda1_max_no_feature_is_active,
    test_degenerate_tasks_are_certified,
    test_features_of_large_means_are_solved_to_float32_precision,
    test_features_of_low_rank_are_certified_by_default,
    test_features_of_very_different_scales_are_certified,
    test_half_precision_is_computed_in_float32,
    test_invalid_input_is_rejected,
    test_newton_certifies_at_small_lambda2,
    test_one_task_has_no_batch_dimension,
    test_permutations_act_on_the_solution,
    test_separable_tasks_are_certified_in_float32,
    test_strided_features_have_the_same_solution,
    test_tasks_stop_independently_of_their_batch,
    test_throw_names_the_task_and_its_gap,
    test_weight_zero_omits_a_sample,
    test_weights_are_lengthened_only_for_their_rounding,
    test_zero_features_have_zero_weights,
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
def test_newton_certifies_within_30_iterations(way, shots, d, lambda2, relative, dtype):
    X, y = random_task(d + way, way=way, shots=shots, d=d, dtype=dtype)
    tol = 1e-5 if dtype == torch.float32 else 1e-10
    lambda1 = relative * svm_lambda1_max(X, y)
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, tol=tol)
    assert solution.backend == "cuda"
    assert_certified(X, y, solution, lambda1, lambda2, tol)
    assert solution.n_iter.max() <= 30
    of_cpp = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, tol=tol, backend="cpp")
    assert (solution.n_iter - of_cpp.n_iter).abs().max() <= 3


def test_the_largest_number_of_classes_is_solved(backend):
    X, y = random_task(0, way=6, shots=1, d=20)
    given = {"lambda1": 0.2 * svm_lambda1_max(X, y, n_classes=64), "lambda2": 10.0, "n_classes": 64, "tol": 1e-10}
    solution = solve_svm(X, y, **given)
    assert solution.backend == backend
    assert_certified(X, y, solution, given["lambda1"], 10.0, 1e-10)
