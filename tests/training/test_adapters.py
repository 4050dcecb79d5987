"""LoRA: an SFT and then an RL with adapters, in one process, in two with a whole model each, and in two with a sharded
one; the reference is the policy with its adapters off."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.toy import rl_recipe, sft_recipe
from tests.training.several_processes import in_processes
from training.adapters import adapter_weights, adapters_off, add_adapters, merged
from training.model.checkpoint import FutureL1, load
from training.model.encoding import collate
from training.model.rows import RowReader
from training.model.splice import inputs_of, spliced_forward
from training.recipes import LoraSettings
from training.rl import __main__ as rl
from training.rl.__main__ import RlConfig
from training.rl.trainer import LatentGRPOTrainer
from training.runtime.errors import validation_message
from training.runtime.programs import Reporter, read_metrics
from training.sft import __main__ as sft
from training.sft.__main__ import SftConfig
from training.tiny import BASE

pytestmark = pytest.mark.usefixtures("forks")

LORA = LoraSettings(r=4, lora_alpha=8.0)
STEPS = 4
CURVES = {
    "sft": ("loss", "grad_norm", "ce", "latent_mse"),
    "rl": ("loss", "grad_norm", "rewards/accuracy/mean", "completions/mean_length", "spans"),
}


LEARNING = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj", "embed_tokens", "lm_head")  # fmt: skip
"""Parts of names of weights that adapters change."""


def sft_config(out: Path, data: Path, base: Path = BASE) -> SftConfig:
    recipe = sft_recipe(max_steps=STEPS, per_device_train_batch_size=2, learning_rate=1e-2, lora=LORA, save_steps=2)
    return SftConfig(out=out, device="cpu", recipe=recipe, data=data, base=base)


def rl_config(out: Path, data: Path, start: Path, **changes: Any) -> RlConfig:
    fields = {
        "max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "latent_std": 0.2, "beta": 0.05,
        "latent_anchor_coef": 1.0, "temperature": 1.3, "max_resample_rounds": 2, "lora": LORA, "save_steps": 2,
    }  # fmt: skip
    return RlConfig(out=out, device="cpu", recipe=rl_recipe(**{**fields, **changes}), data=data, sft=start)


def run(way: str, config: SftConfig | RlConfig) -> Path:
    """The working folder of a program: in this process, or in two with whole or with sharded models."""
    if way != "alone":
        module = "training.sft" if isinstance(config, SftConfig) else "training.rl"
        return in_processes(module, config, sharded=way == "sharded")
    config.out.mkdir(exist_ok=True)
    reporter = Reporter(config.out)
    sft.main(config, reporter) if isinstance(config, SftConfig) else rl.main(config, reporter)
    return config.out


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


# ---- the model


def untied(bundle: FutureL1) -> FutureL1:
    """A copy whose head is a weight of its own, as in Qwen3-VL-8B."""
    model = copy.deepcopy(bundle.model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    return replace(bundle, model=model)


@pytest.fixture(scope="module")
def untied_checkpoint(sft_model: FutureL1, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle, folder = untied(sft_model), tmp_path_factory.mktemp("untied") / "checkpoint"
    assert bundle.latent_config
    bundle.save(folder, bundle.latent_config)
    model = load(folder).model
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    return folder


def outputs(bundle: FutureL1, model: Any, rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """States and logits of three dialogues, latents fed back."""
    assert bundle.latent_config
    reader = RowReader(bundle.encoder(bundle.latent_config), keep=False)
    batch, vision = collate([reader.dialogue(row, True) for row in rows[:3]], bundle.tokens.pad), bundle.vision()
    inputs, latent = inputs_of(batch, vision, bundle.model.device), batch.ids == bundle.tokens.latent
    with torch.no_grad():
        return spliced_forward(model, inputs, latent, vision.merged(batch.future), batch.mask.bool())


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_off_are_the_start_and_merged_ones_what_was_learned(
    sft_model: FutureL1, tied: bool, rows: list[dict[str, Any]]
) -> None:
    start = sft_model if tied else untied(sft_model)
    bundle = replace(start, model=copy.deepcopy(start.model))
    before = outputs(start, start.model, rows)
    adapted = add_adapters(bundle, LORA, seed=1)
    learning = [p for p in adapted.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in learning:
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    learned = outputs(bundle, adapted, rows)
    with adapters_off(adapted):
        off = outputs(bundle, adapted, rows)
    assert all(torch.equal(a, b) for a, b in zip(off, before, strict=True)), "bit for bit"
    assert all(p.requires_grad for p in learning)
    assert all(torch.equal(a, b) for a, b in zip(outputs(bundle, adapted, rows), learned, strict=True))
    fresh = replace(start, model=copy.deepcopy(start.model))
    whole = merged(fresh, LORA, adapter_weights(adapted))
    assert not any("lora" in name for name in whole.model.state_dict())
    for actual, expected, old in zip(outputs(whole, whole.model, rows), learned, before, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
        assert (expected - old).abs().max() > 0.1


def test_only_the_target_modules_and_the_latent_tokens_rows_learn(sft_model: FutureL1) -> None:
    bundle = replace(sft_model, model=copy.deepcopy(sft_model.model))
    adapted = add_adapters(bundle, LoraSettings(r=2, target_modules=("q_proj", "down_proj")), seed=0)
    learning = {name.rsplit(".", 3)[0].rsplit(".", 1)[-1] for name, p in adapted.named_parameters() if p.requires_grad}
    assert learning == {"q_proj", "down_proj", "embed_tokens"}


# ---- the programs


@pytest.fixture(scope="module")
def trained(data: Path, untied_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The working folder of a program, run in a way, once."""
    folder, done = tmp_path_factory.mktemp("lora"), {}

    def once(way: str, program: str) -> Path:
        if (way, program) not in done:
            out = folder / f"{way}-{program}"
            config = sft_config(out, data) if program == "sft" else rl_config(out, data, untied_checkpoint)
            done[way, program] = run(way, config)
        return done[way, program]

    return once


@pytest.mark.parametrize("way", ["whole", "sharded"])
@pytest.mark.parametrize("program", ["sft", "rl"])
def test_several_processes_learn_the_adapters_of_one(
    trained: Any, program: str, way: str, untied_checkpoint: Path
) -> None:
    alone, together = trained("alone", program), trained(way, program)
    one, two = read_metrics(alone), read_metrics(together)
    assert len(one) == len(two) == STEPS
    for expected, metrics in zip(one, two, strict=True):
        curves = [name for name in CURVES[program] if name in expected]
        assert {n: metrics[n] for n in curves} == pytest.approx({n: expected[n] for n in curves}, rel=1e-4, abs=1e-5)
    start = (BASE if program == "sft" else untied_checkpoint) / "model.safetensors"
    assert_same_change(load_file(start), weights_of(alone), weights_of(together))


def assert_same_change(
    before: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]
) -> None:
    """The same weights have changed by the same, up to what Adam makes of the rounding of a near-zero gradient."""
    assert expected.keys() == actual.keys() == before.keys()
    for name, weight in expected.items():
        if weight.shape != before[name].shape:  # it has rows of new tokens
            torch.testing.assert_close(actual[name], weight, atol=1e-5, rtol=0)
            continue
        change, learns = (weight - before[name]).norm(), any(part in name for part in LEARNING)
        assert (change > 0) == learns, name
        assert (actual[name] - weight).norm() <= 5e-3 * change, name


@pytest.mark.parametrize(("way", "program"), [("alone", "sft"), ("alone", "rl"), ("sharded", "rl")])
def test_a_run_that_goes_on_from_the_middle_ends_as_an_uninterrupted_one(
    trained: Any, way: str, program: str, data: Path, untied_checkpoint: Path, tmp_path: Path
) -> None:
    whole, out = trained(way, program), tmp_path / "out"
    shutil.copytree(whole / "steps" / "checkpoint-2", out / "steps" / "checkpoint-2")
    run(way, sft_config(out, data) if program == "sft" else rl_config(out, data, untied_checkpoint))
    losses, expected = ([record["loss"] for record in read_metrics(folder)] for folder in (out, whole))
    if way == "alone":
        assert losses == expected[2:]
        assert all(torch.equal(weights_of(out)[name], weight) for name, weight in weights_of(whole).items())
    else:  # surplus groups have other owners after a resume, so sums have another order
        assert losses == pytest.approx(expected[2:], abs=1e-5)
        assert_same_change(load_file(untied_checkpoint / "model.safetensors"), weights_of(whole), weights_of(out))


def test_rl_from_an_sft_both_with_adapters_needs_no_second_model(
    data: Path, sft_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second model as the reference would change nothing, not the last bit."""
    start = run("alone", sft_config(tmp_path / "sft", data, base=sft_checkpoint)) / "checkpoint"
    trainers: list[LatentGRPOTrainer] = []
    second: Any = None

    class Watched(LatentGRPOTrainer):
        def __init__(self, *args: Any, reference: Any, **kwargs: Any) -> None:
            super().__init__(*args, reference=second or reference, **kwargs)
            trainers.append(self)

    monkeypatch.setattr(rl, "LatentGRPOTrainer", Watched)
    one = run("alone", rl_config(tmp_path / "one", data, start))
    assert trainers[0].reference is None
    second = load(start).model.requires_grad_(False).eval()
    two = run("alone", rl_config(tmp_path / "two", data, start))
    assert trainers[1].reference is second
    curves = [[{n: r.get(n) for n in ("loss", "kl", "latent_anchor")} for r in read_metrics(out)] for out in (one, two)]
    assert curves[0] == curves[1]
    assert all(record["kl"] > 0 and record["latent_anchor"] > 0 for record in curves[0][1:])
    actual, expected, before = weights_of(one), weights_of(two), load_file(start / "model.safetensors")
    assert all(torch.equal(actual[name], weight) for name, weight in expected.items())
    assert any(not torch.equal(before[name], weight) for name, weight in expected.items())


def test_a_policy_that_is_compared_with_nothing_has_no_reference(
    data: Path, sft_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references: list[Any] = []

    class Watched(LatentGRPOTrainer):
        def __init__(self, *args: Any, reference: Any, **kwargs: Any) -> None:
            references.append(reference)
            super().__init__(*args, reference=reference, **kwargs)

    monkeypatch.setattr(rl, "LatentGRPOTrainer", Watched)
    alone = {"lora": None, "beta": 0, "latent_anchor_coef": 0, "max_steps": 2}
    run("alone", rl_config(tmp_path / "out", data, sft_checkpoint, **alone))
    assert references == [None]


# ---- settings


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target_modules": ["q_proj", "wq"]}, "lora.target_modules.1: Input should be 'q_proj', 'k_proj'"),
        ({"target_modules": []}, "lora.target_modules: Tuple should have at least 1 item"),
        ({"r": 0}, "lora.r: Input should be greater than 0"),
        ({"lora_alpha": -1}, "lora.lora_alpha: Input should be greater than 0"),
        ({"lora_dropout": 1.0}, "lora.lora_dropout: Input should be less than 1"),
        ({"rank": 8}, "lora.rank: there is no such field"),
        ({"lora_dropout": 0.1}, "RL's adapters have no lora_dropout"),
    ],
)
def test_settings_that_make_no_adapters_are_refused_in_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        rl_recipe(lora=values)
    assert sentence in validation_message(error.value)
