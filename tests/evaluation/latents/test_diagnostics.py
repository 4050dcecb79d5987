"""Each diagnostic's sentence and outcome follow from its numbers: used, not used, undecided."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from evaluation.latents.attention import attention_report
from evaluation.latents.diagnostics import LABELS, NO_SPANS, diagnostics_report, unexamined
from evaluation.latents.dose import dose_report
from evaluation.latents.mediation import latents_moved, mediation_report
from evaluation.latents.necessity import necessity_report
from evaluation.latents.words import distinctive_words, words_report
from tests.evaluation.latents.graded import (
    CHOSEN,
    ITEMS,
    LATENTS,
    RIGHT,
    SAYING,
    N,
    graded,
    readings,
    right,
    speaking,
    stored,
    tables,
)

# ---- dose


def test_accuracy_that_grows_with_the_latents_kept_is_use_of_them() -> None:
    doses = {"noise": right(40), "kept_1": right(60), "kept_2": right(110), "kept_3": right(170)}
    report = dose_report(RIGHT, doses | {"zeros": right(10)})
    assert report is not None and set(report) == {"kept"}, "zeros are no dose"
    kept = report["kept"]
    assert [(point["dose"], point["correct"]) for point in kept["points"]] == [
        (0, 40), (1, 60), (2, 110), (3, 170), (None, 200),
    ]  # fmt: skip
    assert kept["outcome"] == "used" and all(point["interval"] for point in kept["points"])
    assert kept["sentence"] == (
        "With 0, 1, 2, 3, all latents of each span kept, noise in the place of the rest, 20.0, 30.0, 55.0, 85.0,"
        " 100.0 % of answers are right (n = 200): these latents are used, and 3 are needed for half of what all give."
    )


def test_noise_that_takes_nothing_is_no_use() -> None:
    report = dose_report(RIGHT, {"added_noise_50": RIGHT, "added_noise_200": RIGHT})
    assert report is not None and report["added_noise"]["outcome"] == "not used"
    assert report["added_noise"]["sentence"] == (
        "With noise of 0, 0.5, 2 norms added to each latent, 100.0, 100.0, 100.0 % of answers are right (n = 200):"
        " these latents are not used."
    )
    taken = dose_report(
        RIGHT, {"added_noise_50": right(150), "added_noise_100": right(90), "added_noise_200": right(20)}
    )
    assert taken is not None and taken["added_noise"]["sentence"].endswith(
        "noise of 1 norm takes half of what the most takes."
    )
    taken = dose_report(RIGHT, {"added_noise_50": right(90), "added_noise_200": right(20)})
    assert taken is not None and taken["added_noise"]["sentence"].endswith(
        "these latents are used, and noise of 0.5 norms takes half of what the most takes."
    )


def test_a_few_answers_more_or_less_decide_nothing() -> None:
    report = dose_report(RIGHT, {"added_noise_200": right(197)})
    assert report is not None and report["added_noise"]["outcome"] == "undecided"
    assert report["added_noise"]["sentence"].endswith("no significant loss.")


def test_without_a_dose_there_is_no_curve_and_without_spans_nothing_changed() -> None:
    assert dose_report(RIGHT, {"noise": right(3), "zeros": RIGHT, "kept_1": RIGHT[:0]}) is None
    bare = graded([True] * N, spans=0)
    report = dose_report(bare, {"kept_1": bare})
    assert report is not None and report["kept"]["outcome"] == "not used"
    assert report["kept"]["sentence"].endswith("have no spans, so nothing was changed.")


# ---- mediation


def mediation(total: int, direct: int, mediated: int, spans: int = 1) -> dict[str, Any]:
    """So many of N answers change."""
    original = graded([True] * N, spans=spans)
    effects = {"total": right(N - total), "direct": right(N - direct), "mediated": right(N - mediated)}
    return mediation_report("mirrored", original, effects, {"original": stored(LATENTS), "total": stored(-LATENTS)})


@pytest.mark.parametrize(
    ("changed", "outcome", "end"),
    [
        ((150, 0, 148), "used", "it acts through the latents."),
        ((150, 2, 148), "used", "it acts through the latents, and whether past them, too, is undecided."),
        ((150, 60, 80), "used", "it acts through the latents and past them."),
        ((150, 149, 0), "not used", "it acts past the latents, which are not used."),
        ((150, 0, 0), "not used", "it acts only where prompt and latents change together."),
        ((150, 140, 5), "undecided", "which way its effect takes is undecided."),
        ((0, 0, 0), "not used", "it changes too few answers for any of it to be mediated."),
    ],
)
def test_an_effect_is_direct_mediated_or_both(changed: tuple[int, int, int], outcome: str, end: str) -> None:
    report = mediation(*changed)
    assert report["outcome"] == outcome and report["sentence"].endswith(end)
    shares = [report[name]["answers_changed"]["correct"] for name in ("total", "direct", "mediated")]
    assert tuple(shares) == changed
    assert report["mediated"]["difference"]["difference"] == pytest.approx(-changed[2] / N)
    assert f"mediated; n = {N})" in report["sentence"]


def test_a_mediated_effect_stands_beside_what_no_cause_and_an_unrelated_one_change() -> None:
    """Another item's latents change as many answers, but not to those of the changed prompt."""
    original, others = graded([True] * N), ["C", "D"] * (N // 2)
    total = graded([False] * N, parsed=[*["B"] * 150, *["A"] * 40, *[None] * 10])
    mediated = graded([False] * N, parsed=[*["B"] * 120, *["A"] * 80])
    nulls = {"repeated": right(N - 1), "other_item": graded([False] * N, parsed=others)[:100]}
    effects = {"total": total, "direct": original, "mediated": mediated}
    latents = {"original": stored(LATENTS), "total": stored(-LATENTS)}
    report = mediation_report("mirrored", original, effects, latents, nulls)
    counts = {name: (shares["answers_changed"]["correct"], shares["new_answer"]["correct"], shares["new_answer"]["n"])
              for name, shares in {**{name: report[name] for name in effects}, **report["nulls"]}.items()}  # fmt: skip
    assert counts == {"total": (160, 150, 150), "direct": (0, 0, 150), "mediated": (120, 120, 150),
                      "repeated": (1, 0, 150), "other_item": (100, 0, 100)}  # fmt: skip
    assert report["nulls"]["other_item"]["answers_changed"]["n"] == 100, "items without a donor are left out of it"
    assert report["sentence"].endswith(
        "it acts through the latents. The same prompts decoded once more change 0.5 %. Another item's latents"
        " change 100.0 %; where the changed prompt has another answer, they lead to it in 0.0 %, the mediated"
        " latents in 80.0 %."
    )


def test_nothing_is_mediated_without_spans() -> None:
    assert mediation(100, 100, 0, spans=0)["sentence"].endswith("have no spans, so nothing is mediated.")


def test_how_far_latents_move_is_measured_in_distances_between_items() -> None:
    before = stored(LATENTS)
    assert latents_moved(before, before) == [0.0] * N
    other = stored(np.roll(LATENTS, 1, axis=0))
    assert np.mean(latents_moved(before, other)) == pytest.approx(1.0, abs=1e-6)
    assert len(latents_moved(before, stored(LATENTS[:50]))) == 50
    bare = before.with_columns(latents=pl.lit(None, pl.Binary), spans=pl.lit([], pl.List(pl.Int64)))
    assert latents_moved(before, bare) == latents_moved(bare, bare) == []


# ---- attention


@pytest.mark.parametrize(
    ("noise", "outcome", "end"),
    [
        (0.1, "used", "what these spans hold draws attention."),
        (0.2, "not used", "what these spans hold draws less than 1 point of attention more than noise."),
        (0.3, "not used", "what these spans hold draws less than 1 point of attention more than noise."),
        (0.19, "undecided", "whether these spans draw more attention than noise is undecided."),
        (0.1, "undecided", "whether these spans draw more attention than noise is undecided."),
    ],
)
def test_attention_to_a_span_is_compared_with_that_to_noise(noise: float, outcome: str, end: str) -> None:
    """Few answers decide nothing."""
    report = attention_report(readings(0.2, noise, n=8 if outcome == "undecided" else 60))
    assert report is not None and report["outcome"] == outcome and report["sentence"].endswith(end)
    assert report["spans"]["mean"] == pytest.approx(0.2, abs=0.003)
    assert report["frames"]["mean"] == pytest.approx(0.3) and len(report["by_layer"]) == 2
    assert report["by_layer"][1][0]["noise"] == pytest.approx(noise, abs=0.003)


def test_layers_that_cancel_each_other_are_in_the_sentence() -> None:
    pair = [[[[0.6, 0.3, 0.1]], [[0.6, 0.3, 0.1]]], [[[0.65, 0.3, 0.05]], [[0.55, 0.3, 0.15]]]]
    report = attention_report(readings(0.1, 0.1).with_columns(attention=pl.Series([pair] * 60)))
    assert report is not None and report["outcome"] == "not used"
    assert "from layer to layer -5.0 to +5.0" in report["sentence"]


def test_answers_without_spans_pay_attention_to_frames_and_text_alone() -> None:
    report = attention_report(readings(0.0, 0.0, of_span=0))
    assert report is not None and report["outcome"] == "not used" and "they have no spans" in report["sentence"]
    assert attention_report(readings(0.1, 0.1).with_columns(attention=None)) is None


# ---- words


NAMED = "these latents can be read as words."
SILENT = "these latents say nothing in words."
UNCLEAR = "whether these latents say anything in words is undecided."


@pytest.mark.parametrize(
    ("words", "named", "outcome", "end"),
    [
        (SAYING[:150] + ["of"] * 50, 0.75, "used", NAMED),
        (["of"] * N, 0.0, "not used", SILENT),
        (SAYING[1:] + SAYING[:1], 0.0, "not used", SILENT),
        (SAYING[:10] + ["of"] * (N - 10), 0.05, "undecided", UNCLEAR),
        (SAYING[:3] + ["of"] * 27, 0.1, "undecided", UNCLEAR),
        (["of"] * 59, 0.0, "undecided", UNCLEAR),
    ],
)
def test_latents_speak_where_they_name_the_chosen_option(
    words: list[str], named: float, outcome: str, end: str
) -> None:
    report = words_report(ITEMS, CHOSEN, speaking(words))
    assert report is not None and report["outcome"] == outcome and report["sentence"].endswith(end)
    assert report["lens"]["chosen_option"]["mean"] == pytest.approx(named)
    assert report["lens"]["by_layer"] == pytest.approx([0.0, named])
    assert report["nearest"]["most_frequent"] == {"of": len(words)}


def test_a_word_that_all_latents_say_names_no_choice() -> None:
    """Answers that lean to one option, and latents that all say it, know nothing of each other."""
    report = words_report(ITEMS, RIGHT, speaking(["red"] * N))
    assert report is not None and report["outcome"] == "not used"
    lens = report["lens"]
    assert lens["differences"]["other_option"]["mean"] == lens["other_latents"]["mean"] == 1.0
    assert lens["differences"]["other_latents"]["mean"] == 0.0


def test_the_outcome_is_that_of_the_strongest_reading() -> None:
    near = [[{"nearest": word, "lens": ["it", "of"]}] for word in SAYING]
    report = words_report(ITEMS, CHOSEN, speaking(SAYING).with_columns(words=pl.Series(near)))
    assert report is not None and (report["strongest"], report["outcome"]) == ("nearest", "used")
    silent = words_report(ITEMS, CHOSEN, speaking(["of"] * N))
    assert silent is not None and (silent["strongest"], silent["outcome"]) == ("lens", "not used")


def test_words_that_options_share_name_none() -> None:
    assert distinctive_words(["The red one", "the blue one", "the red pen", "12"]) == [set(), {"blue"}, {"pen"}, {"12"}]
    assert words_report(ITEMS, RIGHT, speaking(["of"]).clear()) is None


# ---- the table


def outcomes(original: pl.DataFrame, changed: pl.DataFrame, of_span: int = 4) -> dict[str, Any]:
    compared = tables(original, changed, of_span)
    necessity = necessity_report(original, compared.changed)
    assert set(necessity["interventions"]) == {"zeros", "noise", "masked_spans", "masked_frames"}, "doses are apart"
    rows: dict[str, Any] = diagnostics_report(necessity, compared)["diagnostics"]
    return rows


def test_the_table_has_the_outcome_of_every_diagnostic() -> None:
    rows = outcomes(RIGHT, right(50))
    assert list(rows) == [
        LABELS["replaced"], LABELS["masked_spans"], LABELS["masked_frames"], LABELS["kept"], LABELS["added_noise"],
        "mediated effect: mirrored", LABELS["attention"],
    ]  # fmt: skip
    assert {row["outcome"] for label, row in rows.items() if label != LABELS["attention"]} == {"used"}
    assert rows[LABELS["replaced"]] == {"outcome": "used", "value": "-75.0 points, -80.4 to -68.1", "n": N}
    assert rows[LABELS["kept"]]["value"] == "0 kept: -75.0 points, -80.4 to -68.1"
    assert rows[LABELS["added_noise"]]["value"].startswith("noise 1: -75.0 points, ")
    assert "% of answers, " in rows["mediated effect: mirrored"]["value"]
    assert "; difference " in rows[LABELS["attention"]]["value"]
    assert {row["outcome"] for row in outcomes(RIGHT, RIGHT).values()} == {"not used"}


def test_the_nulls_of_mediation_are_what_was_decoded_again_and_another_items_latents() -> None:
    compared = tables(RIGHT, right(50), of_span=4)
    with_others = replace(compared, changed={**compared.changed, "other_item": right(20)})
    for examined, names in ((compared, {"repeated": 0}), (with_others, {"repeated": 0, "other_item": 180})):
        report = diagnostics_report(necessity_report(RIGHT, examined.changed), examined)["mediation"]["mirrored"]
        assert {name: null["answers_changed"]["correct"] for name, null in report["nulls"].items()} == names


def test_replacements_that_disagree_are_use_in_part() -> None:
    compared = tables(RIGHT, right(50), of_span=4)
    for noise, outcome in ((RIGHT, "used in part"), (right(197), "used in part"), (right(60), "used")):
        changed = {"zeros": right(50), "noise": noise}
        row = diagnostics_report(necessity_report(RIGHT, changed), compared)["diagnostics"][LABELS["replaced"]]
        assert row["outcome"] == outcome and row["n"] == N


def test_a_model_without_spans_uses_none() -> None:
    bare = graded([True] * 50 + [False] * 150, spans=0)
    rows = outcomes(bare, bare, of_span=0)
    assert {(row["outcome"], row["value"]) for row in rows.values()} == {("not used", NO_SPANS)}
    assert LABELS["words"] in rows


def test_a_served_model_says_what_it_is_not_examined_for() -> None:
    interventions = ("zeros", "masked_spans", "kept_1", "kept_2", "added_noise_50", "other_item")
    rows = unexamined(interventions, ("mirrored", "other_frames"))
    assert list(rows) == [
        LABELS["masked_spans"], LABELS["kept"], LABELS["added_noise"], "mediated effect: mirrored",
        "mediated effect: other frames", LABELS["attention"], LABELS["words"],
    ]  # fmt: skip
    assert all((row["outcome"], row["value"]) == ("not examined", "served") for row in rows.values())
