"""Dependencies have one direction, without cycles.

metalearn, disentangle -> runs, nn -> the solvers -> ops -> the leaves
sklearn -> the solvers
"""

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest

import sparsedis

PACKAGE = Path(sparsedis.__file__).parent
LEAVES = {"solution", "checks", "cache", "extras", "paths", "_version"}
SOLVERS = {"svm", "lasso", "ridge", "logistic"}
MAY_IMPORT = {
    "solution": set(),
    "checks": set(),
    "cache": {"paths"},
    "extras": set(),
    "paths": set(),
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
    "runs": LEAVES | {"info", "runs"},
    "metalearn": LEAVES | {"data", "models", "nn", "runs", "metalearn"},
    "disentangle": LEAVES | {"data", "models", "nn", "runs", "disentangle"} | SOLVERS,
    "sklearn": LEAVES | {"sklearn"} | SOLVERS,
    "info": LEAVES | {"ops"},
    "reports": LEAVES | {"metalearn", "disentangle", "runs"},
    "cli": LEAVES | {"runs", "metalearn", "disentangle", "info", "reports"},
    "__main__": {"cli"},
    "__init__": LEAVES | {"ops", "nn"} | SOLVERS,
}


def modules(package: Path) -> dict[str, Path]:
    """The files of a package, by the dotted names of their modules."""
    found = {}
    for path in package.rglob("*.py"):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> set[str]:
    """The modules that a file imports anywhere, including inside functions and under TYPE_CHECKING.

    ``from package import name`` imports the module ``package.name`` if that is among ``known``, and otherwise the
    package, which defines or re-exports the name. Implicit imports of parent packages do not count: these have been
    imported, or are being imported, by then.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports only"
            assert node.module is not None
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if name in known else node.module for name in below}
    return names


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """A cycle of modules, each of which imports the next; empty if there is none."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for name in sorted(graph.get(module, ())):
            if found := visit(name, [*trail, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


MODULES = modules(PACKAGE)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_dependencies_have_one_direction(name: str) -> None:
    own = MODULES[name].relative_to(PACKAGE).parts[0].removesuffix(".py")
    for imported in imports(MODULES[name], MODULES):
        top, _, rest = imported.partition(".")
        assert top not in ("tests", "benchmarks", "tools"), f"{name} imports {imported}"
        part = rest.split(".")[0]
        if top == "sparsedis" and part in MAY_IMPORT:
            assert part in MAY_IMPORT[own], f"{name} imports {imported}"


def test_there_are_no_import_cycles() -> None:
    graph = {name: imports(path, MODULES) & MODULES.keys() for name, path in MODULES.items()}
    assert not cycle(graph), " -> ".join(cycle(graph))


def cycle_of(package: Path, **contents: str) -> list[str]:
    """The import cycle in a package of modules with these contents."""
    for name, content in contents.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = modules(package)
    return cycle({name: imports(path, found) & found.keys() for name, path in found.items()})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from p import b", "from p.a import x"),
        ("import p.b", "def f():\n    from p import a"),
        ("if TYPE_CHECKING:\n    from p.b import B", "def f():\n    import p.a"),
    ],
)
def test_cycles_are_found(tmp_path: Path, first: str, second: str) -> None:
    assert cycle_of(tmp_path / "p", __init__="from p.a import x", a=first, b=second) == ["p.a", "p.b", "p.a"]


def test_only_re_exported_names_make_a_cycle(tmp_path: Path) -> None:
    """The modules of a package may import one another, but not the names that the package re-exports from them."""
    package = tmp_path / "p"
    assert (
        cycle_of(package, __init__="from p.a import x\nfrom p.b import y", a="from p import b\nx = 1", b="y = 2") == []
    )
    assert cycle_of(package, a="from p import y\nx = 1") == ["p", "p.a", "p"]


OPERATIONS = [folder for folder in (PACKAGE / "ops").iterdir() if (folder / "signature.py").exists()]


def test_operations_import_only_themselves_and_common() -> None:
    for folder in OPERATIONS:
        for path in folder.rglob("*.py"):
            for name in imports(path, MODULES):
                if name.startswith("sparsedis.ops."):
                    assert name.split(".")[2] in (folder.name, "common"), f"{path} imports {name}"


def test_compiled_backends_do_not_import_each_other() -> None:
    """They may import the torch backend, to which they delegate operations without a kernel."""
    for folder in OPERATIONS:
        for backend in folder.glob("backend_*"):
            others = {other.stem for other in folder.glob("backend_*")} - {backend.stem, "backend_torch"}
            for path in backend.rglob("*.py") if backend.is_dir() else [backend]:
                for name in imports(path, MODULES):
                    assert not others & set(name.split(".")), f"{path} imports {name}"


def test_every_part_of_the_package_is_listed() -> None:
    parts = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert parts == set(MAY_IMPORT)


ROOT = PACKAGE.parent
SCRIPTS = sorted(path for folder in ("tools", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.skipif(not SCRIPTS, reason="the package is installed without its repository")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_scripts_import_names_that_exist(path: Path) -> None:
    """No other test runs most of them, and mypy checks the package only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                found = hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}") is not None
                assert found, f"line {node.lineno}: {node.module} has no {name}"
