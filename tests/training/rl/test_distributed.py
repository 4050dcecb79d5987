"""Two gloo processes, four on two machines, and two on two machines with a sharded policy, learn what one learns.

Two optimiser steps on each of two rollout batches, with rounds of fresh prompts, and a surplus from the first to the
second: all that could depend on the number of processes.
"""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.toy import rl_recipe
from tests.training.several_processes import in_processes
from training.model.checkpoint import load
from training.rl.__main__ import RlConfig, main
from training.runtime.programs import Reporter, read_metrics

pytestmark = pytest.mark.usefixtures("forks")

STEPS = 4
CURVES = ("loss", "grad_norm", "rewards/accuracy/mean", "rewards/r_ctr/mean", "completions/mean_length", "spans")


def run_config(out: Path, data: Path, sft_model: Path) -> RlConfig:
    recipe = rl_recipe(
        max_steps=STEPS,
        prompts_per_batch=4,
        updates_per_batch=2,
        latent_std=0.2,
        beta=0.05,
        latent_anchor_coef=1.0,
        temperature=1.3,
        max_resample_rounds=3,
    )
    return RlConfig(out=out, device="cpu", recipe=recipe, data=data, sft=sft_model)


@pytest.fixture(scope="module")
def alone(data: Path, sft_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process."""
    out = tmp_path_factory.mktemp("alone")
    assert main(run_config(out, data, sft_checkpoint), Reporter(out))["steps"] == STEPS
    return out


@pytest.fixture(scope="module")
def whole(data: Path, sft_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes by `accelerate launch`, each with the whole policy."""
    return in_processes("training.rl", run_config(tmp_path_factory.mktemp("whole") / "out", data, sft_checkpoint))


@pytest.fixture(scope="module")
def four(data: Path, sft_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes on each of two machines, each with the whole policy."""
    out = tmp_path_factory.mktemp("four") / "out"
    return in_processes("training.rl", run_config(out, data, sft_checkpoint), processes=4, nodes=2)


@pytest.fixture(scope="module")
def sharded(data: Path, sft_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A process on each of two machines, with a part of the policy each."""
    out = tmp_path_factory.mktemp("sharded") / "out"
    return in_processes("training.rl", run_config(out, data, sft_checkpoint), nodes=2, sharded=True)


@pytest.mark.parametrize("way", ["whole", "sharded", "four"])
def test_several_processes_learn_as_one_does(
    alone: Path, way: str, sft_checkpoint: Path, request: pytest.FixtureRequest
) -> None:
    together: Path = request.getfixturevalue(way)
    one, two = read_metrics(alone), read_metrics(together)
    assert len(one) == len(two) == STEPS
    for expected, metrics in zip(one, two, strict=True):
        # all sums are fp32; the processes add up in another order
        assert metrics["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        curves = [name for name in CURVES if name in expected]  # the second step of a rollout batch has no rewards
        assert {n: metrics[n] for n in curves} == pytest.approx({n: expected[n] for n in curves}, rel=1e-4)
    folders = (sft_checkpoint, alone / "checkpoint", together / "checkpoint")
    before, expected, metrics = (load_file(folder / "model.safetensors") for folder in folders)
    assert expected.keys() == metrics.keys()
    for name, weight in expected.items():
        # Adam turns the rounding of a near-zero gradient into a part of a step: 7e-4 of a tensor's way was seen
        assert (metrics[name] - weight).norm() <= 5e-3 * (weight - before[name]).norm(), name


def test_a_sharded_policy_was_really_sharded_and_is_whole_when_saved(sharded: Path, sft_checkpoint: Path) -> None:
    parts = list((sharded / "steps" / f"checkpoint-{STEPS}" / "pytorch_model_fsdp_0").glob("__*.distcp"))
    assert len(parts) == 2, "each process wrote its own"
    saved, before = load(sharded / "checkpoint").model, load(sft_checkpoint).model
    assert {name: p.shape for name, p in saved.named_parameters()} == {
        name: p.shape for name, p in before.named_parameters()
    }
