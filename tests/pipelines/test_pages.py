"""The pages beside Dagster's: the home's comparison, and the docs with a section for every check."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from assets.framework.links import COMPARISON_URL, DOCS_URL, check_url
from pipelines.definitions import build_definitions
from pipelines.pages import DOCS, as_html, pages
from pipelines.profile import PRESETS


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return TestClient(Starlette(routes=list(pages(tmp_path))))


def test_the_comparison_is_the_homes_current_one(client: TestClient, tmp_path: Path) -> None:
    missing = client.get(COMPARISON_URL)
    assert missing.status_code == 404 and "materialise reports/comparison" in missing.text
    versions = tmp_path / "artifacts" / "reports" / "comparison"
    for version in ("first", "second"):
        (versions / version).mkdir(parents=True)
        (versions / version / "report.html").write_text(f"<p>{version}</p>")
        (versions / "current").unlink(missing_ok=True)
        (versions / "current").symlink_to(version)
        page = client.get(COMPARISON_URL)
        assert (page.status_code, page.text) == (200, f"<p>{version}</p>")
        assert page.headers["content-type"].startswith("text/html") and page.headers["cache-control"] == "no-cache"


def test_no_page_may_run_a_script(client: TestClient) -> None:
    headers = client.get(f"{DOCS_URL}/checks.md").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("page", ["", "none.md", "..%2Fpyproject.toml", "..%2FREADME.md", "%2Fetc%2Fpasswd", "a%00.md"])
def test_nothing_but_the_docs_is_served(client: TestClient, page: str) -> None:
    answer = client.get(f"{DOCS_URL}/{page}")
    assert answer.status_code == 404 and str(DOCS) in answer.text


def test_pictures_of_the_docs_are_served(client: TestClient) -> None:
    assert client.get(f"{DOCS_URL}/lineage.png").headers["content-type"] == "image/png"


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_the_link_of_every_check_leads_to_its_section(client: TestClient, tmp_path: Path, profile: str) -> None:
    checks = build_definitions(PRESETS[profile](tmp_path)).resolve_asset_graph().asset_check_keys
    for name in {check.name for check in checks}:
        address, _, anchor = check_url(name).partition("#")
        assert f'<h3 id="{anchor}">{name}</h3>' in client.get(address).text


def test_headings_have_anchors_as_hubs_make_them() -> None:
    page = as_html("# Who may see it\n\n## `a_b`: c/d\n\n| x |\n|---|\n| 1 |\n")
    assert '<h1 id="who-may-see-it">' in page and '<h2 id="a_b-cd">' in page and "<table>" in page
