"""Distributions that are known to satisfy or violate assumptions, and verification of counterexamples."""

import itertools

import numpy as np
import pytest

from sparsedis.disentangle.identifiability import check_identifiability
from sparsedis.disentangle.tasks import TaskDistribution


def holds(tasks: object, **options: object) -> tuple[bool | None, ...]:
    return tuple(one.holds for one in check_identifiability(tasks, **options).assumptions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        ("bernoulli", (None, True, True, True)),
        ("fixed-1", (None, True, True, True)),
        ("fixed-3", (None, True, True, True)),
        ("fixed-5", (None, True, True, True)),
        ("fixed-6", (None, True, True, False)),
        ("blocks-1", (None, True, True, True)),
        ("blocks-2", (None, True, True, False)),
        ("finite-1", (None, True, True, True)),
        ("finite-2", (None, True, False, True)),
        ("gaussian", (None, True, True, False)),
        ("laplace", (None, True, True, False)),
    ],
)
def test_assumptions_of_task_distributions(structure: str, expected: tuple[bool | None, ...]) -> None:
    report = check_identifiability(TaskDistribution(structure))
    assert tuple(one.holds for one in report.assumptions) == expected
    assert report.disentangled == all(expected[1:])
    assert report.linear


def test_support_variability_against_its_definition() -> None:
    """For all families of at most three supports of three factors."""
    supports = [s for k in (1, 2, 3) for s in itertools.combinations(range(3), k)]
    seen = set()
    for size in (1, 2, 3):
        for family in itertools.combinations(supports, size):
            met = all(set().union(*[set(s) for s in family if j not in s]) == set(range(3)) - {j} for j in range(3))
            table = np.array([[i in s for i in range(3)] for s in family])
            found = check_identifiability(table).supports
            assert found.holds == met, family
            seen.add(met)
            if not met:
                example = found.counterexample
                assert example is not None
                j, missing = example["factor"], example["missing"]
                assert missing  # none of these is in a support without j
                assert not any(set(missing) & set(s) for s in family if j not in s)
                assert j not in missing
    assert seen == {True, False}


def test_tasks_without_variability_are_detected() -> None:
    """Coefficients in a plane: the direction orthogonal to it changes no target."""
    basis = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])
    w = np.random.default_rng(0).standard_normal((20, 2)) @ basis
    report = check_identifiability(w)
    assert not report.tasks.holds
    assert not report.linear
    assert not report.disentangled
    assert report.tasks.counterexample is not None
    direction = np.array(report.tasks.counterexample["direction"])
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert np.abs(w @ direction).max() < 1e-12
    assert holds(np.eye(3))[1] is True
    assert holds(np.eye(3, dtype=bool)[:2])[1] is False  # the third factor is in no support


def test_a_single_output_violates_variability_within_supports() -> None:
    w = np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 5.0]])
    found = check_identifiability(w).within_supports
    assert not found.holds
    assert found.counterexample is not None
    support, direction = found.counterexample["support"], np.array(found.counterexample["direction"])
    task = next(row for row in w if np.flatnonzero(row).tolist() == support)
    assert task[support] @ direction == pytest.approx(0)


def test_several_outputs_can_satisfy_variability_within_supports() -> None:
    generator = np.random.default_rng(0)
    w = generator.standard_normal((6, 2, 4))
    for row, support in zip(w, itertools.combinations(range(4), 2), strict=True):
        row[:, [i for i in range(4) if i not in support]] = 0
    assert holds(w) == (None, True, True, True)
    w[3, 1] = 2 * w[3, 0]  # one task with linearly dependent outputs
    assert holds(w) == (None, True, False, True)


def test_sampled_coefficients_are_pooled_by_support() -> None:
    w = TaskDistribution("bernoulli", 4).sample(np.random.default_rng(0), 2000)
    assert holds(w, sampled=True) == (None, True, True, True)
    assert holds(w) == (None, True, False, True)
    ratio = w.copy()
    pair = ((w != 0) == [True, True, False, False]).all(1)
    ratio[pair, 1] = 2 * ratio[pair, 0]  # a fixed ratio on one support
    found = check_identifiability(ratio, sampled=True).within_supports
    assert not found.holds
    assert found.counterexample is not None
    assert found.counterexample["support"] == [0, 1]
    direction = found.counterexample["direction"]
    assert direction[0] + 2 * direction[1] == pytest.approx(0)


def test_linearly_dependent_features_are_detected() -> None:
    f = np.random.default_rng(0).standard_normal((30, 4))
    assert holds(TaskDistribution("bernoulli"), features=f)[0] is True
    f[:, 3] = f[:, 0] - f[:, 1]
    report = check_identifiability(TaskDistribution("bernoulli"), features=f)
    assert not report.representation.holds
    assert not report.linear
    assert report.representation.counterexample is not None
    assert np.abs(f @ np.array(report.representation.counterexample["direction"])).max() < 1e-12


def test_order_and_scale_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        w = generator.standard_normal((6, 4)) * (generator.random((6, 4)) < 0.5)
        w = w[(w != 0).any(1)]
        order = generator.permutation(4)
        assert holds(w) == holds(w[:, order]) == holds(w[generator.permutation(len(w))]) == holds(1e6 * w)


def test_the_report_as_text() -> None:
    text = str(check_identifiability(TaskDistribution("blocks-2")))
    assert text.count("\n") == 3
    assert "support variability: FAILS: the supports without factor 0 never have [1]" in text
    assert "not checked" in text


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (np.zeros(3), "expected finite coefficients"),
        (np.full((2, 2), np.nan), "expected finite coefficients"),
        (np.zeros((2, 2)), "supports that are not empty"),
        (np.zeros((2, 2), bool), "supports that are not empty"),
        (np.zeros((0, 2)), "at least one task and one factor"),
        (np.zeros((2, 2, 2), bool), "boolean supports of shape"),
    ],
)
def test_invalid_tasks_are_rejected(tasks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_identifiability(tasks)
