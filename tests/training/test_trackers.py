"""`report_to`: trackers get the metrics of both trainings; one that is missing is refused at once."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.toy import rl_recipe, sft_recipe
from training.rl.__main__ import RlConfig
from training.rl.__main__ import main as rl
from training.runtime.errors import PermanentError
from training.runtime.programs import Reporter, read_metrics
from training.sft.__main__ import SftConfig
from training.sft.__main__ import main as sft
from training.tiny import BASE


@pytest.fixture(params=["sft", "rl"])
def program(request: pytest.FixtureRequest, sft_checkpoint: Path) -> tuple[Any, Any, dict[str, Any], str]:
    """The program, its config's class, what it trains, and a metric that only it logs."""
    if request.param == "sft":
        return sft, SftConfig, {"recipe": sft_recipe(max_steps=2), "base": BASE}, "latent_mse"
    return rl, RlConfig, {"recipe": rl_recipe(max_steps=2), "sft": sft_checkpoint}, "rewards/accuracy/mean"


def test_a_tracker_gets_the_metrics_that_the_file_has(program: Any, data: Path, tmp_path: Path) -> None:
    main, config, model, metric = program
    main(config(out=tmp_path, device="cpu", data=data, report_to=["tensorboard"], **model), Reporter(tmp_path))
    events = EventAccumulator(str(tmp_path / "runs")).Reload()
    tracked = {event.step: event.value for event in events.Scalars(f"train/{metric}")}
    assert tracked == pytest.approx({line["step"]: line[metric] for line in read_metrics(tmp_path) if metric in line})
    assert tracked


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("codecarbon", "'codecarbon', which is not installed: pip install it, or leave it out"),
        ("tensorbord", "'tensorbord', which is no tracker: choose from .*tensorboard, trackio, wandb"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_anything_is_read(
    program: Any, tmp_path: Path, name: str, sentence: str
) -> None:
    main, config, model, _ = program
    nowhere = tmp_path / "nowhere.parquet"
    settings = config(out=tmp_path, device="cpu", data=nowhere, report_to=[name], **model)
    with pytest.raises(PermanentError, match=sentence):
        main(settings, Reporter(tmp_path, quiet=True))
    assert list(tmp_path.iterdir()) == []
