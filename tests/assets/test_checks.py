"""Every result of a check has a description: it may end a command."""

import ast

from training.runtime.project import PROJECT


def test_every_result_of_a_check_has_a_description_of_its_own() -> None:
    results = {
        f"{source.relative_to(PROJECT)}:{node.lineno}": {keyword.arg for keyword in node.keywords}
        for source in sorted((PROJECT / "assets").rglob("*.py"))
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("AssetCheckResult")
    }
    assert len(results) > 15
    assert [where for where, arguments in results.items() if "description" not in arguments] == []
