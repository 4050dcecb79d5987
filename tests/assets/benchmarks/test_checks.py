"""A benchmark's numbers are used only if its items, answers, sums and marks are complete; without Dagster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from assets.benchmarks import checks
from assets.framework.define import Check, CheckOutcome
from assets.framework.store import AssetStore
from training.storage.files import write_json

KEY, ITEMS = "benchmarks/some_report", "inputs/some_items"


@pytest.fixture
def store(tmp_path: Path) -> AssetStore:
    return AssetStore(tmp_path)


def publish(
    store: AssetStore,
    key: str,
    model: str | None = None,
    report: Mapping[str, Any] | None = None,
    counts: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    **tables: pl.DataFrame,
) -> None:
    def write(folder: Path) -> Mapping[str, Any]:
        for name, table in tables.items():
            table.write_parquet(folder / f"{name}.parquet")
        if report is not None:
            write_json(folder / "report.json", report)
        if tensors is not None:
            save_file(dict(tensors), folder / "mean.safetensors")
        return counts or {}

    store.work(key, {}, {}, "code", model).do(write)


def reported(check: Check, store: AssetStore, **reports: Mapping[str, Any]) -> CheckOutcome:
    for model, report in reports.items():
        publish(store, KEY, model, report)
    return check.function(store, KEY, list(reports))


def test_one_item_in_a_hundred_may_be_unusable_and_some_must_be_there(store: AssetStore) -> None:
    for key, items, unusable, passed in (("a", 100, 1, True), ("b", 100, 2, False), ("c", 0, 0, False)):
        counts = {"items": items, "unusable": unusable, "problems": {"missing clip": unusable}}
        publish(store, f"inputs/{key}", counts=counts, items=pl.DataFrame())
        outcome = checks.items_are_usable.function(store, f"inputs/{key}")
        assert outcome.passed == passed
        assert f"{unusable} x missing clip" in outcome.description and "items.parquet" in outcome.description


@pytest.mark.parametrize(
    ("answered", "wrong"), [(["a", "b"], 0), (["a"], 1), (["a", "b", "b"], 1), (["a", "b", "unusable"], 1)]
)
def test_each_usable_item_has_one_answer(store: AssetStore, answered: list[str], wrong: int) -> None:
    publish(store, ITEMS, items=pl.DataFrame({"id": ["a", "b", "unusable"], "problem": [None, None, "no clip"]}))
    publish(store, KEY, "base", answers=pl.DataFrame({"prompt_id": answered}))
    outcome = checks.every_item_is_answered.function(store, KEY, ["base"], items_key=ITEMS)
    assert outcome.passed == (wrong == 0)
    assert outcome.metadata == {"items": 2, "missing_or_repeated": {"base": wrong}}


def test_an_average_that_is_not_the_sum_of_its_splits_is_a_defect(store: AssetStore) -> None:
    splits = {"hop1": {"correct": 2, "n": 4}, "hop2": {"correct": 1, "n": 4}}
    right = {"splits": splits, "average": {"correct": 3, "n": 8}}
    wrong = {"splits": splits, "average": {"correct": 3, "n": 9}}
    assert reported(checks.splits_add_up, store, base=right).passed
    outcome = reported(checks.splits_add_up, store, base=right, sft=wrong)
    assert not outcome.passed and outcome.description.endswith("sft: n")


def test_every_answered_item_has_the_judges_marks(store: AssetStore) -> None:
    complete, partial = ({"coverage": {"judged": judged, "answered": 4}} for judged in (4, 3))
    assert reported(checks.every_answer_is_judged, store, base=complete).passed
    outcome = reported(checks.every_answer_is_judged, store, base=complete, sft=partial)
    assert not outcome.passed and "sft: 3 of 4" in outcome.description


@pytest.mark.parametrize(("tensors", "passed"), [({"mean": [1.0]}, True), ({"mean": [np.nan]}, False), ({}, False)])
def test_the_mean_that_is_fed_is_there_and_finite(store: AssetStore, tensors: dict[str, Any], passed: bool) -> None:
    publish(store, KEY, "sft", tensors={name: np.array(values) for name, values in tensors.items()})
    assert checks.mean_can_be_fed.function(store, KEY, ["sft"]).passed == passed


def test_latents_matter_where_every_replacement_costs_accuracy(store: AssetStore) -> None:
    def report(*upper_bounds: float) -> dict[str, Any]:
        names = ("zeros", "noise")[: len(upper_bounds)]
        bounds = dict(zip(names, upper_bounds, strict=True)) | {"masked_frames": 0.1}  # which need cost nothing
        rows = {name: {"difference": {"interval": [-0.9, bound]}} for name, bound in bounds.items()}
        return {"interventions": rows, "verdict": "a verdict"}

    assert reported(checks.latents_matter, store, base=report(), sft=report(-0.1, -0.2)).passed
    outcome = reported(checks.latents_matter, store, rl=report(-0.1, 0.0))
    assert not outcome.passed and outcome.description == "rl: a verdict"


@pytest.mark.parametrize(
    ("after", "upper", "passed"), [("rl", 0.01, True), ("rl", -0.01, False), ("other", -0.01, True)]
)
def test_an_rl_model_is_compared_with_its_own_sft_model(
    store: AssetStore, after: str, upper: float, passed: bool
) -> None:
    row = {"before": "sft", "after": after, "difference": -0.05, "n": 80, "interval": [-0.1, upper]}
    publish(store, "reports/comparison", report={"paired": [row]})
    outcome = checks.rl_is_not_worse_than_its_sft.function(store, "reports/comparison", starts={"rl": "sft"})
    assert outcome.passed == passed
    assert ("-5.0% on 80 items" in outcome.description) == (after == "rl")
