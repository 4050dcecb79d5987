"""`future-l1 predict`: a batch of prompts is answered as each alone is, and spans and answer are printed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.generation.segments import Segment, segments
from evaluation.reports.prediction import predict, with_latent_config
from tests.invoke import invoke
from training.grading.parsers import answer_text
from training.model.checkpoint import FutureL1
from training.model.modes import Spans

CLIP = Path(__file__).parents[2] / "data" / "parity" / "clip.mp4"
RELEASE = CLIP.parent / "checkpoint"


run = partial(invoke, "predict")


@pytest.fixture(scope="module")
def prompts(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of several depths, a question without frames, and two that cannot be rendered."""
    plain = {"id": "plain", "video": rows[3]["path"], "frames": [1], "question": rows[3]["question"].split("\n", 2)[2]}
    values = [*rows[:3], {"question": "Which colour?"}, {"id": "no clip", **plain, "video": "gone.mp4"}, plain, 3]
    path = tmp_path_factory.mktemp("prompts") / "prompts.json"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def answered(prompts: Path, sft_checkpoint: Path) -> dict[str, Any]:
    out = prompts.with_name("out.json")
    result = run("--checkpoint", sft_checkpoint, "--prompts", prompts, "--max-new-tokens", 60, "--out", out)
    assert result.exit_code == 0, result.output
    assert "prompt 6" in result.stderr
    return json.loads(out.read_text())


# ---- a batch


def test_a_batch_is_answered_as_each_prompt_alone(answered: dict[str, Any], prompts: Path, sft_model: FutureL1) -> None:
    alone = [predict(sft_model, [value], prompts.parent, 60)["prompts"][0] for value in json.loads(prompts.read_text())]
    for together, single in zip(answered["prompts"], alone, strict=True):
        assert {**together, "latents": 0, "prompt": 0, "error": 0} == {**single, "latents": 0, "prompt": 0, "error": 0}
        torch.testing.assert_close(torch.tensor(together.get("latents", 0)), torch.tensor(single.get("latents", 0)))
    assert sum(len(entry.get("spans", [])) for entry in alone) > 2, "spans must occur for this to mean anything"
    assert len({tuple(entry.get("ids", [])) for entry in alone}) > 3


def test_spans_and_latents_are_those_of_the_ids(answered: dict[str, Any], sft_model: FutureL1) -> None:
    t = sft_model.tokens
    for entry in (entry for entry in answered["prompts"] if "error" not in entry):
        inside = [p for first, last in entry["spans"] for p in range(first, last + 1)]
        assert inside == [p for p, token in enumerate(entry["ids"]) if token == t.latent]
        assert len(entry["latents"]) == len(inside) == sum(entry["latents_per_span"])
        assert all(len(vector) == sft_model.model.config.text_config.hidden_size for vector in entry["latents"])
        assert all(entry["ids"][first - 1] == t.latent_start for first, _ in entry["spans"])
        assert t.pad not in entry["ids"]
        assert entry["finished"] == (entry["ids"][-1] == t.end_of_turn)


def test_a_record_that_cannot_be_rendered_has_an_error_and_the_others_an_answer(answered: dict[str, Any]) -> None:
    entries = answered["prompts"]
    assert [entry["prompt"] for entry in entries][3:] == [3, "plain", "plain", 6]
    assert ["error" in entry for entry in entries] == [False, False, False, False, True, False, True]
    assert "there is no clip" in entries[4]["error"]


def test_a_plain_question_is_the_records_prompt(rows: list[dict[str, Any]], prompts: Path, sft_model: FutureL1) -> None:
    whole = predict(sft_model, rows[3:4], prompts.parent, 12)["prompts"][0]
    plain = predict(sft_model, json.loads(prompts.read_text())[5:6], prompts.parent, 12)["prompts"][0]
    assert plain["ids"] == whole["ids"]


# ---- the cap


@pytest.mark.parametrize(
    ("latents", "release_cap", "cap", "origin"),
    [(3, False, 3, "L_max"), (3, True, 6, "2 x L_max, the release's"), (None, False, 0, "a base model")],
)
def test_a_bases_spans_end_at_the_requested_cap(
    base: FutureL1, latents: int | None, release_cap: bool, cap: int, origin: str
) -> None:
    bundle = with_latent_config(base, latents, "Look.", release_cap)
    prediction = predict(bundle, [{"question": "Q"}], Path(), 3)
    assert (prediction["cap"], bundle.spans.latents, bundle.spans.end) == (cap, cap, "model")
    assert prediction["cap_origin"].startswith(origin)


def test_there_is_no_cap_to_double_in_an_untaught_base(base: FutureL1) -> None:
    with pytest.raises(ValueError, match="say how many latents"):
        with_latent_config(base, None, None, True)


def test_a_trained_checkpoint_keeps_its_own_cap_and_prompt(sft_model: FutureL1) -> None:
    assert with_latent_config(sft_model, None, None, False) == sft_model
    doubled = with_latent_config(sft_model, None, None, True)
    assert doubled.spans == Spans(8, "fixed")


@contextmanager
def scripted(bundle: FutureL1, picks: list[int]) -> Iterator[None]:
    """The model picks these tokens, whatever it is asked."""
    script = iter(picks)

    def favour(_module: Any, _args: Any, logits: torch.Tensor) -> None:
        logits[..., next(script)] = 1e4

    hook = bundle.model.lm_head.register_forward_hook(favour)
    try:
        yield
    finally:
        hook.remove()


def test_a_span_that_does_not_want_to_end_is_ended_at_the_cap(base: FutureL1) -> None:
    bundle, t = with_latent_config(base, 3, None, True), base.tokens
    with scripted(bundle, [t.latent_start] * 10):
        [entry] = predict(bundle, [{"question": "Q"}], Path(), 10)["prompts"]
    assert entry["ids"] == [t.latent_start, *[t.latent] * 6, t.latent_end, t.latent_start, t.latent]
    assert (entry["spans"], entry["latents_per_span"], entry["finished"]) == ([[1, 6], [9, 9]], [6, 1], False)
    assert len(entry["latents"]) == 7


def test_an_empty_span_is_printed_as_one_that_ends_before_it_begins(base: FutureL1) -> None:
    bundle, t = with_latent_config(base, 3, None, False), base.tokens
    picks = [t.latent_start, t.latent_end, t.latent_start, t.end_of_turn, t.latent, t.latent_end, t.end_of_turn, 0, 0]
    with scripted(bundle, picks):
        [entry] = predict(bundle, [{"question": "Q"}], Path(), 9)["prompts"]
    assert entry["ids"] == [*picks[:3], t.latent, t.latent, t.latent_end, t.end_of_turn]
    assert (entry["spans"], entry["latents_per_span"], entry["finished"]) == ([[1, 0], [3, 4]], [0, 2], True)
    assert entry["text"].endswith("<|latent|><|latent_end|>")


# ---- for people


def test_reasoning_spans_and_answer_are_printed(
    rows: list[dict[str, Any]], sft_checkpoint: Path, sft_model: FutureL1
) -> None:
    row = rows[2]
    question = row["question"].split("\n", 2)[2]
    options = ("--checkpoint", sft_checkpoint, "--video", row["path"], "--frames", "1", "--question", question)
    prediction = json.loads(run(*options, "--json").stdout)
    expected = predict(sft_model, [row], Path(), 1024)["prompts"][0]
    assert prediction["ids"] == expected["ids"]
    assert prediction["answer"] == answer_text(prediction["text"])
    result = run(*options)
    assert result.exit_code == 0, result.output
    answer = segments(prediction["text"])
    assert {segment.kind for segment in answer} >= {"reason", "span", "answer"}
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    labels = [[segment.kind, *(segment.text.split() or [str(segment.latents), "latents"])] for segment in answer]
    assert lines == labels


def test_an_answer_is_printed_in_segments_whatever_it_looks_like() -> None:
    span = "<|latent_start|><|latent|><|latent|><|latent_end|>"
    assert segments(f"<reason>It [bold]rolls</reason>\n{span}\nhm <answer> red </answer>") == [
        Segment("reason", "It [bold]rolls"),
        Segment("span", latents=2),
        Segment("text", "hm"),
        Segment("answer", "red"),
    ]
    assert segments("<|latent_start|><|latent_end|>") == [Segment("span", latents=0)]
    assert segments("<reason>cut<|latent_start|><|latent|>") == [
        Segment("text", "<reason>cut"),
        Segment("span", latents=1),
    ]
    assert segments(f"<reason>It {span} rolls</reason><answer>{span}</answer><answer></answer>") == [
        Segment("reason", "It"),
        Segment("span", latents=2),
        Segment("reason", "rolls"),
        Segment("span", latents=2),
        Segment("answer", ""),
    ]
    assert segments("") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--question", "Q"], "give --checkpoint"),
        (["--checkpoint", RELEASE], "give --question"),
        (["--checkpoint", RELEASE, "--question", "Q", "--prompts", CLIP, "--out", "x.json"], "give --question"),
        (["--checkpoint", RELEASE, "--prompts", CLIP], "--prompts and --out"),
        (["--checkpoint", RELEASE, "--question", "Q", "--video", CLIP], "go together"),
        (["--checkpoint", RELEASE, "--question", "Q", "--video", CLIP, "--frames", "one"], "as 1,3; found 'one'"),
        (["--checkpoint", RELEASE, "--question", "Q", "--video", CLIP, "--frames", "9"], "frames holds 9"),
        (["--checkpoint", RELEASE, "--question", "<answer>"], "carries the control string <answer>"),
        (["--checkpoint", RELEASE, "--question", "Q", "--release-cap"], "say how many latents"),
        (["--checkpoint", RELEASE, "--question", "Q", "--video", RELEASE / "vocab.json", "--frames", 1], "as a video"),
        (["--checkpoint", RELEASE, "--prompts", CLIP, "--out", "x.json"], "no list of records"),
        (["--checkpoint", RELEASE, "--question", "Q", "--max-new-tokens", 0], "is not in the range"),
    ],
)
def test_wrong_options_say_what_to_do(options: list[Any], message: str) -> None:
    result = run(*options)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert message in " ".join(result.stderr.split())
