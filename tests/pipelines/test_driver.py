"""What a plan says of its checks, and the error of one that ends early: that of the first failed step, or the message
of the check that blocked it."""

from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from pipelines import driver
from pipelines.driver import _cause, _message, run_plan
from pipelines.jobs import plan
from pipelines.profile import demo


def ran(result: dg.AssetCheckResult, fault: str | None = None) -> tuple[dg.ExecuteInProcessResult, list[str], str]:
    """A run of one asset with a blocking check; the messages of its failed checks, and its cause."""

    @dg.asset
    def items() -> None:
        if fault:
            raise dg.Failure(fault, allow_retries=False)

    @dg.asset_check(asset=items, blocking=True, description="Nearly every item is usable.")
    def items_are_usable() -> dg.AssetCheckResult:
        return result

    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([items, items_are_usable], instance=instance, raise_on_error=False)
        failed = [evaluation for evaluation in done.get_asset_check_evaluations() if not evaluation.passed]
        return done, [_message(evaluation) for evaluation in failed], _cause(done, failed)


def test_a_check_that_blocks_the_plan_is_its_cause() -> None:
    sentence = "3 of 4 items are unusable (3 x missing clip). Each has its problem in /home/items.parquet"
    done, messages, cause = ran(dg.AssetCheckResult(passed=False, description=sentence))
    assert not done.success
    assert messages == [f"check items_are_usable of items: {sentence}"]
    assert cause == messages[0]


def test_a_check_that_only_warns_is_no_cause() -> None:
    warning = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="few")
    done, messages, cause = ran(warning)
    assert done.success
    assert (messages, cause) == (["check items_are_usable of items: few"], "no step failed with an error")


def test_a_failed_step_is_its_own_cause() -> None:
    _, messages, cause = ran(dg.AssetCheckResult(passed=True), fault="the benchmark is not at /nowhere")
    assert (messages, cause) == ([], "the benchmark is not at /nowhere")


def test_what_a_check_says_after_several_steps_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of all RL recipes is executed with each step that trains one."""
    outcomes = iter([["check b of rl: few"], ["check b of rl: few", "check a of rl: many"], ["check b of rl: few"]])
    monkeypatch.setattr(driver, "_run", lambda *_: next(outcomes))
    profile = demo(tmp_path)
    assert run_plan(profile, plan(profile)[:3], Console(quiet=True)) == ["check b of rl: few", "check a of rl: many"]
