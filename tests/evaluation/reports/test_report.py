"""The page holds every number with its n and interval, needs nothing from elsewhere, and trusts no text."""

import base64
import io
import json
import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation.drawing import score_plots as scores
from evaluation.drawing import style
from evaluation.reports.parts import picture
from evaluation.reports.report import Page, build_page
from evaluation.reports.run_reports import RunReports, command
from evaluation.reports.runs import scaled
from tests.evaluation.made_reports import ACCURACY, ROW, everything

HOSTILE = (
    """"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>|`$\\frac{1$[x](javascript:0)\n# h"""
)
OURS = {
    "src",
    "href",
    "content",
    "id",
    "class",
    "alt",
    "width",
    "colspan",
    "name",
    "rel",
    "lang",
    "charset",
    "http-equiv",
    "title",
}


class Elements(HTMLParser):
    """Every element with its attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(attribute)) is not None]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run's reports as a file would hold them."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("retrieved_frames", "right"):
        Image.new("RGB", (40, 20), "#0072b2").save(folder / f"{name}.png")
    pictures = {
        "retrieved_frames/la_dapo": str(folder / "retrieved_frames.png"),
        "storyboards/la_dapo/right": str(folder / "right.png"),
        f"examples/{ROW}": str(folder / "right.png"),
    }
    return json.dumps(everything() | {"pictures": pictures})


@pytest.fixture
def run(stored: str) -> dict[str, Any]:
    return json.loads(stored)


@pytest.fixture(scope="module")
def page(stored: str) -> Page:
    return build_page(RunReports(**json.loads(stored)), "Demo", "")


@pytest.fixture(scope="module")
def pages(page: Page, stored: str) -> tuple[str, str]:
    return page.html(), markdown(json.loads(stored))


@pytest.fixture(autouse=True, scope="module")
def coarse() -> Iterator[None]:
    """Figures of few pixels: what is on them does not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "DPI", 30)
        yield


def markdown(run: dict[str, Any]) -> str:
    return build_page(RunReports(**run), "Demo", "", with_figures=False).markdown()


def row_of(markdown: str, begins: str) -> str:
    (row,) = [line for line in markdown.splitlines() if line.startswith(f"| {begins}")]
    return row


def test_the_page_asks_for_nothing_from_elsewhere(pages: tuple[str, str]) -> None:
    page = Elements(pages[0])
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    ids = page.values("id")
    for link in page.values("href"):
        assert link == "data:," or link.removeprefix("#") in ids, link
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    assert "url(" not in pages[0] and "@import" not in pages[0] and "http:" not in pages[0] and "https:" not in pages[0]
    (policy,) = [
        attributes["content"]
        for _, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    assert len(set(ids)) == len(ids)


def test_every_image_of_the_page_decodes(pages: tuple[str, str]) -> None:
    sources = Elements(pages[0]).values("src")
    assert len(sources) == 15  # twelve figures and three pictures
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2], validate=True))).load()


def test_every_figure_says_what_it_shows(pages: tuple[str, str]) -> None:
    alts = Elements(pages[0]).values("alt")
    assert len(set(alts)) == len(alts) and all(alts)


def test_every_model_stands_with_its_score_n_and_interval(run: dict[str, Any], pages: tuple[str, str]) -> None:
    for page in pages:
        for model in ACCURACY:
            score = run["futurebench"][model]["average"]
            low, high = score["interval"]
            assert model in page and f"checkpoint-of-{model}"[:16] in page and "data data-1" in page
            assert f"{100 * score['accuracy']:.1f} %" in page
            assert f"{100 * low:.1f}–{100 * high:.1f}, n = {score['n']}" in page


def test_published_rows_are_marked_as_not_ours(run: dict[str, Any], pages: tuple[str, str]) -> None:
    html, text = pages
    row = row_of(text, "Future-L1-RL (LA-DAPO)")
    assert "83.2 % (77.0–88.1, n = 173)" in row and "85.4 %" in row and row.endswith("| published |")
    assert "not ours: Qwen3-VL-8B on FutureBench itself, other data than our rows" in text
    assert "Our rows are of other data (n = 800) than the published rows (n = 1,056)" in text
    published = re.findall(r'<tr class=" published">\s*<td>([^<]*)', html)
    assert "Future-L1-RL (LA-DAPO)" in published and "GPT-5" in published and not set(ACCURACY) & set(published)
    same = markdown(run | {"on_published_data": True})
    assert "other data" not in same and "not ours: Qwen3-VL-8B on FutureBench itself" in same


def test_paired_tests_hold_together(pages: tuple[str, str]) -> None:
    assert "p, Holm" in pages[1]
    row = row_of(pages[1], "base → future_l1")
    assert "+50.0 (" in row and ", n = 100)" in row and row.endswith("| 0 | 50 | 2e-15 | 4e-15 |")
    assert row_of(pages[1], "future_l1 → la_dapo").endswith("| 0 | 1 | 1.000 | 1.000 |")


def test_hostile_text_is_shown_and_never_live(run: dict[str, Any], tmp_path: Path) -> None:
    run["futurebench"][HOSTILE] = run["futurebench"].pop("la_dapo")
    run["twiffbench"][HOSTILE] = run["twiffbench"].pop("la_dapo") | {"judge": {"model": HOSTILE, "prompt": HOSTILE}}
    run["twiffbench"]["base"]["splits"] = {HOSTILE: run["twiffbench"]["base"]["splits"]["camera"]}
    run["twiffbench"]["base"] |= {"status": "partial", "reason": HOSTILE}
    run["necessity"]["la_dapo"] |= {"verdict": HOSTILE}
    run["necessity"]["la_dapo"]["interventions"][HOSTILE] = run["necessity"]["la_dapo"]["interventions"]["zeros"]
    run["latent_retrieval"][HOSTILE] = run["latent_retrieval"].pop("la_dapo") | {"sentence": HOSTILE}
    run["latent_map"]["models"][HOSTILE] = run["latent_map"]["models"].pop("la_dapo")
    run["curves"][HOSTILE] = run["curves"].pop("la_dapo")
    run["pictures"][f"storyboards/{HOSTILE}"] = run["pictures"]["retrieved_frames/la_dapo"]
    run["models"][HOSTILE] = {"checkpoint": HOSTILE, "dataset": HOSTILE, "stage": HOSTILE}
    run["provenance"][HOSTILE] = HOSTILE
    run["curation"]["rejected_by_reason"] = {HOSTILE: 3}
    lineage = run["lineage"]
    lineage["models"][HOSTILE] = {
        "id": HOSTILE, "artifacts": {HOSTILE: HOSTILE}, "outdated": {HOSTILE: HOSTILE}, "notes": {HOSTILE: HOSTILE},
    }  # fmt: skip
    lineage["rows"][0]["id"] = HOSTILE
    lineage["rows"][0]["tables"][0] |= {"artifact": HOSTILE, "revision": HOSTILE, "rows": [{HOSTILE: HOSTILE}]}
    lineage["items"][0]["id"] = HOSTILE
    page = Elements(build_page(RunReports(**run), HOSTILE, HOSTILE).html())
    assert "<script>alert(1)</script>" in page.text
    assert {name for _, attributes in page.elements for name in attributes} <= OURS
    assert "script" not in {tag for tag, _ in page.elements} and not [s for s in page.values("src") if "evil" in s]
    text = markdown(run)
    assert not re.search(r"(?<!\\)<", text), "no HTML in the Markdown"
    heads = {line.count(" | ") for line in text.splitlines() if line.startswith("| model | 1 hop")}
    assert len(heads) == 2 and "\n# h" not in text


def test_models_that_were_trained_on_earlier_sets_are_named_above_the_table(run: dict[str, Any]) -> None:
    begins = "Not trained on the current sets"
    assert begins not in markdown(run)
    run["outdated"] = {"future_l1": ["curation/sft_sets/future_l1"], HOSTILE: ["inputs/base_model", HOSTILE]}
    text = markdown(run)
    assert f"{begins}, but on an earlier version: future_l1 (curation/sft" in text.replace("\\", "")
    assert text.index(begins) < text.index("| model | 1 hop") and not re.search(r"(?<!\\)<", text)
    assert "script" not in {tag for tag, _ in Elements(build_page(RunReports(**run), "Demo", "").html()).elements}


def test_numbers_are_traced_to_the_source_and_rows_and_items_to_the_numbers(pages: tuple[str, str]) -> None:
    html, text = pages
    assert (
        "**la_dapo**: benchmarks benchmarks/futurebench_report/la_dapo report-of-la_dapo ← checkpoints"
        " answered by checkpoints/rl/la_dapo la_dapo-0123456789 ← curation trained on curation/rl_sets rl-sets,"
        " curation/sft_sets/chosen 0123456789abcdef ← trajectories trajectories/twiff_rows" in text
    )
    assert '<code title="la_dapo-0123456789">la_dapo-</code>' in html, "short, and in full for whoever points at it"
    assert "<small>2 partitions, revision 57364a4b</small>" in html and "<small>not current any more</small>" in html
    assert row_of(text, "checkpoints/rl/la_dapo").endswith("| future-l1 lineage la_dapo-0123456789 |")
    assert (
        row_of(text, "curation/visual_gain/a")
        == "| curation/visual_gain/a (gain-of-a) | visual_gain.parquet | row_id 8287ce9d3ff84d0c, p_t 1, p_v 8 |"
    )
    assert "-hop1 (follow it with: future-l1 lineage -- -hop1)" in text
    answer = row_of(text, "benchmarks/futurebench_report/la_dapo (report-of-la_dapo)")
    assert answer.endswith("… (and 1 more rows) |") and len(answer) < 350


def test_what_several_chains_have_is_in_the_table_of_artifacts_once(page: Page) -> None:
    (section,) = [section for section in page.sections if section.title == "Lineage"]
    artifacts = [(row.cells[0].value, row.cells[1].value) for row in section.tables[0].rows]
    chained = [(link.artifact, link.version or "–") for chain in section.chains.values() for links in chain.values()
               for link in links]  # fmt: skip
    assert len(section.chains) == 2 and sorted(artifacts) == sorted(set(chained)) and len(chained) > len(artifacts)


def test_of_an_asset_with_thousands_of_shards_the_page_has_their_number(run: dict[str, Any]) -> None:
    run["provenance"] |= {f"trajectories/twiff_rows/{shard:05}": f"version-{shard}" for shard in range(1200)}
    run["provenance"] |= {f"checkpoints/rl/{number}": f"rl-{number}" for number in range(12)}
    text = markdown(run)
    assert "**1,213 artifacts**" in text and row_of(text, "checkpoints/rl/11") == "| checkpoints/rl/11 | rl-11 |"
    assert "version-7" not in text and "| trajectories/twiff_rows | 1,200 partitions, in report.json |" in text


def test_five_clicks_lead_from_a_number_to_a_storyboard(run: dict[str, Any], pages: tuple[str, str]) -> None:
    """A number of a model, the set in the chain of this model, and the storyboard of a row in the set: two clicks."""
    page = Elements(pages[0])
    targets = set(page.values("id"))
    links = [href for href in page.values("href") if href.startswith("#")]
    assert {href[1:] for href in links} <= targets, "no link leads nowhere"
    assert pages[0].count('<a href="#lineage-of-la-dapo">') == 1 + 5 + 3, "a tile, FutureBench's, and TwiFF-Bench's"
    chain = pages[0].partition('id="lineage-of-la-dapo"')[2].partition("</ol>")[0]
    assert '<i>trained on</i> <a href="#storyboard-0">curation/rl_sets</a>' in chain
    assert '<figure id="storyboard-0">' in pages[0] and f'<a href="#storyboard-0">{ROW}</a>' in pages[0]
    without = Elements(build_page(RunReports(**run | {"lineage": None}), "Demo", "").html())
    assert not [href for href in without.values("href") if href.startswith(("#lineage-of", "#storyboard-"))]


def test_a_command_takes_any_id_as_one_argument_and_never_as_an_option() -> None:
    assert command("row-1") == "future-l1 lineage row-1"
    assert command("--help") == "future-l1 lineage -- --help"
    assert shlex.split(command(f"; rm -rf / {HOSTILE}")) == ["future-l1", "lineage", f"; rm -rf / {HOSTILE}"]


def test_a_report_without_judged_marks_shows_a_dash_and_the_reason_and_no_zero(run: dict[str, Any]) -> None:
    nothing = {"mean": None, "n": 0, "interval": None}
    run["twiffbench"] = {
        "base": run["twiffbench"]["base"]
        | {"cot": nothing, "answer": nothing, "average": nothing, "splits": {}, "judge": None}
        | {"status": "unjudged", "reason": "no judge was named", "coverage": {"items": 180, "judged": 0}}
    }
    row = next(line for line in markdown(run).splitlines() if "0 of 180" in line)
    assert row.count("– (n = 0)") == 3 and "unjudged: no judge was named" in row
    assert scores.judged_marks(run["twiffbench"]).startswith(b"\x89PNG")


def test_a_run_in_which_every_answer_is_missing_is_drawn_without_zeros(run: dict[str, Any]) -> None:
    nothing = {"correct": 0, "n": 0, "accuracy": None, "interval": None}
    base = run["futurebench"]["base"]
    base |= {
        "splits": dict.fromkeys(base["splits"], nothing),
        "average": nothing,
        "among_parsed": nothing,
        "missing": 800,
    }
    base |= {"parsers": dict.fromkeys(base["parsers"], nothing | {"unparsed": 0}), "unparsed": {"n": 0, "count": 0}}
    base["cost"] = dict.fromkeys(base["cost"]) | {"n": 0, "cut_short": 0}
    base["spans"] = {
        s: {"mean": None, "n": 0, "interval": None, "shares": dict.fromkeys(u["shares"])}
        for s, u in base["spans"].items()
    }
    reports = {"curation": run["curation"], "futurebench": run["futurebench"]}
    build_page(RunReports(**reports), "Demo", "").html()
    text = markdown(reports)
    assert "Partial, items without an answer: base 800 of 800; they are missing, not wrong." in text
    assert "| base | – (n = 0) | – (n = 0)" in text


def test_every_row_has_a_cell_for_every_column(page: Page) -> None:
    for table in (table for section in page.sections for table in section.tables):
        assert table.rows
        for row in table.rows:
            assert row.heading or len(row.cells) == len(table.head), (table.head, row)


def test_what_is_absent_leaves_its_section_out(run: dict[str, Any], pages: tuple[str, str]) -> None:
    whole = build_page(RunReports(**run), "Demo", "", with_figures=False)
    reports = {"curation": run["curation"], "futurebench": run["futurebench"]}
    bare = build_page(RunReports(**reports), "Demo", "", with_figures=False)
    always = ["FutureBench", "Latent spans per answer", "Cost against accuracy", "Curation by visual gain"]
    assert [section.title for section in bare.sections] == always
    assert {section.title for section in whole.sections} - set(always) == {
        "Our models compared", "TwiFF-Bench", "Do the latents matter?", "Does the answer need the video?",
        "What was imagined", "Map of the latents", "Rewards", "Lineage", "Seconds per stage", "Provenance",
    }  # fmt: skip
    assert "Storyboards" in pages[0] and "Storyboards" not in pages[1]
    bare.html()


def test_latents_controls_and_future_frame_retrieval_are_reported_in_numbers(pages: tuple[str, str]) -> None:
    text = pages[1]
    assert "| 90.0 % (86.1–92.9, n = 300) | 70.0 % (64.6–74.9, n = 300) |" in text  # option order
    assert "future_l1, original answers: 74.0 %" in text and "la_dapo: These latents are used" in text
    assert row_of(text, "no video | 13.3 % (9.9–17.6, n = 300) | -79.7").endswith("| 93.0 % (89.5–95.4, n = 300) |")
    assert (
        "la_dapo: 20 spans of 10 items, candidates: the true frame, 3.0 of its clip, 16.0 of others;"
        " 100.0 % nearer to the true frame than to the observed one" in text
    )
    assert "| the latents | 45.0 % (" in text and "| the last observed frame in their place | 0.0 % (" in text
    assert "| gain over the observed frame | +45.0 (" in text and "| chance | 5.0 % | 0.18 | – |" in text
    assert "> text_only: This model's answers contain no latents" in text and "text_only: 0 spans" not in text


def test_a_model_without_latents_has_controls_and_says_what_was_not_tested(run: dict[str, Any]) -> None:
    none = {"interventions": {}, "latents": None, "verdict": "no latents", "untested": ["shuffled_frames"],
            "dose": None, "diagnostics": {}}  # fmt: skip
    run["necessity"] = {"base": run["necessity"]["la_dapo"] | none}
    sections = {section.title: section for section in build_page(RunReports(**run), "Demo", "").sections}
    latents, controls = sections["Do the latents matter?"], sections["Does the answer need the video?"]
    assert not latents.tables and not latents.figures and latents.quotes == ["base: no latents"]
    assert "No item fits for base: shuffled_frames." in latents.note
    assert controls.tables[0].rows[1].cells[0].value == "no video" and len(controls.figures) == 1


def test_every_diagnostic_has_its_outcome_in_a_column_for_each_model(run: dict[str, Any]) -> None:
    sections = {section.title: section for section in build_page(RunReports(**run), "Demo", "", False).sections}
    table, *folded = sections["Do the latents matter?"].tables
    assert "at least 2 points of accuracy" in sections["Do the latents matter?"].note
    assert [*table.head] == ["diagnostic", *run["necessity"]]
    cells = {row.cells[0].value: row.cells[-1] for row in table.rows}
    assert cells["words that name the answer, another option"].value == "used"
    assert cells["latents replaced, the smallest loss"].note.endswith("n = 300")
    captions = {part.caption: part for part in folded}
    assert "these latents are used, and" in captions["Diagnostics in sentences"].rows[0].cells[1].value
    assert len(captions["Attention of the tokens behind a span"].rows) == 3 * len(run["necessity"])
    assert captions["What latents say in words"].rows[1].cells[-1].value == "it (60)"
    notes = [str(cell.note) for row in captions["Dose and accuracy"].rows for cell in row.cells[-1:]]
    assert notes and all(", n = " in note for note in notes)
    effects = [row.cells for row in captions["Total, direct and mediated effect, and nulls"].rows]
    assert "latents moved by " in effects[0][0].value and ", n = " in effects[1][1].note
    assert [cells[0].value.split()[-1] for cells in effects[1:5]] == ["(total)", "(direct)", "(mediated)", "(null)"]
    layers = captions["Answers whose chosen option the logit lens names, by layer"]
    assert [*layers.head] == ["state", *run["necessity"]]
    assert [[cell.value for cell in row.cells[:2]] for row in layers.rows] == [
        ["the latent itself", "0.0 %"], ["after layer 1", "100.0 %"],
    ]  # fmt: skip
    assert captions["What latents say in words"].rows[1].cells[2].value == "100.0 %"
    assert captions["Cost of the diagnostics"].rows[0].cells[-1].value == "1.5"


def test_a_picture_that_is_no_png_is_refused_by_name(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    for content in (b"<svg onload=alert(1)>", whole.getvalue()[:-40], b""):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"storyboards/x.*no whole PNG"):
            picture("storyboards/x", tmp_path / "x.png")
    with pytest.raises(ValueError, match="no whole PNG"):
        picture("storyboards/x", tmp_path / "absent.png")


def test_data_scaling_stands_where_a_recipe_was_trained_on_several_amounts(run: dict[str, Any]) -> None:
    assert scaled(["base", "la_dapo", "la_dapo_5k", "la_dapo_20k", "grpo_5k"]) == {
        "la_dapo": {5_000: "la_dapo_5k", 10_000: "la_dapo", 20_000: "la_dapo_20k"}
    }
    run["futurebench"]["la_dapo_5k"] = run["futurebench"]["future_l1"]
    sections = {
        section.title: section for section in build_page(RunReports(**run), "Demo", "", with_figures=False).sections
    }
    cells = [[cell.value for cell in row.cells] for row in sections["Data scaling"].tables[0].rows]
    assert [row[:2] for row in cells] == [["la_dapo", "5,000"], ["la_dapo", "10,000"]]
    assert cells[0][3:] == ["–"] * 3 and "–" not in cells[1]


def test_a_cost_measured_one_at_a_time_has_its_interval(run: dict[str, Any]) -> None:
    second = {"mean": 0.5, "n": 32, "interval": [0.4, 0.6]}
    latency = {"prefill_seconds": second, "decode_seconds": second, "seconds": second, "accuracy_per_second": 148.0}
    run["futurebench"]["future_l1"]["cost"]["latency"] = latency
    run["futurebench"]["future_l1"]["cost"]["prompt_tokens"] = 1234.5
    cell = "0.5000 (0.4000–0.6000, n = 32)"
    text = markdown(run)
    assert f"| future_l1 | {cell} | {cell} | {cell} | 148 |" in text
    assert "| 23.5 | 14.0 | 6.5 | 3.0 | 1,234.5 | 0.0040 | 0.0200 | 3,083 | 0 |" in text
    assert "| Future-L1-SFT | 73.1 % (n = 1,056) | 205.3 | – | – | – | – | – | 0.96 (total) | 76.1 | – |" in text


def test_the_main_table_stands_alone_and_figures_have_unique_names(page: Page) -> None:
    lines = page.main_table().splitlines()
    assert lines[0].startswith("| model | 1 hop | 2 hops") and {line.count(" | ") for line in lines[2:6]} == {7}
    assert [line.split(" ")[1] for line in lines[2:6]] == list(ACCURACY)
    names = [figure.name for figure in page.figures()]
    assert len(set(names)) == len(names) and {"accuracy_by_hop", "interventions", "controls"} <= set(names)
