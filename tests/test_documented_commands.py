"""What the README and the pages of docs/ say to type exists: commands, options, targets of make, modules, links."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipelines.cli.main import main
from training.runtime.project import PROJECT

PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
BEGIN = r"(?:^|&& |\$\()(?:\w+=\S+ )*(?:\.venv/bin/)?"
"""What may stand before a command's name."""
FUTURE_L1 = re.compile(BEGIN + r"future-l1 +(\w+)([^|&;)#]*)", re.MULTILINE)
MAKE = re.compile(BEGIN + r"make ([a-z]+)", re.MULTILINE)
NEEDS_HOME = re.compile(BEGIN + r"(?:dagster |dg dev|dg launch|python -m pipelines\.webserver)", re.MULTILINE)
EVALUATED = 'eval "$(.venv/bin/future-l1 env)"'


def blocks(page: Path) -> list[str]:
    """The shell commands of a page, a block each, with continued lines joined."""
    return [block.replace("\\\n", " ") for block in SHELL.findall(page.read_text())]


def snippets(page: Path) -> Iterator[str]:
    """The lines of the shell blocks, and what stands between backticks."""
    text = page.read_text()
    yield from (line.split("  #")[0] for block in blocks(page) for line in block.splitlines())
    yield from (" ".join(code.split()) for code in INLINE.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)))


def by_page(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(PROJECT)))


@by_page(PAGES)
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = []
    for snippet in snippets(page):
        for name, rest in FUTURE_L1.findall(snippet):
            if name not in main.commands:
                wrong.append(f"future-l1 {name}")
                continue
            options = {option for parameter in main.commands[name].params for option in parameter.opts}
            wrong += [f"future-l1 {name} {option}" for option in re.findall(r"(?<!\S)--[a-z-]+", rest)
                      if option not in options]  # fmt: skip
    assert not wrong


@by_page(PAGES)
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    used = {target for snippet in snippets(page) for target in MAKE.findall(snippet)}
    assert used <= targets


@by_page(PAGES)
def test_programs_exist(page: Path) -> None:
    modules = {
        module
        for snippet in snippets(page)
        for module in re.findall(r"-m ((?:assets|evaluation|pipelines|tests|training)[\w.]*)", snippet)
    }
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@by_page(PAGES)
def test_dagsters_commands_are_shown_with_the_home_that_they_need(page: Path) -> None:
    for block in blocks(page):
        if needing := NEEDS_HOME.search(block):
            assert EVALUATED in block[: needing.start()], block


@by_page(PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_pages_name_commands() -> None:
    """The patterns above match something."""
    used = {name for page in PAGES for snippet in snippets(page) for name, _ in FUTURE_L1.findall(snippet)}
    assert isinstance(main, click.Group) and used == set(main.commands)
    assert any(NEEDS_HOME.search(block) for page in PAGES for block in blocks(page))
