"""A Future-L1 checkpoint: a plain transformers folder whose config also holds the LatentConfig.

Any Qwen3-VL loader reads the weights; `config.future_l1` has the settings of decoding, and `custom_generate/` the loop
that feeds latents back in plain transformers.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from training.model.encoding import Encoder, FrameLimits
from training.model.latent_config import PAPER, LatentConfig
from training.model.loader_settings import set_generation_config, set_processor
from training.model.modes import Spans
from training.model.tokens import LATENT, LATENT_END, LATENT_START, Tokens, add_latent_tokens, chat_template, lookup
from training.model.vision import FrozenVision
from training.runtime.errors import PermanentError

CUSTOM_GENERATE = "custom_generate/generate.py"
"""The decoding loop that plain transformers runs: where it lies beside this file, and in each checkpoint."""


class UnusableCheckpointError(PermanentError):
    """Raised for a folder without a model that can be loaded; the message names the folder and what it lacks."""


@dataclass
class FutureL1:
    """A loaded model with its processor, token ids and latent configuration, for decoding and for training."""

    model: Qwen3VLForConditionalGeneration
    processor: Qwen3VLProcessor
    tokens: Tokens
    latent_config: LatentConfig | None  # None: a base model, without latents

    @property
    def spans(self) -> Spans:
        """The spans this checkpoint decodes: none for a base model."""
        return Spans(self.latent_config.cap, self.latent_config.span_end) if self.latent_config else Spans(0, "model")

    def encoder(
        self,
        latent_config: LatentConfig,
        resize: Literal["exact", "release"] = "exact",
        supervise_span_length: bool = False,
    ) -> Encoder:
        """The encoder of dialogues under a latent configuration."""
        limits = FrameLimits(latent_config.image_tokens, max(1, latent_config.max_latents), resize)
        return Encoder(
            self.processor, limits, latent_config.system_prompt, latent_config.span_end, supervise_span_length
        )

    def prompt_encoder(self, image_tokens: tuple[int, int], system_prompt: str | None) -> Encoder:
        """The encoder of prompts, also for a base model: bounds of an image's merged tokens, and the system turn."""
        fields = {"image_tokens": image_tokens, "system_prompt": system_prompt}
        return self.encoder((self.latent_config or PAPER).model_copy(update=fields))

    def vision(self, cache_bytes: int = 0, apart: bool = False) -> FrozenVision:
        """The frozen tower and merger, with a feature cache of at most `cache_bytes`; `apart` as in FrozenVision."""
        return FrozenVision(self.model, cache_bytes, apart=apart)

    def save(
        self, folder: Path, latent_config: LatentConfig, weights: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Writes safetensors, config and processor, and for other loaders their settings and the decoding loop; the
        config also has the release's names of token ids and budget.

        `weights`: the gathered weights of a sharded model; None: the model's own.
        """
        config = self.model.config
        config.future_l1 = latent_config.model_dump(mode="json")
        config.latent_id, config.latent_start_id = self.tokens.latent, self.tokens.latent_start
        config.latent_end_id, config.max_latent_token = self.tokens.latent_end, latent_config.max_latents
        config.latent_cap, config.latent_cap_origin = latent_config.cap, latent_config.cap_origin
        set_generation_config(self.model, self.tokens)
        set_processor(self.processor, latent_config)
        self.model.save_pretrained(folder, state_dict=weights)
        self.processor.save_pretrained(folder)
        (folder / CUSTOM_GENERATE).parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(__file__).parent / CUSTOM_GENERATE, folder / CUSTOM_GENERATE)


def load(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> FutureL1:
    """Loads a checkpoint, ours or the public release's, or a base model.

    A base model gets the latent tokens, with rows sampled from `seed`; all get our chat template.  Only safetensors are
    read, and no code of the folder is run.  Raises UnusableCheckpointError for weights that are missing, of another
    shape or not finite, and ValueError when a checkpoint's tokenizer and config disagree about the latent tokens, when
    it was saved with another template, or when it needs a projection head, which this project does not have.
    """
    processor, model = _open(folder, torch.device(device), dtype)
    _check_finite(model, folder)
    model.generate = _no_generate
    latent_config = _read_latent_config(model.config, folder)
    template = chat_template(latent_config.system_prompt if latent_config else None)
    if latent_config is None:
        tokens = add_latent_tokens(model, processor.tokenizer, seed)
    else:
        tokens = lookup(processor.tokenizer)
        _check_tokens(tokens, model.config, folder)
        if hasattr(model.config, "future_l1") and processor.chat_template != template:
            raise ValueError(f"{folder}: its chat template is not the one it was trained with; save it with ours")
    processor.chat_template = template
    return FutureL1(model, processor, tokens, latent_config)


def _open(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> tuple[Qwen3VLProcessor, Qwen3VLForConditionalGeneration]:
    if (folder / "adapter_config.json").exists():
        raise UnusableCheckpointError(f"{folder} holds an adapter: merge it into its base, and give that folder")
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        # to the device one by one: the weights are never whole in the machine's memory
        model, loading = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, device_map=device, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UnusableCheckpointError(f"{folder} is no checkpoint that can be loaded: {error}") from error
    for what, keys in (
        ("has no weights", loading["missing_keys"]),
        ("has weights of another shape than its config says,", {key for key, *_ in loading["mismatched_keys"]}),
    ):
        if keys:
            first = ", ".join(sorted(keys)[:3])
            raise UnusableCheckpointError(f"{folder} {what} for {len(keys)} of the model's tensors: {first}; save it "
                                          "again")  # fmt: skip
    return processor, model


@torch.no_grad()
def _check_finite(model: Qwen3VLForConditionalGeneration, folder: Path) -> None:
    """Checks sums first: they need no memory, and a finite sum has finite parts."""
    for name, weight in model.named_parameters():
        if not weight.sum(dtype=torch.float32).isfinite() and not weight.isfinite().all():
            raise UnusableCheckpointError(f"{folder} holds NaN or infinity in {name}: its training has diverged, or "
                                          "the file is damaged; take an earlier checkpoint")  # fmt: skip


def _read_latent_config(config: Any, folder: Path) -> LatentConfig | None:
    """From our own field, or from those of the public release (reference/sft.md 1.1); None: a base model."""
    if (ours := getattr(config, "future_l1", None)) is not None:
        return LatentConfig(**ours)
    if getattr(config, "latent_id", None) is None:
        return None
    if getattr(config, "use_projection_head", False):
        raise ValueError(f"{folder}: decodes through a projection head, which the paper's models do not have")
    fixed = getattr(config, "train_fixed_latent_budget", None)
    return PAPER.model_copy(
        update={"max_latents": int(fixed or config.max_latent_token), "span_end": "fixed" if fixed else "model"}
    )


def _check_tokens(tokens: Tokens, config: Any, folder: Path) -> None:
    for name, token, configured in (
        (LATENT, tokens.latent, config.latent_id),
        (LATENT_START, tokens.latent_start, config.latent_start_id),
        (LATENT_END, tokens.latent_end, config.latent_end_id),
    ):
        if token != configured:
            raise ValueError(f"{folder}: {name} is {token} in the tokenizer but {configured} in config.json")


def _no_generate(*_args: Any, **_kwargs: Any) -> None:
    """Replaces transformers' `generate`, which with beams or without a cache would embed `<|latent|>` as a word."""
    raise NotImplementedError("latents are fed back by training.model.decode.decode; generate() does not know them")
