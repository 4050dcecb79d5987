"""`future-l1 check` says what would end a run before it runs: a real bad input of each kind, all problems at once."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest

from assets.framework.store import AssetStore
from assets.toyworld.source import SourceSizes, write_source
from pipelines.preflight import checks, machine
from pipelines.preflight.checks import run_checks
from pipelines.profile import Profile, overlaid, paper
from tests.assets.trajectories.shard_rows import twiff_row
from tests.evaluation.benchmarks.test_futurebench import record
from tests.invoke import invoke
from tests.served import Served, closed_url, served
from training.chat import connection
from training.engines.identity import CHECKPOINT_HEADER
from training.storage.artifacts import MODEL
from training.storage.hashing import model_digest
from training.tiny import BASE

KEY = "SECRET-KEY"
NOTHING: dict[str, Any] = {}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source as the published ones are laid out, without broken rows."""
    folder = tmp_path_factory.mktemp("world")
    sizes = SourceSizes(shards=2, rows_per_shard=30, faults_per_shard=0, futurebench_per_split=2, twiffbench=4)
    write_source(folder, seed=0, sizes=sizes)
    return folder


@pytest.fixture(scope="module")
def judge() -> Iterator[Served]:
    with served() as server:
        yield server


@pytest.fixture
def data(world: Path, tmp_path: Path) -> Path:
    """A copy of the source, with a base model beside it, that a test may break."""
    shutil.copytree(world, tmp_path / "data")
    shutil.copytree(BASE, tmp_path / "data" / "base")
    return tmp_path / "data"


@pytest.fixture
def profile(data: Path, judge: Served, tmp_path: Path) -> Profile:
    """The paper's profile with a small source, the tiny base and a served judge."""
    source = {"trajectories": data / "twiff", "clips": (data / "clips",)}
    benchmarks = {name: data / name for name in ("futurebench", "twiffbench")}
    overlay = {"device": "cpu", "base": data / "base", "judge": {"base_url": judge.url, "model": "served"},
               "source": {**source, **benchmarks}}  # fmt: skip
    return overlaid(paper(tmp_path / "home"), overlay)


def problems(profile: Profile, **changes: Any) -> dict[str, list[str]]:
    """The problems of a profile with these changes, by the title of the check."""
    return {title: sentences for title, sentences in run_checks(overlaid(profile, changes)) if sentences}


def test_a_profile_whose_inputs_are_complete_has_no_problem_and_nothing_is_made(profile: Profile) -> None:
    assert problems(profile) == {}
    assert not profile.home.exists()


def other_columns(data: Path) -> None:
    pl.DataFrame({"text": ["a"]}).write_parquet(data / "twiff" / "train-00000-of-00002.parquet")


def unusable_rows(data: Path) -> None:
    shutil.rmtree(data / "twiff")
    (data / "twiff").mkdir()
    rows = [twiff_row(video=f"{number}.mp4", question_images_index=[0]) for number in range(4)]
    (data / "twiff" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def without(*names: str) -> Callable[[Path], None]:
    """What deletes a file or a folder of the data."""

    def delete(data: Path) -> None:
        path = data.joinpath(*names)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return delete


def clips_elsewhere(data: Path) -> None:
    (data / "clips").rename(data / "clips_1")
    (data / "clips").mkdir()


def another_benchmark(data: Path) -> None:
    (data / "futurebench" / "futurebench.json").write_text(json.dumps([{"prompt": "What?"}, record(1)]))


def other_tables(data: Path) -> None:
    for path in (data / "twiffbench").glob("*.parquet"):
        pl.DataFrame({"text": ["a"]}).write_parquet(path)


def cut_weights(data: Path) -> None:
    weights = data / "base" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def a_header_of_the_wrong_kind(data: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}}).encode()
    (data / "base" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


def half_a_tokenizer(data: Path) -> None:
    tokenizer = data / "base" / "tokenizer.json"
    os.truncate(tokenizer, tokenizer.stat().st_size // 2)


def a_shard_is_missing(data: Path) -> None:
    (data / "base" / "model.safetensors").rename(data / "base" / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (data / "base" / "model.safetensors.index.json").write_text(json.dumps(index))


def changed_config(data: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((data / "base" / "config.json").read_text())
    change(config)
    (data / "base" / "config.json").write_text(json.dumps(config))


def another_kind(data: Path) -> None:
    changed_config(data, lambda config: config.pop("vision_config"))


def a_mixture_of_experts(data: Path) -> None:
    changed_config(data, lambda config: config.update(model_type="qwen3_vl_moe"))


def a_size_that_is_text(data: Path) -> None:
    changed_config(data, lambda config: config["text_config"].update(num_hidden_layers="4"))


def no_heads(data: Path) -> None:
    changed_config(data, lambda config: config["text_config"].update(num_attention_heads=0, head_dim=None))


def a_config_without_end(data: Path) -> None:
    (data / "base" / "config.json").write_text("[" * 100_000)


def more_layers(data: Path) -> None:
    changed_config(data, lambda config: config["text_config"].update(num_hidden_layers=9))


def an_adapter(data: Path) -> None:
    (data / "base" / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("title", "spoil", "words"),
    [
        ("trajectories", without("twiff"), ["no shard (*.parquet", "source.trajectories names"]),
        ("trajectories", other_columns, ["is not a TwiFF shard: it has columns ['text']", "docs/inputs.md"]),
        ("trajectories", unusable_rows, ["of the first 4 rows 4 cannot be used (4 x", "docs/inputs.md"]),
        ("clips", without("clips"), ["there is no folder", "source.clips names"]),
        ("clips", clips_elsewhere, ["of the clips of the first", ".mp4': complete the folder, or name another"]),
        ("benchmarks", without("futurebench"), ["FutureBench: no futurebench.json in", "source.futurebench"]),
        ("benchmarks", another_benchmark, ["FutureBench: of the first 2 items 2 cannot be used (", "with its clips?"]),
        ("benchmarks", without("futurebench", "first_part_video"), ["cannot be used (missing clip)"]),
        ("benchmarks", without("twiffbench"), ["TwiFF-Bench: no test-*.parquet in", "source.twiffbench"]),
        ("benchmarks", other_tables, ["TwiFF-Bench: of the first 4 items 4 cannot be used ("]),
        ("base model", without("base"), ["no model at", "`base` names the folder of a Qwen3-VL"]),
        ("base model", without("base", "tokenizer.json"), ["has no tokenizer.json or vocab.json: download it again"]),
        ("base model", without("base", "model.safetensors"), ["has no weights (model.safetensors, or its index"]),
        ("base model", cut_weights, ["model.safetensors is incomplete or damaged (", "download it again"]),
        ("base model", a_header_of_the_wrong_kind, ["model.safetensors is incomplete or damaged (", "download it"]),
        ("base model", half_a_tokenizer, ["tokenizer.json is no JSON (", "download it again"]),
        ("base model", a_shard_is_missing, ["there is no", "model-00002-of-00002.safetensors, which the index names"]),
        ("base model", another_kind, ["is no Qwen3-VL's: 'vision_config' is absent"]),
        ("base model", a_mixture_of_experts, ["is no Qwen3-VL's: its model_type is 'qwen3_vl_moe'"]),
        ("base model", a_size_that_is_text, ["is no Qwen3-VL's: layers is '4', and no positive whole number"]),
        ("base model", no_heads, ["is no Qwen3-VL's: integer division", "download it again"]),
        ("base model", a_config_without_end, ["no config.json that can be read", "download it again"]),
        ("base model", more_layers, ["weights, and its config is for"]),
        ("base model", an_adapter, ["holds an adapter: merge it into its base"]),
    ],
)
def test_a_problem_of_the_inputs_says_what_is_wrong_and_what_to_do(
    profile: Profile, data: Path, title: str, spoil: Callable[[Path], None], words: list[str]
) -> None:
    spoil(data)
    by_title = problems(profile)
    assert list(by_title) == [title]
    for word in words:
        assert word in " ".join(by_title[title])


def test_a_source_elsewhere_is_looked_at_without_a_download(profile: Profile, data: Path) -> None:
    fs = fsspec.filesystem("memory")
    for folder in ("twiff", "clips"):
        fs.put(f"{data}/{folder}", f"/check/{folder}", recursive=True)
    elsewhere = {"trajectories": "memory://check/twiff", "clips": ("memory://check/clips",)}
    assert problems(profile, source=elsewhere) == {}
    other_columns(data)
    fs.put(f"{data}/twiff/train-00000-of-00002.parquet", "/check/twiff/train-00000-of-00002.parquet")
    [wrong] = problems(profile, source=elsewhere)["trajectories"]
    assert "is not a TwiFF shard: it has columns ['text']" in wrong
    fs.rm("/check", recursive=True)


def test_a_source_that_cannot_be_reached_is_one_problem(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed_url())
    by_title = problems(profile, source={"trajectories": "hf://datasets/ORG/NAME@main"})
    assert list(by_title) == ["trajectories"]
    assert "hf://datasets/ORG/NAME@main cannot be listed (ConnectError: " in by_title["trajectories"][0]


def test_files_of_v1_33k_that_are_missing_are_named(profile: Profile, data: Path) -> None:
    (data / "rows.jsonl").write_text("")
    files = (data / "rows.jsonl", data / "more.jsonl")
    settings = {"files": files, "videos": (data / "videos",)}
    assert [problem.partition(": ")[0] for problem in problems(profile, curation={"multiple_choice_set": settings})[
        "multiple-choice set"
    ]] == [f"there is no {data / 'more.jsonl'}", f"there is no {data / 'videos'}"]  # fmt: skip


def test_a_judge_or_an_endpoint_that_cannot_be_used_is_named(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_JUDGE_API_KEY", KEY)
    assert profile.judge is not None
    url, closed = profile.judge.base_url, closed_url()
    by_title = problems(profile, judge={"model": "another"}, curation={"endpoint": {"base_urls": [url, closed],
                                                                                  "model": "qwen"}})  # fmt: skip
    [lacks] = by_title.pop("judge")
    assert f"the judge 'another' at {url} refuses: it serves 'served'; check its model name" in lacks
    lacks, down = by_title.pop("endpoint")
    assert "the endpoint 'qwen'" in lacks and "it serves 'served'" in lacks
    assert f"no connection to the endpoint 'qwen' at {closed}: is it running?" in down
    assert by_title == {}


def test_servers_that_do_not_have_the_current_checkpoint_are_named(profile: Profile) -> None:
    with served() as server:
        endpoint = {"future_l1": {"base_urls": [server.url, closed_url()]}}
        assert problems(profile, generation={"endpoint": endpoint}) == {}, "there is nothing to serve yet"
        work = AssetStore(profile.home).work("checkpoints/sft", {}, {}, "code", "future_l1")
        checkpoint = work.do(lambda folder: {"copied": str(shutil.copytree(BASE, folder / MODEL))}).folder(MODEL)
        another = {CHECKPOINT_HEADER: "0" * 16}
        for headers, reason in (({}, "without our plug-in"), (another, "it has another checkpoint")):
            server.models = [200, b'{"data": [{"id": "served"}]}', headers]
            other, down = problems(profile, generation={"endpoint": endpoint})["served checkpoints"]
            assert other.startswith(f"future_l1: the endpoint at {server.url} cannot be used: ") and reason in other
            assert down.startswith("future_l1: no answer from the endpoint at ")
        server.models = [200, b'{"data": [{"id": "served"}]}', {CHECKPOINT_HEADER: model_digest(checkpoint)}]
        endpoint["future_l1"]["base_urls"].pop()
        assert "served checkpoints" not in problems(profile, generation={"endpoint": endpoint})


def test_a_refused_key_is_not_repeated(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_JUDGE_API_KEY", KEY)
    with served(key="another") as server:
        [refused] = problems(profile, judge={"base_url": server.url})["judge"]
    assert "check its key" in refused and KEY not in refused
    with served(models=(f"model of {KEY}",)) as server:
        [lacks] = problems(profile, judge={"base_url": server.url})["judge"]
    assert "it serves 'model of [key]'" in lacks
    monkeypatch.delenv("FUTURE_L1_JUDGE_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    [missing] = problems(profile, judge={"base_url": "https://judge.invalid/v1"})["judge"]
    assert "set FUTURE_L1_JUDGE_API_KEY or OPENAI_API_KEY in the environment" in missing


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_that_takes_connections_and_does_not_answer_is_named(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """A run that has begun goes on after such a fault; before it there is time to look."""
    if silent:
        monkeypatch.setattr(connection, "PREFLIGHT_SECONDS", 0.3)
    with served() as server:

        def nothing() -> Iterator[bytes]:
            server.closing.wait(30)
            yield b""

        server.models = [200, nothing] if silent else [503, b'{"error": "loading"}']
        [problem] = problems(profile, judge={"base_url": server.url})["judge"]
    words = "sends no answer within" if silent else "answers with status 503: look at its log"
    assert words in problem


def test_disk_and_memory_that_do_not_suffice_are_named(profile: Profile, data: Path) -> None:
    changed_config(data, lambda config: config["text_config"].update(vocab_size=10**12))
    by_title = problems(profile, device="auto")
    [disk], [memory] = by_title["disk"], by_title["memory"]
    assert f"{profile.home} may come to hold" in disk and "checkpoints" in disk and "(FUTURE_L1_HOME)" in disk
    assert "GiB of host memory or more, and this machine has" in memory and "launch.num_processes" in memory
    (data / "file").write_text("")
    assert problems(profile, home=data / "file" / "home")["disk"][0].startswith(f"{data / 'file'} may not be written")


def test_rows_of_a_large_json_file_are_estimated_from_its_first(
    profile: Profile, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read to its end, which may take minutes: here that is no text."""
    path = data / "rows.jsonl"
    path.write_bytes((json.dumps(twiff_row()) + "\n").encode() * 200 + b"\xff")
    monkeypatch.setattr(machine, "COUNTED_JSON_BYTES", 1000)
    monkeypatch.setattr(machine, "SAMPLED_ROWS", 50)
    rows = machine._rows(overlaid(profile, {"source": {"trajectories": path}}))
    assert rows is not None and rows.value == pytest.approx(200, rel=0.02) and rows.value != 201


def test_gpus_that_are_too_few_or_too_small_are_named(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    eight_b = tmp_path / "Qwen3-VL-8B-Instruct"  # its shape is known by its name
    assert "there are 0 (no GPU is visible)" in problems(profile, device="cuda")["GPUs"][0]
    lines = "".join(f"GPU-{number}, 16384\\n" for number in range(8))
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncase $1 in *memory*) printf '{lines}';; "
                                         f"*) printf '{lines.replace(', 16384', '')}';; esac\n")  # fmt: skip
    (tmp_path / "nvidia-smi").chmod(0o755)
    by_title = problems(profile, device="cuda", base=eight_b)["GPUs"]
    assert "8 x 16 GiB do not suffice" in by_title[0] and all("of 14.4 that can be used" in one for one in by_title)
    assert "GPUs" not in problems(profile, device="cuda")  # the tiny model fits


def test_a_check_that_hangs_is_a_problem_within_a_bounded_time(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def hang(_: Profile) -> Iterator[str]:
        ended.wait(30)
        yield "never seen"

    def fail(_: Profile) -> Iterator[str]:
        raise KeyError("of a library")

    monkeypatch.setattr(checks, "CHECKS", {"hangs": hang, "fails": fail})
    results = dict(run_checks(profile, timeout=0.2))
    ended.set()
    assert "no result after 0.2 s" in results["hangs"][0] and results["fails"] == ["KeyError: 'of a library'"]


def test_the_command_prints_all_problems_of_the_environments_profile(
    data: Path, judge: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = tmp_path / "mine.toml"
    overlay.write_text(
        f'extends = "paper"\ndevice = "cpu"\nbase = "{data}/no-model"\n'
        f'[source]\ntrajectories = "{data}/twiff"\nclips = ["{data}/clips"]\n'
        f'futurebench = "{data}/futurebench"\ntwiffbench = "{data}/nothing"\n'
        f'[judge]\nbase_url = "{judge.url}"\nmodel = "another"\n'
    )
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FUTURE_L1_PROFILE", str(overlay))
    for command in (["check"], ["check", "--profile", str(overlay)]):
        checked = invoke(*command)
        assert checked.exit_code == 1
        lines = checked.output.splitlines()
        assert [line.split(":")[0] for line in lines if line.startswith("✗")] == [
            "✗ benchmarks", "✗ base model", "✗ judge",
        ]  # fmt: skip
        assert {"✓ trajectories", "✓ clips"} <= set(lines)
    assert not (tmp_path / "home").exists()
    monkeypatch.setenv("FUTURE_L1_PROFILE", "nobodys")
    assert invoke("check", "--profile", "demo").exit_code == 0, "the option counts, not the variable"
    refused = invoke("check", "--profile", "nonesuch")
    assert refused.exit_code == 1 and "Error: no profile 'nonesuch'" in refused.output
