"""The data set of a run, and the tasks drawn from it by the settings."""

from __future__ import annotations

from sparsedis.data import Episodes, FewShotData, load
from sparsedis.data.sources import SOURCES, resolve
from sparsedis.metalearn.config import TrainConfig


def read(config: TrainConfig, other: str | None = None) -> FewShotData:
    """The full data set of the settings, or another one, with images of the same size.

    Args:
        config: the settings.
        other: "NAME" or "NAME:PATH".

    Raises:
        ValueError, FileNotFoundError: as in :func:`sparsedis.data.load`.
    """
    if other is None:
        return load(config.data, config.image_size, config.left_out)
    return load(other, config.image_size if SOURCES[resolve(other)[0]].resizes else None)


def of_training(config: TrainConfig, data: FewShotData, length: int) -> Episodes:
    """Tasks of the training classes."""
    return episodes(config, data, "train", config.shot, config.query, length)


def of_validation(config: TrainConfig, data: FewShotData) -> Episodes | None:
    """The validation tasks; None without validation classes."""
    if not data.splits["validation"]:
        return None
    shot = config.shot if config.validation_shot is None else config.validation_shot
    return episodes(config, data, "validation", shot, config.evaluation_query, config.validation_episodes)


def of_tests(config: TrainConfig, data: FewShotData, length: int | None = None) -> list[Episodes]:
    """The test tasks for every number of shots; empty without test classes.

    Args:
        config: the settings.
        data: the data set.
        length: number of tasks; default: that of the settings.
    """
    if not data.splits["test"]:
        return []
    count = config.test_episodes if length is None else length
    return [episodes(config, data, "test", shot, config.evaluation_query, count) for shot in config.test_shots]


def episodes(
    config: TrainConfig, data: FewShotData, split: str, shot: int, query: int, length: int, **others: int
) -> Episodes:
    """Tasks of a split; ``others`` (way and seed) override the settings."""
    chosen = {"way": config.way, "seed": config.seed, **others}
    within = config.episodes == "within-alphabet"
    return Episodes(data, split, shot=shot, query=query, length=length, within_group=within, **chosen)
