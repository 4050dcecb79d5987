"""What the tests of RL begin with: the program's config, and rollouts made by hand."""

from pathlib import Path
from typing import Any

import torch

from training.recipes import RlRecipe
from training.rl.__main__ import RlConfig
from training.rl.rollouts import Rollout


def config(out: Path, data: Path, sft: Path, recipe: RlRecipe) -> RlConfig:
    """On a CPU, without a judge."""
    out.mkdir(parents=True, exist_ok=True)
    return RlConfig(out=out, device="cpu", recipe=recipe, data=data, sft=sft)


def made(ids: list[int], latents: torch.Tensor | None = None, **fields: Any) -> Rollout:
    """A rollout of these ids and latents [n,D]; what is not known is empty, and it ended by itself."""
    nothing = torch.zeros(len(ids))
    latents = torch.zeros(0, 1) if latents is None else latents
    values: dict[str, Any] = {"row": {}, "prompt": None, "seed": 0, "text": "", "runs": [], "finished": True, **fields}
    return Rollout(ids=ids, log_probs=nothing, sampled=nothing.bool(), latents=latents, noise=latents[:, 0], **values)
