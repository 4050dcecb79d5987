"""The page's lineage: from every number back to the clips, and from rows and items on to the numbers."""

from evaluation.generation.segments import segments
from evaluation.reports.followed import Chain, Followed, FollowedItem, FollowedRow, Link, command
from evaluation.reports.run_reports import RunReports
from evaluation.reports.sections.parts import DASH, Cell, Row, Section, Table, heading, shortened


def lineage(reports: RunReports, figures: bool) -> Section | None:
    """Each model's chain, and worked examples; None where nobody gathered them."""
    if (told := reports.lineage) is None:
        return None
    text = (
        "Every number above goes back to the clips, and every clip on to the numbers: a report was made from answers,"
        " these by a checkpoint, that from a set, whose rows come from shards of a revision. The command shows, both"
        " ways, what is not on this page: for an artifact's name or version, a row's or an item's id, or a clip's name."
    )
    tables = [_in_full(told.chains)]
    tables += [_rows(told)] if told.rows else []
    tables += [_items(told.items)] if told.items else []
    return Section("Lineage", text=text, chains=told.chains, tables=tables)


def _in_full(chains: list[Chain]) -> Table:
    rows = []
    for chain in chains:
        rows.append(heading(chain.model))
        rows += [_link(step.kind, link) for step in chain.steps for link in step.links]
    head = ["step", "artifact", "version", "what it holds", "follow it with"]
    return Table(head, rows, "The chains in full, and the command for each artifact", True, words=True)


def _link(kind: str, link: Link) -> Row:
    asked = Cell(command(link.version), code=True) if link.version else Cell(DASH)
    return Row([Cell(kind), Cell(link.artifact), Cell(link.version or DASH), Cell(link.note), asked])


def _rows(told: Followed) -> Table:
    head = ["row", "p_t → p_v", "verdicts", "shard and revision", "clip and frames", "in the set of", "follow it with"]
    caption = f"Rows that {told.best} was trained on: the first of each of its sets by visual gain"
    return Table(head, [_row(row) for row in told.rows], caption, words=True)


def _row(row: FollowedRow) -> Row:
    gain = f"gain {row.p_v - row.p_t:+d}" if row.p_t is not None and row.p_v is not None else ""
    scores = "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}".join(
        DASH if score is None else str(score) for score in (row.p_t, row.p_v)
    )
    verdicts = [
        f"{condition}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}"
        for condition, counts in row.verdicts.items()
    ]
    frames = f"seen {_numbers(row.seen)}, imagined {_numbers(row.imagined)}, of {row.frame_count:,} frames"
    return Row(
        [
            Cell(row.row_id, row.set),
            Cell(scores, gain),
            Cell(verdicts[0] if verdicts else DASH, "; ".join(verdicts[1:])),
            Cell(row.shard, f"revision {row.revision}" if row.revision else ""),
            Cell(row.clip, frames),
            Cell(", ".join(row.trained) or DASH),
            Cell(command(row.row_id), code=True),
        ]
    )


def _numbers(frames: list[int]) -> str:
    return ", ".join(map(str, frames)) or "none"


def _items(items: list[FollowedItem]) -> Table:
    rows = []
    for item in items:
        shown = f"{item.benchmark}, {item.split}: {item.id}, clip {item.clip}; right is {item.right}"
        rows.append(Row([Cell(shown, note=f"follow it with: {command(item.id)}")]))
        for answer in item.answers:
            right = "right" if answer.correct else "wrong"
            rows.append(
                Row(
                    [
                        Cell(answer.model),
                        Cell(shortened(_said(answer.said), 240)),
                        Cell(answer.read_as or DASH, right),
                        Cell(f"{answer.spans}"),
                        Cell(answer.checkpoint, f"{answer.checkpoint_version}, answers {answer.answers}"),
                    ]
                )
            )
    head = ["model", "what it said", "read as", "spans", "checkpoint that said it"]
    return Table(head, rows, "Items that models disagree on, and the checkpoint behind each answer", words=True)


def _said(text: str) -> str:
    """An answer in a line: thoughts, spans by the number of their latents, and the answer after an arrow."""
    told = {"reason": "{}", "text": "{}", "answer": "→ {}"}
    pieces = [f"[{p.latents} latents]" if p.kind == "span" else told[p.kind].format(p.text) for p in segments(text)]
    return " ".join(pieces) or DASH
