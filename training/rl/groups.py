"""Groups of answers over the processes: each is sampled in one process, and its answers are replayed wherever there is
room, so that an optimiser step has the same answers on any number of processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from accelerate.utils import gather_object

from training.model.checkpoint import FutureL1
from training.model.completions import Completion
from training.model.rows import Rows
from training.rl.rollouts import Rollout, rollout_of


@dataclass(frozen=True)
class Group:
    """The answers to one prompt: their rewards [G, 4] on every process's CPU, the rollouts only in the process `owner`,
    which sampled them."""

    owner: int
    rewards: torch.Tensor
    rollouts: list[Rollout]


@dataclass(frozen=True, kw_only=True)
class RolloutRecord(Completion):
    """A completion on the CPU, with the row and the seed that it was sampled with: a rollout without its frames."""

    row_id: str
    seed: int


Rebuild = Callable[[RolloutRecord], Rollout]


def record_of(rollout: Rollout) -> RolloutRecord:
    """Copies its tensors, which may be views of a whole decoded batch."""
    values = {field.name: getattr(rollout, field.name) for field in fields(Completion)}
    copies = {n: v.detach().cpu().clone() if isinstance(v, torch.Tensor) else v for n, v in values.items()}
    return RolloutRecord(**copies, row_id=rollout.row["row_id"], seed=rollout.seed)


def rollout_from(record: RolloutRecord, bundle: FutureL1, rows: Rows) -> Rollout:
    """The rollout of a record; the frames of its prompt are read again.

    Raises ValueError for a row of other data, and as RowReader does for frames that cannot be read: another row, which
    `Rows` would take instead, is not what was answered.
    """
    row = next((row for row in rows.rows if row["row_id"] == record.row_id), None)
    if row is None:
        raise ValueError(f"row {record.row_id} is not among the {len(rows)} rows of this training")
    prompt = rows.reader.prompt(row)
    values = {field.name: getattr(record, field.name) for field in fields(Completion)}
    moved = {n: v.to(bundle.model.device) if isinstance(v, torch.Tensor) else v for n, v in values.items()}
    return rollout_of(row, prompt, record.seed, Completion(**moved), bundle.tokens, bundle.processor.tokenizer)


def gather_groups(rollouts: Sequence[Rollout], rewards: torch.Tensor, size: int, process: int) -> list[Group]:
    """The groups that all processes sampled in a round, in the order of their prompts; rewards [n, 4] of the rollouts
    of this process."""
    groups = []
    for owner, of_owner in enumerate(gather_object([rewards])):
        for begin in range(0, len(of_owner), size):
            at = slice(begin, begin + size)
            groups.append(Group(owner, of_owner[at], list(rollouts[at]) if owner == process else []))
    return groups


def assign_answers(order: Sequence[int], owners: Sequence[int], processes: int, updates: int) -> list[list[int]]:
    """The answers that each process replays, one optimiser step after the other.

    order: all answers, shuffled; each of the `updates` has the next part of it.  owners: the process of each answer.
    A process keeps its own where its share of the step has room, so that few answers travel.
    """
    assigned: list[list[int]] = [[] for _ in range(processes)]
    size = len(order) // updates // processes
    for begin in range(0, len(order), size * processes):
        at_home: list[list[int]] = [[] for _ in range(processes)]
        travelling: list[int] = []
        for answer in order[begin : begin + size * processes]:
            kept = at_home[owners[answer]]
            (kept if len(kept) < size else travelling).append(answer)
        for share, kept in zip(assigned, at_home, strict=True):
            missing = size - len(kept)
            share += kept + travelling[:missing]
            del travelling[:missing]
    return assigned


def exchange(
    local: Mapping[int, Rollout], assigned: Sequence[Sequence[int]], process: int, rebuild: Rebuild
) -> list[Rollout]:
    """The rollouts of this process's share; `local` holds those that it sampled, by the number of the answer."""
    leaving = {n: record_of(local[n]) for p, share in enumerate(assigned) if p != process for n in share if n in local}
    arrived: dict[int, RolloutRecord] = dict(gather_object(list(leaving.items())))
    return [local[n] if n in local else rebuild(arrived[n]) for n in assigned[process]]
