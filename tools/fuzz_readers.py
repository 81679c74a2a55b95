"""Fuzz the file readers: for any content, a reader must return data or refuse the file.

    PYTHONPATH=. python tools/fuzz_readers.py [READER ...] [--seconds 60] [--seed 0] [--findings DIR]
    PYTHONPATH=. python tools/fuzz_readers.py READER --replay FILE

Readers: pickle (any pickle), pickles (a training split of a data set), npz and safetensors (tables of features), zip
(Omniglot), runs (its one-shot runs), image (a PNG or JPEG file). Default: all of them, one after the other.

A refusal is a ValueError or an OSError with a message. Anything else is a finding: another exception, a crash, more
than 30 seconds or 4 GB for one file. Findings at one place are reported once; their files are kept in ``--findings``,
and ``--replay`` runs one again. Exit code 1 if there is a finding.

The files are mutations of small valid ones. With atheris (``pip install atheris``, Linux) the coverage of the readers,
pickle, zipfile and Pillow guides the mutations; without it they are random. The checksums of zip and PNG files are not
verified, because hardly any mutation would pass them.

HDF5 files are excluded: the HDF5 library reads them, and its crashes on hostile files are known.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("pickle", "pickles", "npz", "safetensors", "zip", "runs", "image")
_INSTRUMENTED = ["sparsedis.data", "sparsedis.paths", "pickle", "zipfile", "PIL"]
_LIMIT_S, _LIMIT_MB, _MOST_BYTES = 30, 4096, 1 << 14


@dataclass(frozen=True)
class Reader:
    """A reader to fuzz.

    Attributes:
        file: name of the file for the content, in a folder of its own.
        read: reads the data from that folder.
        seeds: valid contents.
    """

    file: str
    read: Callable[[Path], object]
    seeds: Sequence[bytes]

    def attempt(self, folder: Path, content: bytes) -> bool:
        """Whether the content is accepted. Raises if the reader neither accepts nor properly refuses it."""
        (folder / self.file).write_bytes(content)
        try:
            self.read(folder)
        except (ValueError, OSError) as error:
            if not str(error).strip():
                raise AssertionError("a refusal without a message") from error
            return False
        return True


def reader(name: str, folder: Path) -> Reader:
    """A reader by name; also writes the other files that it needs into the folder."""
    import numpy as np
    import safetensors.numpy
    from PIL import Image

    from sparsedis import cache
    from sparsedis.data import (
        feature_table,
        image_decoding,
        omniglot,
        omniglot_one_shot,
        safe_pickle,
        split_pickles,
    )

    def image(mode: str, kind: str = "PNG", side: int = 6, **options: Any) -> bytes:
        content = io.BytesIO()
        Image.effect_noise((side, side), 90).convert(mode).save(content, kind, **options)
        return content.getvalue()

    def arrays(save: Callable[..., None], **values: Any) -> bytes:
        content = io.BytesIO()
        save(content, **values)
        return content.getvalue()

    def split_of_pickles(path: Path) -> None:
        split_pickles.load(path)
        for entry in cache.folder().iterdir():
            cache.remove(entry)

    pixels = np.arange(8 * 4 * 4 * 3, dtype=np.uint8).reshape(8, 4, 4, 3)
    if name == "pickle":
        return Reader("x.pkl", lambda path: safe_pickle.load(path / "x.pkl"), _pickles(pixels))
    if name == "pickles":
        (folder / "x_val.pickle").write_bytes(_pickled({"data": pixels, "labels": [10] * 8}))
        (folder / "x_test.pickle").write_bytes(_pickled({"data": pixels, "labels": [20] * 8}))
        encoded = [np.frombuffer(image("RGB", side=4), np.uint8)[:, None] for _ in range(2)]
        seeds = [
            *(_pickled({"data": pixels, "labels": np.arange(8) // 4}, protocol) for protocol in range(6)),
            _pickled({"data": encoded, "labels": [0, 1], "catname2label": {"a": 0, "b": 1}}),
            _pickled({"data": [bytes(x) for x in encoded], "labels": [0, 1], "label_specific_str": ["a", b"b"]}, 2),
            _pickled({"image_data": pixels, "class_dict": {"a": [0, 1, 2, 3], b"b": np.arange(4, 8)}}),
        ]
        return Reader("x_train.pickle", split_of_pickles, seeds)
    table = {
        "features": np.arange(24, dtype=np.float32).reshape(8, 3),
        "labels": np.array([0, 0, 1, 1, 2, 2, 3, 3]),
        "splits": np.array([0, 1, 2, 2], np.int8),
    }
    if name == "npz":
        wide = {**table, "features": table["features"].astype(">f8"), "labels": table["labels"].astype("u2")}
        seeds = [arrays(save, **values) for save in (np.savez, np.savez_compressed) for values in (table, wide)]
        return Reader("x.npz", lambda path: feature_table.load(path / "x.npz"), seeds)
    if name == "safetensors":
        seeds = [safetensors.numpy.save(table), safetensors.numpy.save({"features": table["features"].astype("f2")})]
        return Reader("x.safetensors", lambda path: feature_table.load(path / "x.safetensors"), seeds)
    blank = io.BytesIO()
    Image.new("1", (105, 105), 1).save(blank, "PNG")
    one_bit = blank.getvalue()
    if name == "zip":
        members = {f"images_background/A/character0{i}/000{i}_01.png": one_bit for i in range(3)}
        members |= {"images_evaluation/B/character01/0001_01.png": one_bit, "__MACOSX/._x.png": b"x"}
        return Reader("x.zip", lambda path: omniglot.load(path / "x.zip"), _zipped(members))
    if name == "runs":
        lines = [f"run01/test/item0{i}.png run01/training/class0{3 - i}.png\n" for i in (1, 2)]
        members = {word: one_bit for line in lines for word in line.split()}
        members["run01/class_labels.txt"] = "".join(lines).encode()
        return Reader("x.zip", lambda path: omniglot_one_shot.load(path / "x.zip"), _zipped(members))
    if name == "image":
        modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
        exif = Image.Exif()
        exif[0x0112] = 6
        frames = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in (1, 2)]
        seeds = [image(mode) for mode in modes]
        seeds += [image(mode, "JPEG", exif=exif) for mode in ("L", "RGB", "CMYK")]
        seeds += [image("P", transparency=3), image("L", transparency=3), image("RGB", exif=exif)]
        for kind in ("PNG", "MPO"):
            content = io.BytesIO()
            frames[0].save(content, kind, save_all=True, append_images=frames[1:])
            seeds.append(content.getvalue())
        return Reader("x.png", lambda path: image_decoding.decode_rgb((path / "x.png").read_bytes(), "x.png", 5), seeds)
    raise ValueError(f"reader: expected one of {', '.join(NAMES)}, got {name!r}")


def mutated(seeds: Sequence[bytes], random: Any) -> bytes:
    """One of the seeds with one to eight random changes; ``random`` is a NumPy generator."""
    content = bytearray(seeds[random.integers(len(seeds))])
    for _ in range(int(random.integers(1, 9))):
        place = int(random.integers(len(content) + 1))
        length = int(min(random.geometric(0.2), len(content) - place))
        other = seeds[random.integers(len(seeds))]
        start = int(random.integers(len(other) + 1))
        changes: tuple[Callable[[], bytes], ...] = (
            lambda n=length: random.bytes(n),  # other bytes
            lambda: b"",  # fewer
            lambda: random.bytes(4),  # more
            lambda p=place, n=length: bytes(content[p : p + n]) * 2,
            lambda n=length: bytes([random.choice([0, 1, 0x7F, 0x80, 0xFF])]) * n,
            lambda o=other, s=start, n=length: o[s : s + 4 * n],  # from another seed
        )
        content[place : place + length] = changes[random.integers(len(changes))]()
    return bytes(content[: int(random.integers(len(content) + 1))] if random.random() < 0.05 else content)


def _pickled(value: Any, protocol: int = 4) -> bytes:
    import pickle

    return pickle.dumps(value, protocol)


def _pickles(pixels: Any) -> list[bytes]:
    import numpy as np

    objects = np.empty(2, object)
    objects[:] = [b"\xff", pixels[0]]
    value = {"data": pixels, "labels": [1, np.int64(-2), 2**70], "rest": ("\xfc", 2.5, None, True), "objects": objects}
    return [_pickled(value, protocol) for protocol in range(6)]


def _zipped(members: dict[str, bytes]) -> list[bytes]:
    import zipfile

    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", method) as archive:
            for name, member in members.items():
                archive.writestr(name, member)
        found.append(content.getvalue())
    return found


class Watch:
    """Runs contents until the time is over and keeps the findings."""

    def __init__(self, name: str, seconds: float, findings: Path, folder: Path) -> None:
        self.name, self.findings, self.folder = name, findings, folder
        self.reader = reader(name, folder)
        self.end = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.known: set[str] = set()

    def __call__(self, content: bytes) -> None:
        if time.monotonic() > self.end:
            self.finish()
        try:
            self.counts["accepted" if self.reader.attempt(self.folder, content) else "refused"] += 1
        except Exception as error:
            self.counts["findings"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} in {place.filename}:{place.lineno}"
            if where not in self.known:
                self.known.add(where)
                self.findings.mkdir(parents=True, exist_ok=True)
                file = self.findings / f"{self.name}-{len(self.known)}"
                file.write_bytes(content)
                print(f"{self.name}: {where}: {str(error)[:200]}; {file}", flush=True)

    def finish(self) -> None:
        total = sum(self.counts.values())
        print(
            f"{self.name}: {total:,} files, {self.counts['accepted']:,} accepted, {self.counts['refused']:,} refused, "
            f"{len(self.known)} places with findings",
            flush=True,
        )
        os._exit(1 if self.known else 0)  # libFuzzer does not return


def _fuzz(name: str, seconds: float, seed: int, findings: Path, folder: Path) -> None:
    """Fuzzes one reader in a folder of its own; ends the process."""
    try:
        import atheris
    except ImportError:
        atheris = None
    os.environ["SPARSEDIS_CACHE"] = str(folder / "cache")
    data, corpus = folder / "data", folder / "corpus"
    data.mkdir()
    with atheris.instrument_imports(include=_INSTRUMENTED) if atheris else contextlib.nullcontext():
        watch = Watch(name, seconds, findings, data)
    _without_checksums()
    if atheris is None:
        from numpy.random import default_rng

        random = default_rng(seed)
        while True:
            watch(mutated(watch.reader.seeds, random))
    corpus.mkdir()
    for i, content in enumerate(watch.reader.seeds):
        (corpus / str(i)).write_bytes(content)
    findings.mkdir(parents=True, exist_ok=True)
    options = (
        *(f"-seed={seed + 1}", f"-max_total_time={int(seconds) + _LIMIT_S}", f"-timeout={_LIMIT_S}"),
        *(f"-rss_limit_mb={_LIMIT_MB}", f"-max_len={_MOST_BYTES}", f"-artifact_prefix={findings}/{name}-"),
    )
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(corpus)], watch)
    atheris.Fuzz()


def _without_checksums() -> None:
    import zipfile

    from PIL import PngImagePlugin

    zipfile.ZipExtFile._update_crc = lambda self, data: None  # type: ignore[attr-defined]
    PngImagePlugin.ChunkStream.crc = PngImagePlugin.ChunkStream.crc_skip  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60, help="seconds per reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder")
    parser.add_argument("--replay", type=Path, help="run a kept file again")
    parser.add_argument("--here", type=Path, help="fuzz in this process, with its files in this folder, and end it")
    options = parser.parse_args()
    if unknown := set(options.readers) - set(NAMES):
        parser.error(f"expected readers of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    if options.replay:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SPARSEDIS_CACHE"] = f"{folder}/cache"
            accepted = reader(options.readers[0], Path(folder)).attempt(Path(folder), options.replay.read_bytes())
        print("accepted" if accepted else "refused")
        return 0
    if options.here:
        _fuzz(options.readers[0], options.seconds, options.seed, options.findings, options.here)
    arguments = ["--seconds", str(options.seconds), "--seed", str(options.seed), "--findings", str(options.findings)]
    failed = []
    for name in options.readers or NAMES:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            command = [sys.executable, __file__, name, "--here", folder, *arguments]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
    print(f"findings in {', '.join(failed)}" if failed else "no findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
