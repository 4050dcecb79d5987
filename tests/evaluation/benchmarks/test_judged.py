"""The clean-up before judging equals the release on every recorded case."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.benchmarks.judge_messages import merged_reasons, split_response, without_image_markers

CASES = json.loads((Path(__file__).parents[2] / "data" / "parse_cases.json").read_text())


def cleaned(text: str) -> str:
    """As the release puts the two parts together."""
    chain, answer = split_response(text)
    return f"{chain}\n<answer>{answer}</answer>" if answer else chain


FUNCTIONS: dict[str, Callable[[str], str]] = {
    "twiffbench.twiffbench_sanitize_model_response_for_judge": cleaned,
    "twiffbench._strip_image_placeholders": without_image_markers,
    "twiffbench._merge_reason_xml_blocks": merged_reasons,
}


@pytest.mark.parametrize("case", [case for case in CASES if case["fn"] in FUNCTIONS])
def test_the_clean_up_equals_the_release(case: dict[str, str]) -> None:
    assert FUNCTIONS[case["fn"]](case["input"]) == case["output"]
