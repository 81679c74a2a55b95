import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsedis.data import SPLITS, FewShotData
from sparsedis.data.dataset import check_disjoint, leave_out, repeated, split_by_hash


def test_one_channel_is_added(few_shot_data: FewShotData) -> None:
    assert few_shot_data.images.shape == (300, 1, 8, 8)


def test_counts_of_classes_and_images(few_shot_data: FewShotData) -> None:
    assert few_shot_data.counts() == {"train": (15, 180), "validation": (4, 48), "test": (6, 72)}


def test_split_by_hash_is_fixed() -> None:
    """Positions 13 to 15 of 20 in the order of sha256sum; the split must never change."""
    splits = split_by_hash("abcdefghijklmnopqrst")
    assert splits["validation"] == ["h", "k", "q"]
    assert [len(splits[split]) for split in SPLITS] == [12, 3, 5]
    assert sorted(name for names in splits.values() for name in names) == list("abcdefghijklmnopqrst")


def parts(**changes: object) -> dict[str, object]:
    return {
        "name": "x",
        "images": torch.zeros(4, 8, 8, dtype=torch.uint8),
        "labels": torch.arange(4),
        "class_names": tuple("abcd"),
        "splits": {"train": (0, 1), "validation": (2,), "test": (3,)},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(4, 8, 8)}, "images: expected uint8"),
        ({"images": torch.zeros(4, 8, dtype=torch.uint8)}, r"got torch.uint8 of shape \(4, 8\)"),
        ({"labels": torch.arange(3)}, r"labels: expected int64 of shape \(4,\)"),
        ({"labels": torch.arange(4) + 1}, "labels: expected values from 0 to 3, got 1 to 4"),
        ({"splits": {"train": (0,), "test": (1,)}}, "splits: expected train, validation, test"),
        ({"splits": {"train": (0,), "validation": (1,), "test": (0,)}}, "at most once"),
        ({"splits": {"train": (0,), "validation": (1,), "test": (4,)}}, "from 0 to 3"),
    ],
)
def test_inconsistent_parts_are_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewShotData(**parts(**changes))  # type: ignore[arg-type]


def test_classes_in_two_splits_are_rejected() -> None:
    check_disjoint("x", Path("y"), {"train": ["a", "b", "a"], "validation": [], "test": ["c"]}, "rename it")
    with pytest.raises(ValueError, match=r"x: expected .* in one split, got 'b' in train and test of y; rename"):
        check_disjoint("x", Path("y"), {"train": ["a", "b"], "validation": ["c"], "test": ["b"]}, "rename it")


def test_images_in_two_classes_are_counted() -> None:
    images = torch.zeros(8, 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor([1, 1, 2, 3, 4, 2, 5, 3])  # twice in class 0 is not counted
    data = FewShotData(
        name="x",
        images=images,
        labels=torch.tensor([0, 0, 0, 1, 1, 2, 2, 3]),
        class_names=("a", "b", "c", "unused"),
        splits={"train": (0, 1), "validation": (), "test": (2,)},
    )
    assert repeated(data) == {"train": 2, "validation": 0, "test": 1}


def test_left_out_groups_become_the_test_split() -> None:
    groups = ("a", "a", "b", "c", "b", "d")
    assert leave_out(groups, ["b"], {5}) == {"train": (0, 1, 3), "validation": (), "test": (2, 4)}
    assert leave_out(groups, ["a", "c"], ()) == {"train": (2, 4, 5), "validation": (), "test": (0, 1, 3)}
    assert leave_out(groups, [], {5, 3}) == {"train": (0, 1, 2, 4), "validation": (), "test": (3, 5)}
    # Published test classes are never trained on, whichever group is left out.
    assert leave_out(groups, ["d"], {3, 5}) == {"train": (0, 1, 2, 4), "validation": (), "test": (5,)}


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (["e"], "left_out: expected different ones of a, b, got e"),
        (["a", "a"], "left_out: expected different ones of a, b, got a, a"),
        (["a", "b"], "left_out: expected groups to train on besides a, b"),
        (["b"], "left_out: expected groups to train on besides b"),
    ],
)
def test_invalid_groups_cannot_be_left_out(left_out: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        leave_out(("a", "a", "b"), left_out, {0, 1})


def test_groups_have_to_cover_all_classes(few_shot_data: FewShotData) -> None:
    with pytest.raises(ValueError, match=r"groups: expected one for each of \d+ classes, got 1"):
        replace(few_shot_data, groups=("a",))
