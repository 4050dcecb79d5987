"""What the comparison's page tells of lineage: each model's chain to the source, and rows and items followed both ways.

Read from the manifests of current artifacts, and of tables only what the page shows.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import PurePosixPath
from typing import Any

import polars as pl

from assets.lineage import Input, Lineage
from evaluation.reports.followed import Chain, Followed, FollowedItem, FollowedRow, ItemAnswer, Link, Step
from training.data.keyframes import key_frame_number
from training.storage.artifacts import Artifact
from training.storage.parquet import read_parquet, scan_parquet

REPORTED = ("benchmarks/futurebench_report", "benchmarks/twiffbench_report")
CHOICES, ITEMS, GRADED = "benchmarks/futurebench_report", "inputs/futurebench_items", "graded.parquet"
SETS = ("curation/sft_sets/", "curation/rl_sets/")
SCORED, PULLED = "curation/visual_gain/", "trajectories/twiff_rows/"
CHECKPOINTS, BASE = "checkpoints/", "inputs/base_model"
KINDS = {
    "reports": tuple(f"{key}/" for key in REPORTED),
    "answers": ("benchmarks/futurebench_answers/", "benchmarks/twiffbench_answers/"),
    "checkpoint": (),
    "trained from": (CHECKPOINTS, BASE, *SETS),
    "curated set": ("curation/future_l1_50k",),
    "scored": (SCORED,),
    "source": (PULLED,),
}
"""A chain's steps in order, and what the names of their artifacts begin with; the model's checkpoint is told apart."""
ROWS_OF_A_SET, ITEMS_SHOWN = 2, 3


def followed(lineage: Lineage, models: Mapping[str, str], best: str) -> Followed:
    """models: the name of each reported model's checkpoint, in the order of the page; best: the model whose rows are
    shown."""
    sets = {model: _sets(lineage, checkpoint) for model, checkpoint in models.items()}
    return Followed(
        chains=[Chain(model=model, steps=_steps(lineage, model, name)) for model, name in models.items()],
        best=best,
        rows=[row for key in sets.get(best, []) for row in _rows(lineage, key, sets)],
        items=_items(lineage, models),
    )


def _steps(lineage: Lineage, model: str, checkpoint: str) -> list[Step]:
    reports = [f"{key}/{model}" for key in REPORTED if f"{key}/{model}" in lineage.artifacts]
    links = {name: Input(name, lineage.artifacts[name].version, name) for name in reports}
    for one in _upstream(lineage, reports):
        links.setdefault(one.key if one.key.startswith(SETS) else one.artifact or one.key, one)
    steps = []
    for kind, begins in KINDS.items():
        if kind == "checkpoint":
            own = [checkpoint]
        else:
            own = [name for name in links if name.startswith(begins) and name != checkpoint]
        found = [links[name] for name in own if name in links]
        if kind in ("scored", "source"):
            shown = [_shards(lineage, found)] if found else []
        else:
            shown = [_link(lineage, name, links[name]) for name in own if name in links]
        steps += [Step(kind=kind, links=shown)] if shown else []
    return steps


def _upstream(lineage: Lineage, names: Sequence[str]) -> Iterator[Input]:
    """Every recorded input of these artifacts and of theirs, the nearest first."""
    queue, seen = list(names), set(names)
    for name in queue:
        for one in lineage.inputs[name]:
            yield one
            if one.artifact and one.artifact not in seen:
                seen.add(one.artifact)
                queue.append(one.artifact)


def _link(lineage: Lineage, name: str, one: Input) -> Link:
    """An artifact with what it holds; one that is not current any more has only what was recorded of it."""
    if one.artifact is None or (name.startswith(SETS) and not _is_current_set(one)):
        return Link(artifact=name, version=one.value[:16], note="not current any more")
    artifact = lineage.artifacts[one.artifact]
    return Link(artifact=name, version=artifact.version, note=_note(artifact, name))


def _note(artifact: Artifact, name: str) -> str:
    counts = artifact.provenance["counts"]
    if name.startswith(SETS):
        return f"{_table(artifact, name).select(pl.len()).collect().item():,} rows"
    if name.startswith("benchmarks/futurebench_report/"):
        return f"n = {counts['average']['n']:,}"
    if name.startswith("benchmarks/twiffbench_report/"):
        return f"{counts['coverage']['judged']:,} judged"
    if "answers" in counts:
        return f"{counts['answers']:,} answers"
    return f"{counts['kept']:,} of {counts['scored']:,} scored rows" if "kept" in counts else ""


def _shards(lineage: Lineage, found: Sequence[Input]) -> Link:
    """Shards of one kind as one link: how many, their rows, and the source's revisions."""
    artifacts = [lineage.artifacts[one.artifact] for one in found if one.artifact]
    counts = [artifact.provenance["counts"] for artifact in artifacts]
    note = [f"{len(found)} shards"] if len(found) > 1 else [found[0].key.rpartition("/")[2] or found[0].key]
    if revisions := dict.fromkeys(str(one["revision"]) for one in counts if "revision" in one):
        note.append(f"revision {', '.join(revisions)}")
    if len(artifacts) < len(found):
        note.append(f"{len(found) - len(artifacts)} not current any more")
    first = found[0].artifact or found[0].key
    return Link(artifact="/".join(first.split("/")[:2]), note=", ".join(note))


def _sets(lineage: Lineage, checkpoint: str) -> list[str]:
    """The sets that a checkpoint, and those that it started from, were trained on: its own first."""
    if checkpoint not in lineage.artifacts:
        return []
    own = [one.key for one in lineage.inputs[checkpoint] if _is_current_set(one)]
    starts = [one.artifact for one in lineage.inputs[checkpoint] if one.artifact and one.key.startswith(CHECKPOINTS)]
    return own + [key for start in starts for key in _sets(lineage, start)]


def _is_current_set(one: Input) -> bool:
    """Whether this is a table of the current sets; another artifact may have the same bytes."""
    return one.key.startswith(SETS) and one.artifact == one.key.rpartition("/")[0]


def _table(artifact: Artifact, key: str) -> pl.LazyFrame:
    return scan_parquet(artifact.file(f"{key.rpartition('/')[2]}.parquet"))


def _set_table(lineage: Lineage, key: str) -> pl.LazyFrame:
    return _table(lineage.artifacts[key.rpartition("/")[0]], key)


def _rows(lineage: Lineage, key: str, sets: Mapping[str, Sequence[str]]) -> list[FollowedRow]:
    table = _set_table(lineage, key)
    ordered = [name for name in ("gain", "rank", "row_id") if name in table.collect_schema()]
    first = table.sort(ordered, descending=[name == "gain" for name in ordered]).head(ROWS_OF_A_SET)
    return [_row(lineage, key, row, sets) for row in first.collect().iter_rows(named=True)]


def _row(lineage: Lineage, key: str, row: Mapping[str, Any], sets: Mapping[str, Sequence[str]]) -> FollowedRow:
    shard, count = row["source"], row["frame_count"]
    pulled = lineage.artifacts.get(f"{PULLED}{shard}")
    holds = {one: _has(lineage, one, row["row_id"]) for one in {one for several in sets.values() for one in several}}
    return FollowedRow(
        row_id=row["row_id"],
        set=key,
        p_t=row.get("p_t"),
        p_v=row.get("p_v"),
        verdicts=_verdicts(lineage, shard, row["row_id"]),
        shard=shard,
        revision=str(pulled.provenance["counts"]["revision"]) if pulled else "",
        clip=PurePosixPath(row["video"]).name,
        frame_count=count,
        seen=row.get("frames") or [key_frame_number(count, index) for index in row["observed"]],
        imagined=[key_frame_number(count, index) for index in row["future"]],
        trained=[model for model, several in sets.items() if any(holds[one] for one in several)],
    )


def _has(lineage: Lineage, key: str, row_id: str) -> bool:
    found = _set_table(lineage, key).filter(pl.col("row_id") == row_id).select(pl.len())
    return bool(found.collect().item())


def _verdicts(lineage: Lineage, shard: str, row_id: str) -> dict[str, dict[str, int]]:
    """How often which verdict was given to the row's answers, by condition; nothing where counts were given."""
    scored = lineage.artifacts.get(f"{SCORED}{shard}")
    if scored is None or "verdicts.parquet" not in scored.manifest["files"]:
        return {}
    table = scan_parquet(scored.file("verdicts.parquet")).filter(pl.col("row_id") == row_id)
    counted = table.group_by("condition", "verdict").len().sort("condition", "verdict", descending=[True, False])
    found: dict[str, dict[str, int]] = {}
    for condition, verdict, count in counted.collect().iter_rows():
        found.setdefault(condition, {})[verdict or "unjudged"] = count
    return found


def _items(lineage: Lineage, models: Mapping[str, str]) -> list[FollowedItem]:
    """The first item of each split that some models have right and others wrong."""
    graded = {
        model: read_parquet(lineage.artifacts[f"{CHOICES}/{model}"].file(GRADED))
        for model in models
        if f"{CHOICES}/{model}" in lineage.artifacts
    }
    rights = [table.select("id", pl.col("correct").alias(model)) for model, table in graded.items()]
    if not rights or ITEMS not in lineage.artifacts:
        return []
    table = read_parquet(lineage.artifacts[ITEMS].file("items.parquet"))
    both = reduce(lambda left, right: left.join(right, on="id", maintain_order="left"), rights)
    differ = both.filter(pl.any_horizontal(graded.keys()) & ~pl.all_horizontal(graded.keys())).select("id")
    first = table.join(differ, on="id", maintain_order="left").unique(
        "question_type", keep="first", maintain_order=True
    )
    items = first.head(ITEMS_SHOWN).iter_rows(named=True)
    return [_item(lineage, item, graded, models) for item in items]


def _item(
    lineage: Lineage, item: Mapping[str, Any], graded: Mapping[str, pl.DataFrame], models: Mapping[str, str]
) -> FollowedItem:
    answers = []
    for model, table in graded.items():
        said = table.row(by_predicate=pl.col("id") == item["id"], named=True)
        inputs = {one.key: one.value for one in lineage.inputs[f"{CHOICES}/{model}"]}
        version = inputs["benchmarks/futurebench_answers"]
        made = lineage.artifacts.get(f"benchmarks/futurebench_answers/{model}")
        known = made is not None and made.version == version
        checkpoint = str(made.provenance["inputs"]["checkpoint"]) if made and known else "not current any more"
        answers.append(
            ItemAnswer(
                model=model,
                said=said["text"] or "",
                read_as=said["parsed"],
                correct=said["correct"],
                spans=said["spans"],
                checkpoint=models[model],
                checkpoint_version=checkpoint,
                answers=version,
            )
        )
    right = f"{item['answer']} ({item['options']['ABCD'.index(item['answer'])]})"
    clip = PurePosixPath(item["video"] or "none").name
    return FollowedItem(id=item["id"], benchmark="FutureBench", split=item["question_type"], clip=clip, right=right,
                        answers=answers)  # fmt: skip
