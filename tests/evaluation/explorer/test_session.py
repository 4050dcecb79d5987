"""Answers, their edits and what is reported of them."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.explorer.events import StoppedError
from evaluation.explorer.plans import Plan
from evaluation.explorer.probabilities import joints, option_probabilities
from evaluation.explorer.session import Session
from evaluation.explorer.state import State, read_edits
from evaluation.generation.segments import segments
from evaluation.reports.prediction import predict, with_latent_config
from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.sampling import Sampling, banned

Show = Callable[..., dict[str, Any]]


def texts(report: dict[str, Any]) -> list[str]:
    """The blocks as text, a span as its number of latents."""
    return [str(b["latents"]) if b["number"] else "".join(text for text, _ in b["pieces"]) for b in report["blocks"]]


def test_the_answer_is_that_of_the_decoder_and_grows_block_by_block(session: Session, item: str, show: Show) -> None:
    session._runs.clear()
    session._reports.clear()
    events = show()
    report, example = events["report"]["report"], session.example(item)
    prompt = session._prompt(example, grey=False)
    decoded = decode(session.bundle.model, session.vision, session.bundle.tokens, [prompt], Sampling(80),
                     session.bundle.spans, [[0]])  # fmt: skip
    (completion,) = decoded.completions(session.bundle.tokens)
    parts = segments(completion.decoded_text(session.bundle.tokens, session.bundle.processor.tokenizer))
    assert texts(report) == [str(p.latents) if p.kind == "span" else p.text for p in parts]
    grown: list[Any] = []
    for event in events["all"]:
        grown[event["from"] :] = event["blocks"]
    assert texts({"blocks": grown}) == texts(report) and len(events["all"]) >= len(completion.ids) - 1
    assert events["span"]["number"] == max(report["spans"]) and events["span"]["nearest"]
    assert "before" not in events


def test_an_item_shows_its_frames_its_options_and_what_is_right(show: Show) -> None:
    item = show()["item"]
    assert len(item["frames"]) == 1 and item["frames"][0].startswith("data:image/png;base64,")
    assert [option["letter"] for option in item["options"]] == list("ABCD")
    assert item["right"] in "ABCD" and item["future_frames"] >= 1 and item["opens_spans"]


def test_titles_are_questions_without_the_places_of_frames(session: Session) -> None:
    titles = session.groups["twiffbench"].titles
    assert all(re.match(r"\d{5}: [A-Z][a-z ]+ (?:to|at) step [123]", title) for title in titles.values())


def test_a_span_shows_different_real_frames_nearest_first(show: Show) -> None:
    nearest = show()["report"]["report"]["spans"][1]["nearest"]
    distances = [frame["distance"] for frame in nearest]
    assert len(nearest) == 3 and distances == sorted(distances) and len({frame["image"] for frame in nearest}) == 3


def test_the_true_future_is_nearest_to_itself(show: Show) -> None:
    (first, *_) = show("future.1")["report"]["report"]["spans"][1]["nearest"]
    assert (first["label"], first["unobserved"]) == ("true future frame 1", True)
    assert first["distance"] == pytest.approx(0, abs=1e-6)


def test_latents_that_are_no_numbers_are_a_sentence(session: Session, item: str) -> None:
    imagery = session._imagery.of(session.example(item))
    latents = session._runs[State(item)].decoded.latents[:4].numpy().copy()
    latents[1, 3] = math.nan
    with pytest.raises(ValueError, match="not finite numbers, so there is nothing to show"):
        imagery.of_span(latents)


@pytest.mark.parametrize("kind", ["zeros", "noise", "other_item", "future"])
def test_a_replaced_span_keeps_what_is_before_it_and_holds_the_replacement(
    session: Session, item: str, show: Show, kind: str
) -> None:
    before, after = texts(show()["report"]["report"]), texts(show(f"{kind}.1")["report"]["report"])
    place = before.index("4")
    assert after[: place + 1] == before[: place + 1]
    plain = session._runs[State(item)].decoded.latents[:4]
    fed = session._runs[State(item, read_edits(f"{kind}.1"))].decoded.latents[:4]
    assert not torch.allclose(plain, fed)
    if kind == "zeros":
        assert not fed.any()
    if kind == "noise":
        torch.testing.assert_close(fed[0].norm(), plain[0].norm())


def test_a_span_that_is_emptied_closes_at_once_and_forbidden_ones_do_not_open(show: Show) -> None:
    before = texts(show()["report"]["report"])
    place = before.index("4")
    assert texts(show("cut.1")["report"]["report"])[: place + 1] == [*before[:place], "0"]
    assert "4" not in texts(show("forbid.1")["report"]["report"])
    assert before[:place] == texts(show("forbid.1")["report"]["report"])[:place]


def test_a_span_is_added_before_the_answer(show: Show) -> None:
    before, after = texts(show()["report"]["report"]), texts(show("add")["report"]["report"])
    place = before.index("4")
    assert after.count("4") == before.count("4") + 1 and after[: place + 1] == before[: place + 1]


def test_frames_hidden_after_a_span_are_hidden_in_what_follows_and_in_the_replays(show: Show) -> None:
    plain, hidden = show()["report"]["report"], show("hide.1")["report"]["report"]
    place = texts(plain).index("4")
    assert texts(hidden)[: place + 1] == texts(plain)[: place + 1]
    assert plain["attention"]["frames"] > 0 and hidden["attention"]["frames"] == 0
    first, last = plain["probabilities"], hidden["probabilities"]
    assert first[0]["values"] == pytest.approx(last[0]["values"], abs=1e-5), "before the span everything is as it was"
    assert first[-1]["values"] != pytest.approx(last[-1]["values"], abs=1e-5)


def test_the_answers_attention_is_shared_by_spans_frames_and_text(show: Show) -> None:
    report = show()["report"]["report"]
    paid = report["attention"]
    assert set(paid["spans"]) == set(report["spans"]) and all(share > 0 for share in paid["spans"].values())
    assert sum(paid["spans"].values()) + paid["frames"] + paid["text"] == pytest.approx(1, abs=1e-3)


def test_edits_follow_each_other_and_both_answers_are_reported_and_marked(show: Show) -> None:
    both = show("zeros.1,add")
    assert texts(both["before"]["report"]) == texts(show("zeros.1")["report"]["report"])
    added = both["changes"]["changes"][-1]
    assert re.fullmatch(r"span \d+: one more span before the answer", added)
    assert both["changes"]["changes"] == ["span 1: zeros in its place", added] == both["report"]["report"]["changes"]
    assert any(block["differs"] for block in both["report"]["report"]["blocks"])
    assert both["before"]["report"]["marks"] == {1: "zeros in its place"}


@pytest.mark.parametrize(
    ("edits", "in_force"),
    [
        ("zeros.1,noise.1", ["noise.1"]),
        ("hide.1,zeros.1,cut.1", ["hide.1", "cut.1"]),
        ("zeros.1,hide.1,noise.1", ["hide.1", "noise.1"]),
        ("zeros.1,hide.1,forbid.1", ["forbid.1"]),
        ("zeros.1,add,hide.LAST,zeros.1", ["zeros.1"]),
        ("zeros.1,hide.1,add,hide.LAST", ["zeros.1", "add.LAST", "hide.LAST"]),
        ("add,zeros.LAST,noise.LAST", ["add.LAST", "noise.LAST"]),
        ("zeros.1,no_frames,add", ["no_frames", "add.LAST"]),
    ],
)
def test_the_changes_are_those_that_no_later_one_took_back(
    session: Session, item: str, show: Show, edits: str, in_force: list[str]
) -> None:
    number = 1 + len(show("no_frames" if "no_frames" in edits else "add")["report"]["report"]["spans"])
    last = str(number if "no_frames" in edits else number - 1)
    changed = show(edits.replace("LAST", last))
    plan = session._runs[State(item, read_edits(edits.replace("LAST", last)))].plan
    assert list(map(str, plan.edits)) == [edit.replace("LAST", last) for edit in in_force]
    assert changed["changes"]["changes"] == [edit.label for edit in plan.edits]
    assert plan.hidden_after in (None, *(edit.span - 1 for edit in plan.edits if edit.kind == "hide"))
    assert set(plan.replaced) <= {edit.span - 1 for edit in plan.edits}


def test_grey_frames_change_the_prompt_and_nothing_else(session: Session, item: str, show: Show) -> None:
    assert show("no_frames")["changes"]["changes"] == ["grey pictures for the frames"]
    plain, grey = (session._prompt(session.example(item), grey) for grey in (False, True))
    assert plain.ids == grey.ids and plain.observed[0].key != grey.observed[0].key


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("zeros.9", "and no span 9"),
        ("future.9", "and no span 9"),
        ("forbid.1,cut.1", "0 spans, and no span 1"),
        ("cut.1,zeros.1", "span 1 is empty"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(show: Show, state: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        show(state)


@pytest.mark.parametrize("later", ["add", "add,hide.2", "add,forbid.2", "add,zeros.2"])
def test_a_change_of_a_span_takes_back_those_of_later_spans(
    session: Session, item: str, show: Show, later: str
) -> None:
    def plan(edits: str) -> Plan:
        show(edits)
        return session._runs[State(item, read_edits(edits))].plan

    after, alone = plan(f"{later},zeros.1"), plan("zeros.1")
    assert (after.script, after.may_open, after.masking()) == (alone.script, None, None)
    assert set(after.replaced) == set(alone.replaced) == {0}


def test_a_change_of_a_span_leaves_those_of_earlier_ones(session: Session, item: str, show: Show) -> None:
    last = max(show("hide.1,zeros.1,add")["report"]["report"]["spans"])
    edits = f"hide.1,zeros.1,add,zeros.{last}"
    show(edits)
    plan = session._runs[State(item, read_edits(edits))].plan
    assert set(plan.replaced) == {0, last - 1} and plan.hidden_after == 0 and plan.may_open is False


def test_unknown_items_are_a_sentence(session: Session) -> None:
    for key in ("twiffbench/none", "clip/0123", "none/1", "x"):
        with pytest.raises(ValueError, match=r"item|clip"):
            session.example(key)


def test_probabilities_are_the_decoders(session: Session, item: str, show: Show) -> None:
    """What a parallel replay gives an option is what the decoder gives the same tokens one by one."""
    show()
    run, example = session._runs[State(item)], session.example(item)
    prompt = session._prompt(example, grey=False)
    bundle, tokenizer = session.bundle, session.bundle.processor.tokenizer
    (completion,) = run.decoded.completions(bundle.tokens)
    places = joints(completion.ids, tokenizer)
    assert places[0].tokens == 0 and places[-1].spans == len(bundle.tokens.span_sizes(completion.ids))
    values = option_probabilities(bundle, session.vision, prompt, completion, places, example.options)
    assert all(0 <= sum(of_place.values()) <= 1 + 1e-4 for of_place in values)
    letter, option = next(iter(example.options.items()))
    opening = tokenizer("<answer>", add_special_tokens=False)["input_ids"]
    for place in (places[0], places[-1]):
        total = 0.0
        for form in (letter, option):
            ids = tokenizer(f"<answer>{form}</answer>", add_special_tokens=False)["input_ids"]
            assert ids[: len(opening)] == opening
            script = [*completion.ids[: place.tokens], *ids]
            total += math.exp(_log_prob(session, prompt, script, len(ids) - len(opening)))
        assert values[places.index(place)][letter] == pytest.approx(total, rel=1e-3, abs=1e-6)


def _log_prob(session: Session, prompt: Any, script: list[int], count: int) -> float:
    """The decoder's log-probability of the last `count` tokens of a script."""
    logits: list[torch.Tensor] = []
    hook = session.bundle.model.lm_head.register_forward_hook(lambda _module, _args, out: logits.append(out[0]))
    try:
        decode(session.bundle.model, session.vision, session.bundle.tokens, [prompt], Sampling(len(script)),
               session.bundle.spans, [[0]], scripts=[script])  # fmt: skip
    finally:
        hook.remove()
    outside = torch.zeros(count, dtype=torch.bool)
    allowed = banned(torch.stack(logits[len(script) - count : len(script)]), session.bundle.tokens, outside)
    return float(allowed.log_softmax(-1).gather(-1, torch.tensor(script[-count:]).unsqueeze(-1)).sum())


def test_a_listener_that_has_gone_stops_the_decoding(session: Session, item: str) -> None:
    session._runs.clear()
    session._reports.clear()
    events: list[dict[str, Any]] = []

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        if len(events) > 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        session.show(State(item), emit)
    assert len(events) == 5 and State(item) not in session._runs


@pytest.mark.parametrize("edits", ["cut.1", "other_item.1"])
def test_a_listener_that_has_gone_stops_the_answers_that_are_needed_first(
    session: Session, item: str, edits: str
) -> None:
    session._runs.clear()
    session._reports.clear()
    needed = State(item)
    if edits == "other_item.1":
        session.show(needed, lambda event: None)
        needed = State(next(session.groups["twiffbench"].after(item)).key)

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "earlier":
            raise StoppedError

    with pytest.raises(StoppedError):
        session.show(State(item, read_edits(edits)), emit)
    assert needed not in session._runs


def test_a_clip_of_ones_own_is_answered_as_predict_does(
    session: Session, rows: list[dict[str, Any]], sft_model: FutureL1
) -> None:
    row = rows[2]
    question = row["question"].split("<image>\n")[1]
    example = session.uploads.add(Path(row["path"]).read_bytes(), "my <b>clip</b>.mp4", "1", question)
    events: list[dict[str, Any]] = []
    session.show(State(example.key), events.append)
    prompt = {"video": row["path"], "frames": [1], "question": question}
    [answer] = predict(with_latent_config(sft_model, None, None, False), [prompt], Path(), 80)["prompts"]
    expected = [str(s.latents) if s.kind == "span" else s.text for s in segments(answer["text"])]
    assert texts(events[-1]["report"]) == expected
    assert events[0]["future_frames"] == 7
