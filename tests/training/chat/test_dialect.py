"""Servers that want a request in another form are found out once; nothing else of a request changes."""

import json
import logging
from typing import Any

import pytest

from tests.served import Served, served, user_text
from tests.training.grading.scripted import settings, toy_answer
from training.chat.endpoint import EndpointRefusesError
from training.chat.server import Dialect
from training.grading.judge import Judge, JudgeItem

TRIPLES = [JudgeItem("What next?", f"it falls {i}", f"it rises {i}") for i in range(40)]
MAX_TOKENS = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
TEMPERATURE = "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is."


def refusing(**refusals: str) -> Any:
    """A script that refuses requests with these fields, or with this kind of response format."""

    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        kind = request.get("response_format", {}).get("type")
        message = next((refusals[name] for name in refusals if name in request or name == kind), None)
        return None if message is None else (400, json.dumps({"error": {"message": message}}).encode())

    return script


def judged(server: Served, concurrency: int = 1) -> list[str]:
    return Judge(settings(server.url, concurrency=concurrency)).verdicts(TRIPLES)


@pytest.mark.parametrize(
    ("refusals", "length", "kind", "temperature"),
    [
        ({"max_tokens": MAX_TOKENS}, "max_completion_tokens", "json_schema", 0.0),
        ({"json_schema": "This response_format type is unavailable now"}, "max_tokens", "json_object", 0.0),
        ({"json_schema": "no `json_schema` here", "json_object": "response format unknown"}, "max_tokens", None, 0.0),
        ({"temperature": TEMPERATURE}, "max_tokens", "json_schema", None),
        ({"max_tokens": MAX_TOKENS, "json_schema": "no response format", "temperature": TEMPERATURE},
         "max_completion_tokens", "json_object", None),
    ],
)  # fmt: skip
def test_a_form_that_a_server_refuses_by_name_is_changed_once_with_a_warning(
    refusals: dict[str, str], length: str, kind: str | None, temperature: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "training.chat")
    with served(toy_answer, script=refusing(**refusals)) as server:
        for _ in ("first", "again"):
            assert judged(server) == ["incorrect"] * len(TRIPLES)
        assert len(server.requests) == 2 * len(TRIPLES) + len(refusals)
        last = server.requests[-1]
    assert (last[length], last.get("response_format", {}).get("type"), last.get("temperature")) == (
        1024, kind, temperature,
    )  # fmt: skip
    assert set(refusals).isdisjoint(last)
    assert len(caplog.records) == len(refusals) and all(server.url in record.getMessage() for record in caplog.records)


def test_many_requests_at_once_find_out_together() -> None:
    with served(toy_answer, script=refusing(max_tokens=MAX_TOKENS), latency=0.02) as server:
        assert judged(server, concurrency=16) == ["incorrect"] * len(TRIPLES)
        assert len(server.requests) <= len(TRIPLES) + 16


def test_a_length_that_is_refused_is_no_other_name_for_it() -> None:
    """A server that knows only `max_tokens` would pass over `max_completion_tokens` and write without end."""
    with served(script=refusing(max_tokens="max_tokens is too large: 99999")) as server:
        with pytest.raises(EndpointRefusesError, match="max_tokens is too large"):
            judged(server)
        assert all("max_completion_tokens" not in request for request in server.requests)


def test_how_answers_are_sampled_is_never_changed() -> None:
    request = {"messages": [], "n": 4, "temperature": 0.7, "top_p": 0.9, "max_tokens": 9}
    assert Dialect().after(TEMPERATURE, request) is None
    assert Dialect().after("response_format: unsupported", request) is None
    everything = Dialect("max_completion_tokens", "none", temperature=False)
    changed = everything.body(request)
    assert changed.pop("max_completion_tokens") == request.pop("max_tokens")
    assert changed == request


def test_a_prompt_that_quotes_the_words_refuses_itself_alone() -> None:
    """No form is left to try when a server repeats what a row says."""

    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        message = user_text(request)
        return (400, json.dumps({"error": {"message": message}}).encode()) if "json_schema" in message else None

    with served(toy_answer, script=script) as server:
        judge = Judge(settings(server.url, concurrency=1))
        items = [JudgeItem("q", "r", "json_schema response_format"), *TRIPLES[:5]]
        assert judge.verdicts(items) == ["unjudged", *["incorrect"] * 5]
