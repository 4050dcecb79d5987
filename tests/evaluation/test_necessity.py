"""The verdict on latents follows from paired numbers."""

import polars as pl
import pytest

from evaluation.necessity import compare, necessity_report


def graded(right: list[bool], parsed: list[str | None] | None = None, spans: int = 1) -> pl.DataFrame:
    n = len(right)
    return pl.DataFrame(
        {
            "id": [f"{i:03d}" for i in range(n)],
            "question_type": ["hop1"] * n,
            "parsed": parsed or ["A" if r else "B" for r in right],
            "correct": right,
            "spans": [spans] * n,
        },
        schema_overrides={"parsed": pl.String},
    )


OWN = graded([True] * 80 + [False] * 20)


def test_latents_whose_loss_costs_accuracy_are_used() -> None:
    told = necessity_report(OWN, {"zeros": graded([True] * 20 + [False] * 80), "noise": graded([False] * 100)})
    zeros = told["interventions"]["zeros"]
    assert zeros["difference"]["difference"] == pytest.approx(-0.6)
    assert (zeros["difference"]["n"], zeros["answers_changed"]["correct"]) == (100, 60)
    assert told["verdict"] == "These latents are used: every replacement costs accuracy."
    assert "Replacing latents by zeros changes 60.0 %" in zeros["sentence"]


def test_latents_that_change_nothing_are_not_used() -> None:
    told = necessity_report(OWN, {"zeros": OWN, "noise": OWN})
    assert told["verdict"].startswith("These latents are not used")
    assert told["interventions"]["noise"]["answers_changed"]["correct"] == 0


def test_a_small_real_change_is_not_called_use() -> None:
    wrong_first = [False] + [True] * 79 + [False] * 20
    told = necessity_report(OWN, {"zeros": graded(wrong_first)})
    assert "cannot" not in told["verdict"] and told["verdict"].startswith("These latents are not used")


def test_some_replacements_may_cost_and_others_not() -> None:
    told = necessity_report(OWN, {"zeros": graded([False] * 100), "noise": OWN})
    assert told["verdict"].startswith("These latents are used in part: zeros cost accuracy, noise cannot")


def test_a_model_without_latents_is_told_apart_from_one_that_ignores_them() -> None:
    told = necessity_report(graded([True] * 10, spans=0), {"zeros": graded([True] * 10, spans=0)})
    assert "no latents" in told["verdict"]


def test_unparsed_answers_that_stay_unparsed_have_not_changed() -> None:
    own, other = graded([False, False], [None, None]), graded([False, False], [None, "C"])
    assert compare(own, other, "noise")["answers_changed"]["correct"] == 1


def test_only_items_answered_on_both_sides_are_compared() -> None:
    told = compare(OWN, OWN[:90], "noise")
    assert (told["difference"]["n"], told["unpaired"]) == (90, 10)
    with pytest.raises(ValueError, match="none of the items"):
        compare(OWN, OWN[:0], "noise")
