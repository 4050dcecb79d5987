"""Mixed groups beyond what a batch needs: the next batch begins with them.

They are saved with every checkpoint, so that a resumed run has them again; the files hold numbers and names.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training.model.checkpoint import FutureL1
from training.model.decode import Completion
from training.model.rows import Rows
from training.rl.rollouts import Rollout, rollout_of
from training.storage.files import atomic_write

Group = tuple[list[Rollout], torch.Tensor]
"""The answers to one prompt, and their rewards [G, 4]."""


def file_of(process: int) -> str:
    """The file of a checkpoint with the groups of one process."""
    return f"surplus_groups_{process}.safetensors"


class SurplusGroups(TrainerCallback):
    """This process's surplus, kept through checkpoints."""

    def __init__(self, bundle: FutureL1, rows: Rows, process: int) -> None:
        self.groups: list[Group] = []
        self._bundle, self._rows, self._process = bundle, rows, process

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Beside the trainer's own files; a checkpoint without this one is passed over on resume."""
        write(self._path(args, state), self.groups)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Reads the groups of the checkpoint that the run resumes from."""
        if (path := self._path(args, state)).exists():
            self.groups = read(path, self._bundle, self._rows)

    def _path(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / file_of(self._process)


TENSORS: dict[str, Callable[[Rollout], torch.Tensor]] = {
    "ids": lambda r: torch.tensor(r.ids),
    "log_probs": lambda r: r.log_probs,
    "sampled": lambda r: r.sampled,
    "latents": lambda r: r.latents,
    "noise": lambda r: r.noise,
}


def write(path: Path, groups: list[Group]) -> None:
    """Writes the groups to a file, atomically."""
    tensors = {f"{g}/rewards": rewards.cpu() for g, (_, rewards) in enumerate(groups)}
    for g, (rollouts, _) in enumerate(groups):
        for i, rollout in enumerate(rollouts):
            tensors |= {f"{g}/{i}/{name}": of(rollout).cpu().contiguous() for name, of in TENSORS.items()}
    records = [
        {
            "row_id": rollouts[0].row["row_id"],
            "seeds": [r.seed for r in rollouts],
            "ended": [r.finished for r in rollouts],
        }
        for rollouts, _ in groups
    ]
    with atomic_write(path) as file:
        save_file(tensors, file, {"groups": json.dumps(records)})


def read(path: Path, bundle: FutureL1, rows: Rows) -> list[Group]:
    """Reads the groups of a file.  Raises ValueError for a group of a row that is not among the rows."""
    numbers = {row["row_id"]: number for number, row in enumerate(rows.rows)}
    groups: list[Group] = []
    with safe_open(path, "pt", device=str(bundle.model.device)) as file:
        for g, group in enumerate(json.loads(file.metadata()["groups"])):
            if group["row_id"] not in numbers:
                raise ValueError(f"{path}: row {group['row_id']} is not among the {len(rows)} rows of this training")
            row, prompt = rows.prompt(numbers[group["row_id"]])
            rollouts = []
            for i, (seed, ended) in enumerate(zip(group["seeds"], group["ended"], strict=True)):
                recorded = {name: file.get_tensor(f"{g}/{i}/{name}") for name in TENSORS}
                completion = Completion(recorded.pop("ids").tolist(), **recorded, finished=ended)
                rollouts.append(rollout_of(row, prompt, seed, completion, bundle.tokens, bundle.processor.tokenizer))
            groups.append((rollouts, file.get_tensor(f"{g}/rewards")))
    return groups
