"""The explorer's server and its exported page: events in order, policies, and texts that are only text."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from evaluation.explorer import app as module
from evaluation.explorer.app import HERE, application
from evaluation.explorer.events import Emit
from evaluation.explorer.export import export, page
from evaluation.explorer.session import Session
from evaluation.explorer.state import State, read_state

ODD = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u2028 ü"


@pytest.fixture(scope="module")
def client(session: Session) -> TestClient:
    return TestClient(application(session), base_url="http://127.0.0.1:3100")


def events(client: TestClient, fragment: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.post(f"/show?{fragment}").text.splitlines()]


def test_the_page_may_load_nothing_from_elsewhere(client: TestClient) -> None:
    for method, path in (("GET", "/"), ("GET", "/page.js"), ("GET", "/page.css"), ("GET", "/items"),
                         ("POST", "/show?item=x")):  # fmt: skip
        headers = client.request(method, path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src data:;"), path
        assert "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
    for name in ("page.html", "page.css", "page.js"):
        text = (HERE / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|innerHTML|outerHTML|insertAdjacent|\.write\(|eval\(", text), name


def test_an_answer_is_a_stream_of_events(client: TestClient, item: str) -> None:
    names = [event["event"] for event in events(client, f"{State(item).fragment}&edits=cut.1")]
    assert names[:2] == ["queued", "item"] and names[-2:] == ["before", "report"]
    assert set(names) <= {"queued", "item", "earlier", "before", "changes", "blocks", "span", "report"}


def test_what_takes_time_is_a_post_which_names_its_origin(client: TestClient) -> None:
    for path in ("/show?item=x", "/upload?name=a"):
        assert client.get(path).status_code == 405, "another site's page may have it as a picture's address"


@pytest.mark.parametrize(
    "query", ["", "item=", "item=none/1", "item=twiffbench/00000&edits=zeros", "edits=%00", "item=%ff"]
)
def test_what_cannot_be_shown_is_one_sentence(client: TestClient, query: str) -> None:
    queued, error = events(client, query)
    assert (queued["event"], error["event"]) == ("queued", "error") and "Traceback" not in error["message"]


def test_clips_are_taken_and_bad_ones_are_a_sentence(
    client: TestClient, session: Session, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, fields = Path(rows[0]["path"]).read_bytes(), {"name": "a.mp4", "frames": "1", "question": "Which?"}
    key = client.post("/upload", params=fields, content=data).json()["key"]
    assert any(group["name"] == "your clips" and group["items"] == [[key, "a.mp4"]] for group in
               client.get("/items").json()["groups"])  # fmt: skip
    assert events(client, State(key).fragment)[-1]["event"] == "report"
    for content, changed in ((b"none", {}), (data, {"frames": "0"}), (data, {"question": ""})):
        answer = client.post("/upload", params=fields | changed, content=content)
        assert answer.status_code == 400 and len(answer.json()["error"]) > 20
    with monkeypatch.context() as gone:
        gone.setattr(session.uploads, "_folder", tmp_path / "gone")
        answer = client.post("/upload", params=fields | {"frames": "2"}, content=data)
        assert answer.status_code == 400 and "gone" in answer.json()["error"]
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    assert "the clip is larger than" in client.post("/upload", params=fields, content=data).json()["error"]


class Held:
    """In the place of a session: each answer waits until it is released."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.order = threading.Semaphore(0), threading.Event(), list[str]()

    def show(self, state: State, emit: Emit) -> None:
        self.order.append(state.item)
        self.begun.release()
        assert self.go_on.wait(60)
        emit({"event": "report", "report": state.item})


def test_tabs_wait_for_each_other_in_their_order_and_one_that_left_is_skipped() -> None:
    import asyncio

    held = Held()
    answers = module.Answers(held)  # type: ignore[arg-type]

    async def tabs() -> list[list[Any]]:
        first, second, third, fourth = (answers.lines(f"item={name}") for name in "abcd")
        assert json.loads(await anext(first)) == {"event": "queued", "ahead": 0}
        begun = asyncio.create_task(anext(first))
        await asyncio.to_thread(held.begun.acquire)
        assert json.loads(await anext(second))["ahead"] == 1
        waiting = asyncio.create_task(anext(second))
        await asyncio.sleep(0)
        assert json.loads(await anext(third))["ahead"] == 2
        waiting.cancel()  # its tab is closed
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert json.loads(await anext(fourth))["ahead"] == 2
        await fourth.aclose()
        last = asyncio.create_task(anext(third))
        await asyncio.sleep(0)
        held.go_on.set()
        return [json.loads(await begun)["report"], json.loads(await last)["report"]]

    assert asyncio.run(tabs()) == ["a", "c"]
    answers.close()
    assert held.order == ["a", "c"]


def test_no_more_than_so_many_wait(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 0)
    (error,) = events(client, "item=x")
    assert error["event"] == "error" and "waiting already" in error["message"]


def test_an_exported_page_needs_nothing_and_holds_the_state(session: Session, item: str) -> None:
    html = export(session, read_state(f"item={item}&edits=zeros.1"))
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[0]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "unsafe" not in policy
    assert "page.css" not in html and "page.js" not in html
    data = json.loads(re.findall(r'<script type="application/json" id="export">(.*?)</script>', html, re.DOTALL)[0])
    assert [event["event"] for event in data["events"]] == ["item", "before", "changes", "report"]
    assert data["model"] == "<b>tiny</b>" and "<b>tiny" not in html


def test_texts_in_an_exported_page_are_data() -> None:
    html = page({"model": ODD, "events": []})
    assert html.count("<script") == 2 and "<img" not in html
    data = re.findall(r'id="export">(.*?)</script>', html, re.DOTALL)[0]
    assert json.loads(data)["model"] == ODD
