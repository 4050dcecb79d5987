"""What a profile costs before anything runs: curation, the training of each model, disk and host memory.

The arithmetic is in assets.curation.estimate and training.estimate; here the profile's settings meet it, with one size
of frames for all parts.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from assets.checkpoints.assets import RL_PROGRAM, SFT_PROGRAM
from assets.checkpoints.settings import RlRun, SftRun
from assets.curation.estimate import Assumptions, Estimate, Quantity, bounds
from pipelines.profile import GENERATION_PROGRAM, Profile
from training.estimate.devices import Device, Range
from training.estimate.hours import step_seconds
from training.estimate.memory import GIB, RESERVE
from training.estimate.run import ROUNDS, RowShape, TrainingRun, peak_gib, usable_gib
from training.estimate.shape import ModelShape
from training.recipes import RlRecipe, SftRecipe
from training.tiny.world import SIDE

FRAME = (720, 1280)
"""Of clips, where nothing else is stated."""
TWIFF_ROWS = 2_708_318
V1_33K_FRAMES = 16
KEPT_CHECKPOINTS = 3
"""Of a training that runs: two, and the one that is being written."""
PROCESS_GIB: Range = (4.0, 8.0)
WORKER_GIB: Range = (0.5, 1.5)
"""Host memory of a worker of the data loader; a guess, as that of a process."""

Row = tuple[str, str, str]
"""Quantity, value and source of an assumption."""


@dataclass(frozen=True)
class TrainingEstimate:
    """Steps, hours and memory of a training.

    memory: GiB of one device by phase and part, {} where it is not estimated.  changes: those that would make it fit.
    """

    name: str
    program: str
    rows: int
    gpus: int
    layout: str
    steps: int
    hours: Range
    rollouts: Range
    memory: dict[str, dict[str, float]]
    peak_gib: float | None
    fits: bool | None
    changes: list[str]


@dataclass(frozen=True)
class ProfileEstimate:
    """The whole estimate; disk in bytes."""

    profile: str
    device: Device
    curation: Estimate
    trainings: list[TrainingEstimate]
    judge_calls: Range
    disk: dict[str, float]
    host_gib: Range
    assumptions: list[Row]

    @property
    def warnings(self) -> list[str]:
        """A sentence for the trainings that do not fit for the same reason."""
        alike: dict[str, list[str]] = {}
        for training in self.trainings:
            if training.fits is False:
                alike.setdefault(_shortage(training, self.device), []).append(training.name)
        return [f"{', '.join(names)}: {shortage}" for shortage, names in alike.items()]

    def as_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile,
            "device": {"name": self.device.name, "gib": None if self.device.is_cpu else self.device.gib},
            "curation": {"rows": self.curation.rows.value, "least": self.curation.least, "most": self.curation.cost},
            "trainings": [asdict(training) for training in self.trainings],
            "judge_calls": self.judge_calls,
            "disk": self.disk,
            "host_gib": self.host_gib,
            "warnings": self.warnings,
            "assumptions": [dict(zip(("quantity", "value", "source"), one, strict=True)) for one in self.assumptions],
        }


def training_runs(
    profile: Profile, model: ModelShape, frame: tuple[int, int] | None, gpus: int | None
) -> dict[str, tuple[str, TrainingRun]]:
    """The program and the run of each training of a profile, by its model's name, in order."""
    latent_configs = {run.recipe.name: run.recipe.latent_config for run in profile.sft}
    questions = profile.curation.multiple_choice_set
    runs: dict[str, tuple[str, TrainingRun]] = {}
    all_runs: list[SftRun | RlRun] = [*profile.sft, *profile.rl]
    for run in all_runs:
        program = SFT_PROGRAM if isinstance(run, SftRun) else RL_PROGRAM
        shape, rows = row_shape(profile, frame), profile.curation.selection.top
        if isinstance(run, RlRun) and questions and run.data == questions.name:
            shape, rows = replace(shape, observed=(V1_33K_FRAMES, V1_33K_FRAMES)), questions.rows
        elif isinstance(run, RlRun):
            rows = profile.curation.rl_sets[run.data]
        runs[run.recipe.name] = (
            program,
            TrainingRun(
                recipe=run.recipe,
                latent_config=latent_configs[run.start if isinstance(run, RlRun) else run.recipe.name],
                rows=rows,
                shape=shape,
                model=model,
                gpus=gpus or profile.launch.num_processes.get(program, 1),
                sharding=_sharding(profile, program),
            ),
        )
    return runs


def row_shape(profile: Profile, frame: tuple[int, int] | None) -> RowShape:
    """The shape of the rows of a profile's source, with frames of another (height, width) where one is stated."""
    if profile.toyworld is None:
        return RowShape(frame or FRAME)
    return RowShape(frame or (SIDE, SIDE), (1, 1), future=(2, 3), text=40, answer=(20, 30), rl_answer=(20, 35))


def source_rows(profile: Profile) -> Quantity:
    if sizes := profile.toyworld:
        return Quantity(value=sizes.shards * sizes.rows_per_shard, source="profile: toyworld")
    return Quantity(value=TWIFF_ROWS, source="assumed: all of TwiFF-2.7M")


def curation_assumptions(
    profile: Profile, model: ModelShape, device: Device, frame: tuple[int, int] | None
) -> Assumptions:
    """Those of the profile's model, rows and backend."""
    shape, settings = row_shape(profile, frame), profile.curation
    observed = shape.frame_tokens(settings.answers.image_tokens, model.tile)
    hint = min(observed, settings.prompts.hint_tokens or observed)
    plain = shape.observed[0] * observed + shape.text // 2  # half of a training's text is its system prompt
    size = f"{shape.frame[1]}x{shape.frame[0]}, {observed} merged tokens"
    values = {
        "plain_tokens": Quantity(value=plain, source=f"assumed: one observed frame of {size}, and text"),
        "hint_tokens": Quantity(
            value=plain + shape.future[0] * hint, source=f"assumed: the same and {shape.future[0]:g} future frames"
        ),
        "prefill_per_second": Quantity(
            value=device.flops[1] / (2 * model.parameters),
            source=f"assumed: prompt tokens at {device.flops[1] / 1e12:.3g} TFLOP/s",
        ),
        "decode_per_second": _decode_rate(profile, device),
        "gpus": _curation_gpus(profile),
        "clip_bytes": Quantity(
            value=7e5 * shape.frame[0] * shape.frame[1] / (360 * 640),
            source="assumed: by pixels from Panda-70M at 360 px, 1.6 TB for 2.4 M clips; at most one a row",
        ),
    }
    if profile.toyworld:
        most = settings.answers.max_new_tokens
        values["answer_tokens"] = Quantity(value=most, source="profile: curation.answers.max_new_tokens; at most")
        values["judge_share"] = Quantity(value=0, source="profile: multiple choice, which the rule settles")
    if settings.use_source_counts:
        values["answers_per_row"] = Quantity(value=0, source="profile: curation.use_source_counts")
    if profile.judge and profile.judge.price_per_million:
        prices = zip(("price_in", "price_out"), profile.judge.price_per_million, strict=True)
        values |= {name: Quantity(value=price, source="profile: judge.price_per_million") for name, price in prices}
    return Assumptions().model_copy(update=values)


def _decode_rate(profile: Profile, device: Device) -> Quantity:
    if profile.curation.endpoint:
        return Quantity(value=5_000, source="assumed: a GPU that serves an 8B model; not measured")
    if device.is_cpu:
        return Quantity(value=2_500, most=6_500, source="measured: the demo, a core")
    return Assumptions().decode_per_second


def _curation_gpus(profile: Profile) -> Quantity:
    if profile.curation.endpoint:
        return Quantity(value=len(profile.curation.endpoint.base_urls), source="profile: a GPU behind each base_url")
    devices = profile.launch.max_parallel.get(GENERATION_PROGRAM, 1)
    return Quantity(value=devices, source="profile: launch.max_parallel")


def estimate_profile(
    profile: Profile, curation: Estimate, runs: dict[str, tuple[str, TrainingRun]], device: Device, shape_source: str
) -> ProfileEstimate:
    """Raises PermanentError where a recipe's batch does not divide into the GPUs."""
    trainings = [_training(name, program, run, device) for name, (program, run) in runs.items()]
    judged = curation.assumptions.judge_share.value * curation.assumptions.judge_distinct.value
    in_rl = [sum(one.rollouts[end] for one in trainings) * judged for end in (0, 1)]
    calls = curation.cost["judge calls"] or 0
    every = [run for _, run in runs.values()]
    return ProfileEstimate(
        profile=profile.name,
        device=device,
        curation=curation,
        trainings=trainings,
        judge_calls=(calls + in_rl[0], calls + in_rl[1]),
        disk=_disk(curation, every),
        host_gib=_host(every),
        assumptions=[*curation.assumed(), *_assumed(trainings, every[0], device, shape_source)],
    )


def _training(name: str, program: str, run: TrainingRun, device: Device) -> TrainingEstimate:
    estimated = not device.is_cpu and not (run.sharding == "zero" and run.gpus > 1)
    memory = run.memory() if estimated else {}
    fits = run.fits(device) if estimated else None
    return TrainingEstimate(
        name=name,
        program=program,
        rows=run.rows,
        gpus=run.gpus,
        layout="FSDP2" if run.layout.sharded else "ZeRO" if run.sharding == "zero" and run.gpus > 1 else "whole",
        steps=run.steps,
        hours=run.hours(device),
        rollouts=run.rollouts,
        memory={phase: {part: size / GIB for part, size in parts.items() if size} for phase, parts in memory.items()},
        peak_gib=peak_gib(memory) if estimated else None,
        fits=fits,
        changes=run.changes(device) if fits is False else [],
    )


def _shortage(training: TrainingEstimate, device: Device) -> str:
    sizes = {phase: sum(parts.values()) for phase, parts in training.memory.items()}
    phase = max(sizes, key=lambda name: sizes[name])
    shortage = (f"{training.gpus} x {device.name} do not suffice: {sizes[phase]:.1f} GiB each in the phase {phase!r}, "
                f"of {usable_gib(device):.1f} that can be used; ")  # fmt: skip
    if training.changes:
        return f"{shortage}what would do: {', or '.join(training.changes)}"
    if sizes["loading"] > usable_gib(device):
        shortage += f"weights are whole while they are loaded, {sizes['loading']:.1f} GiB: "
    return f"{shortage}take a larger device or a smaller base"


def _disk(curation: Estimate, runs: Sequence[TrainingRun]) -> dict[str, float]:
    """Bytes: what stays, and the checkpoints to go on from of the largest training while it runs."""
    model = runs[0].model
    stays = {title.removeprefix("disk: "): size or 0 for title, size in curation.cost.items() if "disk" in title}
    resumable = 12 * model.language_parameters + 2 * model.vision_parameters
    return {
        **stays,
        "checkpoints": len(runs) * 2 * model.parameters,
        "while a training runs": KEPT_CHECKPOINTS * resumable,
    }


def _host(runs: Sequence[TrainingRun]) -> Range:
    """GiB of the machine that the largest training runs on: its processes, and the weights that the first gathers."""
    ends = []
    for end in (0, 1):
        of_runs = [
            run.gpus * (PROCESS_GIB[end] + _workers(run.recipe) * WORKER_GIB[end] + run.recipe.cache_gib)
            for run in runs
        ]
        ends.append(max(of_runs) + 6 * runs[0].model.parameters / GIB)
    return ends[0], ends[1]


def _workers(recipe: SftRecipe | RlRecipe) -> int:
    return recipe.dataloader_num_workers if isinstance(recipe, SftRecipe) else 0


def _assumed(trainings: Sequence[TrainingEstimate], run: TrainingRun, device: Device, shape_source: str) -> list[Row]:
    shape = run.shape
    rates = " – ".join(f"{flops / 1e12:.3g}" for flops in device.flops)
    low, high = step_seconds(run.model, device)
    measured = "measured: the demo" if device.is_cpu else f"assumed of {device.name}; not measured"
    rows: list[Row] = [
        ("base", f"{run.model.parameters / 1e9:.3g} G weights", shape_source),
        ("frame", f"{shape.frame[1]}x{shape.frame[0]}", "--frame, or the source's; the same in every part"),
        (
            "observed frames",
            f"{shape.observed[0]}, at most {shape.observed[1]}",
            "the most for memory; V1-33K's rows: 16",
        ),
        ("answer in RL", f"{bounds(*shape.rl_answer)} tokens", "assumed; for memory the recipe's max_new_tokens"),
        ("rounds of a rollout batch", bounds(*ROUNDS), "assumed, of at most the recipe's max_resample_rounds"),
        ("training", f"{rates} TFLOP/s", measured),
        ("decoding step in RL", f"{bounds(1000 * low, 1000 * high)} ms", measured),
        ("host memory", f"{bounds(*PROCESS_GIB)} GiB a process", f"a guess; {bounds(*WORKER_GIB)} a loader's worker"),
        ("disk while a training runs", f"{KEPT_CHECKPOINTS} checkpoints", "weights in fp32 and Adam's state"),
        ("not estimated", "benchmarks, reports", "nor memory on CPUs and under ZeRO"),
    ]
    if any(training.memory for training in trainings):
        rows += [
            ("memory of updates", "within 5 %", "of fake tensors of the trainers' own steps; other phases by formula"),
            ("cache in RL", "one prompt's answers", "the least; decoding takes most of what is free"),
            ("reserve", f"{RESERVE:.0%} of a device", "NCCL's buffers, CUDA's context, the allocator's fragments"),
        ]
    return rows


def _sharding(profile: Profile, program: str) -> Literal["whole", "fsdp2", "zero"]:
    file = profile.launch.accelerate_config.get(program)
    kind = re.search(r"^distributed_type: *(\w+)", file.read_text(), re.MULTILINE) if file else None
    return {"FSDP": "fsdp2", "DEEPSPEED": "zero"}.get(kind[1], "whole") if kind else "whole"  # type: ignore[return-value]
