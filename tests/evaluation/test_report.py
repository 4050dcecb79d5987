"""The page holds every number with its n and interval, needs nothing from elsewhere, and trusts no text."""

import json
import re
from typing import Any

import polars as pl
import pytest

from evaluation import figures
from evaluation.report import RunReports, html_page, markdown_page, paired_rows
from tests.evaluation.reports import ACCURACY, everything

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run() -> dict[str, Any]:
    return json.loads(json.dumps(everything()))


def test_the_page_is_self_contained(run: dict[str, Any]) -> None:
    page = html_page(RunReports(**run), "Demo", "seed 0")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in page and "<script" not in page and "@import" not in page


def test_every_model_stands_with_its_score_n_and_interval(run: dict[str, Any]) -> None:
    for page in (html_page(RunReports(**run), "Demo", ""), markdown_page(RunReports(**run), "Demo", "")):
        for model in ACCURACY:
            score = run["futurebench"][model]["average"]
            low, high = score["interval"]
            assert model in page
            assert f"{100 * score['accuracy']:.1f} %" in page
            assert f"{100 * low:.1f}–{100 * high:.1f}, n = {score['n']}" in page


def test_published_rows_are_marked_as_not_ours(run: dict[str, Any]) -> None:
    page = markdown_page(RunReports(**run), "Demo", "")
    assert "not ours" in page and "| Future-L1-RL (LA-DAPO) | 83.2 | 86.5 | 86.6 | 85.1 | 85.4 |" in page


def test_names_and_verdicts_are_escaped(run: dict[str, Any]) -> None:
    run["necessity"]["la_dapo"]["verdict"] = "<script>alert(1)</script>"
    assert "<script" not in html_page(RunReports(**run), "<b>Demo</b>", "")


def test_a_report_without_judged_marks_shows_a_dash_and_no_zero(run: dict[str, Any]) -> None:
    nothing = {"mean": None, "n": 0, "interval": None}
    run["twiffbench"] = {"base": run["twiffbench"]["base"] | {"cot": nothing, "answer": nothing, "average": nothing}}
    row = next(line for line in markdown_page(RunReports(**run), "Demo", "").splitlines() if "180 of 180" in line)
    assert row.count("– (n = 0)") == 3


def test_a_model_is_compared_with_what_it_was_trained_from() -> None:
    graded = {name: pl.DataFrame({"id": ["1"], "correct": [True]}) for name in ("base", "sft", "grpo", "dapo")}
    rows = paired_rows(graded, {"grpo": "sft", "dapo": "sft", "sft": "elsewhere"})
    assert [(row["before"], row["after"]) for row in rows] == [("base", "sft"), ("sft", "grpo"), ("sft", "dapo")]


def test_neighbouring_models_are_compared_on_the_items_of_both() -> None:
    before = pl.DataFrame({"id": ["1", "2", "3"], "correct": [False, False, True]})
    after = pl.DataFrame({"id": ["2", "1"], "correct": [True, True]})
    (row,) = paired_rows({"sft": before, "rl": after}, {})
    assert (row["before"], row["after"], row["n"], row["only_b"], row["difference"]) == ("sft", "rl", 2, 2, 1.0)


def test_figures_are_png_and_the_same_for_the_same_numbers(run: dict[str, Any]) -> None:
    curation = run["curation"]
    for draw in (
        lambda: figures.gain_histogram(curation["gain_histogram"], curation["gain_histogram_kept"]),
        lambda: figures.accuracy_by_hop(run["futurebench"]),
        lambda: figures.spans_by_hop(run["futurebench"]),
        lambda: figures.necessity(run["necessity"]),
    ):
        assert draw().startswith(PNG)
    assert figures.necessity(run["necessity"]) == figures.necessity(run["necessity"])


def test_figures_bear_an_empty_run() -> None:
    assert figures.gain_histogram({}, {}).startswith(PNG)
    in_order, as_stored = {"-2": 1, "-1": 3, "8": 2}, {"-1": 3, "-2": 1, "8": 2}  # JSON sorts its keys as text
    assert figures.gain_histogram(in_order, {}) == figures.gain_histogram(as_stored, {})
    assert figures.spans_by_hop({}).startswith(PNG)
