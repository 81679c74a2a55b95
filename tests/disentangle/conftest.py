import pytest

from sparsedis.disentangle.config import DisentangleConfig


@pytest.fixture(scope="session")
def small() -> DisentangleConfig:
    """Settings of a training run that takes a few seconds."""
    return DisentangleConfig(
        iterations=14,
        groups=1,
        group_tasks=6,
        inner_samples=6,
        outer_samples=4,
        validate_every=5,
        validation_batches=1,
        test_batches=1,
        measured_images=100,
        log_every=2,
        save_every=4,
        threads=1,
    )
