"""Every failed check has a description that ends with the remedy: it may end a command."""

import dagster as dg
import pytest

from assets.framework.define import CheckOutcome, check
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


def test_every_check_is_declared_with_its_remedy() -> None:
    dagsters = ("dg.asset_check(", "AssetCheckResult(")
    sources = {path.relative_to(PROJECT).as_posix(): path.read_text() for path in (PROJECT / "assets").rglob("*.py")}
    declaring = {name for name, source in sources.items() if any(call in source for call in dagsters)}
    assert declaring == {"assets/framework/define.py"}
