"""Rollouts are graded beside decoding, and an outage of the judge is waited for."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.served import served
from tests.training.rl.made import made
from training.chat.endpoint import EndpointDownError
from training.grading.judge import Judge, JudgeItem, JudgeSettings
from training.rl import grading
from training.rl.grading import RolloutGrader
from training.rl.rollouts import Rollout

OPEN = "frame_1\n<image>\nWhich colour?"


def rollout(text: str) -> Rollout:
    return made([1], row={"question": OPEN, "answer": "red"}, text=text)


def settings(url: str) -> JudgeSettings:
    return JudgeSettings(base_url=url, model="judge", retries=0, timeout=5.0)


def test_started_rollouts_are_graded_once() -> None:
    with served(lambda request, choice: '{"verdict": "correct"}') as server:
        grader = RolloutGrader("option_text", Judge(settings(server.url), on_outage="raise"), print)
        first, second = [rollout("<answer>crimson</answer>")], [rollout("<answer>scarlet</answer>")]
        grader.start(first)
        assert grader.accuracy([*first, *second]) == [1.0, 1.0]
        assert len(server.requests) == 2
        assert grader.accuracy(first) == [1.0]
        assert len(server.requests) == 2, "the judge knows its replies"


def test_rollouts_that_wait_for_the_judge_are_graded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt's after the other's would be as many rounds of the judge."""
    rounds: list[int] = []
    begun, released = threading.Event(), threading.Event()

    def slow(_judge: Judge, triples: Any) -> list[str]:
        rounds.append(len(triples))
        begun.set()
        assert released.wait(60)
        return ["correct"] * len(triples)

    monkeypatch.setattr(Judge, "verdicts", slow)
    grader = RolloutGrader("option_text", Judge(settings("http://127.0.0.1:9/v1"), on_outage="raise"), print)
    rollouts = [rollout(f"<answer>{colour}</answer>") for colour in ("crimson", "scarlet", "ruby", "brick")]
    grader.start(rollouts[:1])
    assert begun.wait(60)
    for each in rollouts[1:]:
        grader.start([each])
    released.set()
    assert grader.accuracy(rollouts) == [1.0] * 4
    assert rounds == [1, 3]


@pytest.mark.parametrize("started", [True, False])
def test_an_outage_is_waited_for_and_poisons_nothing(monkeypatch: pytest.MonkeyPatch, started: bool) -> None:
    logged: list[str] = []
    waited: list[float] = []
    answers = iter([EndpointDownError("the judge is gone"), EndpointDownError("still"), None])

    def failing(judge: Judge, triples: Any) -> list[str]:
        if error := next(answers):
            raise error
        return ["incorrect"] * len(triples)

    monkeypatch.setattr(Judge, "verdicts", failing)
    monkeypatch.setattr(grading.time, "sleep", waited.append)
    grader = RolloutGrader("option_text", Judge(settings("http://127.0.0.1:9/v1"), on_outage="raise"), logged.append)
    both = [rollout("<answer>crimson</answer>"), rollout("<answer>red</answer>")]
    if started:
        grader.start(both)
    assert grader.accuracy(both) == [0.0, 1.0]
    assert waited == [10.0, 30.0]
    assert logged[0] == "the judge is gone; training waits 10 s and tries again"


def test_one_thread_alone_uses_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an outage, when other batches that were started are still being graded."""
    threads: list[int] = []

    def verdicts(judge: Judge, triples: Sequence[JudgeItem]) -> list[str]:
        threads.append(threading.get_ident())
        if len(threads) == 1:
            raise EndpointDownError("the judge is gone")
        return ["incorrect"] * len(triples)

    monkeypatch.setattr(Judge, "verdicts", verdicts)
    monkeypatch.setattr(grading.time, "sleep", lambda _: None)
    grader = RolloutGrader("option_text", Judge(settings("http://127.0.0.1:9/v1"), on_outage="raise"), print)
    first, second, third = ([rollout(f"<answer>{colour}</answer>")] for colour in ("crimson", "scarlet", "pink"))
    grader.start(first)
    grader.start(second)
    assert grader.accuracy([*first, *second, *third]) == [0.0, 0.0, 0.0]
    assert len(threads) > 1 and len(set(threads)) == 1


def test_a_repetitive_answer_is_paid_less_than_a_wrong_one() -> None:
    grader = RolloutGrader("option_text", None, print)
    chant = rollout("<reason>" + "it rolls on and " * 30 + "</reason><answer>red</answer>")
    assert grader.accuracy([chant, rollout("<answer>red</answer>")]) == [-1.0, 1.0]
