"""The clean-up before judging equals the release on every recorded case."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.benchmarks.cleanup import answer_span, cleaned_response, merged_reasons, without_image_markers

CASES = json.loads((Path(__file__).parents[2] / "data" / "parse_cases.json").read_text())
FUNCTIONS: dict[str, Callable[[str], str]] = {
    "twiffbench.twiffbench_sanitize_model_response_for_judge": cleaned_response,
    "twiffbench.twiffbench_extract_answer_tag_span": answer_span,
    "twiffbench._strip_image_placeholders": without_image_markers,
    "twiffbench._merge_reason_xml_blocks": merged_reasons,
}


@pytest.mark.parametrize("case", [case for case in CASES if case["fn"] in FUNCTIONS])
def test_the_clean_up_equals_the_release(case: dict[str, str]) -> None:
    assert FUNCTIONS[case["fn"]](case["input"]) == case["output"]


def test_an_answer_may_close_with_either_tag() -> None:
    assert answer_span("<ans>a</answer>") == "a"
