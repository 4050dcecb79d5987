"""The explorer in headless Chromium: an item is played, a span is changed, a link gives the state again."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import uvicorn

from evaluation.explorer.app import application
from evaluation.explorer.export import export
from evaluation.explorer.session import Session
from evaluation.explorer.state import State, read_state
from pipelines.same_origin import SameOriginMiddleware
from tests.evaluation.explorer.toy_session import item_with_spans, toy_session
from tests.loopback import free_port
from tests.pipelines.chromium import MISSING, browser_path, chromium
from tests.processes import until
from training.model.checkpoint import FutureL1

if TYPE_CHECKING:
    from playwright.sync_api import Page

MILLISECONDS = 60_000
AXES: list[tuple[list[str], list[str], int]] = [
    (["question", "reason 1", "reason 2"], ["question", "reason 1", "span 1", "reason 2"], 4),
    (["question", "span 1", "reason 1"], ["question", "reason 1", "span 1", "reason 2"], 5),
    ([], ["question", "span 1"], 2),
]
"""Where the probabilities of an answer and of the one before stand, and how many places hold both in their order."""


@pytest.fixture(scope="module")
def session(sft_model: FutureL1, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return toy_session(sft_model, tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="module")
def url(session: Session) -> Iterator[str]:
    """A running server, as the command starts it."""
    port = free_port()
    app = application(session)
    app.add_middleware(SameOriginMiddleware, host="127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the server listens", 60, 0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def page(url: str) -> "Iterator[Page]":
    """One page, which must have asked nobody but the server, and had no error."""
    path = browser_path()
    if path is None:
        pytest.skip(MISSING)
    from playwright.sync_api import expect

    expect.set_options(timeout=MILLISECONDS)
    with chromium(path) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(MILLISECONDS)
        hosts: set[str | None] = set()
        errors: list[str] = []
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        assert hosts - {None} == {"127.0.0.1"}
        assert [error for error in errors if "400" not in error] == [], "400: the bad upload's"


def done(page: "Page") -> None:
    page.wait_for_selector("body[data-state=done]")


def test_an_item_is_played_changed_and_found_again_by_its_link(page: "Page", session: Session, url: str) -> None:
    from playwright.sync_api import expect

    page.goto(f"{url}/#{State(item_with_spans(session)).fragment}")
    done(page)
    spans = page.locator(".answer-card .span")
    assert spans.count() >= 1 and page.locator("#prompt figure img").count() == 1
    assert spans.first.locator("figure").count() >= 3
    assert page.locator("#chart svg polyline").count() == 4
    before = page.locator(".answer-card").inner_text()
    page.get_by_role("button", name="forbid spans from here").first.click()
    page.wait_for_selector("text=no spans from here on")
    done(page)
    assert page.locator(".answer-card").count() == 2
    after = page.locator(".answer-card").last.inner_text()
    assert after != before and page.locator(".answer-card").last.locator(".span").count() == 0
    assert page.locator("#chart svg polyline").count() == 8, "before, dashed, and after"
    for now, earlier, size in AXES:
        axis = page.evaluate(
            "(both) => axisOf(...both)", [[{"after": name} for name in names] for names in (now, earlier)]
        )
        assert len(axis["labels"]) == size
        for names, places in ((now, axis["places"]), (earlier, axis["earlierPlaces"])):
            assert [axis["labels"][place] for place in places] == names and places == sorted(set(places))
    link = page.url
    assert link.endswith("&edits=forbid.1")
    page.goto("about:blank")
    page.goto(link)
    done(page)
    assert page.locator(".answer-card").last.inner_text().split(" s\n")[1:] == after.split(" s\n")[1:]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".answer-card")).to_have_count(1)
    assert "edits" not in page.url


def test_tokens_that_come_faster_than_they_are_drawn_are_drawn_together(page: "Page", url: str) -> None:
    page.goto(url)
    done(page)
    script = """async () => {
      let changes = 0;
      new MutationObserver(() => changes++).observe($("answers"), { childList: true });
      for (let k = 0; k < 50; k++) {
        const block = { kind: "text", number: 0, latents: 0, pieces: [[`token ${k}`, false]] };
        take({ event: "blocks", from: 0, blocks: [block] });
        await null;
      }
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      return [changes, $("answers").textContent.includes("token 49")];
    }"""
    changes, is_last = page.evaluate(script)
    assert changes <= 2 and is_last


def test_a_change_is_made_and_undone_by_keyboard_and_told_to_a_screen_reader(
    page: "Page", session: Session, url: str
) -> None:
    from playwright.sync_api import expect

    focused = "document.activeElement.textContent"

    def press(name: str, key: str = "Tab") -> None:
        """From where the focus is on, with the keyboard alone."""
        for _ in range(60):
            page.keyboard.press(key)
            if page.evaluate(focused) == name:
                break
        assert page.evaluate(focused) == name, "it cannot be reached"
        page.evaluate("document.body.dataset.state = 'pressed'")
        page.keyboard.press("Enter")
        done(page)

    page.goto("about:blank")
    page.goto(f"{url}/#{State(item_with_spans(session)).fragment}")
    done(page)
    status = page.get_by_role("status")
    expect(status).to_contain_text("Answer: ")
    press("zeros")
    assert page.evaluate(focused) == "zeros" and page.evaluate("document.activeElement.dataset.tool") == "zeros.1"
    expect(page.locator("#edits .chip")).to_have_text(["span 1: zeros in its place"])
    press("noise")
    expect(page.locator("#edits .chip")).to_have_text(["span 1: noise in its place"])
    expect(status).to_contain_text("before the change: ")
    press("forbid spans from here")
    assert page.evaluate(focused).startswith("After: span 1: no spans from here on"), "its button is gone"
    press("Undo", "Shift+Tab")
    assert page.evaluate(focused) == "Undo"
    expect(page.locator("#edits .chip")).to_have_text(["span 1: noise in its place"])


def test_a_bad_upload_is_a_sentence_and_a_good_one_is_answered(
    page: "Page", url: str, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    from playwright.sync_api import expect

    page.goto(url)
    done(page)
    bad = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    bad.write_bytes(b"no clip")
    page.get_by_role("button", name="Upload a clip").click()
    page.locator("#question").fill(rows[2]["question"].split("<image>\n")[1])
    page.locator("#clip").set_input_files(bad)
    page.get_by_role("button", name="Answer it").click()
    expect(page.locator("#message")).to_contain_text("cannot be read as a video")
    page.locator("#clip").set_input_files(rows[2]["path"])
    page.get_by_role("button", name="Answer it").click()
    expect(page.locator("#prompt h2").first).to_have_text(rows[2]["video"])
    done(page)
    assert page.locator("img[src=x]").count() == 0


def test_an_exported_page_shows_the_same_without_a_server(page: "Page", session: Session, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    state = read_state(f"item={item_with_spans(session)}&edits=cut.1")
    file.write_text(export(session, state), encoding="utf-8")
    page.goto(file.as_uri())
    done(page)
    assert page.locator(".answer-card").count() == 2 and page.locator(".answer-card figure").count() >= 3
    assert page.locator("#chooser").is_hidden() and page.get_by_role("button").count() == 0
