"""Dependencies go one way: metalearn, disentangle -> runs, nn -> implicit -> solve -> ops -> the leaves."""

import ast
from pathlib import Path

import pytest

import sparsedis

PACKAGE = Path(sparsedis.__file__).parent
LEAVES = {"problem", "solution", "checks", "_version"}
SOLVES = {"solve", "regression", "logistic"}
MAY_IMPORT = {
    "problem": set(),
    "solution": set(),
    "checks": set(),
    "_version": set(),
    "ops": LEAVES | {"ops"},
    "arguments": LEAVES,
    "solve": LEAVES | {"arguments", "ops"},
    "regression": LEAVES | {"arguments", "ops"},
    "logistic": LEAVES | {"arguments", "ops"},
    "implicit": LEAVES | {"ops"} | SOLVES,
    "nn": LEAVES | {"arguments", "ops", "implicit"} | SOLVES,
    "data": LEAVES | {"data"},
    "models": LEAVES | {"models"},
    "runs": LEAVES | {"runs"},
    "metalearn": LEAVES | {"data", "models", "nn", "runs", "metalearn"},
    "disentangle": LEAVES | {"data", "models", "nn", "runs", "disentangle"} | SOLVES,
    "info": LEAVES | {"ops"},
    "cli": LEAVES | {"data", "metalearn", "disentangle", "info"},
    "__main__": {"cli"},
    "__init__": LEAVES | {"ops", "implicit", "nn"} | SOLVES,
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


def test_kernels_do_not_import_each_other():
    for operation in (PACKAGE / "ops").iterdir():
        for kernel in operation.glob("kernel_*"):
            for path in kernel.rglob("*.py") if kernel.is_dir() else [kernel]:
                assert not any("kernel_" in name and kernel.stem not in name for name in imports(path))


def test_every_room_is_listed():
    rooms = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)
