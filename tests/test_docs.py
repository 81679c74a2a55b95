"""The documentation: links have targets, the reference is complete, and the code runs."""

import re
from pathlib import Path

import pytest

import sparsedis

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")] + sorted(
    DOCS.rglob("*.md")
)
# Pages whose Python blocks are run, in order and in one namespace.
RUNNING = [DOCS / "index.md", *sorted((DOCS / "guide").glob("*.md"))]

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: str) -> set[str]:
    """The anchors that code hosts and MyST create for a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: str, folder: Path) -> list[str]:
    """The relative links without a target, for a page in ``folder``."""
    found = []
    for link in LINK.findall(INLINE_CODE.sub("`", FENCE.sub("", page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = folder / path
        exists = target.is_file() and target.resolve().is_relative_to(ROOT) if path else True
        text = page if not path else target.read_text(encoding="utf-8") if exists and target.suffix == ".md" else None
        if not exists or (anchor and (text is None or anchor not in anchors(text))):
            found.append(link)
    return found


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, padded so that tracebacks show the line numbers of the page."""
    found = re.finditer(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return ["\n" * page.count("\n", 0, match.start(1)) + match[1] for match in found]


def test_the_changelog_has_the_format_of_keep_a_changelog() -> None:
    """Unreleased changes, then dated versions, each with known kinds of changes; the current version is listed."""
    page = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    head, *versions = re.split(r"^## ", page, flags=re.MULTILINE)
    assert "keepachangelog.com" in head
    assert versions[0].startswith("Unreleased\n")
    assert all(re.match(r"\[?\d+\.\d+\.\d+\]? - \d{4}-\d\d-\d\d\n", version) for version in versions[1:])
    assert sparsedis.__version__ in head + "".join(version.partition("\n")[0] for version in versions)
    for version in versions:
        kinds = re.findall(r"^### (.+)$", version, re.MULTILINE)
        known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
        assert set(kinds) <= set(known)
        assert len(set(kinds)) == len(kinds)


def test_the_readme_links_to_a_list_of_all_examples() -> None:
    """On the code host, this list replaces the gallery of the site."""
    assert "](examples/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    titles = [script.read_text(encoding="utf-8").splitlines()[1] for script in EXAMPLES]
    links = [f"- [{title}]({script.name})" for title, script in zip(titles, EXAMPLES, strict=True)]
    assert re.findall(r"^- \[.*?\]\(.*?\)", page, re.MULTILINE) == links


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_have_targets(page: Path) -> None:
    assert not broken(page.read_text(encoding="utf-8"), page.parent)


@pytest.mark.parametrize(
    "link", ["missing.md", "newton.md#nothing", "#nothing", "guide", "../../outside.md", "conf.py#anchor"]
)
def test_broken_links_are_found(link: str) -> None:
    assert broken(f"# A page\n\n[text]({link})", DOCS) == [link]


def test_valid_links_are_not_reported() -> None:
    page = "# A page, of it\n[a](newton.md) [b](solvers.md#finish) [c](#a-page-of-it) [d](https://a.b/c) `[e](f)`\n"
    assert not broken(page + "```\n[g](h)\n```\n", DOCS)


@pytest.mark.parametrize("script", EXAMPLES, ids=name)
def test_gallery_scripts_are_short(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 80


def test_the_reference_has_every_public_name() -> None:
    directive = re.compile(r"^ *\.\. (?:auto\w+|data):: ([\w.]+)", re.MULTILINE)
    listed = {name for path in (DOCS / "reference").glob("*.rst") for name in directive.findall(path.read_text())}
    public = {f"{module.__name__}.{name}" for module in (sparsedis, sparsedis.nn) for name in module.__all__}
    assert public - listed == set()


def test_the_first_example_of_the_readme_runs() -> None:
    first = blocks((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    exec(compile(first, "README.md", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=name)
def test_the_code_of_the_guide_runs(page: Path) -> None:
    namespace: dict[str, object] = {}
    for block in blocks(page.read_text(encoding="utf-8")):
        exec(compile(block, name(page), "exec"), namespace)
