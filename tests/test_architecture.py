"""Dependencies go one way: metalearn -> nn -> the solvers -> ops -> the leaves."""

import ast
from pathlib import Path

import pytest

import sparsedis

PACKAGE = Path(sparsedis.__file__).parent
LEAVES = {"solution", "checks", "_version"}
SOLVERS = {"svm", "lasso", "ridge", "logistic"}
MAY_IMPORT = {
    "solution": set(),
    "checks": set(),
    "_version": set(),
    "ops": LEAVES | {"ops"},
    "arguments": LEAVES,
    "svm": LEAVES | {"arguments", "ops"},
    "lasso": LEAVES | {"arguments", "ops"},
    "ridge": LEAVES | {"arguments", "ops"},
    "logistic": LEAVES | {"arguments", "ops"},
    "nn": LEAVES | {"arguments", "ops"} | SOLVERS,
    "data": LEAVES | {"data"},
    "models": LEAVES | {"models"},
    "metalearn": LEAVES | {"data", "models", "nn", "metalearn"},
    # metalearn holds what all training runs share: checkpoints and the loop.
    "disentangle": LEAVES | {"ops", "nn", "data", "models", "metalearn", "disentangle"} | SOLVERS,
    "info": LEAVES | {"ops"},
    "cli": LEAVES | {"data", "metalearn", "disentangle", "info"},
    "__main__": {"cli"},
    "__init__": LEAVES | {"ops", "nn"} | SOLVERS,
}


def imports(path: Path) -> set[str]:
    """Second-level names of the package that a file imports; the name of the module for others."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            below = {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "sparsedis" else set()
            names |= below or {node.module}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_go_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in ("tests", "benchmarks", "tools"), f"{path} imports {name}"
        inner = rest.split(".")[0]
        if top == "sparsedis" and inner in MAY_IMPORT:
            assert inner in MAY_IMPORT[room], f"{path} imports {name}"


OPERATIONS = [folder for folder in (PACKAGE / "ops").iterdir() if (folder / "signature.py").exists()]


def test_an_operation_imports_itself_and_what_all_share():
    for folder in OPERATIONS:
        for path in folder.rglob("*.py"):
            for name in imports(path):
                if name.startswith("sparsedis.ops."):
                    assert name.split(".")[2] in (folder.name, "common"), f"{path} imports {name}"


def test_compiled_backends_do_not_import_each_other():
    """They may import the torch backend, which does what they have no kernels for."""
    for folder in OPERATIONS:
        for backend in folder.glob("backend_*"):
            others = {other.stem for other in folder.glob("backend_*")} - {backend.stem, "backend_torch"}
            for path in backend.rglob("*.py") if backend.is_dir() else [backend]:
                for name in imports(path):
                    assert not others & set(name.split(".")), f"{path} imports {name}"


def test_every_room_is_listed():
    rooms = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)
