"""The Python backends and the C++ kernels have the same thresholds."""

from importlib import import_module

from sparsedis.ops.svm import thresholds


def test_thresholds_equal_those_of_the_kernels() -> None:
    values = {name: value for name, value in vars(thresholds).items() if name.isupper()}
    assert values == import_module("sparsedis.ops._cpp_baseline").thresholds()
