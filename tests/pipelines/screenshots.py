"""The README's pictures of the UI, from a finished home: `python -m tests.pipelines.screenshots HOME PROFILE`.

It shows the home of `make demo`; a home that another code made shows as out of date.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tests.pipelines.chromium import MISSING, chromium, found
from tests.pipelines.ui_server import ROOT, Ui, ui

if TYPE_CHECKING:
    from playwright.sync_api import Page

GROUPS = ("toyworld", "trajectories", "curation", "checkpoints", "benchmarks", "reports")
MILLISECONDS = 120_000


def main(home: Path, profile: str) -> None:
    """Writes docs/lineage.png and docs/asset.png. Ends with a message where there is no browser."""
    path = found()
    if path is None:
        sys.exit(MISSING)
    with ui(home, profile, "--read-only") as served, chromium(path) as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 1050}, device_scale_factor=1.25)
        page.set_default_timeout(MILLISECONDS)
        lineage(page, served, ROOT / "docs" / "lineage.png")
        asset(page, served, ROOT / "docs" / "asset.png")


def lineage(page: "Page", served: Ui, picture: Path) -> None:
    """All groups of the global lineage, open, without the bars around them."""
    expanded = ",".join(f"global@global:{group}" for group in GROUPS)
    page.goto(f"{served.url}/asset-groups?{urlencode({'expanded': expanded})}")
    page.get_by_text("comparison", exact=True).last.wait_for()
    page.get_by_text("Hide navigation").click()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(3_000)  # statuses come in by and by
    page.screenshot(path=picture)


def asset(page: "Page", served: Ui, picture: Path) -> None:
    """The curated set's page."""
    page.goto(f"{served.url}/assets/curation/future_l1_50k")
    page.get_by_text("gain_histogram", exact=True).first.wait_for()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
