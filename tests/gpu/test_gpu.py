"""All of `make gpu` on the CPU, with narrow models: no line but those that ask CUDA itself runs first on a card."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.biased_logits import biased_logits, spans_at
from tests.gpu import decoding
from tests.gpu.__main__ import main, parts
from tests.gpu.agreement import Agreement, compare
from tests.gpu.machine import CARD_GIB, GIB, Machine
from tests.gpu.packages import LEAST
from tests.gpu.results import Figure, Part, Result, run_part, table
from tests.gpu.rows import ArrayReader, random_rows
from tests.gpu.shapes import QWEN3_VL_2B, SHAPES, latent_config
from tests.midsize import random_model
from training.estimate.shape import ModelShape
from training.model.placement import learn_in_fp32
from training.runtime.project import PROJECT

CPU = torch.device("cpu")


def required(names: Iterable[str]) -> set[str]:
    """These distributions and all that they require, without extras."""
    names, waiting = set[str](), [*names]
    while waiting:
        if (name := waiting.pop()) not in names:
            names.add(name)
            needs = map(Requirement, importlib.metadata.requires(name) or [])
            waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return names


def make_gpu(packages: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`python -m tests.gpu` where there are no packages but those of a folder."""
    variables = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{packages}", "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-m", "tests.gpu", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_it_runs_with_nothing_but_its_packages(tmp_path: Path) -> None:
    """In an environment of links to these packages and to what they require: neither polars nor Dagster nor a decoder
    of clips is there."""
    packages, out = tmp_path / "site-packages", tmp_path / "out" / "gpu.json"  # dill goes by a folder of this name
    packages.mkdir()
    for name in required(LEAST):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    assert not {"polars", "dagster", "decord", "av"} & {path.name for path in packages.iterdir()}
    ended = make_gpu(packages, "--device", "cpu", "--shapes", "tiny", "--out", str(out), folder=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = json.loads(out.read_text())
    assert set(written["packages"]) == set(LEAST) and written["commit"] and written["device"]
    for part in written["parts"]:
        assert part["ok"] and part["figures"] and not part["stopped"], part
        assert part["name"] in ended.stdout and all(f["name"] in ended.stdout for f in part["figures"])
    figures = {(part["name"], f["name"]): f for part in written["parts"] for f in part["figures"]}
    assert figures["tiny checkpoint", "float32: answers as on the CPU"]["value"] == 24
    peaks = [f for (_, name), f in figures.items() if name == "peak memory"]
    assert len(peaks) == 4 and not any(f["value"] for f in peaks)
    assert [f["reference"] > 0 for f in peaks if f["reference"]] == [True, True]  # the estimates of SFT and RL


def test_without_cuda_a_sentence_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    assert main() == 0
    assert "no CUDA device" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_packages_that_are_missing_are_named(tmp_path: Path) -> None:
    ended = make_gpu(tmp_path, folder=tmp_path)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    for name in LEAST:
        assert name in ended.stderr


def test_plain_transformers_gets_the_same_prompts() -> None:
    """In fp32 its `generate` gives the tokens that our decoder gives without spans."""
    shapes = SHAPES["tiny"]
    bundle = random_model(shapes.models["tied"], latent_config(4))
    reader = ArrayReader(bundle.prompt_encoder((2, 4), None), keep=False)
    prompts = [reader.prompt(row) for row in random_rows(3, (64, 96))]
    ours = decoding.text_answers(bundle, bundle.vision(), prompts, 12)
    plain = decoding.plain_answers(bundle, decoding.plain_inputs(bundle, prompts), 12)
    assert torch.equal(ours, plain)
    with_spans = decoding.latent_answers(bundle, bundle.vision(), prompts, 24)
    assert ((with_spans == bundle.tokens.latent_start).sum(1) == 2).all() and with_spans.shape == (3, 24)


def rollout(ids: list[int], forced: tuple[int, ...] = ()) -> SimpleNamespace:
    return SimpleNamespace(ids=ids, sampled=torch.tensor([at not in forced for at in range(len(ids))]))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([7, 1, 2, 3], Agreement(1, 0, 0)),
        ([7, 1, 9, 3], Agreement(0, 1, 0)),  # where two tokens were as likely
        ([7, 8, 9, 3], Agreement(0, 0, 1)),  # where they were not
        ([6, 1, 2, 3], Agreement(0, 0, 1)),  # a token that is forced
        ([7, 1, 2], Agreement(0, 0, 1)),  # cut, where nothing differs
    ],
)
def test_answers_may_differ_where_two_tokens_are_as_likely(answer: list[int], expected: Agreement) -> None:
    reference = [rollout([7, 1, 2, 3], forced=(0,))]
    assert compare(reference, [[2.0, 0.1, 2.0]], [rollout(answer)], margin=0.2) == expected


def test_a_part_that_ends_early_is_a_row_and_the_others_go_on() -> None:
    freed: list[str] = []

    def too_large() -> list[Figure]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    def endless() -> list[Figure]:
        while True:
            pass

    def broken() -> list[Figure]:
        raise ValueError("a defect")

    measures = {"large": too_large, "endless": endless, "broken": broken, "fine": lambda: [Figure("a step", 2.5, "ms")]}
    results = [
        run_part(Part(name, 0.05, measure), 1, torch.OutOfMemoryError, lambda: freed.append("")) for name, measure in
        measures.items()
    ]  # fmt: skip
    assert [result.ok for result in results] == [True, True, False, True] and len(freed) == 4
    lines = table(results).splitlines()
    assert "out of memory: CUDA out of memory." in lines[1] and lines[1].endswith("stopped")
    assert "out of time" in lines[2] and "ValueError: a defect" in lines[3] and lines[3].endswith("FAILED")
    assert "2.5 ms" in lines[4]


def test_a_failed_check_fails_its_part() -> None:
    result = Result("tiny checkpoint", figures=[Figure("replay", 0.5, "", 1e-4, "at most", ok=False)])
    assert not result.ok and table([result]).endswith("FAILED")


def test_all_parts_together_take_eight_minutes_at_most() -> None:
    limits = [part.seconds for part in parts(Machine(CPU), SHAPES["qwen3-vl"])]
    assert len(limits) == 5 and sum(limits) <= 8 * 60 - 45  # of these for imports


def test_on_cuda_memory_is_bounded_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    card = SimpleNamespace(name="NVIDIA H200", total_memory=140 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _device: calls.append(share))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 3 * GIB)
    machine = Machine(torch.device("cuda", 0))
    machine.free()
    assert calls == [CARD_GIB / 140, "emptied", "reset"] and machine.peak_gib() == 3
    assert (machine.facts()["device"], machine.facts()["device_gib"]) == ("NVIDIA H200", 140)


@pytest.mark.parametrize("name", ["2B", "8B"])
def test_large_models_are_made_on_the_card_and_their_logits_are_biased_there(name: str) -> None:
    """On fake CUDA tensors, which need neither a card nor memory: nothing on the CPU meets what is on the card."""
    config = SHAPES["qwen3-vl"].models[name]
    with FakeTensorMode(allow_non_fake_inputs=True):
        bundle = random_model(config, latent_config(64), device="cuda", dtype=torch.bfloat16)
        learn_in_fp32(bundle.model)
        tensors = [*bundle.model.parameters(), *bundle.model.buffers()]
        states = torch.zeros(2, 5, config["text_config"]["hidden_size"], device="cuda")
        positions = torch.zeros(3, 2, 5, device="cuda").long()
        for bias in (spans_at(bundle, [0]), decoding.text_alone(bundle)):
            with biased_logits(bundle, bias):
                read = bundle.model.model.language_model(inputs_embeds=states, position_ids=positions, use_cache=False)
                logits = bundle.model.lm_head(read.last_hidden_state)
            assert logits.shape == (2, 5, 151936)
        assert {tensor.device.type for tensor in (*tensors, logits)} == {"cuda"}


def test_the_2b_shape_is_the_published_one() -> None:
    assert ModelShape.of(QWEN3_VL_2B).parameters == 2_127_532_032
