"""The files for `accelerate launch`: read by accelerate's own code into the plugins that a GPU box would get."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType
from transformers.models.qwen3_vl import modeling_qwen3_vl

from pipelines.profile import load_profile, paper
from training.arguments import Preparation, trainer_arguments
from training.model.placement import reduce_in_fp32
from training.recipes import paper_sft
from training.runtime.programs import TrainingConfig

ROOT = Path(__file__).parents[3]
FILES = ROOT / "profiles" / "accelerate"


def launched(name: str) -> Any:
    """accelerate's arguments for a program started with this file."""
    command = ["--config_file", str(FILES / name), "-m", "training.sft", "--config", "sft.json"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    return arguments


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets exactly what the launcher gives to each process."""

    def take(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            if os.environ.get(name) != value:
                monkeypatch.setenv(name, value)

    return take


@pytest.mark.parametrize("path", sorted(FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_file_is_for_eight_processes_in_bf16(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert (config.num_processes, config.num_machines, config.mixed_precision) == (8, 1, "bf16")
    assert launched(path.name).num_processes == 8


def test_fsdp_shards_each_decoder_layer_and_the_tower(environment: Any) -> None:
    assert load_config_from_file(str(FILES / "fsdp2.yaml")).distributed_type is DistributedType.FSDP
    environment(prepare_multi_gpu_env(launched("fsdp2.yaml")))
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type is StateDictType.SHARDED_STATE_DICT
    assert not plugin.cpu_ram_efficient_loading
    assert isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy)
    assert plugin.transformer_cls_names_to_wrap == ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionModel"]
    assert all(hasattr(modeling_qwen3_vl, name) for name in plugin.transformer_cls_names_to_wrap)
    assert not plugin.activation_checkpointing, "the trainer's; both at once is an error of transformers"


def test_under_fsdp_gradients_are_averaged_in_fp32_at_every_micro_batch(environment: Any, tmp_path: Path) -> None:
    """accelerate's way keeps a step's gradients whole in every process, and adds the processes' in bf16."""
    config = TrainingConfig(out=tmp_path, data=tmp_path)
    preparation = Preparation(tmp_path, [], torch.device("cpu"), torch.float32, 1, 8, {})

    def gradient_accumulation() -> Any:
        arguments = trainer_arguments(config, paper_sft("future_l1"), 10, preparation)
        return arguments["accelerator_config"]["gradient_accumulation_kwargs"]

    assert gradient_accumulation() == {"sync_each_batch": False}
    environment(prepare_multi_gpu_env(launched("fsdp2.yaml")))
    assert gradient_accumulation() == {"sync_each_batch": True}
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    reduce_in_fp32(SimpleNamespace(is_fsdp2=True, state=SimpleNamespace(fsdp_plugin=plugin)))
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)


def test_the_layers_that_fsdp_shards_are_those_of_the_model(environment: Any, base: Any) -> None:
    environment(prepare_multi_gpu_env(launched("fsdp2.yaml")))
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_auto_wrap_policy(base.model)  # raises for a class that the model does not have
    wrapped = [m for m in base.model.modules() if type(m).__name__ in plugin.transformer_cls_names_to_wrap]
    assert wrapped == [base.model.model.visual, *base.model.model.language_model.layers]


def test_zero_clips_as_the_paper_does(environment: Any) -> None:
    assert load_config_from_file(str(FILES / "zero2.yaml")).distributed_type is DistributedType.DEEPSPEED
    arguments = launched("zero2.yaml")
    arguments.deepspeed_fields_from_accelerate_config = ""
    _, variables = prepare_deepspeed_cmd_env(arguments)
    environment(variables)
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision("bf16")
    assert plugin.zero_stage == 2
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == 2
    assert plugin.deepspeed_config["bf16"] == {"enabled": True}
    assert plugin.deepspeed_config["gradient_clipping"] == paper_sft("future_l1").max_grad_norm > 0
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == "auto", "a number would contradict the recipe's"
    assert not plugin.hf_ds_config.is_offload()


def test_the_papers_size_is_launched_with_shards(tmp_path: Path) -> None:
    for profile in (paper(tmp_path), load_profile(str(ROOT / "profiles" / "eight-gpus.toml"), tmp_path)):
        assert profile.launch.environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
        for program in ("training.sft", "training.rl"):
            assert profile.launch.num_processes[program] == 8
            assert ROOT / profile.launch.accelerate_config[program] == FILES / "fsdp2.yaml"
