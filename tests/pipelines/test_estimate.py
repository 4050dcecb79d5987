"""`future-l1 estimate`: what each profile costs, what does not fit a device, and what that rests on."""

import itertools
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.profile import demo, paper
from tests.invoke import invoke
from training.estimate.devices import DEVICES
from training.runtime.project import PROJECT
from training.tiny import BASE


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FUTURE_L1_PROFILE", raising=False)


run = partial(invoke, "estimate")


def estimated(*arguments: object) -> dict[str, Any]:
    ran = run("--json", *arguments)
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


def of(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(training for training in result["trainings"] if training["name"] == name)


def total(training: dict[str, Any], phase: str) -> float:
    return sum(training["memory"][phase].values())


def test_every_model_of_the_papers_profile_has_steps_hours_and_memory(tmp_path: Path) -> None:
    result, profile = estimated("--profile", "paper"), paper(tmp_path)
    assert [one["name"] for one in result["trainings"]] == [r.recipe.name for r in (*profile.sft, *profile.rl)]
    assert len(result["trainings"]) == 12
    steps = {one["name"]: one["steps"] for one in result["trainings"]}
    assert (steps["future_l1"], steps["la_dapo"], steps["la_dapo_5k"], steps["la_dapo_20k"]) == (391, 312, 156, 624)
    for training in result["trainings"]:
        assert 0 < training["hours"][0] < training["hours"][1] and training["fits"]
    assert of(result, "grpo")["hours"][1] < of(result, "dapo")["hours"][1]  # one round of rollouts a batch
    assert of(result, "future_l1")["hours"][1] < of(result, "la_dapo")["hours"][0]
    assert result["warnings"] == []
    assert set(of(result, "la_dapo")["memory"]) == {"loading", "rollouts", "updates"}
    assert set(of(result, "future_l1")["memory"]) == {"loading", "updates"}


def test_more_gpus_take_less_memory_and_less_time() -> None:
    runs = [of(estimated("--profile", "paper", "--gpus", gpus), "la_dapo") for gpus in (1, 4, 8, 64)]
    for fewer, more in itertools.pairwise(runs):
        assert total(fewer, "updates") > total(more, "updates") and fewer["hours"][1] > more["hours"][1]
    assert [run["layout"] for run in runs] == ["whole", "FSDP2", "FSDP2", "FSDP2"]
    assert [run["fits"] for run in runs] == [False, True, True, True]


def test_a_warning_says_what_does_not_fit_and_what_would() -> None:
    ran = run("--profile", "paper", "--gpus", 1, "--device", "h100-80gb")
    sft, rl = [" ".join(line.split()) for line in ran.output.splitlines() if line.startswith("!")]
    assert sft.startswith("! future_l1, text_only, random: 1 x h100-80gb do not suffice: 140.6 GiB each in the phase")
    assert sft.endswith("what would do: lora, or 2 GPUs") and rl.endswith("what would do: lora, or 4 GPUs")
    eight = estimated("--profile", "paper", "--device", "a100-40gb")
    assert [of(eight, name)["fits"] for name in ("future_l1", "la_dapo")] == [True, False]
    [warning] = eight["warnings"]
    assert "49.0 GiB each in the phase 'loading'" in warning and warning.endswith("what would do: lora")
    _, warning = estimated("--profile", "paper", "--device", 16)["warnings"]
    assert "weights are whole while they are loaded, 49.0 GiB: take a larger device or a smaller base" in warning


def test_adapters_take_less_time_disk_and_host_memory(tmp_path: Path) -> None:
    overlay, results = tmp_path / "mine.toml", []
    for lora in ("", "lora = { r = 64 }"):
        recipe = f"[sft.future_l1.recipe]\n{lora}\n[rl.la_dapo.recipe]\n{lora}\n"
        overlay.write_text(
            'extends = "paper"\n[sft]\ntext_only = false\nrandom = false\n[rl]\ngrpo = false\ndapo = false\n'
            "dapo_ctr = false\ndapo_div = false\ngrpo_text_only = false\ndapo_text_only = false\nla_dapo_5k = false\n"
            f"la_dapo_20k = false\n{recipe}"
        )
        results.append(estimated("--profile", overlay))
    whole, adapters = results
    assert of(adapters, "future_l1")["hours"][0] == pytest.approx(of(whole, "future_l1")["hours"][0] * 0.75, rel=0.05)
    assert adapters["disk"]["checkpoints"] == whole["disk"]["checkpoints"], "they are merged"
    # weights in fp32 and Adam's state of 175 million: what `steps/` holds of adapters
    assert adapters["disk"]["while a training runs"] == pytest.approx(3 * 12 * 174.6e6, rel=0.01)
    assert adapters["host_gib"][0] == pytest.approx(whole["host_gib"][0] - 4 * 8.767e9 / 2**30, rel=0.01)


def test_host_memory_is_that_of_a_node(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.toml"
    overlay.write_text(
        'extends = "paper"\n[launch]\nnum_processes = { "training.sft" = 16, "training.rl" = 16 }\n'
        'nodes = { "training.sft" = 2, "training.rl" = 2 }\n[launch.backend]\nkind = "ray"\n'
    )
    one, two = estimated("--profile", "paper"), estimated("--profile", overlay)
    assert two["host_gib"] == one["host_gib"]
    assert (of(two, "la_dapo")["gpus"], of(two, "la_dapo")["nodes"]) == (16, 2)
    assert "between nodes" in run("--profile", overlay).output, "an assumption"


def test_a_layout_of_some_projections_has_their_adapters_alone(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.toml"
    overlay.write_text(
        'extends = "paper"\n[rl.la_dapo.recipe]\nlora = { r = 64, target_modules = ["q_proj", "v_proj"] }\n'
    )
    masters = of(estimated("--profile", overlay, "--gpus", 1), "la_dapo")["memory"]["loading"]["fp32 masters"]
    assert masters == pytest.approx(4 * 64 * 36 * (4096 + 4096 + 4096 + 1024) / 2**30)


QUESTIONS = '[curation.multiple_choice_set]\nname = "v1"\nfiles = ["v1.jsonl"]\nvideos = ["v1"]\n'


@pytest.mark.parametrize(
    ("data", "recipe", "change", "changed"),
    [
        ("twiff_10k", "per_device_train_batch_size = 16", "per_device_train_batch_size = 1", ""),
        ("twiff_10k", "max_batch_tokens = 400000", "no max_batch_tokens", ""),
        ("v1", "", "image_tokens of at most 512", "image_tokens = [2, 512]"),
    ],
)
def test_a_change_that_would_do_does(tmp_path: Path, data: str, recipe: str, change: str, changed: str) -> None:
    path = tmp_path / "mine.toml"
    for settings, fits in ((recipe, False), (changed, True)):
        path.write_text(
            f'extends = "paper"\n{QUESTIONS}[rl.la_dapo]\ndata = "{data}"\n[rl.la_dapo.recipe]\n{settings}\n'
        )
        training = of(estimated("--profile", path, "--device", 60), "la_dapo")
        assert (training["fits"], change in training["changes"]) == (fits, not fits), training["changes"]


@pytest.mark.parametrize("device", ["h100-80gb", "l40s-48gb"])
@pytest.mark.parametrize(("name", "gpus"), [("one-gpu", 1), ("four-gpus", 4)])
def test_the_profiles_of_few_gpus_fit_cards_of_80_and_of_48_gb(name: str, gpus: int, device: str) -> None:
    result = estimated("--profile", PROJECT / "profiles" / f"{name}.toml", "--device", device)
    assert [(one["name"], one["gpus"], one["fits"]) for one in result["trainings"]] == [
        ("future_l1", gpus, True), ("la_dapo", gpus, True)
    ]  # fmt: skip
    assert result["warnings"] == []


def test_adapters_have_gradients_of_their_own_alone_and_no_second_model(tmp_path: Path) -> None:
    overlay = tmp_path / "lora.toml"
    overlay.write_text('extends = "paper"\n[rl.la_dapo.recipe]\nlora = { r = 64 }\n[rl.grpo.recipe]\nbeta = 0.0\n')
    result = estimated("--profile", overlay, "--gpus", 1)
    adapters, whole = (of(result, name)["memory"]["updates"] for name in ("la_dapo", "dapo"))
    assert 0 < adapters["gradients"] < whole["gradients"] / 20
    assert "reference" in whole and "reference" not in adapters
    assert "reference" not in of(result, "grpo")["memory"]["updates"], "nothing is compared with it"
    rollouts = of(result, "la_dapo")["memory"]["rollouts"]["gathered weights"]
    assert 0 < rollouts < of(result, "dapo")["memory"]["rollouts"]["gathered weights"] / 10


def test_rows_with_sixteen_frames_take_more(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "paper"\n{QUESTIONS}[rl.la_dapo]\ndata = "v1"\n')
    result = estimated("--profile", path)
    assert (of(result, "la_dapo")["rows"], of(result, "la_dapo")["steps"]) == (2_000, 62)
    assert total(of(result, "la_dapo"), "updates") > 1.5 * total(of(result, "dapo"), "updates")


def test_the_size_of_frames_is_one_for_all_parts() -> None:
    large, small = (estimated("--profile", "paper", "--frame", size) for size in ("1280x720", "640x360"))
    for kind in ("prompt tokens", "disk: clips", "GPU-hours"):
        assert large["curation"]["most"][kind] > small["curation"]["most"][kind]
    for name in ("future_l1", "la_dapo"):
        assert of(large, name)["hours"][0] > of(small, name)["hours"][0]
        assert total(of(large, name), "updates") > total(of(small, name), "updates")
    sources = " ".join(one["source"] for one in small["assumptions"])
    assert "640x360, 220 merged tokens" in sources and "1280x720" not in sources


def test_curation_is_counted_by_the_profiles_backend() -> None:
    local, served = (estimated("--profile", name) for name in ("paper", PROJECT / "profiles" / "served-curation.toml"))
    rates = [
        {one["quantity"]: one["value"] for one in run["assumptions"]}["decode per second"] for run in (local, served)
    ]
    assert rates == ["800 – 2.9 k", "5 k"]
    assert served["curation"]["most"]["GPU-hours"] < local["curation"]["least"]["GPU-hours"]
    assert local["curation"]["most"]["judge's price"] is None and served["curation"]["most"]["judge's price"] > 0


def test_the_demo_takes_minutes(tmp_path: Path) -> None:
    result = estimated()
    assert [one["name"] for one in result["trainings"]] == ["text_only", "future_l1", "la_dapo"]
    profile = demo(tmp_path)
    assert profile.toyworld is not None
    assert result["curation"]["rows"] == profile.toyworld.shards * profile.toyworld.rows_per_shard
    least, most = (60 * sum(one["hours"][end] for one in result["trainings"]) for end in (0, 1))
    assert 1 < least < 12 < most < 60  # one core, one after the other
    assert 300 < result["judge_calls"][0] <= result["judge_calls"][1] < 1500  # a demo's curation had 631
    assert (result["warnings"], result["device"]["gib"]) == ([], None)
    assert sum(result["disk"].values()) < 1e9


def test_a_profile_without_rl_has_sft_alone(tmp_path: Path) -> None:
    path = tmp_path / "sft.toml"
    path.write_text('extends = "paper"\nrl = []\n[benchmarks.necessity]\nmodels = ["future_l1"]\n')
    result = estimated("--profile", path)
    assert {one["program"] for one in result["trainings"]} == {"training.sft"} and len(result["trainings"]) == 3
    calls = result["curation"]["most"]["judge calls"]
    assert result["judge_calls"] == [calls, calls]


def test_counts_of_the_source_cost_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "counts.toml"
    path.write_text('extends = "paper"\n[curation]\nuse_source_counts = true\n')
    cost = estimated("--profile", path)["curation"]["most"]
    assert cost["answers"] == cost["GPU-hours"] == cost["judge calls"] == 0 < cost["disk: clips"]


def test_the_environment_names_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_PROFILE", "paper")
    assert estimated()["profile"] == "paper"
    assert estimated("--profile", "demo")["profile"] == "demo"


def test_zero_is_estimated_without_memory(tmp_path: Path) -> None:
    path = tmp_path / "zero.toml"
    path.write_text(
        'extends = "paper"\n[launch.accelerate_config]\n"training.sft" = "profiles/accelerate/zero2.yaml"\n'
    )
    training = of(estimated("--profile", path, "--device", 24), "future_l1")
    assert (training["layout"], training["memory"], training["fits"]) == ("ZeRO", {}, None)


@pytest.mark.parametrize("name", DEVICES)
def test_each_device_has_an_estimate(name: str) -> None:
    assert estimated("--profile", "paper", "--device", name.upper())["device"]["name"] == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h100"], "no device 'h100': choose from h100-80gb"),
        (["--device", "-3"], "no device '-3'"),
        (["--device", "inf"], "no device 'inf'"),
        (["--frame", "720p"], "'720p' is no size"),
        (["--frame", "0x720"], "'0x720' is no size"),
        (["--gpus", "3"], "do not divide into 3 processes"),
        (["--profile", "nobody"], "no profile 'nobody'"),
        (["--measured"], "no shard is answered and scored in"),
    ],
)
def test_what_cannot_be_estimated_is_an_error(arguments: list[str], message: str) -> None:
    ran = run("--profile", "paper", *arguments)
    assert ran.exit_code != 0 and message in " ".join(ran.output.split())


def test_the_bases_own_config_counts(tmp_path: Path) -> None:
    base, path = tmp_path / "base", tmp_path / "mine.toml"
    path.write_text(f'extends = "paper"\nbase = "{base}"\n')
    absent = run("--profile", path)
    assert absent.exit_code == 1 and "has no config.json that can be read" in " ".join(absent.output.split())
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "llama"}')
    other = run("--profile", path)
    assert other.exit_code == 1 and "is no Qwen3-VL's: 'text_config' is absent" in " ".join(other.output.split())
    shutil.copy(BASE / "config.json", base)
    assert of(estimated("--profile", path, "--frame", "64x64"), "la_dapo")["peak_gib"] < 3


def test_assumptions_stand_below_the_cost_and_can_be_stated() -> None:
    ran = run("--profile", "paper", "--rows", "1e6", "--answers-per-second", "100", "--gpus", "4")
    assert ran.exit_code == 0, ran.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.output.splitlines()]
    wanted = (["answers", "16 M"], ["hours on 4 GPUs", "11.1"], ["answers per second", "100", "stated"])
    assert all(row in rows for row in wanted), ran.output
