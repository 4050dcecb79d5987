"""What a plan that ends early says: the first cause, and of a check what it found."""

import dagster as dg

from pipelines.driver import _cause, _said


def ran(result: dg.AssetCheckResult, fault: str | None = None) -> tuple[dg.ExecuteInProcessResult, list[str], str]:
    """A run of one asset with a blocking check; what its failed checks say, and its cause."""

    @dg.asset
    def items() -> None:
        if fault:
            raise dg.Failure(fault, allow_retries=False)

    @dg.asset_check(asset=items, blocking=True, description="Nearly every item can be asked.")
    def items_can_be_asked() -> dg.AssetCheckResult:
        return result

    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([items, items_can_be_asked], instance=instance, raise_on_error=False)
        failed = [evaluation for evaluation in done.get_asset_check_evaluations() if not evaluation.passed]
        return done, [_said(evaluation) for evaluation in failed], _cause(done, failed)


def test_a_check_that_stops_the_plan_says_what_it_found() -> None:
    sentence = "3 of 4 items cannot be asked (3 x missing clip). Each has its problem in /home/items.parquet"
    done, said, cause = ran(dg.AssetCheckResult(passed=False, description=sentence))
    assert not done.success
    assert said == [f"check items_can_be_asked of items: {sentence}"]
    assert cause == said[0]


def test_a_check_that_only_warns_is_no_cause() -> None:
    done, said, cause = ran(dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="few"))
    assert done.success
    assert (said, cause) == (["check items_can_be_asked of items: few"], "no step says why")


def test_a_step_that_fails_says_its_own_cause() -> None:
    _, said, cause = ran(dg.AssetCheckResult(passed=True), fault="the benchmark is not at /nowhere")
    assert (said, cause) == ([], "the benchmark is not at /nowhere")
