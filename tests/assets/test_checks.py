"""A check's result: one for all partitions, and a failure's description ends with the remedy: it may end a command."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest

from assets.framework.define import CheckOutcome, check
from assets.framework.partitions import range_tags
from assets.framework.store import AssetStore
from training.runtime.project import PROJECT


@pytest.mark.parametrize("passed", [True, False])
def test_the_remedy_ends_the_description_of_a_failure_only(passed: bool) -> None:
    @check("Nearly every item is usable.", "repair them", severity=dg.AssetCheckSeverity.WARN)
    def items_are_usable(store: AssetStore, key: str, usable: bool) -> CheckOutcome:
        return CheckOutcome(usable, "2 of 3 items are unusable", {"key": key})

    items = dg.asset(key_prefix="inputs", name="items")(lambda: None)
    run = dg.materialize([items, items_are_usable.of("inputs/items", usable=passed)], resources={"store": None})
    (result,) = run.get_asset_check_evaluations()
    assert (result.passed, result.severity) == (passed, dg.AssetCheckSeverity.WARN)
    assert result.description == "2 of 3 items are unusable" + ("" if passed else ": repair them")


MODELS = dg.StaticPartitionsDefinition(["base", "sft", "rl", "never made"])


class CheckedModels:
    """An asset of models, an asset that follows it, and a blocking check that fails for the model `sft`."""

    def __init__(self, home: Path) -> None:
        self.store, self.instance = AssetStore(home), dg.DagsterInstance.ephemeral()

        @dg.asset(key=["made", "models"], partitions_def=MODELS, backfill_policy=dg.BackfillPolicy.single_run())
        def models(context: dg.AssetExecutionContext) -> None:
            for name in context.partition_keys:
                self.store.work("made/models", {}, {}, "code", name).do(lambda folder: {})

        @dg.asset(deps=[models], partitions_def=MODELS, backfill_policy=dg.BackfillPolicy.single_run())
        def followers() -> None: ...

        @check("Models are good.", "train them", blocking=True)
        def models_are_good(store: AssetStore, key: str, models: Sequence[str]) -> CheckOutcome:
            return CheckOutcome("sft" not in models, f"checked {', '.join(models)}", {})

        checks = [models_are_good.of("made/models", MODELS)]
        jobs = [
            dg.define_asset_job("everything"),
            dg.define_asset_job("check", dg.AssetSelection.checks_for_assets(models)),
        ]
        resources = {"store": self.store}
        self.definitions = dg.Definitions([models, followers], asset_checks=checks, jobs=jobs, resources=resources)

    def run(self, job: str, *partitions: str) -> dg.ExecuteInProcessResult:
        only = partitions[0] if len(partitions) == 1 else None
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=only, tags=range_tags(partitions), raise_on_error=False
        )


def test_a_check_is_about_all_partitions_that_were_made_and_blocks_only_those_of_the_run(tmp_path: Path) -> None:
    checked = CheckedModels(tmp_path)
    for partitions, described, passed, severity in (
        (("base",), "checked base", True, dg.AssetCheckSeverity.ERROR),
        (("base", "sft"), "checked base, sft: train them", False, dg.AssetCheckSeverity.ERROR),
        (("rl",), "checked base, sft, rl: train them", False, dg.AssetCheckSeverity.WARN),  # sft is not of this run
        ((), "checked base, sft, rl: train them", False, dg.AssetCheckSeverity.ERROR),
    ):
        result = checked.run("everything" if partitions else "check", *partitions)
        (evaluation,) = result.get_asset_check_evaluations()
        assert (evaluation.description, evaluation.passed, evaluation.severity) == (described, passed, severity)
        assert evaluation.partition is None, "the page shows it as the asset's"
        assert result.success == (passed or severity == dg.AssetCheckSeverity.WARN)


def test_a_check_of_nothing_says_what_to_materialise(tmp_path: Path) -> None:
    (failed,) = CheckedModels(tmp_path).run("check").filter_events(lambda event: event.is_step_failure)
    assert failed.step_failure_data.user_failure_data is not None
    assert failed.step_failure_data.user_failure_data.description == (
        "no partition of made/models is materialised: materialise some first"
    )


def test_every_check_is_declared_with_its_remedy() -> None:
    dagsters = ("dg.asset_check(", "AssetCheckResult(")
    sources = {path.relative_to(PROJECT).as_posix(): path.read_text() for path in (PROJECT / "assets").rglob("*.py")}
    declaring = {name for name, source in sources.items() if any(call in source for call in dagsters)}
    assert declaring == {"assets/framework/define.py"}
