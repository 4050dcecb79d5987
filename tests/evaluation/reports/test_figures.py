"""Figures draw the numbers that they are given: every value, every interval, and nothing where there is none."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from evaluation.drawing import latent_plots as latents
from evaluation.drawing import run_plots as figures
from evaluation.drawing import score_plots as scores
from evaluation.drawing import style
from evaluation.reports.scores import PUBLISHED
from tests.evaluation.made_reports import curve, everything

PNG = b"\x89PNG\r\n\x1a\n"
RUN = everything()
PLOTS: dict[str, Callable[[], bytes]] = {
    "gain": lambda: figures.gain_histogram(RUN["curation"]["gain_histogram"], RUN["curation"]["gain_histogram_kept"]),
    "rewards": lambda: figures.reward_curves({"grpo": curve(0.3), "la_dapo": curve(0.5)}),
    "hops": lambda: scores.accuracy_by_hop(RUN["futurebench"]),
    "marks": lambda: scores.judged_marks(RUN["twiffbench"]),
    "paired": lambda: scores.paired_differences(RUN["paired"]),
    "cost": lambda: scores.cost_against_accuracy(RUN["futurebench"]),
    "spans": lambda: latents.spans_by_hop(RUN["futurebench"], PUBLISHED["latent_span_usage"]),
    "interventions": lambda: latents.interventions(RUN["necessity"]),
    "doses": lambda: latents.doses(RUN["necessity"]),
    "latent_retrieval": lambda: latents.latent_retrieval({"la_dapo": RUN["latent_retrieval"]["la_dapo"]}),
    "map": lambda: latents.latent_map(RUN["latent_map"]),
}

# Linear RGB as those see it who lack one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1).
SIGHTS = {
    "all cones": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


def linear(colour: str) -> np.ndarray:
    value = np.array(to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB under D65 of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "DPI", 40)


def intervals(axes: Axes) -> list[tuple[float, float]]:
    """The horizontal error bars of a panel, in drawing order."""
    bars = [c for c in axes.containers if getattr(c, "has_xerr", False)]
    ends = [bar[2][0].get_segments()[0] for bar in bars]
    return [(float(segment[0][0]), float(segment[1][0])) for segment in ends]


@pytest.mark.parametrize("name", PLOTS)
def test_the_same_numbers_give_the_same_png(name: str) -> None:
    first = PLOTS[name]()
    assert first.startswith(PNG) and PLOTS[name]() == first


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.gain_histogram({}, {}),
        lambda: figures.reward_curves({}),
        lambda: scores.accuracy_by_hop({}),
        lambda: scores.judged_marks({}),
        lambda: scores.paired_differences([]),
        lambda: scores.cost_against_accuracy({}),
        lambda: scores.data_scaling({}),
        lambda: latents.spans_by_hop({}),
        lambda: latents.controls({}),
        lambda: latents.latent_retrieval({}),
        lambda: latents.latent_map({"models": {}, "explained": [0.0, 0.0]}),
    ],
)
def test_nothing_is_drawn_too(draw: Callable[[], bytes]) -> None:
    assert draw().startswith(PNG)


def test_gains_stand_in_their_order() -> None:
    in_order, as_stored = {"-2": 1, "-1": 3, "8": 2}, {"-1": 3, "-2": 1, "8": 2}  # JSON sorts its keys as text
    assert figures.gain_histogram(in_order, {}) == figures.gain_histogram(as_stored, {})


def test_every_accuracy_has_its_bar_and_interval(captured: list[Figure]) -> None:
    models = RUN["futurebench"] | {"unanswered": RUN["futurebench"]["base"] | {"average": {"accuracy": None, "n": 0}}}
    scores.accuracy_by_hop(models)
    first, *_, average = captured[0].axes
    assert [label.get_text() for label in first.get_yticklabels()] == list(models)
    expected = [RUN["futurebench"][model]["average"] for model in RUN["futurebench"]]
    assert [bar.get_width() for bar in average.patches if bar.get_width() < 1.1] == [s["accuracy"] for s in expected]
    assert intervals(average) == [pytest.approx(s["interval"]) for s in expected]
    assert "–" in [text.get_text() for text in average.texts], "what has no value has a dash, and no bar"
    assert average.get_title() == "average\nn = 0 / 800"


def test_a_partial_score_says_so_in_its_figure(captured: list[Figure]) -> None:
    scores.judged_marks({"base": RUN["twiffbench"]["base"] | {"status": "partial"}})
    assert [label.get_text() for label in captured[0].axes[0].get_yticklabels()] == ["base (partial)"]


def test_paired_differences_are_hollow_where_they_may_be_zero(captured: list[Figure]) -> None:
    scores.paired_differences(RUN["paired"])
    (axes,) = captured[0].axes
    assert intervals(axes) == [pytest.approx([100 * b for b in row["interval"]]) for row in RUN["paired"]]
    faces = [container[0].get_markerfacecolor() for container in axes.containers]
    assert faces[1] == "white" != faces[0]


def test_donuts_are_the_shares(captured: list[Figure]) -> None:
    usage = RUN["futurebench"]["future_l1"]
    latents.spans_by_hop({"future_l1": usage}, PUBLISHED["latent_span_usage"])
    angles = [[w.theta2 - w.theta1 for w in axes.patches if isinstance(w, Wedge)] for axes in captured[0].axes]
    shares = [share for share in usage["spans"]["hop2"]["shares"].values() if share]
    assert sorted(angles[1]) == pytest.approx(sorted(360 * share for share in shares), abs=0.01)
    assert sorted(angles[4]) == pytest.approx(sorted(3.6 * share for share in (49, 33, 12, 6)), abs=0.01)
    assert not angles[7], "the paper tells nothing of interpolation"
    labels = [text.get_text() for text in captured[0].axes[1].texts]
    assert any(text.endswith("n = 200") and "–" in text for text in labels)


def test_changes_under_interventions_have_paired_intervals(captured: list[Figure]) -> None:
    latents.interventions(RUN["necessity"])
    first, second = captured[0].axes
    for axes, report in zip((first, second), RUN["necessity"].values(), strict=True):
        expected = [[100 * b for b in row["difference"]["interval"]] for row in report["interventions"].values()]
        assert intervals(axes) == [pytest.approx(bounds) for bounds in expected]
    assert "61 % changed (55–66)" in "".join(text.get_text() for text in first.texts)


def test_the_true_frame_stands_beside_the_observed_one_and_chance(captured: list[Figure]) -> None:
    report = RUN["latent_retrieval"]["la_dapo"]
    latents.latent_retrieval({"la_dapo": report})
    first, _, by_span = captured[0].axes
    expected = [report[name]["top1"]["interval"] for name in ("true_frame", "observed_frame")]
    assert intervals(first) == [pytest.approx(bounds) for bounds in expected]
    assert [text.get_text() for text in by_span.texts] == ["1", "2"]
    assert pytest.approx([0.05, 0.05]) in [list(np.asarray(line.get_xdata(), float)) for line in first.lines]


def test_rewards_are_running_means_with_the_noise_between_reports(captured: list[Figure]) -> None:
    lines = [{"step": step, "rewards/accuracy/mean": float(step % 2)} for step in range(9)]
    figures.reward_curves({"grpo": [*lines, {"step": 9, "loss": 1.0}], "dapo": lines[:1]})
    (axes,) = captured[0].axes
    raw, mean, *_ = axes.lines
    assert list(raw.get_ydata()) == [line["rewards/accuracy/mean"] for line in lines]
    means = list(mean.get_ydata())
    assert means[0] == pytest.approx(2 / 5) and means[4] == pytest.approx(4 / 9)
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    half = 1.96 * np.std([0, 1] * 4 + [0], ddof=1) / 3
    assert np.isclose(band, 4 / 9 - half).any() and np.isclose(band, 4 / 9 + half).any()
    assert axes.get_title() == "accuracy in the groups kept"


def test_the_plotted_reward_is_the_one_that_most_runs_report(captured: list[Figure]) -> None:
    both = [{"step": 1, "rewards/accuracy/mean": 0.4, "accuracy/all_samples": 0.2}]
    figures.reward_curves({"grpo": both, "dapo": both})
    figures.reward_curves({"grpo": both, "dapo": [{"step": 1, "rewards/accuracy/mean": 0.4}]})
    assert [f.axes[0].get_title() for f in captured] == ["accuracy of all samples", "accuracy in the groups kept"]


def test_published_scores_over_data_have_no_interval(captured: list[Figure]) -> None:
    ours = {5_000: RUN["twiffbench"]["base"]["cot"], 20_000: RUN["twiffbench"]["la_dapo"]["answer"]}
    published = {5_000: {"mean": 2.86, "interval": None}, 20_000: {"mean": 3.11, "interval": None}}
    scores.data_scaling({"CoT": {"la_dapo": ours, "published": published}})
    (axes,) = captured[0].axes
    assert len(axes.containers) == 2, "one interval for each score of ours"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5k", "20k"]


def test_models_keep_their_colour_and_differ_in_colour_and_marker() -> None:
    every = style.model_styles(["base", "grpo", "mine", "la_dapo", "yours", "dapo"])
    assert every["la_dapo"].colour == style.model_styles(["la_dapo"])["la_dapo"].colour
    assert len({each.colour for each in every.values()}) == len({each.marker for each in every.values()}) == 6


@pytest.mark.parametrize("sight", SIGHTS)
def test_colour_blind_readers_tell_all_models_apart(sight: str) -> None:
    colours = [lab(SIGHTS[sight] @ linear(each)) for each in (*style.MODEL_COLOURS.values(), *style.OTHER_COLOURS)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) > 12  # 2.3 is just noticeable


def test_a_name_with_dollars_is_no_mathematics() -> None:
    name = r"$\frac{1$"
    scores.accuracy_by_hop({name: RUN["futurebench"]["base"]})
    figures.composition({name: 3, "camera": 2}, {"1": 5})
