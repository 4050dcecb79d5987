"""Every training run of the paper and of the demo, as functions that return frozen recipes.

A recipe is data: what the program reads, how long it trains and with which loss.  `paper_*` hold the paper's tables
(reference: Tables 8 and 9 of arXiv 2606.05769), `demo_*` what the toy world needs on two CPU cores, and why.
"""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from training.model.latent_config import PAPER, LatentConfig


class Optimiser(BaseModel):
    """AdamW with warm-up; `floor` is the final share of the peak rate under the cosine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: float = 0.0  # share of the steps
    schedule: Literal["cosine", "constant"] = "constant"
    floor: float = 0.0
    clip_norm: float = 1.0


class LoraSettings(BaseModel):
    """Adapters of `rank` on every projection of the language model, scaled by alpha / rank, merged before saving."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.0


class SftRecipe(BaseModel):
    """Supervised fine-tuning: L = CE + latent_weight * MSE (paper Eq. 1, both terms means as in the release).

    weighting: whether tokens and latents weigh the same, or rows (training/sft/trainer.py).  supervise_length: also to
    go on inside a span is learned, not only to end it.  lora: adapters instead of all weights.

    span_share: the share of draws of a row with one, two, three or more future frames that keep their latent spans; the
    rest are the same text without spans (all zeros: the text-only control).  own_state: from and until which share of
    the run the latent inputs turn from the true frames' features into the model's own predictions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    latent_config: LatentConfig
    optimiser: Optimiser
    batch: int  # rows a step and device
    accumulation: int = 1
    steps: int | None = None  # None: `epochs` decides
    epochs: int = 1
    latent_weight: float = 0.1
    weighting: Literal["sample", "token"] = "sample"
    supervise_length: bool = False
    lora: LoraSettings | None = None
    span_share: tuple[float, float, float] = (1.0, 1.0, 1.0)
    own_state: tuple[float, float] | None = None
    bucket: bool = False  # batches of rows with the same number of future frames: no padding
    cache_gib: float = 0.0  # decoded rows and vision features kept in memory, when rows are seen more than once
    workers: int = 0
    save_every: int = 100


class RlRecipe(BaseModel):
    """LA-DAPO (paper Eq. 4-7, Table 9) and its ablations.

    weights: accuracy, format, R_ctr, R_div.  centred: R_ctr contrasts latents less their group's mean at each step.
    anchor: weight of the mean square between the latent-producing states of the policy and of the SFT model on the same
    rollouts.
    latent_std 0 makes latents deterministic, without a ratio.  overlong: answers cut by max_new_tokens are learned from
    as they were graded, or "mask"ed: nothing is learned from them (DAPO's overlong filtering).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    optimiser: Optimiser
    steps: int | None = None  # optimiser steps; None: one epoch
    prompts: int = 64  # a rollout batch, over all devices
    group: int = 8
    minibatches: int = 2  # optimiser steps on each rollout batch
    accumulation: int = 1  # passes in which a device takes its part of a minibatch
    max_new_tokens: int = 2048
    overlong: Literal["learn", "mask"] = "learn"
    temperature: float = 0.9
    top_p: float = 0.99
    latent_std: float = 0.0
    weights: tuple[float, float, float, float] = (0.9, 0.1, 0.2, 0.1)
    temperature_ctr: float = 0.5
    centred: bool = False
    min_spans: int = 1
    parser: Literal["strict", "option_text"] = "strict"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    latent_clip: float = 0.1
    kl: float = 1e-2
    anchor: float = 0.0
    decode_prompts: int | None = None  # decoded at a time, the judge grading the part before; None: all
    dynamic_rounds: int = 20  # rollout rounds to fill a batch with mixed groups; 1: no dynamic sampling
    keep_between: tuple[float, float] = (0.1, 0.9)
    cache_gib: float = 0.0
    save_every: int = 50


Recipe = TypeVar("Recipe", SftRecipe, RlRecipe)

TEXT_ONLY = "_text_only"
"""How the names of RL recipes end that start from the text-only SFT."""

MODES: dict[str, dict[str, Any]] = {
    "la_dapo": {},
    "grpo": {"weights": (0.9, 0.1, 0.0, 0.0), "dynamic_rounds": 1},
    "dapo": {"weights": (0.9, 0.1, 0.0, 0.0)},
    "dapo_ctr": {"weights": (0.9, 0.1, 0.2, 0.0)},
    "dapo_div": {"weights": (0.9, 0.1, 0.0, 0.1)},
}
"""What the RL objectives of Table 4 take away from LA-DAPO."""

SFT_NAMES = {"demo": ("future_l1", "text_only"), "paper": ("future_l1", "text_only", "random")}
RL_NAMES = {
    "demo": ("la_dapo",),
    "paper": (
        "la_dapo", "grpo", "dapo", "dapo_ctr", "dapo_div", "grpo_text_only", "dapo_text_only",
        "la_dapo_5k", "la_dapo_20k",
    ),
}  # fmt: skip


def demo_sft(name: str) -> SftRecipe:
    """The demo: 64x64 frames, four latents a span, always full.

    A mixture of chains and text-only rows, more text the deeper the question: RL then has something to discover.  CE
    never vanishes in a mixture and drowns 0.1 * MSE: with weight 3 the latents' error falls fastest, and CE loses
    nothing.  Own states come late, when they are good; without them free-running answers stay near chance.
    """
    latent_config = LatentConfig(image_tokens=(4, 16), max_latents=4, span_end="fixed", system_prompt=None)
    optimiser = Optimiser(rate=3e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup=0.03, schedule="cosine", floor=0.03)
    recipe = SftRecipe(
        name="future_l1", latent_config=latent_config, optimiser=optimiser, batch=32, steps=900, latent_weight=3.0,
        weighting="token", span_share=(0.8, 0.6, 0.25), own_state=(0.5, 0.8), bucket=True, cache_gib=2.0,
        save_every=150,
    )  # fmt: skip
    return _pick(name, {"future_l1": {}, "text_only": {"span_share": (0.0, 0.0, 0.0)}}, recipe)


def paper_sft(name: str) -> SftRecipe:
    """Table 8: Qwen3-VL-8B-Instruct on eight devices, global batch 128; `random` differs by its data only.

    `future_l1_lambda_0.05` and the like are the rows of Table 3, `future_l1_l_max_8` too.
    """
    optimiser = Optimiser(rate=1e-5, weight_decay=0.1, warmup=0.1, schedule="cosine")
    recipe = SftRecipe(name="future_l1", latent_config=PAPER, optimiser=optimiser, batch=1, accumulation=16, workers=8,
                       save_every=50)  # fmt: skip
    changes: dict[str, dict[str, Any]] = {"future_l1": {}, "random": {}, "text_only": {"span_share": (0.0, 0.0, 0.0)}}
    for weight in (0.01, 0.05, 0.2, 0.5, 1.0):
        changes[f"future_l1_lambda_{weight:g}"] = {"latent_weight": weight}
    for latents in (2, 8, 16, 32, 64):
        changes[f"future_l1_l_max_{latents}"] = {"latent_config": PAPER.model_copy(update={"max_latents": latents})}
    return _pick(name, changes, recipe)


def demo_rl(name: str) -> RlRecipe:
    """The demo: deterministic latents held by an anchor to the SFT model; without it the text gradient ruins them.

    The other names take rewards away, as in the paper's Table 4: `FUTURE_L1_PROFILE=ablation make demo`.
    """
    recipe = RlRecipe(
        name="la_dapo", optimiser=Optimiser(rate=2e-4, betas=(0.9, 0.98)), steps=48, prompts=24, max_new_tokens=44,
        temperature=1.0, top_p=1.0, min_spans=0, parser="option_text", kl=0.0, anchor=1.0, dynamic_rounds=2,
        keep_between=(0.0, 1.0), cache_gib=2.0, save_every=16,
    )  # fmt: skip
    return _pick(name, MODES, recipe)


def paper_rl(name: str) -> RlRecipe:
    """Table 9, and the rows of Table 4 and of Figure 5 (`la_dapo_5k` and `la_dapo_20k` differ by their data only).

    `grpo_text_only` and the like start from the text-only SFT and ask for no spans; `la_dapo_ctr_0.05` and
    `la_dapo_div_0.05` and the like are the rows of Table 5.
    """
    optimiser = Optimiser(rate=1e-6, betas=(0.9, 0.999), weight_decay=0.01)
    recipe = RlRecipe(name="la_dapo", optimiser=optimiser, accumulation=8, decode_prompts=4)
    changes = MODES | {f"{mode}{TEXT_ONLY}": {**change, "min_spans": 0} for mode, change in MODES.items()}
    changes |= {f"la_dapo_{rows}": {} for rows in ("5k", "20k")}
    for weight in (0.01, 0.05, 0.1, 0.5, 1.0):
        changes[f"la_dapo_ctr_{weight:g}"] = {"weights": (0.9, 0.1, weight, 0.1)}
    for weight in (0.01, 0.05, 0.2, 0.5, 1.0):
        changes[f"la_dapo_div_{weight:g}"] = {"weights": (0.9, 0.1, 0.2, weight)}
    return _pick(name, changes, recipe)


def _pick(name: str, changes: dict[str, dict[str, Any]], recipe: Recipe) -> Recipe:
    if name not in changes:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(changes)}")
    return recipe.model_copy(update={"name": name, **changes[name]})
