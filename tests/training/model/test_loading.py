"""A checkpoint is loaded whole and from safetensors, or refused in a sentence; nothing in its folder is run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.model import checkpoint
from training.model.checkpoint import UnusableCheckpointError, load
from training.runtime.project import PROJECT
from training.sft.inspection import open_checkpoint
from training.storage.artifacts import MODEL, checkpoint_folder

BASE = PROJECT / "training" / "tiny" / "base"
WEIGHT = "model.language_model.layers.0.mlp.gate_proj.weight"
Weights = dict[str, torch.Tensor]


def is_missing(folder: Path, weights: Weights) -> None:
    del weights[WEIGHT]


def has_another_shape(folder: Path, weights: Weights) -> None:
    weights[WEIGHT] = weights[WEIGHT][:-1].contiguous()


def is_nan(folder: Path, weights: Weights) -> None:
    weights[WEIGHT][0, 0] = torch.nan


def are_infinite(folder: Path, weights: Weights) -> None:
    weights[WEIGHT][0, 0], weights[WEIGHT][0, 1] = torch.inf, -torch.inf


def is_an_adapter(folder: Path, weights: Weights) -> None:
    (folder / "adapter_config.json").write_text("{}")


def runs_code(folder: Path, weights: Weights) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "own.Config"}}))
    path = folder / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoProcessor": "own.Processor"}}))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: ...\nclass Processor: ...\n")


def spoiled(tmp_path: Path, spoil: Callable[[Path, Weights], None]) -> Path:
    folder = tmp_path / "spoiled"
    shutil.copytree(BASE, folder)
    weights = load_file(folder / "model.safetensors")
    spoil(folder, weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (is_missing, f"has no weights for 1 of the model's tensors: {WEIGHT}"),
        (has_another_shape, f"another shape than its config says, for 1 of the model's tensors: {WEIGHT}"),
        (is_nan, f"NaN or infinity in {WEIGHT}"),
        (are_infinite, f"NaN or infinity in {WEIGHT}"),
        (is_an_adapter, "merge it into its base"),
    ],
)
def test_weights_that_cannot_answer_are_refused(
    tmp_path: Path, spoil: Callable[[Path, Weights], None], message: str
) -> None:
    folder = spoiled(tmp_path, spoil)
    for opened in (load, open_checkpoint):
        with pytest.raises(UnusableCheckpointError, match=message):
            opened(folder)


def test_weights_are_read_to_their_device_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which has no memory, nothing is left to read to the CPU."""
    moved: list[torch.device] = []
    to = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args, **kw: (moved.append(args), to(self, *args, **kw))[1])
    _, model = checkpoint._open(BASE, torch.device("meta"), torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    assert not moved, "a model that was moved was whole in two places"


def test_large_weights_are_finite(tmp_path: Path) -> None:
    def is_large(folder: Path, weights: Weights) -> None:
        weights[WEIGHT][:] = torch.finfo(torch.float32).max  # the sum of two is infinite

    load(spoiled(tmp_path, is_large))


def test_pickles_are_not_read_and_half_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    folder = spoiled(tmp_path, lambda folder, weights: torch.save(weights, folder / "pytorch_model.bin"))
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnusableCheckpointError, match="no checkpoint that can be loaded"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnusableCheckpointError, match=r"model\.safetensors"):
        load(folder)


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    folder = spoiled(tmp_path, runs_code)
    load(folder)
    assert not (folder / "ran").exists()


def test_an_artifacts_folder_means_the_checkpoint_in_it(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / MODEL)
    assert checkpoint_folder(tmp_path) == checkpoint_folder(tmp_path / MODEL) == tmp_path / MODEL
    assert open_checkpoint(tmp_path).latent_config is None
