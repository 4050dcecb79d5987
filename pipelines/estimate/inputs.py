"""What an estimate is made of: a profile's trainings and its curation, with one size of frames for all parts."""

import re
from dataclasses import replace
from typing import Literal

from assets.checkpoints.assets import RL_PROGRAM, SFT_PROGRAM
from assets.checkpoints.settings import RlRun, SftRun
from assets.curation.estimate import Assumptions, Quantity
from pipelines.profile import GENERATION_PROGRAM, Profile
from training.estimate.devices import Device
from training.estimate.run import RowShape, TrainingRun
from training.estimate.shape import ModelShape
from training.tiny.world import SIDE

FRAME = (720, 1280)
"""Of clips, where nothing else is stated."""
TWIFF_ROWS = 2_708_318
V1_33K_FRAMES = 16


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
                nodes=profile.launch.nodes.get(program, 1),
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
        values["judge_share"] = Quantity(
            value=0.01, source="assumed: of multiple choice, the answers that name no option"
        )
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


def _sharding(profile: Profile, program: str) -> Literal["whole", "fsdp2", "zero"]:
    file = profile.launch.accelerate_config.get(program)
    kind = re.search(r"^distributed_type: *(\w+)", file.read_text(), re.MULTILINE) if file else None
    return {"FSDP": "fsdp2", "DEEPSPEED": "zero"}.get(kind[1], "whole") if kind else "whole"  # type: ignore[return-value]
