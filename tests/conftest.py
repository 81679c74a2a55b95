"""Small data sets that tests share."""

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

# A shell that starts the tests in the background has SIGINT ignored, and the tests that send it would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A time limit per example would make the tests depend on the load of the machine.
settings.register_profile("sparsedis", deadline=None, derandomize=True)
settings.load_profile("sparsedis")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Folders, as in plain ``pytest``, are run by a process for every core; -n or --dist asks for something else.

    Not a single file, whose tests are done while another process still starts; nor tests with a GPU, which is one.
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
            # Each takes a run of tests, so that fixtures of modules are made once or twice; who is done first helps.
            option.numprocesses, option.dist = min(cores, 8), "worksteal"
            # A thread each, in the processes that tests start too; tests of threads ask for the number they need.
            os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Triton's kernels are slow where they are interpreted: every test of them is marked so, whatever it takes."""
    if torch.cuda.is_available():
        return
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if "triton" in item.path.name or any(isinstance(v, str) and v == "triton" for v in parameters.values()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def importable() -> Iterator[None]:
    """Python processes that tests start find the package under test, wherever they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(sparsedis.__file__).parents[1]), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths that nothing is at: pytest makes no folder without a look at those of all tests before."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) / "sparsedis" for number in itertools.count())


@pytest.fixture(autouse=True)
def own_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder: tests leave the user's alone, and find nothing of each other's."""
    folder = next(caches)
    monkeypatch.setenv("SPARSEDIS_CACHE", str(folder))
    monkeypatch.delenv("SPARSEDIS_DATA", raising=False)
    return folder


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands print does not depend on the terminal that the tests are started in."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["cpp", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend of the SVM that "auto" tries first; those before it are hidden."""
    backends = OPERATIONS["svm"].backends
    first = [backend.name for backend in backends].index(request.param)
    if reason := backends[first].available():
        pytest.skip(f"backend {request.param!r} is not available: {reason}")
    monkeypatch.setattr(OPERATIONS["svm"], "backends", backends[first:])
    return request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared files, which holds real data; the test is skipped without it."""
    folder = Path(os.environ.get("SPARSEDIS_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared files: set SPARSEDIS_SHARED (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def few_shot_data() -> FewShotData:
    """25 classes with 12 random 8x8 images each; no class in two splits."""
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
    """Omniglot's layout: 2 alphabets of 15 characters of 8 images, every character a noisy 7x7 pattern."""
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
    """A run of some seconds."""
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
