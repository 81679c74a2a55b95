"""Build the data set `pictograms` from the npm package @iconify/json, deterministically.

A class is one concept (umbrella, anchor, calculator...), drawn independently by many designers, with at most one image
per concept and designer family. pictograms_names.json defines which icons are kept and which are merged.

    python tools/build_pictograms.py [--iconify DIR] [--out DIR] [--contact-sheet FILE]

Needs the extra: pip install -e '.[tools]', and npm unless --iconify is given.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "@iconify/json@2.2.535"
RENDERED, SIZE, MARGIN = 96, 28, 2
LEAST_PER_CLASS = 20
NEAR_DUPLICATE = 0.97
INK = 32  # of 255: the least ink of a pixel that cropping keeps
SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.15, 0.25)

Names = dict[str, Any]


class Icon(NamedTuple):
    """One drawing: its concept, designer family, set, name in the set and SVG document."""

    concept: str
    family: str
    set: str
    name: str
    svg: str


def concept_of(name: str, names: Names) -> str | None:
    """The concept that an icon's name stands for, or None."""
    affixes = set(names["style_affixes"])
    words = [word for word in name.lower().split("-") if word]
    kept = [word for word in words if word not in affixes and not re.fullmatch(r"\d+(px)?", word)]
    concept = "-".join(kept)
    if concept in names["brands_to_drop"]:
        return None
    for group in names["synonyms_first_is_canonical"]:
        if concept in group:
            concept = group[0]
    return None if len(concept) < 2 or concept in names["concepts_to_drop"] else concept


def family_of(prefix: str, names: Names) -> str:
    """The designer family of a set; sets of one designer, and sets derived from one another, form one family."""
    return str(names["design_family_of_set"].get(prefix, prefix))


def usable(prefix: str, info: dict[str, Any], names: Names) -> bool:
    """Whether a set's licence allows redistribution and its icons are plain pictograms, not brand logos."""
    licence = info["license"]
    return (
        licence.get("spdx") in names["licences"]
        and bool(licence.get("url"))
        and not info.get("palette")
        and info.get("category") not in names["categories_to_drop"]
        and prefix not in names["sets_to_drop"]
    )


def collect(package: Path, names: Names) -> tuple[list[Icon], dict[str, dict[str, Any]]]:
    """At most one icon per concept and family (the exact or else the shortest name), and the metadata of the sets."""
    collections = json.loads((package / "collections.json").read_text(encoding="utf-8"))
    best: dict[tuple[str, str], tuple[tuple[bool, int, str, str], Icon]] = {}
    prefixes = [prefix for prefix in sorted(collections) if usable(prefix, collections[prefix], names)]
    families_of_author: dict[str, set[str]] = defaultdict(set)
    for prefix in prefixes:
        families_of_author[collections[prefix]["author"]["name"]].add(family_of(prefix, names))
    for author, families in families_of_author.items():
        if len(families) > 1:
            got = ", ".join(sorted(families))
            raise ValueError(f"expected one designer family for the sets of {author}, got {got}")
    for prefix in prefixes:
        data = json.loads((package / "json" / f"{prefix}.json").read_text(encoding="utf-8"))
        family = family_of(prefix, names)
        for name, icon in sorted(data["icons"].items()):
            concept = concept_of(name, names)
            if concept is None or icon.get("hidden"):
                continue
            if family in names["images_to_drop_by_family"].get(concept, ()):
                continue
            rank = (name != concept, len(name), prefix, name)
            key = (concept, family)
            if key not in best or rank < best[key][0]:
                best[key] = (rank, Icon(concept, family, prefix, name, _document(data, icon)))
    icons = [icon for _, icon in best.values()]
    count = Counter(icon.concept for icon in icons)
    kept = [icon for icon in icons if count[icon.concept] >= LEAST_PER_CLASS]
    return sorted(kept, key=lambda icon: (icon.concept, icon.family)), collections


def _document(data: dict[str, Any], icon: dict[str, Any]) -> str:
    box = [icon.get(key, data.get(key, default)) for key, default in _BOX]
    view = " ".join(str(value) for value in box)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" color="black">{icon["body"]}</svg>'


_BOX = (("left", 0), ("top", 0), ("width", 16), ("height", 16))


def render(svg: str) -> NDArray[np.uint8] | None:
    """The drawing as ink (28, 28), bright on 0, cropped and centred; None if it has no ink."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, height=RENDERED, background="white"))
    ink = 255 - np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    rows, columns = np.nonzero(ink.max(1) >= INK)[0], np.nonzero(ink.max(0) >= INK)[0]
    if len(rows) == 0:
        return None
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(ink.shape)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - ink.shape[0]) // 2, (side - ink.shape[1]) // 2
    square[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    inner = SIZE - 2 * MARGIN
    small = np.asarray(Image.fromarray(square).resize((inner, inner), Image.Resampling.BOX))
    return np.pad(small, MARGIN)


def without_duplicates(icons: list[Icon], images: NDArray[np.uint8]) -> list[int]:
    """Indices to keep: no near-duplicates in a class, no equal images in two classes, enough images per class."""
    seen = Counter(image.tobytes() for image in images)
    classes: dict[str, list[int]] = defaultdict(list)
    for i, icon in enumerate(icons):
        classes[icon.concept].append(i)
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-9)
    kept = []
    for members in classes.values():
        chosen: list[int] = []
        own = Counter(images[i].tobytes() for i in members)
        for i in members:
            shared = seen[images[i].tobytes()] > own[images[i].tobytes()]
            if not shared and all(flat[i] @ flat[j] <= NEAR_DUPLICATE for j in chosen):
                chosen.append(i)
        if len(chosen) >= LEAST_PER_CLASS:
            kept += chosen
    return sorted(kept)


def centroid_accuracy(images: NDArray[np.uint8], labels: NDArray[np.int64], shot: int, seed: int) -> float:
    """5-way accuracy of the nearest pixel centroid over 200 episodes with 10 queries per class."""
    rng = np.random.default_rng(seed)
    flat = images.reshape(len(images), -1) / 255.0
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    right = []
    for _ in range(200):
        drawn = [rng.permutation(members[c])[: shot + 10] for c in rng.permutation(len(members))[:5]]
        centres = np.stack([flat[index[:shot]].mean(0) for index in drawn])
        queries = np.stack([flat[index[shot:]] for index in drawn])
        distance = ((queries[:, :, None] - centres) ** 2).sum(-1)
        right.append((distance.argmin(-1) == np.arange(5)[:, None]).mean())
    return float(np.mean(right))


def propose_split(
    images: NDArray[np.uint8], labels: NDArray[np.int64], classes: list[str], names: Names
) -> dict[str, list[str]]:
    """The most balanced of 100 seeded random splits that keep related concepts together.

    Balance is the largest difference between two parts in the accuracy of the nearest pixel centroid, over 1 and 5
    shots.
    """
    related = [set(group) & set(classes) for group in names["same_side"]]
    single = set(classes) - set().union(*related)
    blocks = [sorted(group) for group in related if group] + [[c] for c in sorted(single)]
    best: tuple[float, dict[str, list[str]]] | None = None
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(len(blocks))
        split: dict[str, list[str]] = {part: [] for part in SPLITS}
        for index in order:
            # The next block goes to the part furthest below its share.
            part = min(SPLITS, key=lambda p: len(split[p]) / SHARES[SPLITS.index(p)])
            split[part] += blocks[index]
        scores = []
        for part in SPLITS:
            wanted = np.isin(labels, [classes.index(c) for c in split[part]])
            scores.append([centroid_accuracy(images[wanted], labels[wanted], shot, 0) for shot in (1, 5)])
        spread = float(np.ptp(scores, axis=0).max())
        if best is None or spread < best[0]:
            best = (spread, {part: sorted(members) for part, members in split.items()})
    assert best is not None
    return best[1]


def notice(icons: list[Icon], collections: dict[str, dict[str, Any]]) -> str:
    """The notice that accompanies the images: every contributing set, its author and its licence."""
    count = Counter(icon.set for icon in icons)
    lines = [
        "# Notice",
        "",
        f"The images in `pictograms.npz` are rendered from icons of the npm package `{PACKAGE}`. Each set below",
        "contributed; its licence text is in `licenses/` under the SPDX identifier. Generated by",
        "`tools/build_pictograms.py`.",
        "",
        "| set | name | copyright | licence | source | images |",
        "|---|---|---|---|---|---|",
    ]
    for prefix in sorted(count):
        info = collections[prefix]
        licence = info["license"]
        lines.append(
            f"| {prefix} | {info['name']} | Copyright (c) {info['author']['name']} "
            f"| {licence['spdx']} | {licence['url']} | {count[prefix]} |"
        )
    return "\n".join(lines) + "\n"


def contact_sheet(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: list[str], shown: int) -> Image.Image:
    """A row per class, in three columns: the class's name and its first ``shown`` images."""
    label_width, gap = 120, 1
    width = label_width + shown * (SIZE + gap)
    columns = 3
    rows = -(-len(classes) // columns)
    sheet = Image.new("L", (columns * width, rows * (SIZE + gap)), 255)
    draw = ImageDraw.Draw(sheet)
    for c, name in enumerate(classes):
        x, y = (c // rows) * width, (c % rows) * (SIZE + gap)
        draw.text((x + 4, y + 8), name, fill=0)
        for position, i in enumerate(np.flatnonzero(labels == c)[:shown]):
            picture = Image.fromarray(255 - images[i])
            sheet.paste(picture, (x + label_width + position * (SIZE + gap), y))
    return sheet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--iconify", type=Path, help="folder of the unpacked npm package (default: fetched by npm)")
    parser.add_argument("--names", type=Path, default=ROOT / "tools" / "pictograms_names.json")
    parser.add_argument("--out", type=Path, default=ROOT / "sparsedis" / "data" / "pictograms")
    parser.add_argument("--contact-sheet", type=Path, help="PNG file for an overview of the classes")
    parser.add_argument("--shown", type=int, default=10, help="images per class on the contact sheet")
    parser.add_argument("--propose-split", action="store_true", help="write a new split into the names file")
    args = parser.parse_args()
    names: Names = json.loads(args.names.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        package = args.iconify or _fetched(Path(folder))
        icons, collections = collect(package, names)
    rendered = [render(icon.svg) for icon in icons]
    icons = [icon for icon, image in zip(icons, rendered, strict=True) if image is not None]
    images = np.stack([image for image in rendered if image is not None])
    kept = without_duplicates(icons, images)
    icons, images = [icons[i] for i in kept], images[kept]

    classes = sorted({icon.concept for icon in icons})
    families = sorted({icon.family for icon in icons})
    labels = np.array([classes.index(icon.concept) for icon in icons])
    if args.propose_split:
        names["split"] = propose_split(images, labels, classes, names)
        args.names.write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    split = {name: part for part, members in enumerate(names["split"][p] for p in SPLITS) for name in members}
    if set(split) != set(classes):
        changed = ", ".join(sorted(set(split) ^ set(classes)))
        raise ValueError(f"expected exactly the classes of the frozen split, differing in: {changed}")

    args.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        args.out / "pictograms.npz",
        images=images,
        labels=labels.astype(np.int16),
        families=np.array([families.index(icon.family) for icon in icons], np.int16),
        class_names=np.array(classes),
        family_names=np.array(families),
        split=np.array([split[name] for name in classes], np.int8),
    )
    (args.out / "NOTICE.md").write_text(notice(icons, collections), encoding="utf-8")
    if args.contact_sheet:
        contact_sheet(images, labels, classes, args.shown).save(args.contact_sheet, optimize=True)
    print(f"{len(images)} images, {len(classes)} classes, {len(families)} families, {len({i.set for i in icons})} sets")
    for part, name in enumerate(SPLITS):
        wanted = np.isin(labels, [c for c, concept in enumerate(classes) if split[concept] == part])
        one, five = (100 * centroid_accuracy(images[wanted], labels[wanted], shot, 0) for shot in (1, 5))
        print(
            f"{name}: {len(names['split'][name])} classes, {wanted.sum()} images, nearest pixel centroid "
            f"{one:.1f} (1 shot), {five:.1f} (5 shots)"
        )
    return 0


def _fetched(folder: Path) -> Path:
    subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


if __name__ == "__main__":
    sys.exit(main())
