"""Every failed check has a description that ends with the remedy: it may end a command."""

import ast

import dagster as dg

from assets.framework.define import check_result
from training.runtime.project import PROJECT


def test_the_remedy_ends_the_description_of_a_failure_only() -> None:
    failed = check_result(False, "2 of 3 items are unusable", "repair them", {}, dg.AssetCheckSeverity.WARN)
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert failed.description == "2 of 3 items are unusable: repair them"
    assert check_result(True, "0 of 3 items are unusable", "repair them", {}).description.endswith("unusable")  # type: ignore[union-attr]


def test_every_result_that_may_fail_has_a_remedy() -> None:
    calls = [
        (
            f"{source.relative_to(PROJECT)}:{node.lineno}",
            ast.unparse(node.func),
            {k.arg: k.value for k in node.keywords},
        )
        for source in sorted((PROJECT / "assets").rglob("*.py"))
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("check_result", "AssetCheckResult"))
    ]
    assert len([where for where, name, _ in calls if name == "check_result"]) > 15
    direct = [(where, ast.unparse(arguments["passed"])) for where, name, arguments in calls if name != "check_result"]
    assert {where.partition(":")[0] for where, passed in direct if passed != "True"} == {"assets/framework/define.py"}
