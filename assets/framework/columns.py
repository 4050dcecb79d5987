"""The columns of every asset's main table: what each holds, and which columns of other assets it comes from.

A column that a table takes over from an upstream's main table keeps its name and its meaning; one that it is the first
to have is declared here by hand, with what it is worked out from.  Columns are written `stage/noun:column`.  A test
holds this to the tables of a lineage that was really made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
import polars as pl

from assets.framework.contracts import columns_of_schema, holds
from assets.framework.partitions import key_of

ROWS, CLIPS = "twiff/trajectories", "twiff/clips"
ANSWERS, GAIN, CURATED = "curation/answers", "curation/visual_gain", "curation/future_l1_50k"
FUTURE, FUTURE_ANSWERS = "futurebench/items", "futurebench/answers"
TWIFF, TWIFF_ANSWERS = "twiffbench/items", "twiffbench/answers"


@dataclass(frozen=True)
class Made:
    """A column that a table is the first to have: what it holds, and the columns that it is worked out from."""

    says: str
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A main table: its schema (`module:Name`, "" without one), the columns that are made in it, and those taken over
    from each upstream's main table (all that it has, where none are named)."""

    schema: str
    made: Mapping[str, Made]
    taken: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sources(self) -> dict[str, str]:
        """The columns that are taken over, and the upstream of each."""
        return {
            name: upstream
            for upstream, names in self.taken.items()
            for name in (names or TABLES[upstream].names())
            if name not in self.made
        }

    def names(self) -> set[str]:
        return {*self.made, *self.sources()}

    def says(self, name: str) -> str:
        """What a column holds, wherever it was made."""
        return self.made[name].says if name in self.made else TABLES[self.sources()[name]].says(name)

    def of(self, name: str) -> tuple[str, ...]:
        """The columns that a column comes from, one step back; none where it was read from outside."""
        return self.made[name].of if name in self.made else (f"{self.sources()[name]}:{name}",)

    def constraints(self, name: str) -> dg.TableColumnConstraints:
        """What the schema says of a column's values, or that of the table that it is taken from; else anything."""
        column = columns_of_schema(self.schema).get(name)
        if column is not None:
            return dg.TableColumnConstraints(nullable=column.nullable, other=holds(column))
        if name in self.sources():
            return TABLES[self.sources()[name]].constraints(name)
        return dg.TableColumnConstraints()


TRAJECTORY = {
    "row_id": Made("hash of the row's content, the same in whatever layout and shard"),
    "source": Made("the shard that it was read from"),
    "video": Made("the clip's name"),
    "question": Made("text with a marker for each observed frame"),
    "reasoning": Made("text before each future frame, and after the last; empty where none was said"),
    "answer": Made("the reference answer"),
    "observed": Made("key frames 1..8 that are seen"),
    "future": Made("key frames 1..8 that are to be imagined"),
    "category": Made("kind of question"),
    "start": Made("where the clip begins in its source video"),
    "end": Made("where it ends"),
}


def _answers(asked: Sequence[str], prompt: str, of: str) -> dict[str, Made]:
    """What a model said, to prompts that were made of `asked`."""
    known = tuple(asked)
    return {
        "prompt_id": Made(prompt, (of,)),
        "sample": Made("number of the answer, from 0"),
        "text": Made("what was said, with special tokens, without the end of turn", known),
        "tokens": Made("its tokens", known),
        "text_tokens": Made("how many of them are text", known),
        "latent_tokens": Made("how many latents were fed back", known),
        "control_tokens": Made("how many tokens open or close a span, or end the turn", known),
        "spans": Made("latents of each span", known),
        "finished": Made("false: cut by the limit on new tokens", known),
        "prefill_seconds": Made("its share of its batch's prefill"),
        "decode_seconds": Made("its share of its batch's decoding"),
    }


KEPT_LATENTS = {
    "prompt_tokens": Made("tokens of the prompt, text and vision"),
    "latents": Made("the latents that were fed: float16, row-major [sum of spans, hidden size]"),
}


def _gain(right: Mapping[str, tuple[str, ...]]) -> dict[str, Made]:
    """Counts by condition, and what follows; `right`: the columns that say which answers are right, by condition."""
    both = tuple(dict.fromkeys((*right["plain"], *right["hint"])))
    made: dict[str, Made] = {}
    for condition, title in (("plain", "without the hint"), ("hint", "with the hint")):
        of = right[condition]
        made |= {
            f"n_correct_{condition}": Made(f"right answers {title}", of),
            f"n_graded_{condition}": Made(f"answers {title} that are settled", of),
            f"n_generated_{condition}": Made(f"answers {title} that were generated", of),
            f"{condition}_low": Made(f"lower 95 % Wilson bound of the share right {title}", of),
            f"{condition}_high": Made(f"upper 95 % Wilson bound of the share right {title}", of),
        }
    return made | {
        "unjudged": Made("answers that no judge could settle", both),
        "p_t": Made("right answers without the hint, of rows answered in full", right["plain"]),
        "p_v": Made("right answers with the hint, of rows answered in full", right["hint"]),
        "gain": Made("visual gain: p_v - p_t", both),
        "gain_low": Made("the least that the gain can be, given what is settled", both),
        "gain_high": Made("the most that it can be", both),
        "audited": Made("drawn by a hash of its id and answered in full, whatever its outcome", (f"{ROWS}:row_id",)),
        "status": Made("complete, cut (its answers could not keep it any more) or pending", both),
        "frame_count": Made("displayed frames of the clip", (f"{CLIPS}:frames",)),
    }


PUBLISHED = {
    "conversations": Made(
        "the public release's human and gpt turn", (f"{GAIN}:question", f"{GAIN}:reasoning", f"{GAIN}:future")
    ),
    "image": Made("the release's name for observed", (f"{GAIN}:observed",)),
    "reasoning_image": Made("the release's name for future", (f"{GAIN}:future",)),
    "meta_data": Made("the release's category, start and end", (f"{GAIN}:category", f"{GAIN}:start", f"{GAIN}:end")),
    "correct_in_8_base": Made("the release's name for p_t", (f"{GAIN}:p_t",)),
    "correct_in_8_hint": Made("the release's name for p_v", (f"{GAIN}:p_v",)),
}
SCORED_ROW = (*TRAJECTORY, "path", "frame_count", "reader", "p_t", "p_v", "gain")
SEEN = (f"{ROWS}:question", f"{ROWS}:observed", f"{CLIPS}:path", f"{CLIPS}:reader")
SETTLED = (f"{ANSWERS}:text", f"{ROWS}:answer")
SCORED_FROM = {ROWS: (), CLIPS: ("path", "reader", "sha256")}
GRADED = (f"{FUTURE_ANSWERS}:text", f"{FUTURE}:options")
MARKED = (f"{TWIFF_ANSWERS}:text", f"{TWIFF}:question", f"{TWIFF}:reasoning", f"{TWIFF}:answer")

TABLES: dict[str, Table] = {
    ROWS: Table(
        "assets.trajectories.validate:PulledTable",
        TRAJECTORY
        | {
            "row": Made("where it stands in the source's file, from 0"),
            "given_p_t": Made("right answers without the hint, where the source brings them"),
            "given_p_v": Made("right answers with the hint, where the source brings them"),
        },
    ),
    CLIPS: Table(
        "assets.trajectories.clips:ClipTable",
        {
            "alias": Made("the other name that it was found by", (f"{ROWS}:video", f"{ROWS}:start", f"{ROWS}:end")),
            "path": Made("the file", (f"{ROWS}:video",)),
            "bytes": Made("the file's size"),
            "frames": Made("displayed frames"),
            "fps": Made("frames a second"),
            "width": Made("pixels across"),
            "height": Made("pixels down"),
            "sha256": Made("hash of the file"),
            "reader": Made("how its frames are read: by seeking, or sequentially from the beginning"),
            "rotation": Made("degrees by which its pictures are turned clockwise to be shown"),
            "header_seconds": Made("the duration that its header states"),
            "reason": Made("why it cannot be used, in a few words to count by"),
            "detail": Made("what was found"),
        },
        {ROWS: ("video",)},
    ),
    ANSWERS: Table(
        "training.data.prompts:ANSWERS",
        _answers((*SEEN, f"{ROWS}:future"), "row_id/plain or row_id/hint", f"{ROWS}:row_id"),
    ),
    GAIN: Table(
        "assets.curation.visual_gain:GainTable", _gain({"plain": SETTLED, "hint": SETTLED}), SCORED_FROM
    ),
    CURATED: Table(
        "assets.curation.selection:CuratedTable",
        PUBLISHED | {"rank": Made("place in the selection: by gain, then by a hash of the id", (f"{GAIN}:gain",))},
        {GAIN: SCORED_ROW},
    ),
    "curation/sft_sets": Table("assets.curation.selection:CuratedTable", {}, {CURATED: ()}),
    "curation/rl_sets": Table(
        "assets.curation.selection:CuratedTable",
        PUBLISHED | {"rank": Made("place in the draw, by a hash of the row's id and the seed", (f"{GAIN}:row_id",))},
        {GAIN: SCORED_ROW},
    ),
    "curation/hub": Table("assets.curation.selection:CuratedTable", {}, {CURATED: ()}),
    FUTURE: Table(
        "evaluation.benchmarks.futurebench:ItemTable",
        {
            "id": Made("the item's id"),
            "video": Made("the clip of the observed part"),
            "question_type": Made("the split: how far ahead is asked (hop1 to hop3), or between what is seen (hop5)"),
            "question": Made("the question without its options"),
            "options": Made("four options in order"),
            "answer": Made("letter of the right one"),
            "path": Made("the clip's file"),
            "frame_count": Made("displayed frames of the observed part"),
            "reader": Made("how its frames are read: by seeking, or sequentially from the beginning"),
            "problem": Made("why it cannot be asked"),
        },
    ),
    TWIFF: Table(
        "evaluation.benchmarks.twiffbench:ItemTable",
        {
            "id": Made("number of the row over all shards"),
            "video": Made("the clip that it is about"),
            "start": Made("where the clip begins in its source video"),
            "end": Made("where it ends"),
            "category": Made("kind of question"),
            "question": Made("text with a marker for each observed image"),
            "reasoning": Made("the reference's text around its images"),
            "answer": Made("the reference answer, short"),
            "whole_answer": Made("the reference as it came"),
            "question_images": Made("the observed frames, encoded"),
            "reasoning_images": Made("the reference's future frames, encoded"),
            "problem": Made("why it cannot be asked"),
        },
    ),
    FUTURE_ANSWERS: Table(
        "training.data.prompts:ANSWERS",
        _answers(tuple(f"{FUTURE}:{c}" for c in ("question", "options", "path")), "the item's id", f"{FUTURE}:id")
        | KEPT_LATENTS,
    ),
    TWIFF_ANSWERS: Table(
        "training.data.prompts:ANSWERS",
        _answers((f"{TWIFF}:question", f"{TWIFF}:question_images"), "the item's id", f"{TWIFF}:id") | KEPT_LATENTS,
    ),
    "futurebench/report": Table(
        "",
        {
            "parsed": Made("the letter that the answer names; null: none could be read", GRADED),
            "rule": Made("the rule that read it", GRADED),
            "correct": Made("whether it is the right letter", (*GRADED, f"{FUTURE}:answer")),
            "spans": Made("how many latent spans it has", (f"{FUTURE_ANSWERS}:spans",)),
        },
        {
            FUTURE: ("id", "question_type", "answer"),
            FUTURE_ANSWERS: (
                "text", "prompt_tokens", "text_tokens", "latent_tokens", "control_tokens", "prefill_seconds",
                "decode_seconds", "finished",
            ),
        },
    ),
    "twiffbench/report": Table(
        "evaluation.benchmarks.twiffbench:ScoreTable",
        {
            "cot": Made("the judge's mark for the reasoning, 0 to 5; null: unjudged", MARKED),
            "cot_marks": Made("its judgements", MARKED),
            "answer": Made("the judge's mark for the answer, 0 to 5; null: unjudged", MARKED),
            "answer_marks": Made("its judgements", MARKED),
        },
        {TWIFF: ("id", "category")},
    ),
}  # fmt: skip
"""The main tables by the asset that they are of."""

GIVEN_GAIN = Table(
    "assets.curation.visual_gain:GainTable",
    _gain({"plain": (f"{ROWS}:given_p_t",), "hint": (f"{ROWS}:given_p_v",)}),
    SCORED_FROM,
)
"""Visual gain where the source brings its own counts and nothing is answered."""


def column_metadata(table: Table, columns: Mapping[str, pl.DataType]) -> dict[str, object]:
    """Dagster's schema and lineage of a table's columns, and the lineage for people, since the open UI draws none.

    Raises KeyError for a column that is declared nowhere.
    """
    return {
        "dagster/column_schema": dg.TableSchema([_described(table, name, dtype) for name, dtype in columns.items()]),
        "dagster/column_lineage": dg.TableColumnLineage(
            {name: [dg.TableColumnDep(*_parts(one)) for one in table.of(name)] for name in columns}
        ),
        "columns": dg.MetadataValue.md("\n".join(_lineage(table, columns))),
    }


def _described(table: Table, name: str, dtype: pl.DataType) -> dg.TableColumn:
    return dg.TableColumn(name, str(dtype), table.says(name), table.constraints(name))


def _lineage(table: Table, columns: Mapping[str, object]) -> Iterator[str]:
    yield from ("| column | what it holds | comes from |", "| --- | --- | --- |")
    for name in columns:
        came = ", ".join(f"`{one}`" for one in table.of(name))
        yield f"| `{name}` | {table.says(name)} | {came or 'made here'} |"


def _parts(column: str) -> tuple[dg.AssetKey, str]:
    asset, name = column.split(":")
    return key_of(asset), name
