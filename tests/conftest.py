"""Shared fixtures, small data sets, and the parallel execution of the tests."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import sparsedis
from sparsedis.data import FewShotData
from sparsedis.metalearn.config import TrainConfig
from sparsedis.ops.registry import OPERATIONS
from tests import interpreter

interpreter.turn_on()

# If a shell starts the tests in the background, SIGINT is ignored, and tests that send it would wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A time limit per example would make the tests depend on the load of the machine.
settings.register_profile("sparsedis", deadline=None, derandomize=True)
settings.load_profile("sparsedis")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run folders, as in plain ``pytest``, with one process per core unless -n or --dist is given.

    Not single files, which finish before further processes have started, nor tests that share one GPU.
    """
    option = config.option
    if hasattr(config, "workerinput") or not config.pluginmanager.hasplugin("xdist"):
        return
    if option.numprocesses is not None or option.dist != "no" or option.tx:
        return
    here = option.usepdb or option.trace or option.capture == "no" or torch.cuda.is_available()
    if not here and all(Path(argument).is_dir() for argument in config.args):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if cores > 1:
            # "worksteal" gives each process consecutive tests, so module fixtures are created only once or twice.
            option.numprocesses, option.dist = min(cores, 8), "worksteal"
            # One thread per process and its subprocesses; tests of multithreading set the number that they need.
            os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what always is: tests of a run that a fixture trains, and of interpreted Triton kernels."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        triton = "triton" in item.path.name or any(isinstance(v, str) and v == "triton" for v in parameters.values())
        if "trained" in getattr(item, "fixturenames", ()) or (triton and not torch.cuda.is_available()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def importable() -> Iterator[None]:
    """Subprocesses import the package under test from any working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(sparsedis.__file__).parents[1]), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Unused paths for cache folders: cheaper than one ``tmp_path`` per test, which scans all earlier folders."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) / "sparsedis" for number in itertools.count())


@pytest.fixture(autouse=True)
def own_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate empty cache for every test, so that tests share nothing with each other or with the user's cache."""
    folder = next(caches)
    monkeypatch.setenv("SPARSEDIS_CACHE", str(folder))
    monkeypatch.delenv("SPARSEDIS_DATA", raising=False)
    return folder


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the output of commands independent of the terminal that runs the tests."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["cpp", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The SVM backend that "auto" tries first; preferred ones are hidden."""
    backends = OPERATIONS["svm"].backends
    first = [backend.name for backend in backends].index(request.param)
    if reason := backends[first].available():
        pytest.skip(f"backend {request.param!r} is not available: {reason}")
    monkeypatch.setattr(OPERATIONS["svm"], "backends", backends[first:])
    return request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder with real data; tests are skipped without it."""
    folder = Path(os.environ.get("SPARSEDIS_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared files: set SPARSEDIS_SHARED (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def few_shot_data() -> FewShotData:
    """25 classes of 12 random 8x8 images, in disjoint splits."""
    generator = np.random.default_rng(0)
    return FewShotData(
        name="noise",
        images=torch.from_numpy(generator.integers(0, 256, (300, 8, 8), dtype=np.uint8)),
        labels=torch.arange(300) % 25,
        class_names=tuple(f"class{i}" for i in range(25)),
        splits={"train": tuple(range(15)), "validation": (15, 16, 17, 18), "test": tuple(range(19, 25))},
    )


@pytest.fixture(scope="session")
def omniglot_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Omniglot's layout: 2 alphabets of 15 characters with 8 images each; a character is a noisy 7x7 pattern."""
    root = tmp_path_factory.mktemp("omniglot")
    generator = np.random.default_rng(0)
    for number in range(30):
        folder = root / "images_background" / f"Alphabet{number // 15}" / f"character{number % 15 + 1:02d}"
        folder.mkdir(parents=True)
        pattern = generator.random((7, 7)) < 0.3
        for drawer in range(8):
            ink = np.kron(pattern ^ (generator.random((7, 7)) < 0.08), np.ones((15, 15), bool))
            Image.fromarray(~ink).save(folder / f"{number:04d}_{drawer:02d}.png")
    return root


@pytest.fixture(scope="session")
def quick(omniglot_folder: Path) -> TrainConfig:
    """Settings of a training run that takes a few seconds."""
    return TrainConfig(
        data=f"omniglot:{omniglot_folder}",
        way=3,
        shot=2,
        query=3,
        batch=2,
        iterations=14,
        width=8,
        final_width=8,
        validate_every=5,
        validation_episodes=5,
        test_episodes=20,
        test_shots=(1, 2),
        log_every=2,
        save_every=4,
        threads=1,
    )
