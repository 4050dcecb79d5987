"""The endpoint engine: the requests to a server, the answers from its choices, and the handling of its faults."""

import base64
import io
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessor

from evaluation.generation.chat_messages import fitted_size
from evaluation.generation.config import GenerationConfig
from evaluation.generation.endpoint import EndpointEngine
from evaluation.generation.image_factor import QWEN3_VL as TILE
from evaluation.generation.requests import Answer, LedgerSummary, Refusal, Request
from tests.evaluation.jobs import generate
from tests.footage import FOOTAGE
from tests.served import FAULTS, Served, closed_url, completion, served, user_text
from training.chat import client as client_module
from training.chat.endpoint import EndpointDownError, EndpointRefusesError, EndpointSettings
from training.data.images import fit_grid
from training.data.parts import Part, frame, image, text, video
from training.data.prompts import ANSWERS
from training.data.video import read_frames
from training.grading.parsers import answer_text

CLIP = FOOTAGE / "bikes.mp4"
BOUNDS = {"shortest_edge": 4 * 16**2, "longest_edge": 2**24}
GENERATION = GenerationConfig(temperature=0.7, top_p=0.9, max_new_tokens=33, batch_size=4, image_tokens=(4, 64))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE", 0.01)


def engine(*urls: str, **fields: Any) -> EndpointEngine:
    return EndpointEngine(EndpointSettings(base_urls=urls, **({"model": "served", "timeout": 5.0} | fields)))


def request(prompt_id: str = "p", *parts: Part, samples: tuple[int, ...] = (0,)) -> Request:
    return Request(prompt_id, list(parts or (text(f"question of {prompt_id}"),)), samples, samples, prompt_id)


def echo(request: dict[str, Any], choice: int) -> str:
    return f"{user_text(request)}, choice {choice} of {request['n']}"


def replies(
    server: Served, *requests: Request, generation: GenerationConfig = GENERATION, **fields: Any
) -> list[Answer | Refusal]:
    return list(generate(engine(server.url, **fields), None, generation, "none", requests))


def user_turn(server: Served) -> list[Any]:
    """The user turn of the one request that arrived: texts, and images as they decode."""
    (arrived,) = server.requests
    parts = []
    for part in arrived["messages"][-1]["content"]:
        if part["type"] == "image_url":
            kind, data = part["image_url"]["url"].split(";base64,")
            assert kind == "data:image/jpeg"
            parts.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
        else:
            parts.append(part["text"])
    return parts


def test_all_answers_of_a_prompt_are_one_request_with_its_sampling() -> None:
    with served(echo, usage=(50, 9)) as server:
        answers = replies(server, request(samples=(1, 4, 6)))
    (arrived,) = server.requests
    assert {name: arrived[name] for name in ("model", "n", "temperature", "top_p", "max_tokens")} == {
        "model": "served", "n": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 33,
    }  # fmt: skip
    assert "seed" not in arrived and [m["role"] for m in arrived["messages"]] == ["user"]
    table = pl.DataFrame(answers, schema=ANSWERS)
    assert table["sample"].to_list() == [1, 4, 6]
    assert table["text"].to_list() == [f"question of p, choice {i} of 3" for i in range(3)]
    assert table["text_tokens"].to_list() == [9, 9, 9] and table["finished"].all()
    assert 0 < table["decode_seconds"].sum() < 5 and table["decode_seconds"].n_unique() == 1


def test_the_system_prompt_goes_first() -> None:
    with served(echo) as server:
        replies(server, request(), generation=GENERATION.model_copy(update={"system_prompt": "Think."}))
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Think."}


def test_every_pixel_keeps_its_colour() -> None:
    """Where neighbours share one, columns of red and green are both brown."""
    columns = np.tile(np.array([(250, 10, 20), (10, 250, 20)], np.uint8), (64, 48, 1))
    encoded = io.BytesIO()
    Image.fromarray(columns).save(encoded, "PNG")
    with served(echo) as server:
        replies(server, request("p", image(encoded.getvalue())))
    (sent,) = user_turn(server)
    assert np.abs(sent.astype(int) - columns).mean() < 4


def test_a_prompt_is_shown_in_order_with_its_frames() -> None:
    encoded = io.BytesIO()
    Image.new("RGBA", (96, 64), (250, 10, 20, 255)).save(encoded, "PNG")
    with served(echo) as server:
        replies(
            server,
            request("p", text("before\n"), frame(CLIP, 30), text("\nbetween "), text("two"), image(encoded.getvalue())),
        )
    before, first, between, second = user_turn(server)
    assert (before, between) == ("before\n", "\nbetween two")
    (original,) = read_frames(CLIP, [30], "sequential")
    rows, columns = first.shape[0] // TILE, first.shape[1] // TILE
    assert first.shape[:2] == (rows * TILE, columns * TILE) and 32 < rows * columns <= 64
    small = np.asarray(Image.fromarray(original).resize((columns * TILE, rows * TILE), Image.Resampling.BICUBIC))
    assert np.abs(first.astype(int) - small).mean() < 3
    assert second.shape == (64, 96, 3) and np.abs(second.astype(int) - [250, 10, 20]).max() < 8


def test_a_video_is_its_frames_in_order_and_a_cap_is_kept() -> None:
    with served(echo) as server:
        replies(server, request("p", video(CLIP, [200, 0, 100], max_tokens=12), text("What next?")))
    *images, question = user_turn(server)
    assert question == "What next?"
    for sent, original in zip(images, read_frames(CLIP, [200, 0, 100], "sequential"), strict=True):
        height, width = sent.shape[:2]
        assert height * width <= 12 * TILE**2
        small = np.asarray(Image.fromarray(original).resize((width, height), Image.Resampling.BICUBIC))
        assert np.abs(sent.astype(int) - small).mean() < 4


@pytest.mark.parametrize("factor", [16, 28, 32])
def test_frames_arrive_at_the_servers_processor_as_it_keeps_them(factor: int) -> None:
    """The processor is transformers' own, with patches of half the factor, merged 2 x 2."""
    processor = Qwen2VLImageProcessor(patch_size=factor // 2, merge_size=2, size=BOUNDS)
    low, high = GENERATION.image_tokens
    with served(echo) as server:
        replies(server, request("p", frame(CLIP, 30), frame(CLIP, 60, 7)), image_factor=factor)
    for sent, most in zip(user_turn(server), (high, 7), strict=True):
        processed = processor(images=[Image.fromarray(sent)], return_tensors="pt")
        (_, rows, columns) = processed["image_grid_thw"][0].tolist()
        assert (rows * factor // 2, columns * factor // 2) == sent.shape[:2]
        assert min(low, most) <= rows * columns // 4 <= most


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 300), st.integers(0, 2000), st.sampled_from([16, 28, 32])
)
def test_an_image_has_no_more_tokens_than_its_cap_and_is_left_alone_within_it(
    width: int, height: int, low: int, more: int, factor: int
) -> None:
    high = low + more
    sent = fitted_size(width, height, low, high, factor)
    rows, columns = fit_grid(height, width, low, high, factor)
    assert sent[0] * sent[1] <= high * factor**2
    # a server that rounds to whole tokens sees the grid that the local engine sees
    grid = tuple(max(1, round(side / factor)) for side in sent)
    assert grid == (columns, rows) or sent == (width, height)
    assert sent == (width, height) or all(side % factor == 0 for side in sent)
    assert grid[0] * grid[1] <= high


def test_frames_that_cannot_be_read_refuse_their_prompt_alone(tmp_path: Path) -> None:
    gone = tmp_path / "gone.mp4"
    with served(echo) as server:
        answers = replies(
            server,
            request("gone", frame(gone, 0), text("?")),
            request("beyond", frame(CLIP, 10_000), text("?")),
            request("broken", image(b"not an image"), text("?")),
            request("good"),
        )
    refused = {a.prompt_id: a.reason for a in answers if isinstance(a, Refusal)}
    assert refused.keys() == {"gone", "beyond", "broken"}
    assert "gone.mp4" in refused["gone"] and "frame 10000 does not exist" in refused["beyond"]
    assert [a["prompt_id"] for a in answers if isinstance(a, dict)] == ["good"] and len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_the_server_refuses_is_refused_once_with_its_reason(status: int) -> None:
    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        return (status, b'{"error": {"message": "too long"}}') if "of p3" in user_text(request) else None

    with served(echo, script=script) as server:
        answers = replies(server, *(request(f"p{i}", samples=(0, 1)) for i in range(6)))
    (refused,) = [a for a in answers if isinstance(a, Refusal)]
    assert refused.prompt_id == "p3" and "too long" in refused.reason
    assert len(answers) == 11 and len(server.requests) in (6, 7)  # one to make sure, where the refusal came last


def test_a_server_that_gives_fewer_choices_gets_another_request() -> None:
    def one(_: int, request: dict[str, Any]) -> tuple[int, bytes]:
        return 200, completion([f"of {request['n']}"])

    with served(script=one) as server:
        answers = replies(server, request(samples=(0, 3, 5, 7)), retries=0)
    assert [(a["sample"], a["text"]) for a in answers] == [(0, "of 4"), (3, "of 3"), (5, "of 2"), (7, "of 1")]


def test_more_choices_than_n_are_no_more_answers() -> None:
    with served(script=lambda *_: (200, completion(["a", "b", "c"]))) as server:
        assert [a["text"] for a in replies(server, request(samples=(0, 1)))] == ["a", "b"]


@pytest.mark.parametrize("reason", ["stop", "length", None])
@pytest.mark.parametrize("text", ["", None, " \n"])
def test_no_text_of_a_server_is_no_answer_and_stays_pending(reason: str | None, text: str | None) -> None:
    with served(echo) as server:
        server.script = lambda _, r: (200, completion([text] * r["n"], reason)) if "of p3" in user_text(r) else None
        answers = replies(server, *(request(f"p{i}", samples=(0, 1)) for i in range(6)), retries=2)
    (refused,) = [a for a in answers if isinstance(a, Refusal)]
    assert (refused.prompt_id, refused.pending) == ("p3", True)
    assert f"finish_reason '{reason}', no text, no reasoning" in refused.reason
    assert len(answers) == 11 and sum("of p3" in user_text(r) for r in server.requests) == 6


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_an_answer_that_a_server_took_for_reasoning_is_read(name: str) -> None:
    content = "<reason>it falls</reason><answer>down</answer>"
    with served(script=lambda *_: (200, completion([None], **{name: f"\n{content}\n"}))) as server:
        assert [a["text"] for a in replies(server, request())] == [content]
    for lost, reason in (("<reason>it falls", "stop"), (content, "length")):  # no answer, and a draft that was cut off
        body = completion([""], reason, **{name: lost})
        with served(script=lambda *_, body=body: (200, body)) as server:
            (refused,) = replies(server, request(), retries=0)
            assert isinstance(refused, Refusal) and refused.pending and lost[-20:] in refused.reason


def test_reasoning_that_was_set_apart_stands_before_the_answer_and_never_for_it() -> None:
    thoughts = "maybe <answer>A</answer>, or <answer>B</answer>?"
    for content, answer in (("<answer>C</answer>", "C"), ("I do not know", None)):
        body = completion([content], reasoning_content=thoughts)
        with served(script=lambda *_, body=body: (200, body)) as server:
            (reply,) = replies(server, request())
        assert reply["text"] == f"<reason>maybe A, or B?</reason>\n{content}"
        assert answer_text(reply["text"]) == answer


def test_content_in_parts_is_one_text() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thinking, {"type": "text", "text": "<answer>"}, {"type": "text", "text": "down</answer>"}]
    with served(script=lambda *_: (200, completion([parts]))) as server:
        assert [a["text"] for a in replies(server, request())] == ["<answer>down</answer>"]


def test_too_many_replies_without_an_answer_end_the_work_and_one_is_quoted() -> None:
    """Of four answers that are asked for, one is always empty."""

    def some(_: int, r: dict[str, Any]) -> tuple[int, bytes]:
        return 200, completion([*["<answer>a</answer>"] * (r["n"] - 1), None] if r["n"] > 2 else ["a"] * r["n"])

    prompts = [request(f"p{i}", samples=(0, 1, 2, 3)) for i in range(200)]
    with served(script=some) as server:
        answers = []
        with pytest.raises(EndpointRefusesError, match=r"20 of 80 replies hold no answer, .*no text.*same command"):
            for answer in generate(engine(server.url, concurrency=1), None, GENERATION, "none", prompts):
                answers.append(answer)
        assert 60 <= len(answers) <= 80 and len(server.requests) <= 41
        ledger = LedgerSummary(answers=10_000)  # the same few are nothing among many
        assert len(list(generate(engine(server.url), None, GENERATION, "none", prompts, ledger=ledger))) == 800


def test_prompts_that_a_model_never_answers_stop_no_later_start() -> None:
    with served(echo) as server:
        server.script = lambda _, r: (200, completion([""] * r["n"])) if "silent" in user_text(r) else None
        silent = [request(f"silent{i}", samples=(0, 1)) for i in range(8)]
        ledger = LedgerSummary(answers=500, request=request("known"))
        answers = list(generate(engine(server.url, retries=0), None, GENERATION, "none", silent, ledger=ledger))
    assert len(answers) == 8 and all(isinstance(a, Refusal) and a.pending for a in answers)


@pytest.mark.parametrize(
    "first", [completion([None], None), completion(["<answer>"], "content_filter"), completion(["a"], "abort")]
)
def test_no_text_without_an_end_is_requested_again(first: bytes) -> None:
    with served(echo, script=lambda number, _: (200, first) if number == 0 else None) as server:
        (answer,) = replies(server, request())
    assert answer["text"] == "question of p, choice 0 of 1"


def test_an_unfinished_text_is_kept_as_it_is() -> None:
    content = "<reason>so\0 <|im_end|> \ud83d"
    with served(script=lambda *_: (200, completion([content], "length"))) as server:
        (answer,) = replies(server, request())
    assert (answer["text"], answer["finished"]) == ("<reason>so\ufffd <|im_end|> \ufffd", False)
    assert json.loads(json.dumps(answer, ensure_ascii=False).encode()) == answer
    assert pl.DataFrame([answer], schema=ANSWERS)["text"].item() == answer["text"]


def test_every_answer_arrives_once_whatever_a_fifth_of_the_requests_meet() -> None:
    prompts = [request(f"p{i}", samples=(0, 1, 2, 5)) for i in range(80)]
    with served(echo, faults=0.2, hangs=3.0, seed=3) as server, served(echo, faults=0.2, hangs=3.0, seed=4) as other:
        answers = list(
            generate(engine(server.url, other.url, timeout=1.0, concurrency=16), None, GENERATION, "none", prompts)
        )
        assert {*server.fault_counts, *other.fault_counts} == {*FAULTS}
    counted = Counter((a["prompt_id"], a["sample"]) for a in answers if isinstance(a, dict))
    assert counted == {(f"p{i}", sample): 1 for i in range(80) for sample in (0, 1, 2, 5)}
    assert all(a["text"].startswith(f"question of {a['prompt_id']}, ") for a in answers)


def test_an_answer_is_there_before_the_next_prompt_is_settled() -> None:
    first_arrived = threading.Event()

    def answer(request: dict[str, Any], choice: int) -> str:
        if "of p1" in user_text(request):
            assert first_arrived.wait(10)
        return echo(request, choice)

    with served(answer) as server:
        answers = generate(engine(server.url), None, GENERATION, "none", [request("p0"), request("p1")])
        assert next(answers)["prompt_id"] == "p0"
        first_arrived.set()
        assert [a["prompt_id"] for a in answers] == ["p1"]


def test_an_outage_is_raised_after_what_was_answered() -> None:
    with served(echo, script=lambda number, _: (503, b"") if number >= 10 else None) as server:
        answers, prompts = [], [request(f"p{i}") for i in range(60)]
        with pytest.raises(EndpointDownError, match="start again when it is back"):
            for answer in generate(engine(server.url, concurrency=4, retries=1), None, GENERATION, "none", prompts):
                answers.append(answer)
        assert len(answers) == 10 and len(server.requests) < 30


def test_a_wrong_model_ends_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUTURE_L1_ENDPOINT_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with served(script=lambda *_: (404, b'{"error": {"message": "no such model"}}')) as server:
        with pytest.raises(EndpointRefusesError, match="no such model"):
            replies(server, *(request(f"p{i}") for i in range(50)), concurrency=4)
        assert len(server.requests) <= 4
        with pytest.raises(EndpointRefusesError, match="serves 'served'"):
            engine(server.url, model="other").preflight()
        engine(server.url, closed_url()).preflight()
    with pytest.raises(EndpointRefusesError, match="set FUTURE_L1_ENDPOINT_API_KEY or OPENAI_API_KEY"):
        engine("https://models.invalid/v1").preflight()


def test_a_reader_that_stops_early_stops_the_requests() -> None:
    with served(echo, latency=0.02) as server:
        answers = generate(
            engine(server.url, concurrency=2), None, GENERATION, "none", [request(f"p{i}") for i in range(500)]
        )
        next(answers)
        answers.close()
        assert len(server.requests) < 250
        assert not any(thread.name == "endpoint" for thread in threading.enumerate())


def test_a_slow_reader_is_not_buried(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation.generation import endpoint as module

    monkeypatch.setattr(module, "ANSWERS_AHEAD", 5)
    buried = threading.Event()

    def answer(request: dict[str, Any], choice: int) -> str:
        if len(server.requests) > 20:
            buried.set()
        return echo(request, choice)

    with served(answer) as server:
        prompts = [request(f"p{i}") for i in range(200)]
        answers = generate(engine(server.url, concurrency=2), None, GENERATION, "none", prompts)
        next(answers)
        assert not buried.wait(0.5)
        assert sum(1 for _ in answers) == 199 and buried.is_set()


def test_an_intervention_or_a_checkpoint_is_not_for_a_served_model() -> None:
    with pytest.raises(ValueError, match="'zeros' needs a checkpoint"):
        generate(engine("http://127.0.0.1:9/v1"), None, GENERATION, "zeros", [])
    with pytest.raises(ValueError, match="to keep them needs a checkpoint"):
        generate(engine("http://127.0.0.1:9/v1"), None, GENERATION, "none", [], keep_latents=True)
    with pytest.raises(ValueError, match="serves its own model"):
        generate(engine("http://127.0.0.1:9/v1"), Path("/somewhere"), GENERATION, "none", [])
