"""Two gloo processes, four on two machines, and two on two machines with a sharded model, train as one process does.

What is trained on is uneven on purpose: a last step that is not full, rows with and without latents, and the model's
own states as latents from the third step on.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.toy import sft_recipe, write_rows
from tests.training.several_processes import in_processes, launched
from training.model.checkpoint import load
from training.runtime.programs import Reporter, read_metrics
from training.sft.__main__ import SftConfig, main
from training.tiny import BASE

pytestmark = pytest.mark.usefixtures("forks")

CURVES = ("loss", "grad_norm", "ce", "mean_token_accuracy", "latent_mse", "latent_mse/copy_last_frame", "latent_skill")


@pytest.fixture(scope="module")
def uneven(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine rows: the last of three steps has two, in micro-batches of two; most processes of four have none."""
    return write_rows(rows[:9], tmp_path_factory.mktemp("uneven") / "rows.parquet")


def run_config(out: Path, data: Path) -> SftConfig:
    recipe = sft_recipe(
        max_steps=None, num_train_epochs=2, global_batch_size=8, per_device_train_batch_size=2, warmup_ratio=0.2,
        latent_keep_prob=(0.7, 0.7, 0.7), scheduled_sampling=(0.5, 0.6), weight_decay=0.01,
        lr_scheduler_type="cosine_with_min_lr",
    )  # fmt: skip
    return SftConfig(out=out, device="cpu", recipe=recipe, data=data, base=BASE)


@pytest.fixture(scope="module")
def alone(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that accumulates as much as all others together."""
    out = tmp_path_factory.mktemp("alone")
    assert main(run_config(out, uneven), Reporter(out))["steps"] == 3
    return out


@pytest.fixture(scope="module")
def whole(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes by `accelerate launch`, each with the whole model."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return launched("training.sft", run_config(out, uneven))


@pytest.fixture(scope="module")
def four(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes on each of two machines, each with the whole model."""
    out = tmp_path_factory.mktemp("four") / "out"
    return in_processes("training.sft", run_config(out, uneven), processes=4, nodes=2)


@pytest.fixture(scope="module")
def sharded(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A process on each of two machines, with a part of the model each; one is interrupted, and both go on."""
    config = run_config(tmp_path_factory.mktemp("sharded") / "out", uneven)
    launched("training.sft", config, nodes=2, sharded=True, interrupt=True)
    assert [folder.name for folder in (config.out / "steps").glob("checkpoint-*")] == ["checkpoint-1"]
    return in_processes("training.sft", config, nodes=2, sharded=True)


@pytest.mark.parametrize("way", ["whole", "sharded", "four"])
def test_several_processes_train_as_one_does(alone: Path, way: str, request: pytest.FixtureRequest) -> None:
    together: Path = request.getfixturevalue(way)
    one, two = read_metrics(alone), read_metrics(together)
    assert len(one) == len(two) == 3
    for expected, curves in zip(one, two, strict=True):
        # all sums are fp32; the processes add up in another order
        assert {n: curves[n] for n in CURVES} == pytest.approx({n: expected[n] for n in CURVES}, rel=1e-5)
    expected, curves = (load_file(out / "checkpoint" / "model.safetensors") for out in (alone, together))
    assert expected.keys() == curves.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(curves[name], weight, atol=1e-5, rtol=0)


def test_three_processes_are_refused(uneven: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="rows of an optimiser step do not divide into 3 processes: start 2 or 4"):
        in_processes("training.sft", run_config(tmp_path / "out", uneven), processes=3)


def test_a_sharded_model_was_really_sharded_and_is_whole_when_saved(sharded: Path) -> None:
    parts = list((sharded / "steps" / "checkpoint-3" / "pytorch_model_fsdp_0").glob("__*.distcp"))
    assert len(parts) == 2, "each process wrote its own"
    saved, base = load(sharded / "checkpoint").model, load(BASE).model
    assert {name: p.shape for name, p in saved.named_parameters()} == {
        name: p.shape for name, p in base.named_parameters()
    }
