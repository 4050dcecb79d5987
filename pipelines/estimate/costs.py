"""What a profile costs before anything runs: curation, the training of each model, disk and host memory."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from assets.curation.estimate import Estimate, bounds
from pipelines.profile import Profile
from training.estimate.devices import Device, Range
from training.estimate.hours import step_seconds
from training.estimate.memory import GIB, RESERVE, learning_parameters
from training.estimate.run import ROUNDS, TrainingRun, peak_gib, usable_gib
from training.recipes import RlRecipe, SftRecipe

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
    nodes: int
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
        assumptions=[*curation.assumed(), *_assumed(trainings, every, device, shape_source)],
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
        nodes=run.nodes,
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
    learning = max(learning_parameters(model, run.recipe.lora) for run in runs)
    frozen = 0 if all(run.recipe.lora for run in runs) else 2 * model.vision_parameters  # adapters are saved alone
    stays = {title.removeprefix("disk: "): size or 0 for title, size in curation.cost.items() if "disk" in title}
    return {
        **stays,
        "checkpoints": len(runs) * 2 * model.parameters,
        "while a training runs": KEPT_CHECKPOINTS * (12 * learning + frozen),
    }


def _host(runs: Sequence[TrainingRun]) -> Range:
    """GiB of the first node of the largest training: its processes there, and the weights that the first gathers, in
    fp32 and in bf16, or into which it merges adapters, in bf16."""
    low, high = (
        max(
            -(-run.gpus // run.nodes)
            * (PROCESS_GIB[end] + _workers(run.recipe) * WORKER_GIB[end] + run.recipe.cache_gib)
            + (2 if run.recipe.lora else 6) * run.model.parameters / GIB
            for run in runs
        )
        for end in (0, 1)
    )
    return low, high


def _workers(recipe: SftRecipe | RlRecipe) -> int:
    return recipe.dataloader_num_workers if isinstance(recipe, SftRecipe) else 0


def _assumed(
    trainings: Sequence[TrainingEstimate], runs: Sequence[TrainingRun], device: Device, shape_source: str
) -> list[Row]:
    run, adapters = runs[0], any(isinstance(one.recipe, RlRecipe) and one.recipe.lora for one in runs)
    shape = run.shape
    rates = " – ".join(f"{flops / 1e12:.3g}" for flops in device.flops)
    low, high = step_seconds(run.model, device, adapters)
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
        ("disk while a training runs", f"{KEPT_CHECKPOINTS} checkpoints", "what learns, in fp32, and Adam's state"),
        ("not estimated", "benchmarks, reports", "nor memory on CPUs and under ZeRO"),
    ]
    if any(training.nodes > 1 for training in trainings):
        rows.append(("between nodes", "nothing more", "assumed: a network as fast as within a node"))
    if any(training.memory for training in trainings):
        rows += [
            ("memory of updates", "within 5 %", "of fake tensors of the trainers' own steps; other phases by formula"),
            ("cache in RL", "one prompt's answers", "the least; decoding takes most of what is free"),
            ("reserve", f"{RESERVE:.0%} of a device", "NCCL's buffers, CUDA's context, the allocator's fragments"),
        ]
    return rows
