"""Served checkpoints: the answers of a server with our plug-in are those of the local engine, and nothing else is."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from evaluation.generation import jobs as jobs_module
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import INTERVENTIONS, LOCAL_INTERVENTIONS, AnswerJob
from evaluation.generation.local import LocalEngine
from evaluation.generation.requests import Refusal, Request
from evaluation.generation.served import ServedEngine
from tests.evaluation.jobs import UNTIMED, content, generate, lines, run
from tests.footage import FOOTAGE
from tests.latent_server import LatentServer, Reply, latent_server
from tests.served import Served, closed_url
from training.chat import client as client_module
from training.chat.endpoint import EndpointDownError, EndpointRefusesError, ServerSettings
from training.data import prompts
from training.data.parts import text, video
from training.engines.identity import CHECKPOINT_HEADER
from training.engines.options import PREFIX
from training.engines.requests import RETURN
from training.model.checkpoint import FutureL1
from training.storage.hashing import model_digest
from training.tiny import BASE

LATENT_TOLERANCE = 2e-3
GENERATION = GenerationConfig(max_new_tokens=24, batch_size=8, image_tokens=(4, 16))
COLUMNS = [name for name in UNTIMED if name != "latents"] + ["prompt_tokens"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE", 0.01)


@pytest.fixture
def server(sft_model: FutureL1, sft_checkpoint: Path) -> Iterator[tuple[LatentServer, Served]]:
    with latent_server(sft_model, sft_checkpoint) as running:
        yield running


@pytest.fixture(scope="module")
def prompts_path(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rows as prompts, with two answers among them."""
    path = tmp_path_factory.mktemp("six") / "prompts.parquet"
    table = prompts.prompt_frame([(row["row_id"], content(row)) for row in rows[:6]])
    table.with_columns(reference=pl.Series(["red", "blue"] * 3)).write_parquet(path)
    return path


Jobs = Callable[..., AnswerJob]


def settings(*urls: str, **fields: Any) -> ServerSettings:
    return ServerSettings(base_urls=urls, **({"concurrency": 4, "timeout": 20.0} | fields))


def answers(out: Path, *jobs: AnswerJob) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The table of the first job, and its refusals."""
    run(out, *jobs)
    return pl.read_parquet(out / f"{jobs[0].name}.parquet"), pl.read_parquet(out / f"{jobs[0].name}.failed")


def floats(table: pl.DataFrame) -> np.ndarray:
    return np.frombuffer(b"".join(data or b"" for data in table["latents"]), "<f2").astype(np.float32)


@pytest.mark.parametrize("intervention", [name for name in INTERVENTIONS if name not in LOCAL_INTERVENTIONS])
def test_a_server_answers_as_the_local_engine_under_every_intervention(
    server: tuple[LatentServer, Served], job: Jobs, sft_model: FutureL1, tmp_path: Path, intervention: str
) -> None:
    fields: dict[str, Any] = {"intervention": intervention, "keep_latents": True, "max_new_tokens": 24}
    if intervention == "mean":
        width = sft_model.model.config.text_config.hidden_size
        save_file({"mean": torch.arange(width) / 64}, tmp_path / "mean.safetensors")
        fields["reference_latents"] = tmp_path / "mean.safetensors"
    ours, refused = answers(tmp_path / "local", job(**fields))
    theirs, also_refused = answers(tmp_path / "served", job(**fields, endpoint=settings(server[1].url)))
    assert theirs.select(COLUMNS).equals(ours.select(COLUMNS))
    assert np.abs(floats(theirs) - floats(ours)).max(initial=0.0) <= LATENT_TOLERANCE
    assert also_refused.equals(refused)
    assert set(theirs["engine"]) == {"vllm-0.32.0-89abcdef, plug-in 0123"} and "engine" not in ours.columns
    assert theirs["latent_tokens"].sum() > 0 or intervention in ("no_span", "markers_only")


def test_what_is_lent_is_not_rounded(server: tuple[LatentServer, Served], job: Jobs, tmp_path: Path) -> None:
    answers(tmp_path, job(intervention="other_item", max_new_tokens=24, endpoint=settings(server[1].url)))
    options = [request["vllm_xargs"] for request in server[1].requests if "vllm_xargs" in request]
    lent = [span for option in options for span in option[f"{PREFIX}vectors"] if span]
    vectors = [np.frombuffer(base64.b64decode(span), "<f4") for span in lent]
    assert vectors and all((span != span.astype(np.float16)).any() for span in vectors)


def test_samples_have_the_local_engines_seeds(
    server: tuple[LatentServer, Served], job: Jobs, tmp_path: Path
) -> None:
    fields = {"samples": 2, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 24}
    ours, _ = answers(tmp_path / "local", job(**fields))
    theirs, _ = answers(tmp_path / "served", job(**fields, endpoint=settings(server[1].url)))
    columns = [name for name in COLUMNS if name in ours.columns]
    assert theirs.select(columns).equals(ours.select(columns))
    assert len({request["seed"] for request in server[1].requests}) == 12


def test_a_video_and_a_system_prompt_arrive_as_they_are_read_here(
    server: tuple[LatentServer, Served], job: Jobs, tmp_path: Path
) -> None:
    path, clip = tmp_path / "prompts.parquet", FOOTAGE / "bikes.mp4"
    shuffled, odd = video(clip, [50, 0, 100, 25]), video(clip, [0, 10, 20, 30, 40], max_tokens=6)
    contents = [("shuffled", [shuffled, text("What next?")]), ("odd", [text("Look:"), odd, text("What next?")]),
                ("two", [odd, shuffled]), ("missing", [video(tmp_path / "none.mp4", [0])])]  # fmt: skip
    prompts.prompt_frame(contents).write_parquet(path)
    fields = {"prompts": path, "max_new_tokens": 8, "system_prompt": "You imagine the coming frames."}
    ours, _ = answers(tmp_path / "local", job(**fields))
    theirs, refused = answers(tmp_path / "served", job(**fields, endpoint=settings(server[1].url)))
    sent = theirs["prompt_id"].to_list()
    assert sent == ["odd", "shuffled"]
    assert theirs.select(COLUMNS).equals(ours.filter(pl.col("prompt_id").is_in(sent)).select(COLUMNS))
    reasons = dict(refused.select("prompt_id", "reason").iter_rows())
    assert "two videos" in reasons["two"] and "none.mp4" in reasons["missing"] and not refused["pending"].any()


def test_a_model_without_latents_is_served_without_options(base: FutureL1, job: Jobs, tmp_path: Path) -> None:
    fields = {"checkpoint": BASE, "keep_latents": True, "max_new_tokens": 8, "intervention": "zeros"}
    ours, _ = answers(tmp_path / "local", job(**fields))
    with latent_server(base, BASE) as (_, http):
        theirs, _ = answers(tmp_path / "served", job(**fields, endpoint=settings(http.url)))
        assert not any("vllm_xargs" in request or RETURN in request for request in http.requests)
    assert theirs.select(COLUMNS).equals(ours.select(COLUMNS)) and theirs["latents"].null_count() == 6


def test_a_prompt_that_holds_latents_in_parts_is_refused(
    server: tuple[LatentServer, Served], job: Jobs, tmp_path: Path
) -> None:
    """The server's check of each part lets it pass, and its engine answers with nothing."""
    path = tmp_path / "prompts.parquet"
    prompts.prompt_frame([("parts", [text("What is <|lat"), text("ent|>?")])]).write_parquet(path)
    theirs, refused = answers(tmp_path / "served", job(prompts=path, endpoint=settings(server[1].url)))
    assert not theirs.height and not server[1].requests
    assert "a prompt holds <|latent|>" in refused["reason"].item() and not refused["pending"].item()


def test_spans_are_not_forced_where_there_are_none(base: FutureL1, job: Jobs, tmp_path: Path) -> None:
    with latent_server(base, BASE) as (_, http), pytest.raises(ValueError, match="this one opens none"):
        answers(tmp_path, job(checkpoint=BASE, intervention="spans_2", endpoint=settings(http.url)))
    assert not http.requests, "before anything is paid for"


# ---- replies that no answer may be made of


def choice(reply: Reply) -> Reply:
    return reply["choices"][0]


def set_latents(reply: Reply, change: Callable[[bytes], bytes]) -> None:
    """Changes the first span's."""
    spans = choice(reply)["latents"]
    spans[0] = base64.b64encode(change(base64.b64decode(spans[0]))).decode()


def text_inside(reply: Reply) -> None:
    ids = choice(reply)["token_ids"]
    ids[next(at for at in range(1, len(ids)) if ids[at] == ids[at - 1])] = 1  # latents repeat, text does not


SPOILED: dict[str, tuple[Callable[[Reply], object], str]] = {
    "no token ids": (lambda r: choice(r).pop("token_ids"), "answer's token ids"),
    "tokens as text": (lambda r: choice(r).update(token_ids="1 2"), "answer's token ids"),
    "no such token": (lambda r: choice(r)["token_ids"].insert(0, 10**9), "answer's token ids"),
    "a negative token": (lambda r: choice(r)["token_ids"].insert(0, -1), "answer's token ids"),
    "too many tokens": (lambda r: choice(r)["token_ids"].__iadd__([1] * 99), "of at most 24 tokens"),
    "no prompt": (lambda r: r.pop("prompt_token_ids"), "prompt's token ids"),
    "aborted": (lambda r: choice(r).update(finish_reason="abort"), "finish_reason 'abort'"),
    "text inside a span": (text_inside, "text inside a span"),
    "no latents": (lambda r: choice(r).pop("latents"), "latents of its"),
    "latents of no type": (lambda r: choice(r).update(latents=[1]), "latents of its"),
    "a span less": (lambda r: choice(r)["latents"].pop(), "latents of its"),
    "no base64": (lambda r: choice(r)["latents"].__setitem__(0, "!?"), "cannot be read"),
    "another width": (lambda r: set_latents(r, lambda data: data[:-4]), "cannot be read"),
    "half a number": (lambda r: set_latents(r, lambda data: data[:-1]), "cannot be read"),
    "not finite": (lambda r: set_latents(r, lambda data: b"\x00\x00\xc0\x7f" + data[4:]), "cannot be read"),
    "a latent more": (lambda r: set_latents(r, lambda data: data + data[: len(data) // 4]), r"spans of \["),
}


Ask = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def imagining(rows: list[dict[str, Any]], sft_checkpoint: Path) -> Request:
    """A prompt whose answer has spans."""
    requests = [Request(row["row_id"], content(row), (0,), (0,), row["row_id"]) for row in rows[:6]]
    replies = generate(LocalEngine("cpu", 0.0, 0.1), sft_checkpoint, GENERATION, "none", requests)
    with_spans = {reply["prompt_id"] for reply in replies if isinstance(reply, dict) and sum(reply["spans"])}
    return next(request for request in requests if request.prompt_id in with_spans)


@pytest.fixture
def ask(server: tuple[LatentServer, Served], imagining: Request, sft_checkpoint: Path) -> Ask:
    """The replies of the engine to one prompt, whose answer has spans."""

    def run_engine(*urls: str, **fields: Any) -> list[Any]:
        engine = ServedEngine(settings(*(urls or (server[1].url,)), **({"retries": 0} | fields)))
        return list(generate(engine, sft_checkpoint, GENERATION, "none", [imagining], keep_latents=True))

    return run_engine


@pytest.mark.parametrize("kind", SPOILED)
def test_no_answer_is_made_of_a_spoiled_reply(server: tuple[LatentServer, Served], ask: Ask, kind: str) -> None:
    server[0].spoil, reason = SPOILED[kind]
    (refusal,) = ask()
    assert isinstance(refusal, Refusal) and refusal.pending, refusal
    assert re.search(reason, refusal.reason), refusal.reason


def test_a_spoiled_reply_is_requested_again(server: tuple[LatentServer, Served], ask: Ask) -> None:
    spoilers = iter([SPOILED["not finite"][0], SPOILED["aborted"][0]])
    server[0].spoil = lambda reply: next(spoilers, lambda _: None)(reply)
    (answer,) = ask(retries=2)
    width = server[0].model.model.config.text_config.hidden_size
    assert len(answer["latents"]) == 2 * width * sum(answer["spans"]) > 0
    assert len(server[1].requests) == 3


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r: r["prompt_token_ids"].pop(), "reads the prompt as"),
        (lambda r: choice(r).update(token_ids=choice(r)["token_ids"][:2], finish_reason="length"), "--max-model-len"),
        (lambda r: choice(r).update(latents=None, latents_error="they are\x00 lost"), "no latents: they are"),
    ],
)
def test_a_prompt_that_the_server_cannot_answer_is_refused_for_good(
    server: tuple[LatentServer, Served], ask: Ask, spoil: Any, reason: str
) -> None:
    server[0].spoil = spoil
    (refusal,) = ask(retries=2)
    assert not refusal.pending and reason in refusal.reason and "\x00" not in refusal.reason
    assert len(server[1].requests) == 1


# ---- servers


def test_a_server_of_another_checkpoint_is_refused_before_any_request(
    server: tuple[LatentServer, Served], sft_model: FutureL1, sft_checkpoint: Path, ask: Ask
) -> None:
    with latent_server(sft_model, sft_checkpoint) as (_, other):
        another = {CHECKPOINT_HEADER: "0" * 16}
        for headers, reason in ((another, "another checkpoint .hash 0000"), ({}, "without our plug-in")):
            other.models = [200, other.models[1], headers]
            with pytest.raises(EndpointRefusesError, match=reason):
                ask(server[1].url, other.url)
        renamed = json.dumps({"data": [{"id": "another name"}]}).encode()
        other.models = [200, renamed, server[0].headers]
        with pytest.raises(EndpointRefusesError, match="--served-model-name"):
            ask(server[1].url, other.url)
        other.models = b"[]"
        assert not other.requests and not server[1].requests
    with pytest.raises(EndpointDownError, match="does it run"):
        ask(closed_url())
    assert len(ask(closed_url(), server[1].url, retries=2)) == 1, "one of two that is down is no obstacle"
    assert server[1].requests[0]["model"] == "served"


def test_a_server_that_is_exchanged_in_the_middle_ends_the_work_and_keeps_what_was_right(
    server: tuple[LatentServer, Served], job: Jobs, tmp_path: Path
) -> None:
    latent, http = server
    ledger = tmp_path / "ledger.jsonl"
    plain = job(max_new_tokens=24, keep_latents=True, ledger=ledger, endpoint=settings(http.url, concurrency=1))

    def exchange(reply: Reply) -> None:
        if len(http.requests) == 4:
            latent.hash = "another"

    latent.spoil = exchange
    with pytest.raises(EndpointRefusesError, match="another checkpoint"):
        run(tmp_path / "out", plain)
    assert len(lines(ledger)) == 3
    latent.hash = model_digest(plain.checkpoint)
    theirs, _ = answers(tmp_path / "out", plain)
    assert len(http.requests) == 4 + 3, "three answers were right, and not generated again"
    ours, _ = answers(tmp_path / "local", job(max_new_tokens=24, keep_latents=True))
    assert theirs.select(COLUMNS).equals(ours.select(COLUMNS))


def test_a_server_that_dies_in_the_middle_loses_no_answer(
    sft_model: FutureL1, sft_checkpoint: Path, job: Jobs, tmp_path: Path
) -> None:
    def dies(number: int, request: Reply) -> tuple[int, bytes] | None:
        return (503, b"") if 2 <= number < 8 else None

    with latent_server(sft_model, sft_checkpoint, dies) as (_, http):
        plain = job(max_new_tokens=24, endpoint=settings(http.url, concurrency=1, retries=0))
        with pytest.raises(EndpointDownError, match="start again when it is back"):
            run(tmp_path / "out", plain)
        held = len(lines(tmp_path / "out" / "answers.ledger.jsonl"))
        assert held == 2
        http.script = lambda number, request: LatentServer(sft_model, model_digest(sft_checkpoint)).respond(0, request)
        before = len(http.requests)
        theirs, refused = answers(tmp_path / "out", plain)
        assert len(http.requests) - before == 6 - held and theirs.height == 6 and not refused.height


def test_other_items_latents_wait_for_all_answers_of_their_batch(
    server: tuple[LatentServer, Served], job: Jobs, tmp_path: Path
) -> None:
    """A donor that is missing would be another one, and the answer that of no reproducible experiment."""
    failing: list[int] = []

    def one_fails(reply: Reply) -> None:
        failing.append(len(reply["prompt_token_ids"]))
        if len(failing) % 6 == 1 or len(failing) > 6:
            choice(reply).pop("token_ids")

    server[0].spoil = one_fails
    fields = {"intervention": "other_item", "max_new_tokens": 8}
    theirs, refused = answers(tmp_path, job(**fields, endpoint=settings(server[1].url, retries=0)))
    assert not theirs.height and refused.height == 6 and refused["pending"].all()
    assert set(refused["reason"]) == {"some answers of its batch are missing, among which its donor may be"}


def test_what_no_server_can_do_is_refused_before_anything_runs(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "LOCAL_INTERVENTIONS", ("zeros",))
    with pytest.raises(ValueError, match="'zeros' needs a model that is loaded here: a server can do none, noise"):
        job(intervention="zeros", endpoint=settings(closed_url()))
    with pytest.raises(ValueError, match="need its folder, too"):
        job(checkpoint=None, endpoint=settings(closed_url()))
