"""The one dial: a profile says what is read, which models are made, how much of everything, and where it runs.

A profile is data. Two presets are functions, `demo()` and `paper()`; a TOML file overlays one of them:

    extends = "paper"
    base = "/models/Qwen3-VL-8B-Instruct"
    [source]
    trajectories = "/data/twiff/train"

Secrets are never here: the judge's key and the hub's token come from the environment of the process that uses them.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from assets.benchmarks.latents import RETRIEVAL_PROGRAM
from assets.benchmarks.settings import (
    BenchmarkSettings,
    FutureBenchRun,
    GenerationSettings,
    NecessitySettings,
    SeedBenchRun,
    TwiffBenchRun,
)
from assets.checkpoints.assets import RL_PROGRAM, SFT_PROGRAM
from assets.checkpoints.settings import RlRun, SftRun
from assets.curation.prompts import PromptSettings
from assets.curation.selection import SelectionSettings
from assets.curation.settings import CurationSettings
from assets.framework.partitions import BASE, Checkpoints
from assets.framework.settings import Settings
from assets.hub import HubSettings
from assets.launching.launcher import LaunchSettings
from assets.toyworld.source import SourceSizes
from assets.trajectories.settings import SourceSettings
from evaluation.benchmarks.futurebench_items import FutureBenchSettings
from evaluation.benchmarks.seedbench import SeedBenchSettings
from evaluation.benchmarks.twiffbench_items import TwiffBenchSettings
from evaluation.generation.config import GenerationConfig
from evaluation.generation.controls import CHANGES, CONTROLS
from evaluation.generation.jobs import INTERVENTIONS
from evaluation.generation.program import PROGRAM as GENERATION_PROGRAM
from training import recipes, tiny
from training.grading import toy_judge
from training.grading.judge import JudgeSettings
from training.model.latent_config import SYSTEM_PROMPT
from training.runtime.errors import validation_message
from training.runtime.model_card import CardFields
from training.runtime.project import IS_CHECKOUT, PROJECT

FSDP = Path("profiles/accelerate/fsdp2.yaml")
RUNS = ("sft", "rl")
"""The fields of a profile that are lists of runs."""
PROGRAMS = (GENERATION_PROGRAM, RETRIEVAL_PROGRAM, SFT_PROGRAM, RL_PROGRAM)
HOME_VARIABLE = "FUTURE_L1_HOME"
PROFILE_VARIABLE = "FUTURE_L1_PROFILE"
SEED_VARIABLE = "SEED"


class Profile(Settings):
    """Everything that a run of the lineage depends on, besides the code."""

    name: str
    """The profile's name; of an overlay, its file's."""
    home: Path
    """The folder of all that is made; FUTURE_L1_HOME."""
    seed: int = Field(default=0, ge=0)
    """Of worlds, samples and trainings; SEED."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run: `auto` takes a GPU where there is one."""
    source: SourceSettings
    """The places of the sources."""
    toyworld: SourceSizes | None = None
    """The sizes of the demo's source; None where the source is a real one."""
    base: Path
    """The base model's folder, as transformers writes it."""
    curation: CurationSettings
    """How Future-L1-50K is made."""
    sft: tuple[SftRun, ...] = Field(min_length=1)
    """The SFT checkpoints."""
    rl: tuple[RlRun, ...]
    """The RL checkpoints."""
    benchmarks: BenchmarkSettings
    """How models are evaluated."""
    generation: GenerationSettings = GenerationSettings()
    """The engine by which models answer benchmarks."""
    judge: JudgeSettings | None = None
    """The judge's server; None: without a judge."""
    toy_judge: bool = False
    """Serve the demo's deterministic judge on loopback, in place of the judge's own address."""
    launch: LaunchSettings = Field(default_factory=LaunchSettings)
    """How programs are started, and where."""
    hub: HubSettings = Field(default_factory=HubSettings)
    """Where data sets and models are pushed to, by hand."""
    vllm_python: Path = Path(".venv-vllm/bin/python")
    """The interpreter of the environment with vLLM, for `future-l1 serve`; in the project, if it is relative."""
    report_to: tuple[str, ...] = ()
    """Trackers of training metrics beside metrics.jsonl, by transformers' names: trackio, wandb, tensorboard, ..."""

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(
            sft=tuple(run.recipe.name for run in self.sft), rl={run.recipe.name: run.start for run in self.rl}
        )

    @property
    def published_data(self) -> bool:
        """Whether models answer the published benchmarks, and not the toy world's."""
        return self.toyworld is None

    @property
    def cards(self) -> dict[str, CardFields]:
        """The fields of each trained model's card; RL's are those of the SFT model that it starts from."""
        sft = {run.recipe.name: self.hub.card(run.data) for run in self.sft}
        return sft | {run.recipe.name: sft[run.start] for run in self.rl}

    @model_validator(mode="after")
    def _names_refer_to_recipes_and_sets(self) -> "Profile":
        models = [BASE, *(run.recipe.name for run in self.sft), *(run.recipe.name for run in self.rl)]
        if len(set(models)) < len(models):
            raise ValueError(f"models must have different names; found {models}")
        for run in self.rl:
            if run.start not in self.checkpoints.sft:
                raise ValueError(f"RL recipe {run.recipe.name!r} starts from {run.start!r}, which is no SFT recipe")
            questions = self.curation.multiple_choice_set
            if run.data not in {*self.curation.rl_sets, *([questions.name] if questions else [])}:
                raise ValueError(f"RL recipe {run.recipe.name!r} reads {run.data!r}, which is no RL set")
        unknown = set(self.benchmarks.necessity.models) - set(models)
        if unknown:
            raise ValueError(f"latent necessity names models that are not made: {sorted(unknown)}")
        if unknown := set(self.generation.endpoint) - set(models):
            raise ValueError(f"generation.endpoint: {min(unknown)!r} is no model; there are {', '.join(models)}")
        return self

    @model_validator(mode="after")
    def _programs_exist_and_batches_divide(self) -> "Profile":
        for field in ("num_processes", "nodes", "accelerate_config", "max_parallel", "timeout"):
            if unknown := set(getattr(self.launch, field)) - set(PROGRAMS):
                raise ValueError(f"launch.{field}: {min(unknown)!r} is no program; there are {', '.join(PROGRAMS)}")
        for program, runs in ((SFT_PROGRAM, self.sft), (RL_PROGRAM, self.rl)):
            for run in runs:
                recipes.micro_batches(run.recipe, self.launch.num_processes.get(program, 1))
        return self


def demo(home: Path, seed: int = 0) -> Profile:
    """The marble ring, a tiny Qwen3-VL, two CPU cores, minutes; nothing is downloaded. Also the tests' fixture."""
    source = home / "artifacts" / "inputs" / "toyworld_source" / "current"
    tokens = (4, 16)
    greedy = GenerationConfig(max_new_tokens=48, batch_size=256, image_tokens=tokens)
    return Profile(
        name="demo",
        home=home,
        seed=seed,
        device="cpu",
        source=_source(source, "clips"),
        toyworld=SourceSizes(shards=4, rows_per_shard=1125),  # two programs side by side have two shards each
        base=tiny.BASE,
        curation=CurationSettings(
            prompts=PromptSettings(hint_tokens=4),
            answers=GenerationConfig(samples=8, temperature=1.0, max_new_tokens=6, batch_size=256, image_tokens=tokens),
            parser="option_text",
            full_sampling_fraction=1.0,  # every row in full: the histogram is of all rows
            selection=SelectionSettings(top=2400),
            rl_sets={"twiff": 2400},
        ),
        sft=(
            SftRun(recipe=recipes.demo_sft("text_only"), data="text_only"),
            SftRun(recipe=recipes.demo_sft("future_l1"), data="future_l1"),
        ),
        rl=(RlRun(recipe=recipes.demo_rl("la_dapo"), data="twiff", start="future_l1"),),
        benchmarks=BenchmarkSettings(
            futurebench=FutureBenchRun(
                recipe=FutureBenchSettings(layout="keyframes", parser="option_text", suffix=""), answers=greedy
            ),
            twiffbench=TwiffBenchRun(recipe=TwiffBenchSettings(layout="interleaved"), answers=greedy),
            seedbench=SeedBenchRun(recipe=SeedBenchSettings(layout="observation", suffix=""), answers=greedy),
            necessity=NecessitySettings(
                models=("future_l1", "la_dapo"),
                interventions=(
                    "zeros", "noise", "mean", "other_item", "no_span", "masked_frames", "masked_spans", "kept_1",
                    "kept_2", "kept_3", "added_noise_50", "added_noise_100", "added_noise_200",
                ),
                controls=("no_video", "options_1", "options_2", "options_3"),
                mediation=("mirrored",),
                n=200,
            ),
        ),
        judge=JudgeSettings(base_url="http://127.0.0.1", model=toy_judge.MODEL, timeout=30.0),
        toy_judge=True,
        launch=LaunchSettings(
            # One core each does both halves in less time than one after the other on two cores; the same holds for the
            # halves of a batch.
            max_parallel={"evaluation.generate": 2, "training.sft": 2},
            num_processes={"training.rl": 2},
            # Freed memory stays with the program: a forward pass takes 71 ms instead of 186.
            environment={
                "MALLOC_MMAP_MAX_": "0",
                "MALLOC_TRIM_THRESHOLD_": "8000000000",
                "MALLOC_TOP_PAD_": "268435456",
            },
            sigint_grace=20.0,
        ),
    )


def paper(home: Path, seed: int = 0) -> Profile:
    """TwiFF-2.7M, Panda-70M clips, Qwen3-VL-8B on eight GPUs, a judge behind an OpenAI-compatible server.

    Data and models are looked for under `$FUTURE_L1_HOME/data` and `models`; an overlay names other places.
    """
    image_tokens = (196, 1568)
    benchmark = {"system_prompt": SYSTEM_PROMPT, "image_tokens": image_tokens, "batch_size": 64}
    short = GenerationConfig(max_new_tokens=2048, **benchmark)
    long = GenerationConfig(max_new_tokens=4096, **benchmark)
    return Profile(
        name="paper",
        home=home,
        seed=seed,
        device="cuda",
        source=_source(home / "data", "panda70m"),
        base=home / "models" / "Qwen3-VL-8B-Instruct",
        curation=CurationSettings(
            prompts=PromptSettings(instruction="Give the final answer inside <answer> </answer>."),
            answers=GenerationConfig(
                samples=8, temperature=1.0, max_new_tokens=1024, batch_size=2048, image_tokens=image_tokens
            ),
            parser="strict",
            selection=SelectionSettings(top=50_000),
            rl_sets={"twiff_5k": 5_000, "twiff_10k": 10_000, "twiff_20k": 20_000},
            rl_avoids_sft=False,  # sampled from all retained rows, as in the paper; the overlap is counted
        ),
        sft=tuple(SftRun(recipe=recipes.paper_sft(name), data=name) for name in recipes.SFT_NAMES["paper"]),
        rl=tuple(_paper_run(name) for name in recipes.RL_NAMES["paper"]),
        benchmarks=BenchmarkSettings(
            futurebench=FutureBenchRun(recipe=FutureBenchSettings(), answers=short),
            twiffbench=TwiffBenchRun(recipe=TwiffBenchSettings(), answers=long),
            seedbench=SeedBenchRun(recipe=SeedBenchSettings(), answers=long),
            necessity=NecessitySettings(
                models=("future_l1", "la_dapo"),
                interventions=INTERVENTIONS[1:],
                controls=CONTROLS[1:],
                mediation=CHANGES,
                n=None,
            ),
        ),
        judge=JudgeSettings(base_url="http://127.0.0.1:8000/v1", model="judge"),
        launch=LaunchSettings(
            num_processes={"training.sft": 8, "training.rl": 8},
            max_parallel={"evaluation.generate": 8},  # a GPU each; those that find none free wait for theirs
            accelerate_config={"training.sft": FSDP, "training.rl": FSDP},  # Adam's state fits no one GPU
            # Batches of other shapes follow each other: without it, their memory goes to pieces.
            environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
            sigint_grace=600.0,
            heartbeat_timeout=7200.0,
        ),
    )


def _source(folder: Path, clips: str) -> SourceSettings:
    """The source's shards, clips and benchmarks in one folder."""
    return SourceSettings(
        trajectories=folder / "twiff",
        clips=(folder / clips,),
        futurebench=folder / "futurebench",
        twiffbench=folder / "twiffbench",
    )


def ablation(home: Path, seed: int = 0) -> Profile:
    """The demo with every RL objective of the paper's Table 4 from its one SFT model, and with an SFT model whose
    spans were trained on noise, which the diagnostics of latents must call unused."""
    profile = demo(home, seed)
    runs = (RlRun(recipe=recipes.demo_rl(mode), data="twiff", start="future_l1") for mode in recipes.MODES)
    control = SftRun(recipe=recipes.demo_sft("random_targets"), data="future_l1")
    models = ("text_only", "future_l1", "random_targets", "la_dapo")
    necessity = profile.benchmarks.necessity.model_copy(update={"models": models})
    return profile.model_copy(
        update={
            "name": "ablation",
            "sft": (*profile.sft, control),
            "rl": tuple(runs),
            "benchmarks": profile.benchmarks.model_copy(update={"necessity": necessity}),
        }
    )


def _paper_run(name: str) -> RlRun:
    """An RL recipe with what its name says of its data and of where it starts."""
    rows = name.rpartition("_")[2] if name.endswith("k") else "10k"
    start = "text_only" if name.endswith(recipes.TEXT_ONLY) else "future_l1"
    return RlRun(recipe=recipes.paper_rl(name), data=f"twiff_{rows}", start=start)


PRESETS = {"demo": demo, "ablation": ablation, "paper": paper}


def load_profile(named: str, home: Path, seed: int = 0) -> Profile:
    """A preset by name, or the TOML overlay at a path; raises ValueError that says what is wrong with either."""
    if named in PRESETS:
        return PRESETS[named](home, seed)
    path = Path(named)
    if not path.is_file():
        raise ValueError(f"no profile {named!r}: want {', '.join(PRESETS)} or the path of a TOML overlay, as in "
                         f"{PROJECT / 'profiles'}")  # fmt: skip
    try:
        overlay = tomllib.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    preset = overlay.pop("extends", None)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"{path}: `extends` must be one of {', '.join(PRESETS)}; found {preset!r}")
    try:
        return overlaid(PRESETS[preset](home, seed), {"name": path.stem, **overlay})
    except ValueError as error:
        message = validation_message(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"{path}: {message}") from error


def overlaid(profile: Profile, overlay: Mapping[str, Any]) -> Profile:
    """The profile with other values: tables are overlaid key by key, everything else, and a table of another `kind`,
    is replaced.

    `[sft.NAME]` and `[rl.NAME]` overlay the run of the recipe NAME, and `NAME = false` in `[sft]` or `[rl]` leaves it
    out; `[[sft]]` and `[[rl]]` replace all runs.
    """
    return Profile.model_validate(_merged(profile.model_dump(), overlay))


def profile_from_environment(default: str = "demo", name: str | None = None) -> Profile:
    """The profile that FUTURE_L1_PROFILE, FUTURE_L1_HOME and SEED name; without them `default`, 0, and `.future-l1` in
    the checkout, or in the current folder where the project is installed.

    name: a profile in place of FUTURE_L1_PROFILE's.
    """
    home = Path(os.environ.get(HOME_VARIABLE) or (PROJECT if IS_CHECKOUT else Path()) / ".future-l1").resolve()
    seed = os.environ.get(SEED_VARIABLE) or "0"
    if not seed.isdecimal():
        raise ValueError(f"{SEED_VARIABLE} is a whole number from 0 on; found {seed!r}")
    if name:
        return load_profile(name, home, int(seed))
    try:
        return load_profile(os.environ.get(PROFILE_VARIABLE) or default, home, int(seed))
    except ValueError as error:
        raise ValueError(f"{PROFILE_VARIABLE}: {error}") from error


def make_environment_absolute(home: Path) -> None:
    """For processes that start in another folder: they find the same home and profile."""
    os.environ[HOME_VARIABLE] = str(home)
    if (path := Path(os.environ.get(PROFILE_VARIABLE) or "")).is_file():
        os.environ[PROFILE_VARIABLE] = str(path.resolve())


def _merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in overlay.items():
        before = merged.get(name)
        if name in RUNS and isinstance(value, Mapping):
            merged[name] = _runs(before or (), value, name)
        elif isinstance(value, Mapping) and isinstance(before, Mapping) and _same_kind(before, value):
            merged[name] = _merged(before, value)
        else:
            merged[name] = value
    return merged


def _same_kind(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> bool:
    """Whether they have the same fields: a table of another `kind` has others."""
    return overlay.get("kind", base.get("kind")) == base.get("kind")


def _runs(base: Sequence[Mapping[str, Any]], overlay: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The runs, those that `overlay` names by their recipes' names with other values, or not at all."""
    names = [run["recipe"]["name"] for run in base]
    if unknown := set(overlay) - set(names):
        raise ValueError(f"[{kind}.{min(unknown)}]: the preset has {', '.join(names)}")
    for name, values in overlay.items():
        if values is not False and not isinstance(values, Mapping):
            raise ValueError(f"{kind}.{name}: a table of the run's fields, as [{kind}.{name}.recipe], or false to "
                             f"leave it out; found {values!r}")  # fmt: skip
    chosen = [(run, overlay.get(name, {})) for name, run in zip(names, base, strict=True)]
    return [_merged(run, values) for run, values in chosen if values is not False]
