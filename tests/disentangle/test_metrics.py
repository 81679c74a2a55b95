"""Metrics against values computed by hand, and their invariances."""

import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedis.disentangle import metrics

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

# Four uncorrelated columns of mean 0 and variance 1.
HADAMARD = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
A, B, C = HADAMARD.T
D = A * B


def columns(*values: np.ndarray) -> np.ndarray:
    return np.stack(values, 1)


def factors(count: int = 400, m: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, m))


def rotation(m: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((m, m)))[0]


def test_mcc_of_small_examples() -> None:
    # A + B has correlation 1/sqrt(2) with A and B, and the feature A has 1 and 0, so A + B is assigned to B.
    assert metrics.mcc(columns(A, B), columns(A, A + B)) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    # 3 A + 4 C has correlation 0.6 with A and 0.8 with C; no feature correlates with B.
    assert metrics.mcc(columns(A, B), columns(3 * A + 4 * C, D)) == pytest.approx(0.3)
    assert metrics.correlations(columns(A, C), columns(3 * A - 4 * C, D)) == pytest.approx(
        np.array([[0.6, 0], [-0.8, 0]])
    )


def test_the_assignment_is_optimal() -> None:
    """A greedy choice of features, factor by factor, would give (0.8 + 0.6 * 0) / 2."""
    z = columns(A, B)
    f = columns(0.8 * A + 0.6 * B, 0.6 * A + 0.8 * C)
    assert metrics.mcc(z, f) == pytest.approx((0.6 + 0.6) / 2)
    for seed in range(5):
        z, f = factors(seed=seed), factors(seed=seed) @ np.random.default_rng(seed).standard_normal((4, 5))
        strength = np.abs(np.corrcoef(z, f, rowvar=False)[:4, 4:])
        best = max(strength[range(4), list(p)].mean() for p in itertools.permutations(range(5), 4))
        assert metrics.mcc(z, f) == pytest.approx(best)
        assert strength[range(4), metrics.assignment(z, f)].mean() == pytest.approx(best)


@given(st.integers(0, 10**6))
def test_permutations_scales_and_shifts_do_not_matter(seed: int) -> None:
    generator = np.random.default_rng(seed)
    z = generator.uniform(-1, 1, (60, 4))
    f = z[:, generator.permutation(4)] * 10.0 ** generator.uniform(-6, 6, 4) * generator.choice([-1, 1], 4)
    f = f + generator.normal(size=4) * np.abs(f).max(0)
    for method in ("pearson", "spearman"):
        assert metrics.mcc(z, f, method) == pytest.approx(1)
    assert metrics.r_score(z, f) == pytest.approx(1)


def test_a_rotation_preserves_r_and_lowers_mcc() -> None:
    z = factors(2000)
    rotated = z @ rotation(4)
    assert metrics.r_score(z, rotated) == pytest.approx(1)
    assert metrics.mcc(z, rotated) < 0.9
    quarter = columns(z[:, 0] + z[:, 1], z[:, 0] - z[:, 1])
    assert metrics.mcc(z[:, :2], quarter) == pytest.approx(math.sqrt(0.5), abs=0.03)


def test_spearman_depends_on_ranks_only() -> None:
    z = factors()
    bent = np.exp(5 * z)
    assert metrics.mcc(z, bent, "spearman") == pytest.approx(1)
    assert metrics.mcc(z, bent) < 0.9
    # Ties have their mean rank: 1.5, 1.5, 3.5, 3.5 and 1, 2, 3, 4 have correlation 2/sqrt(5).
    tied = metrics.correlations([[1.0], [2.0], [3.0], [4.0]], [[0.0], [0.0], [1.0], [1.0]], "spearman")
    assert tied[0, 0] == pytest.approx(2 / math.sqrt(5))


def test_r_of_small_examples() -> None:
    # A is in the span of 3 A + 4 C and C, so R = 1; no feature correlates with B, so R = 0.
    f = columns(3 * A + 4 * C, C)
    assert metrics.r_score(columns(A, B), f) == pytest.approx(0.5)
    # A explains half of the variance of A + C, and B none.
    assert metrics.r_score(columns(A + C), columns(A, B)) == pytest.approx(math.sqrt(0.5))
    assert metrics.r_score(columns(A), columns(A, A, 2 * A)) == pytest.approx(1)  # dependent features


def test_constant_columns_count_as_zero() -> None:
    constant = np.full(8, 0.1)
    assert metrics.mcc(columns(A, B), columns(A, constant)) == pytest.approx(0.5)
    assert metrics.r_score(columns(A, constant), columns(A, B)) == pytest.approx(0.5)
    assert metrics.mcc(columns(A, B), columns(A)) == pytest.approx(0.5)  # fewer features than factors
    assert metrics.assignment(columns(A, B), columns(B)).tolist() == [-1, 0]
    assert metrics.mcc(columns(A), columns(B, A, C)) == pytest.approx(1)  # more


@pytest.mark.parametrize("column", [np.full(8, 0.1), A, 2 * A - B])
def test_ica_needs_independent_features(column: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected 3 linearly independent features, none of them constant, got 2 on"):
        metrics.ica(columns(A, B, column), columns(A, B, column))


def test_r_is_at_least_mcc() -> None:
    for seed in range(10):
        z = factors(seed=seed)
        f = np.tanh(z @ np.random.default_rng(seed).standard_normal((4, 4)))
        assert metrics.mcc(z, f) <= metrics.r_score(z, f) + 1e-12


def test_concentration_of_small_examples() -> None:
    # Rows (1, 0) and (1, 1): concentrations 1 and 0, weights 1/3 and 2/3.
    assert metrics._concentration(np.array([[1.0, 0.0], [1.0, 1.0]])) == pytest.approx(1 / 3)
    # Shares of 1/4 and 3/4 have an entropy of 0.811278 bits.
    assert metrics._concentration(np.array([[1.0, 3.0]])) == pytest.approx(1 - 0.8112781244591328)
    assert metrics._concentration(np.array([[2.0, 0.0], [0.0, 0.0]])) == pytest.approx(1)
    assert metrics._concentration(np.zeros((2, 3))) == 0
    assert metrics._concentration(np.ones((3, 1))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["lasso", "forest"])
def test_dci_of_permuted_factors_is_high(predictor: str) -> None:
    z = factors(600)
    result = metrics.dci(z, -3 * z[:, [2, 0, 3, 1]], predictor)
    assert result.disentanglement > 0.9
    assert result.completeness > 0.9
    assert result.informativeness > 0.95
    assert result.importance.shape == (4, 4)
    assert result.importance.argmax(1).tolist() == [2, 0, 3, 1]


def test_dci_distinguishes_disentanglement_and_completeness() -> None:
    z = factors(600, 2)
    mixed = metrics.dci(z, columns(z[:, 0] + z[:, 1], z[:, 0] - z[:, 1]))
    assert mixed.disentanglement < 0.05
    assert mixed.completeness < 0.05
    assert mixed.informativeness > 0.95
    # Two features per factor, each of only that factor: disentangled, but half complete at best.
    noise = 0.3 * factors(600, 2, 1)
    doubled = metrics.dci(
        z, columns(z[:, 0] + noise[:, 0], z[:, 0] - noise[:, 0], z[:, 1] + noise[:, 1], z[:, 1] - noise[:, 1])
    )
    assert doubled.disentanglement > 0.85
    assert doubled.completeness == pytest.approx(0.5, abs=0.08)  # 1 - log 2 / log 4
    nothing = metrics.dci(z, factors(600, 2, 7))
    assert nothing.informativeness < 0.05


@pytest.mark.slow
def test_dci_does_not_depend_on_scales() -> None:
    z, f = factors(300), factors(300) @ rotation(4)
    plain, scaled = metrics.dci(z, f), metrics.dci(z * [1, 10, 1e3, 1e-3], f * [1e4, 1, 1e-4, 1])
    assert scaled.disentanglement == pytest.approx(plain.disentanglement)
    assert scaled.informativeness == pytest.approx(plain.informativeness)


def test_ica_inverts_a_rotation() -> None:
    """It is fitted to one sample and applied to another, whose factors are correlated."""
    turn = rotation(4)
    train, test = factors(4000) @ turn, factors(1000, seed=1) + factors(1000, 1, seed=2)
    assert metrics.mcc(test, test @ turn) < 0.95
    assert metrics.mcc(test, metrics.ica(train, test @ turn)) > 0.99
    assert metrics.mcc(test, metrics.ica(test @ turn, test @ turn)) < 0.97
    assert metrics.r_score(test, metrics.ica(train, test @ turn)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), np.zeros((3, 2))), r"factors: expected a non-empty array \(N, number\), got shape \(3,\)"),
        ((np.zeros((3, 2)), np.zeros((0, 2))), r"features: expected a non-empty array"),
        ((np.zeros((3, 2)), np.zeros((4, 2))), "features: expected 3 rows, as factors have, got 4"),
        ((np.zeros((3, 2)), np.full((3, 2), np.nan)), "features: expected finite values"),
    ],
)
def test_invalid_arrays_are_rejected(arguments: tuple[np.ndarray, np.ndarray], message: str) -> None:
    for metric in (metrics.mcc, metrics.r_score, metrics.dci, metrics.assignment):
        with pytest.raises(ValueError, match=message):
            metric(*arguments)


def test_invalid_options_are_rejected() -> None:
    z = factors(30)
    with pytest.raises(ValueError, match="method: expected 'pearson' or 'spearman', got 'kendall'"):
        metrics.mcc(z, z, "kendall")
    with pytest.raises(ValueError, match="predictor: expected 'lasso' or 'forest', got 'svm'"):
        metrics.dci(z, z, "svm")
    with pytest.raises(ValueError, match="expected 20 samples or more, got 19"):
        metrics.dci(z[:19], z[:19])
    with pytest.raises(ValueError, match=r"expected \(M, d\) and \(N, d\), got \(30, 4\) and \(30, 3\)"):
        metrics.ica(z, z[:, :3])


def test_a_missing_extra_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, package in (("sklearn", "scikit-learn"), ("scipy", "scipy")):
        with monkeypatch.context() as patch:
            for name in [*sys.modules]:
                if name.partition(".")[0] == module:
                    patch.setitem(sys.modules, name, None)
            with pytest.raises(
                ImportError, match=rf"^{package} is not installed; pip install 'sparsedis\[disentangle\]'"
            ):
                metrics.check_installed()
