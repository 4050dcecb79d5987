"""Mixed groups beyond what a batch needs: the next batch begins with them.

They are saved with every checkpoint, so that a resumed run has them again, on any number of processes; the file holds
numbers and names.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training.rl.groups import Group, Rebuild, RolloutRecord, record_of
from training.storage.files import atomic_write

FILE = "surplus_groups.safetensors"
"""The file of a checkpoint with the groups of all processes."""
TENSORS = ("log_probs", "sampled", "latents", "noise")


class SurplusGroups(TrainerCallback):
    """The surplus, kept through checkpoints."""

    def __init__(self, rebuild: Rebuild, process: int, processes: int) -> None:
        self.groups: list[Group] = []
        self._rebuild, self._process, self._processes = rebuild, process, processes

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Beside the trainer's own files; a checkpoint without this one is passed over on resume."""
        local = [(g, group.rollouts) for g, group in enumerate(self.groups) if group.owner == self._process]
        records = dict(gather_object([(g, [record_of(r) for r in rollouts]) for g, rollouts in local]))
        if self._process == 0:
            write(self._path(args, state), [(records[g], group.rewards) for g, group in enumerate(self.groups)])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Reads the groups of the checkpoint that the run resumes from; the processes have them in turn."""
        if (path := self._path(args, state)).exists():
            self.groups = read(path, self._rebuild, self._process, self._processes)

    def _path(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / FILE


def write(path: Path, groups: Sequence[tuple[Sequence[RolloutRecord], torch.Tensor]]) -> None:
    """Writes the answers and the rewards of groups to a file, atomically."""
    tensors, metadata = {}, []
    for g, (records, rewards) in enumerate(groups):
        tensors[f"{g}/rewards"] = rewards.contiguous()
        metadata.append([{"row_id": r.row_id, "seed": r.seed, "finished": r.finished} for r in records])
        for i, record in enumerate(records):
            tensors[f"{g}/{i}/ids"] = torch.tensor(record.ids)
            tensors |= {f"{g}/{i}/{name}": getattr(record, name) for name in TENSORS}
    with atomic_write(path) as file:
        save_file(tensors, file, {"groups": json.dumps(metadata)})


def read(path: Path, rebuild: Rebuild, process: int, processes: int) -> list[Group]:
    """Reads the groups of a file, each one's answers in one process.  Raises ValueError as `rebuild` does."""
    groups: list[Group] = []
    with safe_open(path, "pt") as file:
        for g, answers in enumerate(json.loads(file.metadata()["groups"])):
            rollouts = []
            for i, facts in enumerate(answers if g % processes == process else []):
                recorded = {name: file.get_tensor(f"{g}/{i}/{name}") for name in TENSORS}
                record = RolloutRecord(ids=file.get_tensor(f"{g}/{i}/ids").tolist(), **recorded, **facts)
                rollouts.append(rebuild(record))
            groups.append(Group(g % processes, file.get_tensor(f"{g}/rewards"), rollouts))
    return groups
