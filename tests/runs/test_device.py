import pytest
import torch

from sparsedis.runs.device import device_named


@pytest.mark.parametrize(
    "name", ["meta", "warp", "", "cpu:99", "cuda:-1", "cuda:9999", "mkldnn", "vulkan", "lazy", "hpu", "mtia"]
)
def test_unavailable_devices_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"device: '{name}' is not available: ") as caught:
        device_named(name)
    assert "\n" not in str(caught.value)


def test_the_cpu_is_available() -> None:
    assert device_named("cpu") == torch.device("cpu")
