"""What a person sees and does: a real UI, headless Chromium where there is one, GraphQL as the witness."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import polars as pl
import pytest
from PIL import Image

from assets.framework.metadata import COMPARISON
from assets.toyworld.source import SourceSizes
from evaluation.reports.report import build_page
from evaluation.reports.run_reports import RunReports
from pipelines.definitions import build_definitions
from pipelines.jobs import COMPARE, INTERVENE, RECURATE, TRAIN_SFT, evaluate
from pipelines.profile import Profile
from tests.evaluation.made_reports import ROW, everything
from tests.loopback import file_server
from tests.pipelines.chromium import MISSING, browser_path, chromium
from tests.pipelines.test_ui import LAUNCH
from tests.pipelines.ui_server import Ui, ui
from tests.processes import until
from tests.reduced import smallest_demo, write_overlay

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.usefixtures("forks")

MILLISECONDS = 60_000
STAGES = {
    "inputs": ["toyworld_source", "twiff_source", "base_model", "futurebench_items", "twiffbench_items"],
    "trajectories": ["twiff_rows", "twiff_clips"],
    "curation": ["gain_answers", "visual_gain", "future_l1_50k", "sft_sets", "rl_sets"],
    "checkpoints": ["sft", "rl"],
    # The first one is futurebench_answers, which the UI shortens.
    "benchmarks": ["futureben…_answers", "twiffbench_answers", "futurebench_report", "twiffbench_report"],
    "reports": ["latent_retrieval", "intervened_answers", "latent_necessity", "comparison"],
}
ALL_ASSETS = "/asset-groups"
UPSTREAM = '+key:"reports/comparison"'
UP_TO_DATE = "every model and every report is made from the current sets"
SHARD = "train-00001-of-00002"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser") / "home"


def profile_of(home: Path) -> Profile:
    """Two shards, two steps of SFT, no RL, few items: each run of the UI starts a process for each step."""
    profile = smallest_demo(home)
    world = SourceSizes(shards=2, rows_per_shard=40, futurebench_per_split=2, twiffbench=4)
    return profile.model_copy(update={"toyworld": world})


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Ui]:
    """A UI in whose home nothing was made."""
    with ui(home, str(write_overlay(home.parent / "small.toml", profile_of(home)))) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    path = browser_path()
    if path is None:
        pytest.skip(MISSING)
    with chromium(path) as browser:
        yield browser


@pytest.fixture
def page(browser: "Browser", served: Ui) -> "Iterator[Page]":
    """A fresh page, which must not have asked anybody but the UI."""
    from playwright.sync_api import expect

    expect.set_options(timeout=MILLISECONDS)
    context = browser.new_context(viewport={"width": 1600, "height": 1200}, base_url=served.url)
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url))
    yield page
    context.close()
    assert requests
    foreign = [url for url in requests if urlsplit(url).scheme in ("http", "https", "ws", "wss")
                 and urlsplit(url).hostname != "127.0.0.1"]  # fmt: skip
    assert foreign == []


def test_the_lineage_shows_every_stage_and_its_assets(page: "Page") -> None:
    from playwright.sync_api import expect

    page.goto(ALL_ASSETS)
    for stage in STAGES:
        expect(page.get_by_text(stage, exact=True).first).to_be_visible()
    page.locator("svg").first.wait_for()
    page.mouse.click(1500, 300, button="right")  # the canvas, beside the graph
    page.get_by_role("menuitem", name="Expand all groups").click()
    page.wait_for_url("**expanded=**")
    page.reload()  # fits the whole graph into the window
    for nouns in STAGES.values():
        for noun in nouns:
            expect(page.get_by_text(noun, exact=True).last).to_be_visible()


def test_materialize_all_makes_everything_in_order(page: "Page", served: Ui, home: Path) -> None:
    from playwright.sync_api import expect

    nodes = build_definitions(profile_of(home)).resolve_asset_graph().asset_nodes
    assets = [node.key.to_user_string() for node in nodes]
    for selection in ("", UPSTREAM):  # everything is upstream of the comparison
        page.goto(f"{ALL_ASSETS}~{quote(selection, safe='')}/" if selection else ALL_ASSETS)
        expect(page.locator(".CodeMirror").first).to_contain_text(selection)
        page.get_by_role("button", name="Materialize all").click()
        expect(page.get_by_text(f"Launch runs to materialize {len(assets)} assets")).to_be_visible()
    page.get_by_role("button", name="Launch backfill").click()
    (backfill,) = until(served.backfills, "the backfill is launched")
    until(
        lambda: served.backfill_status(backfill) not in ("REQUESTED", "FAILING"), "the backfill has ended", 1200.0, 1.0
    )
    runs = {run["runId"]: run["status"] for run in served.runs()}
    assert set(runs.values()) == {"SUCCESS"}, [
        served.errors(run) for run, status in runs.items() if status == "FAILURE"
    ]
    assert served.backfill_status(backfill) == "COMPLETED_SUCCESS"
    made = {asset: materialised(served, asset) for asset in assets}
    assert made.pop("checkpoints/rl") == [], "this profile has no RL"
    for key, events in made.items():
        assert {event["partition"] for event in events} == (set(served.partitions(key)) or {None}), key
    assert max((int(event["timestamp"]), key) for key, events in made.items() for event in events)[1] == COMPARISON


def test_an_assets_page_has_its_words_columns_figures_and_checks(page: "Page") -> None:
    from playwright.sync_api import expect

    page.goto("/assets/curation/future_l1_50k")
    for text in ("Description", "Columns", "Row count", "row_id", "gain_histogram"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    row = page.get_by_role("row").filter(has_text="storyboards_figure")
    row.get_by_text("[Show Markdown]").click()
    picture = page.locator("img[src^='data:image/png']")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 400
    page.goto("/assets/curation/future_l1_50k?view=checks")
    for check in ("no_row_is_a_benchmarks", "rows_obey_the_rule"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible()
    expect(page.get_by_text("Passed", exact=True).first).to_be_visible()


def test_materialising_from_the_page_runs_to_success(page: "Page", served: Ui) -> None:
    before = {run["runId"] for run in served.runs()}
    page.goto("/assets/inputs/base_model")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Launched run").wait_for()
    (run,) = until(lambda: {run["runId"] for run in served.runs()} - before, "the run is known")
    assert served.finished(run) == "SUCCESS", served.errors(run)
    assert materialised(served, "inputs/base_model")[0]["runId"] == run


def test_two_clicks_lead_from_a_number_of_the_comparison_to_a_clips_storyboard(
    browser: "Browser", tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    Image.new("RGB", (40, 20)).save(tmp_path / "row.png")
    reports = RunReports(**everything() | {"pictures": {f"examples/{ROW}": tmp_path / "row.png"}})
    (tmp_path / "report.html").write_text(build_page(reports, "Comparison", "").html())
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.get_by_role("row").filter(has_text="la_dapo").first.get_by_role("link").last.click()
    chain = page.locator("h3", has_text="la_dapo").locator("xpath=following-sibling::ol[1]")
    expect(chain).to_be_in_viewport()
    chain.get_by_role("link", name="curation/rl_sets").click()
    expect(page.locator("figure", has_text=ROW).get_by_role("img")).to_be_in_viewport()
    page.close()


def test_the_reports_tables_need_no_scrolling_on_a_laptop(browser: "Browser", tmp_path: Path) -> None:
    """The diagnostics' table has a column for each model, with as many as the profile `ablation` examines."""
    run = everything()
    models = ("text_only", "future_l1", "random_targets", "la_dapo")
    necessity = dict.fromkeys(models, run["necessity"]["la_dapo"])
    (tmp_path / "report.html").write_text(build_page(RunReports(**run | {"necessity": necessity}), "", "").html())
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.goto((tmp_path / "report.html").as_uri())
    wide = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText.slice(0, 60))"
    assert page.locator(".wide:visible").count() > 5
    assert page.locator(".wide:visible").evaluate_all(wide) == []
    page.close()


ANOTHER_SITE = """<!doctype html><title>another site</title>
<form method=post enctype=text/plain target=frame><input name=a></form><iframe name=frame></iframe>"""
ATTACK = """
async ([url, query]) => {
    const asked = url + "/graphql?query=" + encodeURIComponent(query), body = JSON.stringify({query});
    const failed = [];
    for (const init of [{}, {method: "POST"}, {method: "POST", body}, {method: "POST", body, mode: "cors",
                        headers: {"Content-Type": "application/json"}}])
        await fetch(asked, {mode: "no-cors", ...init}).then(got => failed.push(got.type), () => failed.push("error"));
    await new Promise(done => { const image = new Image(); image.onload = image.onerror = done; image.src = asked; });
    const [form, frame] = ["form", "iframe"].map(name => document.querySelector(name));
    form.action = asked;
    await new Promise(done => { frame.onload = done; form.submit(); });
    const socket = new WebSocket(url.replace("http", "ws") + "/graphql", "graphql-ws");
    failed.push(await new Promise(done => {
        socket.onopen = () => done("open");
        socket.onerror = () => done("error");
    }));
    return failed;
}
"""


def test_a_page_of_another_site_starts_nothing(browser: "Browser", served: Ui, tmp_path: Path) -> None:
    before = served.runs()
    (tmp_path / "index.html").write_text(ANOTHER_SITE)
    with file_server(tmp_path) as site:
        page = browser.new_page()
        page.goto(site.url)
        outcomes = page.evaluate(ATTACK, [served.url, LAUNCH])
        page.close()
    assert outcomes == ["opaque", "opaque", "opaque", "error", "error"]
    assert served.runs() == before


def test_checks_of_several_shards_show_as_passed_and_can_be_executed_alone(page: "Page", served: Ui) -> None:
    from playwright.sync_api import expect

    page.goto("/assets/trajectories/twiff_clips?view=lineage")
    expect(page.get_by_text("1 / 1 Passed").first).to_be_visible()
    page.goto("/assets/trajectories/twiff_clips?view=checks")
    before = {run["runId"] for run in served.runs()}
    page.get_by_role("button").filter(has_text=re.compile("^Execute$")).click()
    (run,) = until(lambda: {run["runId"] for run in served.runs()} - before, "the run is known")
    assert served.finished(run) == "SUCCESS", served.errors(run)
    page.reload()
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    page.goto(str(page.get_by_role("link", name="checks.md#clips_can_be_read").get_attribute("href")))
    expect(page.get_by_role("heading", name="clips_can_be_read")).to_be_visible()


def test_of_a_changed_shard_everything_is_made_again_once(page: "Page", served: Ui, home: Path) -> None:
    """Schedule and sensors turned on together, with the daemon's own time."""
    from playwright.sync_api import expect

    before = {run["runId"] for run in served.runs()}
    page.goto("/assets/checkpoints/sft?view=checks&checkDetail=trained_on_current_sets")
    expect(page.get_by_text("trained on the current sets: text_only, future_l1")).to_be_visible()
    shard = home / "artifacts" / "inputs" / "toyworld_source" / "current" / "twiff" / f"{SHARD}.parquet"
    pl.read_parquet(shard)[::2].write_parquet(shard)
    served.turn_on(sensors=["new_shards", "retrain"], schedules=["recurate_weekly"])

    def made() -> list[tuple[str, str]]:
        return [(run["jobName"], run["status"]) for run in reversed(served.runs()) if run["runId"] not in before]

    until(lambda: made()[:1] == [(RECURATE, "SUCCESS")], "the shard is curated", interval=0.5)
    page.reload()
    expect(page.get_by_text("was trained with an earlier curation/sft_sets/")).to_be_visible()
    until(lambda: served.skip_reason("retrain") == UP_TO_DATE, "all has followed", 900.0, 1.0)
    stages = (TRAIN_SFT, evaluate(profile_of(home)), INTERVENE, COMPARE)
    assert made() == [(job, "SUCCESS") for job in (RECURATE, *(stage.job for stage in stages))]
    page.reload()
    expect(page.get_by_text("trained on the current sets: text_only, future_l1")).to_be_visible()


def materialised(served: Ui, asset: str) -> list[dict[str, Any]]:
    """An asset's materialisations, the newest first."""
    query = """query($path: [String!]!) {assetNodeOrError(assetKey: {path: $path}) {... on AssetNode {
        assetMaterializations(limit: 20) {runId partition timestamp}}}}"""
    return served.query(query, path=asset.split("/"))["assetNodeOrError"]["assetMaterializations"]
