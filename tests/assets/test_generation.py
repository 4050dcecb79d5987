"""Prompts without an answer are sent again, and answered prompts never."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from assets.framework.store import AssetStore, Work
from assets.generation import _shares, answers_pool, engine_of, next_work
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import AnswerJob
from training.chat.endpoint import ServerSettings
from training.storage.artifacts import Artifact


class Answers:
    """Versions of one artifact of answers."""

    def __init__(self, home: Path) -> None:
        self._store = AssetStore(home)

    def work(self, more: Mapping[str, Artifact | str]) -> Work:
        return self._store.work("curation/gain_answers", {"model": "m", **more}, {}, "code", "shard")

    def publish(self, refused: int, pending: int, retry_refused: bool = False) -> str:
        work = next_work(self.work, {}, retry_refused)
        assert work.published() is None
        return work.do(lambda _: {"refused": refused, "pending": pending}).version

    def next(self, retry_refused: bool = False) -> str | None:
        """The version that is made next, None where nothing is to be asked."""
        work = next_work(self.work, {}, retry_refused)
        return work.version if work.published() is None else None

    @property
    def current(self) -> str:
        return next_work(self.work, {}).version


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


def test_a_program_has_jobs_of_one_engine_and_the_same_servers(tmp_path: Path) -> None:
    first, second = (ServerSettings(base_urls=(f"http://127.0.0.1:{port}/v1",)) for port in (1, 2))
    generation = GenerationConfig(max_new_tokens=1, batch_size=1, image_tokens=(1, 4))

    def job(name: str, endpoint: ServerSettings | None) -> AnswerJob:
        return AnswerJob(
            name=name, checkpoint=tmp_path / name[0], prompts=tmp_path, generation=generation, endpoint=endpoint
        )

    jobs = [job("b1", first), job("a1", None), job("c1", second), job("b2", first), job("a2", None), job("d1", None)]
    shares = [([one.name for one in share], served) for share, served in _shares(jobs, parallel=2)]
    assert shares == [(["b1", "b2"], True), (["c1"], True), (["a1", "a2"], False), (["d1"], False)]
    assert [served for _, served in _shares(jobs[:1], parallel=2)] == [True]
    assert answers_pool(["b", "c"], {"b": first, "c": second}) == "endpoint"
    assert answers_pool(["a", "b"], {"b": first}) == "gpu"
    assert engine_of("a", {"b": first}) == {}, "a version that no server has a part in stays what it was"
