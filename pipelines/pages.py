"""The pages that our webserver has beside Dagster's: the home's comparison, and the project's docs.

Links of results in Dagster's UI lead to them.  They hold no scripts and may run none: what models wrote stands on the
comparison.
"""

from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from assets.framework.links import COMPARISON_URL, DOCS_URL
from assets.framework.metadata import COMPARISON, PAGE
from training.runtime.project import PROJECT
from training.storage.artifacts import CURRENT

DOCS = PROJECT / "docs"
HEADERS = {
    "Cache-Control": "no-cache",  # the same address has a new page after each run
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
}
STYLE = """body {font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem}
table {border-collapse: collapse} td, th {border: 1px solid #ccc; padding: .2rem .6rem; text-align: left}
pre {background: #f4f4f4; padding: .6rem; overflow: auto} img {max-width: 100%}
:target {background: #fff3bf}"""


def pages(home: Path) -> list[Route]:
    """The routes; `home` is the folder of the artifacts."""

    def comparison(request: Request) -> Response:
        page = home / "artifacts" / COMPARISON / CURRENT / PAGE
        if not page.is_file():
            return PlainTextResponse(f"there is no comparison yet: materialise {COMPARISON}\n", 404)
        return FileResponse(page, headers=HEADERS)

    return [Route(COMPARISON_URL, comparison), Route(f"{DOCS_URL}/{{page:path}}", docs)]


def docs(request: Request) -> Response:
    """A page of the docs as HTML, whose headings have anchors, or one of their pictures."""
    files = {str(path.relative_to(DOCS)): path for suffix in ("md", "png") for path in DOCS.rglob(f"*.{suffix}")}
    path = files.get(request.path_params["page"])
    if path is None:
        return PlainTextResponse(f"there is no such page in {DOCS}\n", 404)
    if path.suffix == ".png":
        return FileResponse(path, headers=HEADERS)
    text = path.read_text(encoding="utf-8")
    title = text.partition("\n")[0].lstrip("# ")
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return HTMLResponse(f"{head}<body>{as_html(text)}</body></html>", headers=HEADERS)


def as_html(markdown: str) -> str:
    """Markdown of our own as HTML; a heading's anchor is its text in lower case, with `-` for what is no letter."""
    reader = MarkdownIt("commonmark").enable("table")
    tokens = reader.parse(markdown)
    for heading, text in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", _anchor(text))
    return str(reader.renderer.render(tokens, reader.options, {}))


def _anchor(heading: Token) -> str:
    words = "".join(char if char.isalnum() or char in "_ -" else "" for char in heading.content.lower())
    return words.replace(" ", "-")
