import hashlib
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from sparsedis.data import SPLITS, Episode, Episodes, FewShotData


@pytest.fixture
def episodes(few_shot_data: FewShotData) -> Episodes:
    return Episodes(few_shot_data, "train", way=4, shot=3, query=2, seed=7, length=9)


def same(a: Episode, b: Episode) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_shapes_dtypes_and_range_of_a_batch(episodes: Episodes) -> None:
    batch = episodes.images(episodes.batch(2, 5))
    assert batch.support.shape == (3, 12, 1, 8, 8)
    assert batch.query.shape == (3, 8, 1, 8, 8)
    assert batch.support.dtype == torch.float32
    assert batch.support_labels.dtype == torch.int64
    assert batch.support.min() >= 0
    assert 0.9 < batch.support.max() <= 1
    assert batch.support_labels[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert batch.query_labels[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert same(Episode(*(x[1] for x in batch)), episodes[3])


def test_episodes_have_distinct_images_and_correct_labels(episodes: Episodes) -> None:
    for i in range(len(episodes)):
        support, support_labels, query, query_labels = episodes.indices(i)
        chosen = torch.cat([support, query])
        assert len(set(chosen.tolist())) == len(chosen)
        classes = episodes.data.labels[support].reshape(4, 3)
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0].tolist())) == 4
        assert torch.equal(episodes.data.labels[query], classes[query_labels, 0])
        assert torch.equal(support_labels, torch.arange(4).repeat_interleave(3))


def test_splits_are_disjoint_and_all_classes_occur(few_shot_data: FewShotData) -> None:
    seen = {}
    for split in SPLITS:
        episodes = Episodes(few_shot_data, split, way=3, shot=1, query=1, length=100)
        batch = episodes.batch(0, 100)
        seen[split] = set(few_shot_data.labels[batch.support].flatten().tolist())
        assert seen[split] == set(few_shot_data.splits[split])
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_episodes_do_not_depend_on_the_number_of_workers(episodes: Episodes, workers: int) -> None:
    loaded = [e for batch in DataLoader(episodes, batch_size=2, num_workers=workers) for e in zip(*batch, strict=True)]
    assert len(loaded) == 9
    for i in (8, 0, 3, 7, 1, 2, 6, 5, 4):
        assert same(Episode(*loaded[i]), episodes[i])


def test_episodes_can_be_pickled_and_iterated(episodes: Episodes) -> None:
    copies = list(pickle.loads(pickle.dumps(episodes)))
    assert len(copies) == 9
    assert same(copies[5], episodes[5])


def test_episodes_depend_on_seed_split_and_index_only(few_shot_data: FewShotData) -> None:
    def first(index: int = 0, split: str = "train", seed: int = 0, length: int = 10) -> list[int]:
        episodes = Episodes(few_shot_data, split, way=3, shot=2, query=1, seed=seed, length=length)
        return episodes.indices(index).support.tolist()

    assert first() == first(length=1000)
    assert len({tuple(x) for x in (first(), first(1), first(seed=1), first(split="test"))}) == 4


def test_episodes_are_pinned(few_shot_data: FewShotData) -> None:
    """They must not change between releases, or results would not be reproducible."""
    episodes = Episodes(few_shot_data, "test", way=5, shot=5, query=5, seed=3, length=2000)
    assert episodes.indices(0).support[:5].tolist() == [123, 73, 248, 98, 273]
    chosen = torch.cat([episodes.indices(1234).support, episodes.indices(1234).query])
    digest = hashlib.sha256(chosen.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "df8b2070d42aa928"


@pytest.mark.slow
def test_classes_are_drawn_uniformly(few_shot_data: FewShotData) -> None:
    episodes = Episodes(few_shot_data, "train", way=3, shot=1, query=1, length=3000)
    counts = torch.bincount(few_shot_data.labels[episodes.batch(0, 3000).query].flatten(), minlength=15)[:15]
    assert ((counts - 600).abs() < 5 * (600 * 0.8) ** 0.5).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "training"}, "split: expected one of train, validation, test, got 'training'"),
        ({"way": 1}, "way: expected a number >= 2, got 1"),
        ({"shot": 0}, "shot: expected a number >= 1, got 0"),
        ({"query": 0}, "query: expected a number >= 1, got 0"),
        ({"seed": -1}, "seed: expected a number >= 0, got -1"),
        ({"length": 0}, "length: expected a number >= 1, got 0"),
        ({"way": 16}, "way: 16 classes per episode, but the train split of noise has 15"),
        (
            {"shot": 9, "query": 4},
            r"shot \+ query: 9 \+ 4 images per class, but class 'class0' of noise has 12",
        ),
    ],
)
def test_invalid_arguments_are_rejected(few_shot_data: FewShotData, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Episodes(few_shot_data, **{"split": "train", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 9])
def test_an_index_out_of_range_raises(episodes: Episodes, index: int) -> None:
    with pytest.raises(IndexError, match="from 0 to 8"):
        episodes[index]


@pytest.fixture
def grouped() -> FewShotData:
    """Classes of 6 images in interleaved groups of 2, 5 and 4 classes."""
    return FewShotData(
        name="grouped",
        images=torch.zeros(66, 8, 8, dtype=torch.uint8),
        labels=torch.arange(11).repeat_interleave(6),
        class_names=tuple(map(str, range(11))),
        splits={"train": tuple(range(11)), "validation": (), "test": ()},
        groups=tuple("cbabcbabcbc"[i] for i in range(11)),
    )


def test_within_group_draws_classes_of_one_group(grouped: FewShotData) -> None:
    episodes = Episodes(grouped, "train", way=4, shot=1, query=2, length=60, within_group=True)
    assert grouped.groups is not None
    seen = []
    for i in range(60):
        labels = grouped.labels[episodes.indices(i).support].tolist()
        assert len(set(labels)) == 4
        groups = {grouped.groups[label] for label in labels}
        assert len(groups) == 1
        seen += [(label, *groups) for label in labels]
    # The group of two classes is too small; the others are about equally frequent, with all their classes.
    assert {group for _, group in seen} == {"b", "c"}
    assert {label for label, _ in seen} == {i for i in range(11) if grouped.groups[i] != "a"}
    assert 15 <= sum(group == "b" for _, group in seen) / 4 <= 45
    shorter = Episodes(grouped, "train", way=4, shot=1, query=2, length=3, within_group=True)
    assert same(shorter.indices(2), episodes.indices(2))


def test_missing_or_too_small_groups_are_rejected(grouped: FewShotData, few_shot_data: FewShotData) -> None:
    with pytest.raises(ValueError, match=r"way: 6 classes of one group .* largest group in the train split .* has 5"):
        Episodes(grouped, "train", way=6, shot=1, query=2, within_group=True)
    with pytest.raises(ValueError, match="episodes: expected a data set whose classes have groups, got"):
        Episodes(few_shot_data, "train", way=2, shot=1, query=2, within_group=True)
