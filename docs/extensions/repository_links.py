"""Links from pages to files outside docs/, so that one link works on the code host and on the site.

On the site it leads to the page that shows the file, if there is one, such as an example's in the gallery; any other
file is downloaded.
"""

from pathlib import Path, PurePosixPath

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

# Pages by the file of the repository that they show.
PAGES = {
    "README.md": "index",
    "CONTRIBUTING.md": "development/contributing",
    "CHANGELOG.md": "development/changelog",
    "examples/README.md": "gallery/index",
}


class RepositoryLinks(SphinxTransform):
    """Changes what MyST made of such links: references to documents that do not exist, and downloads."""

    default_priority = 500

    def apply(self, **kwargs: object) -> None:
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("refdomain") == "doc":
                # MyST names a document by its path without the suffix, from docs/ on or, outside, absolute.
                self._replace(node, Path(self.env.srcdir, node["reftarget"] + ".md"))
        for node in list(self.document.findall(addnodes.download_reference)):
            self._replace(node, Path(self.env.relfn2path(node["reftarget"], self.env.docname)[1]))

    def _replace(self, node: nodes.Element, path: Path) -> None:
        docs = Path(self.env.srcdir).resolve()
        file = PurePosixPath(path.resolve().relative_to(docs.parent).as_posix())
        page = PAGES.get(str(file))
        if file.parts[0] == "examples" and file.suffix == ".py":
            page = f"gallery/{file.stem}"
        if page is not None:
            link = addnodes.pending_xref("", refdomain="doc", reftype="myst", reftarget=page, refexplicit=True)
            link["reftargetid"] = node.get("reftargetid")
        elif file.parts[0] != docs.name:
            link = addnodes.download_reference("", reftarget=f"/../{file}")
        else:
            return
        link["refdoc"] = self.env.docname
        link += node.children
        node.replace_self(link)


def setup(app):
    app.add_transform(RepositoryLinks)
    return {"parallel_read_safe": True}
