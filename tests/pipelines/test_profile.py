"""A profile is data: presets, overlays, and errors that say what is wrong."""

from pathlib import Path

import pytest

from assets.framework.partitions import Checkpoints
from assets.launching.ray import RaySettings
from pipelines.cli import common
from pipelines.cli import demo as demo_command
from pipelines.profile import (
    Profile,
    demo,
    load_profile,
    make_environment_absolute,
    overlaid,
    paper,
    profile_from_environment,
)
from tests.invoke import invoke
from tests.reduced import reduced_demo, write_reduced_overlay
from training.runtime.project import PROJECT

RAY = '[launch.backend]\nkind = "ray"\n'


def overlay(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_an_overlay_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    text = 'extends = "demo"\n[curation.selection]\ntop = 7\n[launch.num_processes]\n"training.rl" = 2\n'
    changed, preset = load_profile(overlay(tmp_path, text), tmp_path), demo(tmp_path)
    assert changed.name == "mine"
    assert changed.curation.selection.top == 7
    assert changed.curation.selection.max_p_t == preset.curation.selection.max_p_t
    assert changed.launch.num_processes == {"training.rl": 2}
    assert changed.sft == preset.sft
    assert changed.toyworld == preset.toyworld


def test_a_recipe_is_overlaid_by_its_name(tmp_path: Path) -> None:
    text = 'extends = "demo"\n[sft.future_l1.recipe]\nmax_steps = 7\n[rl.la_dapo.recipe]\nbeta = 0.5\n'
    changed, preset = load_profile(overlay(tmp_path, text), tmp_path), demo(tmp_path)
    assert changed.sft[1].recipe == preset.sft[1].recipe.model_copy(update={"max_steps": 7})
    assert changed.sft[0] == preset.sft[0]
    assert changed.rl[0].recipe == preset.rl[0].recipe.model_copy(update={"beta": 0.5})


def test_trackers_are_an_overlay_and_none_by_default(tmp_path: Path) -> None:
    assert demo(tmp_path).report_to == ()
    text = 'extends = "demo"\nreport_to = ["trackio"]\n'
    assert load_profile(overlay(tmp_path, text), tmp_path).report_to == ("trackio",)


def test_the_reduced_demo_is_an_overlay_too(tmp_path: Path) -> None:
    """What browser and kill tests serve is what the other tests run."""
    loaded = load_profile(str(write_reduced_overlay(tmp_path / "reduced.toml")), tmp_path)
    assert loaded.model_copy(update={"name": "demo"}) == reduced_demo(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'extends = "demo"\n[curation.selection]\ntpo = 7\n',
            r"/\S+\.toml: curation.selection.tpo: there is no such field",
        ),
        (
            'extends = "demo"\n[curation.selection]\ntop = "all"\n',
            r"curation.selection.top: .* integer, .*\(found 'all'\)$",
        ),
        ('extends = "demo"\n[source\n', r"\.toml is no TOML: Expected ']' .* line 2"),
        ('extends = "demmo"\n', "demmo"),
        ("seed = 3\n", "extends"),
        ('extends = "demo"\n[benchmarks.necessity]\nmodels = ["nobody"]\n', r"\.toml: latent .*\['nobody'\]$"),
        ('extends = "demo"\n[sft.futur_l1.recipe]\nmax_steps = 7\n', "the preset has text_only, future_l1"),
        ('extends = ["demo"]\n', r"`extends` must be one of .* found \['demo'\]$"),
        ('extends = "demo"\n[sft]\nfuture_l1 = 5\n', "sft.future_l1: a table of the run's fields"),
        ('extends = "demo"\n[sft]\nfuture_l1 = false\n', "starts from 'future_l1', which is no SFT recipe"),
        ('extends = "demo"\n[rl.la_dapo.recipe.lora]\nr = 0\n', "recipe.lora.r: .* greater than 0"),
        ('extends = "demo"\n[rl.la_dapo.recipe.lora]\ntarget_modules = ["qkv"]\n', "0: .* be 'q_proj', .*'qkv'"),
        ('extends = "demo"\n[launch.max_parallel]\n"evaluation.answer" = 2\n', "max_parallel: 'evaluation.answer'"),
        ('extends = "paper"\n[launch.num_processes]\n"training.sft" = 7\n', "into 7 processes: start 4 or 8"),
        ('extends = "paper"\n[launch.num_processes]\n"training.rl" = 48\n', "into 48 processes: start 32 or 64"),
        ('extends = "paper"\n[launch.nodes]\n"training.rl" = 2\n', "launch.*training.rl cannot run on 2, because"),
        (f'extends = "paper"\n{RAY}[launch.nodes]\n"training.rl" = 3\n', "training.rl, 8, do .* 3 nodes: start 6 or 9"),
        (f'extends = "paper"\n{RAY}[launch.nodes]\n"training.rll" = 1\n', "launch.nodes: 'training.rll' is no program"),
        ('extends = "demo"\n[rl.la_dapo.recipe]\nupdates_per_batch = 7\n', "not divisible by updates_per_batch, 7"),
        ('extends = "demo"\n[launch.num_processes]\n"training.sft" = 0\n', "training.sft: .* greater than 0"),
        ('extends = "demo"\nsft = []\nrl = []\n[benchmarks.necessity]\nmodels = []\n', "sft: .* at least 1 item"),
        ('extends = "demo"\n[sft.text_only.recipe]\nname = "../../other"\n', "recipe.name: .* should match pattern"),
        ('extends = "demo"\n[sft.future_l1.recipe]\nlearning_rate = nan\n', "recipe.learning_rate: .* finite number"),
        ('extends = "demo"\nseed = -1\n', "seed: .* greater than or equal to 0"),
        ('extends = "demo"\n[rl.la_dapo.recipe]\nupdates_per_batch = 0\n', "updates_per_batch: .* greater than 0"),
        ('extends = "demo"\n[curation.rl_sets]\n"a/b" = 5\n', r"rl_sets.a/b.*: .* should match pattern"),
        ('extends = "demo"\n[curation.rl_sets]\ntwiff = 0\n', "rl_sets.twiff: .* greater than 0"),
        ('extends = "demo"\n[sft.future_l1.recipe]\nlatent_keep_prob = [1, 1.5, 1]\n', "prob.1: .* or equal to 1"),
        ('extends = "demo"\n[sft.future_l1.recipe]\nscheduled_sampling = [0.8, 0.5]\n', "sampling: the first must"),
        ('extends = "demo"\n[rl.la_dapo.recipe]\nimage_tokens = [64, 4]\n', "tokens: the first must not be above"),
        ('extends = "demo"\n[curation.answers]\nimage_tokens = [64, 4]\n', "tokens: the first must not be above"),
        ('extends = "demo"\n[rl.la_dapo.recipe]\ntop_p = 0\n', "recipe.top_p: .* greater than 0"),
        ('extends = "demo"\n[toyworld]\nshards = 0\n', "toyworld.shards: .* greater than 0"),
        ('extends = "demo"\n[benchmarks.necessity]\nn = 0\n', "benchmarks.necessity.n: .* greater than 0"),
        ('extends = "demo"\n[curation.answers]\nsamples = 0\n', "curation.answers.samples: .* greater than 0"),
        ('extends = "demo"\n[launch.accelerate_config]\n"training.rl" = "no.yaml"\n', "there is no file /.*no.yaml"),
        ('extends = "demo"\n[hub]\ndataset = "future-l1-50k"\n', "hub.dataset: .* should match pattern"),
        ('extends = "demo"\n[hub]\ndataset_license = "CC BY 4.0"\n', "hub.dataset_license: .* should match pattern"),
        ('extends = "demo"\n[hub]\nmodels = "lab/future-l1"\n', r"hub.models: .* should match pattern .*\{model"),
        ('extends = "demo"\n[curation.rl_sets]\nother = 5\n[[rl]]\ndata = "missing"\nstart = "future_l1"\n', "rl"),
    ],
)
def test_a_wrong_overlay_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_profile(overlay(tmp_path, text), tmp_path)


@pytest.mark.parametrize(
    ("table", "line", "field"),
    [
        ("judge", 'api_key = "SECRET"', "judge.api_key: there is no such field$"),
        ("judge", 'base_url = "http://user:SECRET@host/v1"', "judge.base_url: .* password"),
        ("launch.environment", 'WANDB_API_KEY = "SECRET"', "launch.environment: WANDB_API_KEY looks like a secret"),
    ],
)
def test_a_secret_in_an_overlay_is_refused_and_not_repeated(
    tmp_path: Path, table: str, line: str, field: str
) -> None:
    with pytest.raises(ValueError, match=field) as error:
        load_profile(overlay(tmp_path, f'extends = "paper"\n[{table}]\n{line}\n'), tmp_path)
    assert "SECRET" not in str(error.value)


def test_runs_are_left_out_by_false(tmp_path: Path) -> None:
    text = 'extends = "paper"\n[rl]\ngrpo = false\nla_dapo = { data = "twiff_5k" }\n[sft]\nrandom = false\n'
    changed, preset = load_profile(overlay(tmp_path, text), tmp_path), paper(tmp_path)
    assert changed.sft == tuple(run for run in preset.sft if run.recipe.name != "random")
    others = [run for run in preset.rl if run.recipe.name not in ("grpo", "la_dapo")]
    assert [run for run in changed.rl if run.recipe.name != "la_dapo"] == others
    assert next(run for run in changed.rl if run.recipe.name == "la_dapo").data == "twiff_5k"


@pytest.mark.parametrize(("name", "gpus"), [("one-gpu", 1), ("four-gpus", 4)])
def test_few_gpus_train_the_two_stages_with_adapters_and_the_papers_batches(
    name: str, gpus: int, tmp_path: Path
) -> None:
    profile, preset = load_profile(str(PROJECT / "profiles" / f"{name}.toml"), tmp_path), paper(tmp_path)
    assert profile.checkpoints == Checkpoints(sft=("future_l1",), rl={"la_dapo": "future_l1"})
    for run, program in ((profile.sft[0], "training.sft"), (profile.rl[0], "training.rl")):
        same = next(other for other in (*preset.sft, *preset.rl) if other.recipe.name == run.recipe.name)
        assert run.recipe.lora and run.recipe.global_batch_size == same.recipe.global_batch_size
        assert profile.launch.num_processes[program] == gpus


def test_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"demo, ablation, paper or the path"):
        load_profile("tiny", tmp_path)


def test_the_examples_in_the_repository_load(tmp_path: Path) -> None:
    examples = sorted((PROJECT / "profiles").glob("*.toml"))
    assert examples
    for path in examples:
        assert load_profile(str(path), tmp_path).name == path.stem


def test_a_seed_that_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path))
    monkeypatch.setenv("SEED", "seven")
    with pytest.raises(ValueError, match=r"^SEED is a whole number from 0 on; found 'seven'"):
        profile_from_environment()
    assert invoke("steps").output == "Error: SEED is a whole number from 0 on; found 'seven'\n"
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("FUTURE_L1_PROFILE", "nobodys")
    for output in (invoke("steps").output, invoke("predict", "--checkpoint", "la_dapo", "--question", "?").output):
        assert output.startswith("Error: FUTURE_L1_PROFILE: no profile 'nobodys'")


def test_where_programs_run_is_another_kind_of_table(tmp_path: Path) -> None:
    text = 'extends = "demo"\n[launch.backend]\nkind = "ray"\ncpus = 3\n'
    changed = load_profile(overlay(tmp_path, text), tmp_path)
    assert changed.launch.backend == RaySettings(cpus=3)
    with pytest.raises(ValueError, match="devices: there is no such field"):
        load_profile(overlay(tmp_path, text + "devices = []\n"), tmp_path)


def test_the_environment_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path))
    monkeypatch.setenv("FUTURE_L1_PROFILE", "paper")
    monkeypatch.setenv("SEED", "7")
    chosen = profile_from_environment()
    assert (chosen.name, chosen.home, chosen.seed) == ("paper", tmp_path, 7)


def test_processes_in_another_folder_find_the_same_home_and_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUTURE_L1_HOME", "home")
    monkeypatch.setenv("FUTURE_L1_PROFILE", "mine.toml")
    Path("mine.toml").write_text('extends = "demo"')
    here = profile_from_environment()
    make_environment_absolute(here.home)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert profile_from_environment() == here and here.home == tmp_path / "home"


def test_an_installed_project_keeps_its_work_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUTURE_L1_HOME", raising=False)
    assert profile_from_environment().home == PROJECT / ".future-l1"
    monkeypatch.setattr("pipelines.profile.IS_CHECKOUT", False)
    assert profile_from_environment().home == tmp_path / ".future-l1"


def test_the_papers_numbers_are_the_papers(tmp_path: Path) -> None:
    profile = paper(tmp_path)
    selection = profile.curation.selection
    assert (profile.curation.answers.samples, selection.max_p_t, selection.min_gain, selection.top) == (8, 6, 2, 50_000)


def test_the_ablation_is_the_demo_with_every_objective_and_a_control_of_the_diagnostics(tmp_path: Path) -> None:
    ablation = load_profile("ablation", tmp_path)
    weights = {run.recipe.name: run.recipe.reward_weights for run in ablation.rl}
    assert weights == {
        "la_dapo": (0.9, 0.1, 0.2, 0.1), "grpo": (0.9, 0.1, 0.0, 0.0), "dapo": (0.9, 0.1, 0.0, 0.0),
        "dapo_ctr": (0.9, 0.1, 0.2, 0.0), "dapo_div": (0.9, 0.1, 0.0, 0.1),
    }  # fmt: skip
    assert {(run.start, run.data, run.recipe.latent_anchor_coef) for run in ablation.rl} == {
        ("future_l1", "twiff", 1.0)
    }
    *sft, control = ablation.sft
    future_l1 = sft[-1].recipe
    assert tuple(sft) == load_profile("demo", tmp_path).sft and control.data == sft[-1].data
    assert control.recipe == future_l1.model_copy(update={"name": "random_targets", "latent_targets": "noise"})
    assert {"text_only", "random_targets"} < set(ablation.benchmarks.necessity.models)


def test_the_papers_objectives_start_where_their_names_say(tmp_path: Path) -> None:
    runs = {run.recipe.name: (run.start, run.data, run.recipe.min_spans) for run in load_profile("paper", tmp_path).rl}
    assert runs["grpo_text_only"] == ("text_only", "twiff_10k", 0)
    assert runs["la_dapo_5k"] == ("future_l1", "twiff_5k", 1)
    assert runs["la_dapo"] == ("future_l1", "twiff_10k", 1)


def test_the_full_report_does_everything_to_every_model_on_every_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the paper's profile does by itself."""
    runs: list[Profile] = []
    monkeypatch.setattr(common, "run_plan", lambda profile, *_, **__: runs.append(profile) or [])
    monkeypatch.setattr(demo_command, "finish", lambda *_: None)
    for arguments in (["demo"], ["demo", "--full-report"]):
        assert invoke(*arguments).exit_code == 0
    plain, full = (profile.benchmarks.necessity for profile in runs)
    assert plain == demo(Path()).benchmarks.necessity
    assert full.n is None and full.models == runs[1].checkpoints.models
    wanted = paper(Path()).benchmarks.necessity
    assert (full.interventions, full.controls, full.mediation) == (
        wanted.interventions, wanted.controls, wanted.mediation,
    )  # fmt: skip
    assert runs[0] == runs[1].model_copy(update={"benchmarks": runs[0].benchmarks})


def test_servers_are_those_of_models(tmp_path: Path) -> None:
    def served(model: str) -> Profile:
        servers = {"base_urls": ["http://127.0.0.1:1/v1"]}
        return overlaid(demo(tmp_path), {"generation": {"endpoint": {model: servers}}})

    assert served("la_dapo").generation.endpoint["la_dapo"].timeout == 600.0
    with pytest.raises(ValueError, match=r"generation\.endpoint: 'la_dop' is no model; there are base, text_only"):
        served("la_dop")
