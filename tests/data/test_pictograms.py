"""The embedded data set agrees with its data card; rules of the tool that builds it."""

import hashlib
import importlib.util
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from sparsedis.data import pictograms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data():
    return pictograms.load()


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "build_pictograms.py"
    if not path.exists():
        pytest.skip("tools/ is not part of an installed package")
    spec = importlib.util.spec_from_file_location("build_pictograms", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def names():
    return json.loads((ROOT / "tools" / "pictograms_names.json").read_text())


def test_shapes_and_dtypes(data):
    n = len(data.images)
    assert data.images.shape == (n, 28, 28)
    assert (data.images.dtype, data.labels.dtype, data.families.dtype) == (np.uint8, np.int16, np.int16)
    assert data.labels.shape == data.families.shape == (n,)
    assert set(data.labels.tolist()) == set(range(len(data.class_names)))
    assert set(data.families.tolist()) == set(range(len(data.family_names)))
    assert list(data.class_names) == sorted(set(data.class_names))


def test_every_class_has_twenty_images_of_different_designers(data):
    assert np.bincount(data.labels).min() >= 20
    pairs = set(zip(data.labels.tolist(), data.families.tolist(), strict=True))
    assert len(pairs) == len(data.images)


def test_no_image_is_in_two_classes(data):
    owner = {}
    for image, label in zip(data.images, data.labels.tolist(), strict=True):
        assert owner.setdefault(image.tobytes(), label) == label


def test_no_near_duplicates_within_a_class(data):
    for label in range(len(data.class_names)):
        flat = data.images[data.labels == label].reshape(-1, 784).astype(float)
        correlation = np.corrcoef(flat)
        assert (correlation - np.eye(len(flat))).max() <= 0.97 + 1e-9


def test_images_have_ink_and_blank_margins(data):
    assert data.images.reshape(len(data.images), -1).max(1).min() > 0
    inner = data.images[:, 2:-2, 2:-2]
    assert (data.images.sum((1, 2), dtype=int) == inner.sum((1, 2), dtype=int)).all()


def test_the_split_is_by_class(data):
    assert data.split.shape == (len(data.class_names),)
    assert set(data.split.tolist()) == {0, 1, 2}
    assert np.bincount(data.split).min() >= 20


def test_the_split_is_pinned(data, names):
    parts = ("train", "validation", "test")
    for part, name in enumerate(parts):
        assert names["split"][name] == [c for c, p in zip(data.class_names, data.split, strict=True) if p == part]


def test_related_concepts_are_in_the_same_split(data, names):
    split_of = dict(zip(data.class_names, data.split.tolist(), strict=True))
    for group in names["same_side"]:
        assert len({split_of[concept] for concept in group if concept in split_of}) <= 1, group


def test_the_images_have_the_published_digest(data):
    digest = hashlib.sha256()
    for array in (data.images, data.labels, data.families, data.split):
        digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == "100257b8be30bd028790a75fb2d6f0ef42cfe1da77232be6d5972e226fdb3740"


def test_arrays_are_read_only(data):
    with pytest.raises(ValueError, match="read-only"):
        data.images[0, 0, 0] = 1


def test_every_licence_is_included(data):
    folder = files("sparsedis.data.pictograms")
    rows = [line.split("|") for line in folder.joinpath("NOTICE.md").read_text().splitlines() if line.startswith("| ")]
    rows = rows[1:]  # the heading
    assert sum(int(row[-2]) for row in rows) == len(data.images)
    for row in rows:
        prefix, _, author, licence, url = (cell.strip() for cell in row[1:6])
        assert prefix
        assert author.startswith("Copyright (c) ")
        assert url.startswith("https://")
        assert len(folder.joinpath("licenses", f"{licence}.txt").read_text()) > 400


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("anchor", "anchor"),
        ("anchor-outline-24", "anchor"),
        ("bold-anchor-16px", "anchor"),
        ("house-fill", "home"),
        ("github", None),
        ("android", None),
        ("x-solid", None),
        ("letter-outline", "letter"),
        ("a", None),
        ("7", None),
        ("outline", None),
    ],
)
def test_concepts_are_derived_from_names(tool, names, name, concept):
    assert tool.concept_of(name, names) == concept


def test_families_merge_sets_of_the_same_origin(tool, names):
    assert tool.family_of("bxs", names) == tool.family_of("bx", names) == "boxicons"
    assert tool.family_of("lucide", names) == tool.family_of("feather", names) == "feather"
    assert tool.family_of("tabler", names) == "tabler"


def test_two_families_of_one_author_are_an_error(tool, names, tmp_path):
    info = {"license": {"spdx": "MIT", "url": "https://x"}, "author": {"name": "Somebody"}}
    (tmp_path / "collections.json").write_text(json.dumps({"one": info, "two": info}))
    with pytest.raises(ValueError, match="expected one designer family for the sets of Somebody, got one, two"):
        tool.collect(tmp_path, names)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"palette": True}, False),
        ({"category": "UI 24px"}, True),
        ({"category": "Logos"}, False),
        ({"category": "Programming"}, False),
        ({"license": {"spdx": "CC-BY-4.0", "url": "https://x"}}, False),
        ({"license": {"spdx": "MIT"}}, False),
    ],
)
def test_only_sets_with_a_suitable_licence_are_used(tool, names, change, expected):
    info = {"license": {"spdx": "MIT", "url": "https://x"}, **change}
    assert tool.usable("tabler", info, names) is expected


def test_brands_are_not_concepts(data, names):
    brands = set(names["brands_to_drop"])
    assert not brands & set(data.class_names)
    assert not brands & {word for group in names["synonyms_first_is_canonical"] for word in group}


def test_an_excluded_set_is_not_used(tool, names):
    assert not tool.usable("line-md", {"license": {"spdx": "MIT", "url": "https://x"}}, names)


def test_duplicates_are_removed(tool):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (62, 28, 28), dtype=np.uint8)
    images[1] = images[0]  # within a class, one of the two is kept
    images[40] = images[20]  # in two classes, neither is kept
    icons = [tool.Icon("ab"[i // 31], str(i % 31), "set", "name", "") for i in range(62)]
    kept = tool.without_duplicates(icons, images)
    assert sorted(set(range(62)) - set(kept)) == [1, 20, 40]
