"""A training's curves: one panel for each thing that it reported, the same picture for the same numbers."""

from typing import Any

from matplotlib.figure import Figure

from evaluation.drawing import run_plots as figures


def reports(**values: Any) -> list[dict[str, float]]:
    return [{"step": step, **{name: value + step for name, value in values.items()}} for step in range(1, 6)]


def test_latents_stand_beside_what_needs_no_training(captured: list[Figure]) -> None:
    metrics = reports(
        ce=3.0,
        latent_mse=0.5,
        latent_skill=-9.0,
        **{"latent_mse/copy_last_frame": 0.7, "latent_mse/training_mean": 0.9},
    )
    assert figures.training_curves(metrics) == figures.training_curves(metrics)
    words, errors, skill = captured[0].axes
    assert [line.get_label() for line in errors.lines] == ["the model", "copy of the last frame", "training mean"]
    assert list(errors.lines[1].get_ydata()) == [1.7, 2.7, 3.7, 4.7, 5.7]
    assert "no better than" in skill.texts[0].get_text()
    assert skill.get_ylim()[1] == 1.0, "how far there is to go is seen"
    assert len(words.lines) == 1


def test_a_control_without_latents_and_rl_have_separate_panels(captured: list[Figure]) -> None:
    figures.training_curves(reports(ce=3.0))
    figures.training_curves(reports(**{"rewards/accuracy/mean": 0.1, "rewards/format/mean": 0.2, "spans": 1.0}))
    titles = [[axes.get_title() for axes in figure.axes] for figure in captured]
    assert titles == [["cross-entropy per token"], ["rewards", "spans per answer"]]


def test_what_is_no_number_is_left_out(captured: list[Figure]) -> None:
    figures.training_curves([{"step": 1, "ce": float("nan")}, {"step": 2, "ce": 3.0}, {"step": 3, "loss": 1.0}])
    assert list(captured[0].axes[0].lines[0].get_xdata()) == [2]


def test_a_training_that_reported_nothing_says_so(captured: list[Figure]) -> None:
    assert figures.training_curves([]).startswith(b"\x89PNG")
    assert captured[0].axes == []
