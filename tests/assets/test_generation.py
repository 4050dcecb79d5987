"""Prompts without an answer are sent again, and answered prompts never."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from assets.framework.store import AssetStore, Work
from assets.generation import next_work


class Answers:
    """Versions of one artifact of answers."""

    def __init__(self, home: Path) -> None:
        self._store = AssetStore(home)

    def work(self, more: Mapping[str, str]) -> Work:
        return self._store.work("curation/gain_answers", {"model": "m", **more}, {}, "code", "shard")

    def publish(self, refused: int, pending: int, retry_refused: bool = False) -> str:
        work = next_work(self.work, retry_refused)
        assert work.published() is None
        return work.do(lambda _: {"refused": refused, "pending": pending}).version

    def next(self, retry_refused: bool = False) -> str | None:
        """The version that is made next, None where nothing is to be asked."""
        work = next_work(self.work, retry_refused)
        return work.version if work.published() is None else None

    @property
    def current(self) -> str:
        return next_work(self.work, False).version


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(tmp_path)


def test_pending_prompts_are_sent_at_each_start_until_they_are_answered(answers: Answers) -> None:
    versions = [answers.publish(5, 3), answers.publish(3, 1), answers.publish(2, 0)]
    assert len(set(versions)) == 3
    assert answers.next() is None and answers.current == versions[-1]


def test_refused_prompts_are_sent_again_only_with_retry_refused(answers: Answers) -> None:
    first = answers.publish(2, 0)
    assert answers.next() is None and answers.current == first
    assert answers.next(retry_refused=True) is not None
    second = answers.publish(0, 0, retry_refused=True)
    assert answers.next() is None and answers.next(retry_refused=True) is None and answers.current == second


def test_answers_of_before_that_do_not_tell_stand(answers: Answers) -> None:
    work = answers.work({})
    work.do(lambda _: {"refused": 2})
    assert answers.next() is None and answers.current == work.version
