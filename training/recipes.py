"""Every training run of the paper and of the demo, as functions that return frozen recipes.

A recipe is data: what the program reads, how long it trains and with which loss.  `paper_*` hold the paper's tables
(reference: Tables 8 and 9 of arXiv 2606.05769), `demo_*` what the toy world needs on two CPU cores, and why.
"""

from math import gcd
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from training.model.latent_config import PAPER, ImageTokens, LatentConfig
from training.runtime.errors import PermanentError

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"
"""The pattern of names that become partitions, files and folders."""


def _increasing(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the first must be below the second; found {bounds}")
    return bounds


Fraction = Annotated[float, Field(ge=0, le=1)]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(_increasing)]


Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


class LoraSettings(BaseModel):
    """Adapters of rank r on projections of the language model, by default all, scaled by lora_alpha / r, merged before
    saving."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: PositiveInt = 64
    """The rank of the adapters."""
    lora_alpha: PositiveFloat = 128.0
    """The adapters' scale is `lora_alpha / r`."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the adapters' inputs; none in RL."""
    target_modules: tuple[Projection, ...] = Field(default=PROJECTIONS, min_length=1)
    """The projections that have adapters."""


class TrainingRecipe(BaseModel):
    """The fields of SFT and RL alike, under the names of TRL's and transformers' arguments.

    The optimiser is AdamW.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    """The model's name."""
    learning_rate: float = Field(ge=0, allow_inf_nan=False)
    """The highest learning rate."""
    lr_scheduler_type: Literal["cosine_with_min_lr", "constant_with_warmup"] = "constant_with_warmup"
    """After the warm-up: down a cosine to `min_lr_rate`, or constant."""
    min_lr_rate: Fraction = 0.0
    """The final share of the learning rate under the cosine."""
    warmup_ratio: Fraction = 0.0
    """The share of the steps that warm up."""
    adam_beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    adam_beta2: float = 0.95
    """AdamW's decay of the mean of their squares."""
    weight_decay: float = 0.0
    """AdamW's decay of weights."""
    max_grad_norm: float = 1.0
    """The norm that gradients are clipped to."""
    max_steps: PositiveInt | None = None
    """Optimiser steps; None: the epochs decide."""
    per_device_train_batch_size: PositiveInt = 1
    """The most rows that a device takes at once."""
    save_steps: PositiveInt = 50
    """Steps between two checkpoints to go on from."""
    cache_gib: float = 0.0
    """Memory for decoded rows and vision features, where rows are read more than once."""
    lora: LoraSettings | None = None
    """Adapters instead of all weights."""


class SftRecipe(TrainingRecipe):
    """Supervised fine-tuning: L = CE + latent_weight * MSE (paper Eq. 1, both terms means as in the release)."""

    latent_config: LatentConfig
    """The span budget and the frame sizes, stored in the checkpoint."""
    global_batch_size: PositiveInt
    """Rows of an optimiser step, over all devices."""
    num_train_epochs: PositiveInt = 1
    """Epochs, where `max_steps` is None."""
    latent_targets: Literal["future_frames", "noise"] = "future_frames"
    """What spans are trained towards: the features of the true future frames; or, as a control, Gaussian noise of their
    mean and spread, other noise at each step."""
    latent_weight: float = 0.1
    """The weight λ of the latent loss."""
    loss_reduction: Literal["sample", "token"] = "sample"
    """The mean over rows, or over tokens and over latents."""
    supervise_span_length: bool = False
    """The loss covers the decision to continue a span, not only the one to end it."""
    latent_keep_prob: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    """The probability that a row with one, two, three or more future frames keeps its latent spans; else it is the same
    text without spans (all zeros: the text-only control)."""
    scheduled_sampling: FractionRange | None = None
    """(start, end), the shares of the run between which the latent inputs change from the true frames' features to the
    model's own predictions."""
    group_by_length: bool = False
    """Micro-batches of rows with the same number of future frames, which need little padding."""
    dataloader_num_workers: NonNegativeInt = 0
    """Processes that prepare rows; 0: the training's own."""


class RlRecipe(TrainingRecipe):
    """LA-DAPO (paper Eq. 4-7, Table 9) and its ablations; without max_steps, one epoch."""

    prompts_per_batch: PositiveInt = 64
    """Prompts of a rollout batch, over all devices."""
    num_generations: PositiveInt = 8
    """Answers to a prompt: a group."""
    image_tokens: ImageTokens | None = None
    """The least and the most merged tokens of an observed frame; None: the checkpoint's."""
    updates_per_batch: PositiveInt = 2
    """Optimiser steps on a rollout batch."""
    max_new_tokens: PositiveInt = 2048
    """The longest answer, in tokens."""
    mask_truncated_completions: bool = False
    """Answers cut by max_new_tokens carry no loss (DAPO's overlong filtering)."""
    temperature: PositiveFloat = 0.9
    """The temperature of rollouts."""
    top_p: float = Field(default=0.99, gt=0, le=1)
    """The probability mass that rollouts are sampled from."""
    latent_std: NonNegativeFloat = 0.0
    """Sigma of the Gaussian around the hidden state; 0: deterministic latents, without a ratio."""
    reward_weights: tuple[float, float, float, float] = (0.9, 0.1, 0.2, 0.1)
    """The weights of the rewards: accuracy, format, R_ctr, R_div."""
    tau_ctr: PositiveFloat = 0.5
    """The temperature of R_ctr."""
    centred: bool = False
    """R_ctr contrasts latents minus their group's mean at each step."""
    min_spans: NonNegativeInt = 1
    """The fewest spans that the format asks for."""
    parser: Literal["strict", "option_text"] = "strict"
    """The parser of answers."""
    epsilon: float = 0.2
    """The clip of the ratio below 1."""
    epsilon_high: float = 0.28
    """The clip of the ratio above 1."""
    delta: float = 3.0
    """The clip of bad answers' loss."""
    latent_epsilon: float = 0.1
    """The clip of the latent ratio."""
    beta: float = 1e-2
    """The weight of the KL divergence from the SFT model."""
    latent_anchor_coef: float = 0.0
    """The weight of the mean square between the latent-producing states of the policy and of the SFT model on the same
    rollouts."""
    max_batch_tokens: PositiveInt | None = None
    """The most tokens that a device decodes at once, as TokenBudget counts them; None: what its free memory holds."""
    max_resample_rounds: PositiveInt = 20
    """Rollout rounds to fill a batch with mixed groups; 1: no dynamic sampling."""
    dynamic_sampling_range: FractionRange = (0.1, 0.9)
    """The mean accuracies between which a group is mixed."""

    @model_validator(mode="after")
    def _replay_is_what_was_sampled(self) -> "RlRecipe":
        if self.lora and self.lora.lora_dropout:
            raise ValueError("RL's adapters have no lora_dropout: a replay would not be what was sampled; set it to 0")
        return self

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with the model that it started from."""
        return self.beta > 0 or self.latent_anchor_coef > 0

    @property
    def global_batch_size(self) -> int:
        """Answers of an optimiser step, over all devices.

        Raises PermanentError where the updates of a rollout batch would have different numbers.
        """
        size, rest = divmod(self.prompts_per_batch * self.num_generations, self.updates_per_batch)
        if rest:
            raise PermanentError(
                f"recipe {self.name}: {self.prompts_per_batch} prompts x {self.num_generations} answers are not "
                f"divisible by updates_per_batch, {self.updates_per_batch}"
            )
        return size


def micro_batches(recipe: SftRecipe | RlRecipe, processes: int) -> tuple[int, int]:
    """Rows that a device takes at once, and gradient accumulation steps, for an optimiser step of `global_batch_size`.

    Raises PermanentError, with the nearest numbers of processes that would do, where the rows do not divide.
    """
    rows = recipe.global_batch_size
    divisors = [n for n in range(1, rows + 1) if rows % n == 0]
    if processes not in divisors:
        nearest = [max(n for n in divisors if n < processes), *[n for n in divisors if n > processes][:1]]
        raise PermanentError(
            f"recipe {recipe.name}: the {rows} rows of an optimiser step do not divide into {processes} processes: "
            f"start {' or '.join(map(str, nearest))} (launch.num_processes), or change the recipe's batch"
        )
    alone = max(n for n in divisors if n <= recipe.per_device_train_batch_size)
    size = gcd(alone, rows // processes)  # a part of what one process would take: rows of one shape stay together
    return size, rows // processes // size


Recipe = TypeVar("Recipe", SftRecipe, RlRecipe)

TEXT_ONLY = "_text_only"
"""The suffix of the names of RL recipes that start from the text-only SFT."""

MODES: dict[str, dict[str, Any]] = {
    "la_dapo": {},
    "grpo": {"reward_weights": (0.9, 0.1, 0.0, 0.0), "max_resample_rounds": 1},
    "dapo": {"reward_weights": (0.9, 0.1, 0.0, 0.0)},
    "dapo_ctr": {"reward_weights": (0.9, 0.1, 0.2, 0.0)},
    "dapo_div": {"reward_weights": (0.9, 0.1, 0.0, 0.1)},
}
"""The RL objectives of Table 4, as changes of the LA-DAPO recipe."""

SFT_NAMES = {"demo": ("future_l1", "text_only", "random_targets"), "paper": ("future_l1", "text_only", "random")}
RL_NAMES = {
    "demo": ("la_dapo",),
    "paper": (
        "la_dapo", "grpo", "dapo", "dapo_ctr", "dapo_div", "grpo_text_only", "dapo_text_only",
        "la_dapo_5k", "la_dapo_20k",
    ),
}  # fmt: skip


def demo_sft(name: str) -> SftRecipe:
    """The demo: 64x64 frames, four latents a span, always full.

    A mixture of chains and text-only rows, more text the deeper the question: RL then has something to discover.  Just
    below half the deepest keep their spans: a greedy answer to them has none, and the latents get as many examples as
    that leaves, for it is they that limit accuracy (docs/demo-numbers.md).  CE never vanishes in a mixture and drowns
    0.1 * MSE: with weight 3 the latents' error falls fastest, and CE loses nothing.  Scheduled sampling comes late,
    when the model's own latents are good; without it free-running answers stay near chance.  `random_targets` is a
    control, whose spans can hold nothing of the future.
    """
    latent_config = LatentConfig(image_tokens=(4, 16), max_latents=4, span_end="fixed", system_prompt=None)
    recipe = SftRecipe(
        name="future_l1", latent_config=latent_config, learning_rate=3e-3, lr_scheduler_type="cosine_with_min_lr",
        min_lr_rate=0.03, warmup_ratio=0.03, adam_beta2=0.98, weight_decay=0.01, global_batch_size=32,
        per_device_train_batch_size=32, max_steps=1000, latent_weight=3.0, loss_reduction="token",
        latent_keep_prob=(0.9, 0.8, 0.4), scheduled_sampling=(0.5, 0.8), group_by_length=True, cache_gib=2.0,
        save_steps=150,
    )  # fmt: skip
    changes: dict[str, dict[str, Any]] = {"future_l1": {}, "random_targets": {"latent_targets": "noise"}}
    return _pick(name, changes | {"text_only": {"latent_keep_prob": (0.0, 0.0, 0.0)}}, recipe)


def paper_sft(name: str) -> SftRecipe:
    """Table 8: Qwen3-VL-8B-Instruct on eight devices, global batch 128; `random` differs by its data only.

    `future_l1_lambda_0.05` and the like are the rows of Table 3, `future_l1_l_max_8` too.
    """
    recipe = SftRecipe(
        name="future_l1", latent_config=PAPER, learning_rate=1e-5, lr_scheduler_type="cosine_with_min_lr",
        warmup_ratio=0.1, weight_decay=0.1, global_batch_size=128, dataloader_num_workers=8,
    )  # fmt: skip
    changes: dict[str, dict[str, Any]] = {"future_l1": {}, "random": {}}
    changes["text_only"] = {"latent_keep_prob": (0.0, 0.0, 0.0)}
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
        name="la_dapo", learning_rate=2e-4, adam_beta2=0.98, max_steps=48, prompts_per_batch=24,
        per_device_train_batch_size=96, max_new_tokens=48, temperature=1.0, top_p=1.0, min_spans=0,
        parser="option_text", beta=0.0, latent_anchor_coef=1.0, max_resample_rounds=2,
        dynamic_sampling_range=(0.0, 1.0), cache_gib=2.0, save_steps=16,
    )  # fmt: skip
    return _pick(name, MODES, recipe)


def paper_rl(name: str) -> RlRecipe:
    """Table 9, and the rows of Table 4 and of Figure 5 (`la_dapo_5k` and `la_dapo_20k` differ by their data only).

    `grpo_text_only` and the like start from the text-only SFT and ask for no spans; `la_dapo_ctr_0.05` and
    `la_dapo_div_0.05` and the like are the rows of Table 5.
    """
    recipe = RlRecipe(
        name="la_dapo", learning_rate=1e-6, adam_beta2=0.999, weight_decay=0.01, per_device_train_batch_size=4,
    )  # fmt: skip
    changes = MODES | {f"{mode}{TEXT_ONLY}": {**change, "min_spans": 0} for mode, change in MODES.items()}
    changes |= {f"la_dapo_{rows}": {} for rows in ("5k", "20k")}
    for weight in (0.01, 0.05, 0.1, 0.5, 1.0):
        changes[f"la_dapo_ctr_{weight:g}"] = {"reward_weights": (0.9, 0.1, weight, 0.1)}
    for weight in (0.01, 0.05, 0.2, 0.5, 1.0):
        changes[f"la_dapo_div_{weight:g}"] = {"reward_weights": (0.9, 0.1, 0.2, weight)}
    return _pick(name, changes, recipe)


def _pick(name: str, changes: dict[str, dict[str, Any]], recipe: Recipe) -> Recipe:
    if name not in changes:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(changes)}")
    return recipe.model_copy(update={"name": name, **changes[name]})
