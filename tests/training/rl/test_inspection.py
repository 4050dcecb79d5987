"""`future-l1 inspect --rewards`: the parts of recorded rewards, by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.invoke import invoke

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def inspected(tmp_path: Path, groups: Any) -> Any:
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    done = invoke("inspect", "--rewards", tmp_path / "groups.json", "--out", tmp_path / "out" / "told.json")
    if done.exit_code:
        return done.output
    return json.loads((tmp_path / "out" / "told.json").read_text())


def rollout(accuracy: int, *spans: list[list[float]], repetitive: bool = False) -> dict[str, Any]:
    return {"accuracy": accuracy, "repetitive": repetitive, "spans": list(spans)}


def test_the_parts_are_those_of_the_papers_formulas(tmp_path: Path) -> None:
    group = [rollout(1, [EAST, EAST]), rollout(1, [EAST], [NORTH]), rollout(0, [WEST, WEST]), rollout(0, [NORTH, EAST])]
    [report] = inspected(tmp_path, [{"rollouts": group}])["groups"]
    first, second, third, fourth = report["rollouts"]
    # s of the first: with the second (1 + 1/2) / 2, with the third 0, with the fourth (1/2 + 1) / 2; tau is 0.5
    positive, negatives = math.exp(0.75 / 0.5), math.exp(0.0) + math.exp(0.75 / 0.5)
    assert first["r_ctr"] == pytest.approx(positive / (positive + negatives))
    assert first["reward_ctr"] == first["r_ctr"]
    assert (second["r_div"], first["r_div"]) == (0.0, None), "orthogonal means do not resemble each other"
    assert first["reward_div"] == 0.0, "an undefined one is paid as the mean of the group's"
    assert first["flags"] == ["fewer_than_two_spans"] and second["flags"] == []
    assert (third["accuracy"], fourth["accuracy"]) == (0.0, 0.0)
    for one in report["rollouts"]:
        expected = 0.9 * one["accuracy"] + 0.2 * one["reward_ctr"] + 0.1 * one["reward_div"]
        assert one["total"] == pytest.approx(expected)


def test_what_is_undefined_is_null_and_flagged(tmp_path: Path) -> None:
    right = [rollout(1, [EAST], [EAST]), rollout(1, [NORTH])]
    wrong = [rollout(0, [EAST]), rollout(0, [NORTH]), rollout(0)]
    [alone, none] = inspected(tmp_path, {"groups": [{"rollouts": right}, {"rollouts": wrong}]})["groups"]
    assert [r["r_ctr"] for r in alone["rollouts"]] == [1.0, 1.0], "a sum over nobody is 0"
    assert [r["reward_ctr"] for r in alone["rollouts"]] == [1.0, 1.0]
    assert alone["rollouts"][0]["flags"] == ["no_negatives"]
    assert [r["reward_ctr"] for r in none["rollouts"]] == [0.0, 0.0, 0.0]
    assert none["rollouts"][0]["flags"] == ["no_positives", "fewer_than_two_spans"]
    assert none["rollouts"][2]["flags"] == ["no_latents", "fewer_than_two_spans"]


def test_a_repetitive_answer_is_paid_minus_one_and_is_no_positive(tmp_path: Path) -> None:
    group = [rollout(1, [EAST], repetitive=True), rollout(0, [EAST]), rollout(1, [EAST])]
    [report] = inspected(tmp_path, [{"rollouts": group}])["groups"]
    first, second, third = report["rollouts"]
    assert (first["accuracy"], first["flags"][0]) == (-1.0, "repetitive")
    assert second["r_ctr"] == pytest.approx(0.5), "one right and one repetitive sibling, as near"
    assert third["r_ctr"] is None and "no_positives" in third["flags"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"rollouts": []}], "group 0 has no list of rollouts"),
        ([{"rollouts": [rollout(1), {"accuracy": 2}]}], "group 0, rollout 1: accuracy is 0 or 1"),
        ([{"rollouts": [{"accuracy": 1, "repetitive": "no"}]}], "repetitive is true or false"),
        ([{"rollouts": [rollout(1, [EAST], [[1.0, 2.0, 3.0]])]}], r"latents of one model have one size; found [2, 3]"),
        ([{"rollouts": [rollout(1, [[1.0], [1.0, 2.0]])]}], "group 0, rollout 0: spans is a list of spans"),
        ([{"rollouts": [rollout(1, EAST)]}], "each a list of latent vectors of finite numbers"),
        ([{"rollouts": [rollout(1, [[float("nan"), 1.0]])]}], "of finite numbers"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, groups: Any, message: str) -> None:
    assert message in inspected(tmp_path, groups)
