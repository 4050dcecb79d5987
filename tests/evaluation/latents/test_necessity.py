"""The verdict on latents follows from paired numbers."""

import numpy as np
import polars as pl
import pytest

from evaluation.generation.controls import CONTROLS
from evaluation.generation.jobs import INTERVENTIONS
from evaluation.latents.dose import DOSES
from evaluation.latents.necessity import PHRASES, compare, necessity_report, text_differs
from tests.evaluation.answers import answer_table
from tests.evaluation.latents.graded import SPAN, graded

ORIGINAL = graded([True] * 80 + [False] * 20)


def test_latents_whose_loss_costs_accuracy_are_used() -> None:
    report = necessity_report(ORIGINAL, {"zeros": graded([True] * 20 + [False] * 80), "noise": graded([False] * 100)})
    zeros = report["interventions"]["zeros"]
    assert zeros["difference"]["difference"] == pytest.approx(-0.6)
    assert (zeros["difference"]["n"], zeros["answers_changed"]["correct"]) == (100, 60)
    assert report["verdict"] == "These latents are used: every replacement costs accuracy."
    assert "Replacing latents by zeros changes 60.0 %" in zeros["sentence"]


def test_latents_that_change_nothing_are_not_used() -> None:
    report = necessity_report(ORIGINAL, {"zeros": ORIGINAL, "noise": ORIGINAL})
    assert report["verdict"].startswith("No use of these latents is shown")
    assert "with 100 items a loss of up to 2.7 points is not excluded" in report["verdict"], (
        "1.96 sqrt((2 / 102) / 102)"
    )
    assert report["interventions"]["noise"]["answers_changed"]["correct"] == 0
    assert report["interventions"]["noise"]["sentence"].endswith("no significant loss.")


def test_with_items_enough_a_loss_that_matters_is_excluded() -> None:
    many = graded([True] * 200)
    report = necessity_report(many, {"zeros": many, "noise": many})
    assert report["verdict"] == "These latents are not used: no replacement costs accuracy."
    assert report["interventions"]["noise"]["sentence"] == (
        "Replacing latents by noise of the same norm changes 0.0 % ± 0.9 of answers and accuracy by +0.0 points"
        " (-1.4 to +1.4, n = 200): these latents are not used."
    )


def test_a_small_real_change_is_not_called_use() -> None:
    wrong_first = [False] + [True] * 79 + [False] * 20
    report = necessity_report(ORIGINAL, {"zeros": graded(wrong_first)})
    assert "cannot" not in report["verdict"] and report["verdict"].startswith("No use of these latents is shown")


def test_some_replacements_may_cost_and_others_not() -> None:
    report = necessity_report(ORIGINAL, {"zeros": graded([False] * 100), "noise": ORIGINAL})
    assert report["verdict"].startswith("These latents are used in part: accuracy falls with zeros, and does not")


def test_the_verdict_is_given_by_what_takes_away_what_latents_say() -> None:
    lost = graded([False] * 100)
    report = necessity_report(
        ORIGINAL, {"zeros": lost, "same_answer": ORIGINAL, "no_span": ORIGINAL, "spans_2": ORIGINAL}
    )
    assert report["verdict"] == "These latents are used: every replacement costs accuracy."
    assert necessity_report(ORIGINAL, {"spans_2": lost})["verdict"] == "No replacement of these latents was tested."


def test_a_model_without_latents_is_told_apart_from_one_that_ignores_them() -> None:
    bare = graded([True] * 300, spans=0)
    report = necessity_report(bare, {"zeros": bare, "no_span": bare, "spans_2": bare}, {"no_video": bare})
    assert "no latents" in report["verdict"]
    for name in ("zeros", "no_span"):
        assert report["interventions"][name]["sentence"].endswith("have no spans, so nothing was changed.")
    assert report["interventions"]["spans_2"]["sentence"].endswith("so many are as good as the model's choice.")
    assert report["controls"]["no_video"]["sentence"].endswith("what the frames show is not used.")


def test_unparsed_answers_that_stay_unparsed_have_not_changed() -> None:
    original, other = graded([False, False], [None, None]), graded([False, False], [None, "C"])
    assert compare(original, other, "noise")["answers_changed"]["correct"] == 1


def test_only_items_answered_on_both_sides_are_compared() -> None:
    report = compare(ORIGINAL, ORIGINAL[:90], "noise")
    assert (report["difference"]["n"], report["unpaired"]) == (90, 10)
    with pytest.raises(ValueError, match="shares no item"):
        compare(ORIGINAL, ORIGINAL[:0], "noise")


def test_what_could_be_done_to_no_item_is_listed_and_not_compared() -> None:
    report = necessity_report(
        ORIGINAL, {"zeros": ORIGINAL, "same_answer": ORIGINAL[:0]}, {"shuffled_frames": ORIGINAL[:0]}
    )
    assert report["untested"] == ["same_answer", "shuffled_frames"]
    assert set(report["interventions"]) == {"zeros"} and report["controls"] == {}
    elsewhere = ORIGINAL.with_columns(pl.col("id") + "x")
    with pytest.raises(ValueError, match="'zeros' shares no item"):
        necessity_report(ORIGINAL, {"zeros": elsewhere})


# ---- texts


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        (f"It rolls.\n{SPAN}\n<answer>red</answer>", False),
        ("It rolls.\n<answer>red</answer>", False),
        (f"It rolls.\n{SPAN}\n{SPAN}\n<answer>red</answer>", False),
        ("It rolls.\n<|latent_start|><|latent_end|>\n<answer>red</answer>", False),
        (f"It rolls.\n{SPAN}\n<answer>blue</answer>", True),
        (f"It rolls.\n{SPAN}\nThen it stops.\n<answer>red</answer>", True),
        (f"It stops.\n{SPAN}\n<answer>red</answer>", True),
        ("", True),
    ],
)
def test_a_text_has_changed_if_its_words_have(changed: str, differs: bool) -> None:
    assert text_differs(f"It rolls.\n{SPAN}\n<answer>red</answer>", changed) == differs


def test_texts_are_compared_where_there_was_a_span_to_follow() -> None:
    reason = f"It rolls.\n{SPAN}\n<answer>red</answer>"
    original = graded([True] * 4, texts=[reason] * 4).with_columns(pl.Series("spans", [1, 1, 1, 0]))
    report = compare(original, graded([True] * 4, texts=[reason, reason, "It stops.", "It stops."]), "noise")
    assert (report["text_changed"]["correct"], report["text_changed"]["n"]) == (1, 3)


# ---- controls


def test_controls_stand_beside_interventions_with_separate_sentences() -> None:
    blind = graded([True] * 30 + [False] * 70)
    report = necessity_report(ORIGINAL, {"zeros": ORIGINAL}, {"no_video": blind, "question_only": ORIGINAL})
    assert set(report["controls"]) == {"no_video", "question_only"}
    assert report["controls"]["no_video"]["sentence"].startswith("Showing grey frames changes 50.0 %")
    assert report["controls"]["no_video"]["sentence"].endswith("what the frames show is used.")
    assert report["verdict"].startswith("No use of these latents is shown"), "controls do not speak of latents"


def test_rotations_are_consistent_where_all_four_orders_give_the_same_option() -> None:
    orders: list[list[str | None]] = [["A", "A", "B", None], ["A", "A", "B", None], ["A", "B", "B", None]]
    orders.append(["A", "A", "B", None])
    original, *others = (graded([p == "A" for p in parsed], parsed) for parsed in orders)
    controls = {f"options_{k}": rows for k, rows in enumerate(others, 1)}
    report = necessity_report(original, {}, controls)["rotations"]
    assert (report["n"], report["unparsed"]) == (4, 1)
    assert (report["consistent"]["correct"], report["consistent"]["n"]) == (2, 4), "unparsed answers are no agreement"
    assert report["correct_in_all"]["correct"] == 1
    fewer = {**controls, "options_2": others[1][:3]}
    assert necessity_report(original, {}, fewer)["rotations"]["n"] == 3
    assert necessity_report(original, {}, {"options_1": others[0]})["rotations"] is None


# ---- latents


def test_latents_of_the_items_that_were_compared_are_described() -> None:
    vectors = np.eye(8, dtype="<f2")
    table = answer_table(dict.fromkeys(("000", "001", "999"), ""), {"000": 1, "001": 1, "999": 1})
    stored = table.with_columns(
        pl.Series("latents", [vectors[:4].tobytes(), vectors[4:].tobytes(), vectors[:4].tobytes()])
    )
    report = necessity_report(ORIGINAL, {"zeros": ORIGINAL}, answers=stored)["latents"]
    assert (report["n_answers"], report["n_latents"]) == (2, 8)
    assert report["within_item_cosine"]["mean"] == report["between_item_cosine"]["mean"] == 0
    assert report["effective_rank"] == pytest.approx(7), "eight directions, centred"
    assert necessity_report(ORIGINAL, {"zeros": ORIGINAL}, answers=table)["latents"] is None


def test_everything_that_can_be_done_has_its_words() -> None:
    assert set(PHRASES) == {*INTERVENTIONS, *CONTROLS} - {"none", *DOSES}
