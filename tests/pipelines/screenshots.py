"""The pictures of the UI and of the explorer in the README and in docs, from a finished home: `python -m
tests.pipelines.screenshots HOME PROFILE`.

It shows the home of `make demo`; a home that another code made shows as out of date.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from PIL import Image

from tests.loopback import free_port
from tests.pipelines.chromium import MISSING, browser_path, chromium
from tests.pipelines.ui_server import Ui, ui
from tests.processes import environment, future_l1
from training.runtime.project import PROJECT

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOCS = PROJECT / "docs"
GROUPS = ("inputs", "trajectories", "curation", "checkpoints", "benchmarks", "reports")
MILLISECONDS = 120_000
MILLISECONDS_TO_STATUSES = 15_000
"""After which the page shows the status of every asset."""
MARGIN = 4
COLOURS = 128
"""A picture's palette, which keeps its file small."""
WIDTH, HEIGHT = 1400, 900

Take = Callable[["Page", Ui, Path], None]


def main(home: Path, profile: str) -> None:
    """Writes the pictures. Ends with a message where there is no browser."""
    path = browser_path()
    if path is None:
        sys.exit(MISSING)
    with ui(home, profile, "--read-only") as served, chromium(path) as browser:
        page = browser.new_page(device_scale_factor=1.25)
        page.set_default_timeout(MILLISECONDS)
        for picture, take in PICTURES.items():
            take(page, served, DOCS / picture)
            _shrink(DOCS / picture)
    with explorer(home, profile) as url, chromium(path) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(MILLISECONDS)
        for picture, state in EXPLORER_STATES.items():
            page.goto(f"{url}/#{state}")
            page.wait_for_selector("body[data-state=done]")
            page.screenshot(path=DOCS / picture, full_page=True)
            _shrink(DOCS / picture)
            page.goto("about:blank")


def _shrink(picture: Path) -> None:
    Image.open(picture).quantize(COLOURS).save(picture, optimize=True)


@contextmanager
def explorer(home: Path, profile: str) -> Iterator[str]:
    """A running `future-l1 explore` of the home's RL model; its address."""
    port = free_port()
    process = subprocess.Popen(
        future_l1("explore", "--checkpoint", "la_dapo", "--port", port), cwd=PROJECT, stdout=subprocess.PIPE, text=True,
        env=environment(FUTURE_L1_HOME=str(home), FUTURE_L1_PROFILE=profile, PYTHONUNBUFFERED="1"),
    )  # fmt: skip
    try:
        assert process.stdout is not None and "the explorer is on" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait()


def lineage(page: "Page", served: Ui, picture: Path) -> None:
    """All groups of the global lineage, open, from top to bottom, without the bars around them."""
    page.set_viewport_size({"width": 1600, "height": 2100})
    expanded = ",".join(f"global@global:{group}" for group in GROUPS)
    page.goto(f"{served.url}/asset-groups?{urlencode({'expanded': expanded})}")
    page.get_by_text("comparison", exact=True).last.wait_for()
    page.get_by_text("Hide navigation").click()
    page.mouse.click(1500, 1900, button="right")  # the canvas, beside the graph
    page.get_by_role("menuitem", name="vertical orientation").click()
    page.reload()  # fits the graph into the window
    page.get_by_text("comparison", exact=True).last.wait_for()
    page.wait_for_timeout(MILLISECONDS_TO_STATUSES)
    boxes = [box for node in page.locator("svg foreignObject").all() if (box := node.bounding_box())]
    left, top = min(box["x"] for box in boxes) - MARGIN, min(box["y"] for box in boxes) - MARGIN
    right, bottom = (
        max(box[at] + box[size] for box in boxes) + MARGIN for at, size in (("x", "width"), ("y", "height"))
    )
    page.screenshot(path=picture, clip={"x": left, "y": top, "width": right - left, "height": bottom - top})


def view(path: str, text: str, height: int = HEIGHT) -> Take:
    """The picture of the page at a path of the UI, once it shows a text."""

    def take(page: "Page", served: Ui, picture: Path) -> None:
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.goto(f"{served.url}{path}")
        page.get_by_text(text, exact=True).first.wait_for()
        page.wait_for_timeout(MILLISECONDS_TO_STATUSES)
        page.screenshot(path=picture)

    return take


def training_run(page: "Page", served: Ui, picture: Path) -> None:
    """The page of the last run of RL: its steps, and their log."""
    run = next(run["runId"] for run in served.runs() if "07_train_rl" in run["jobName"])
    view(f"/runs/{run}", "RUN_SUCCESS")(page, served, picture)


PICTURES: dict[str, Take] = {
    "lineage.png": lineage,
    "asset.png": view("/assets/curation/future_l1_50k", "gain_histogram"),
    "operations/runs.png": view("/runs", "Created at"),
    "operations/run.png": training_run,
    "operations/automation.png": view("/automation", "recurate_weekly", height=480),
    "operations/pools.png": view("/deployment/concurrency", "gpu", height=360),
}
"""The pictures by their place in docs/."""
EXPLORER_STATES = {
    "explorer-before.png": "item=twiffbench/00003",
    "explorer-after.png": "item=twiffbench/00003&edits=other_item.3",
}
"""Of the explorer, the same."""

if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
