"""Training sets from a curation: the random control of SFT, and RL sets from the retained pool."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assets.curation.contamination import BenchmarkIndex, contaminated
from assets.curation.keys import best_of_each, keyed
from assets.curation.scored import hash_order, scan, whole_rows
from assets.curation.selection import PUBLISHED_FROM, published
from training.grading.grade import reference_letter
from training.grading.parsers import options_of


def random_set(
    scored: Sequence[Path], rows: int, seed: int, index: BenchmarkIndex
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The control of the paper's Table 6: as many rows, sampled from all scored rows whatever their gain.

    Rows that a benchmark has, too, are passed over.
    """
    ids = scan(scored).select(pl.col("row_id").unique()).collect(engine="streaming")["row_id"]
    order = pl.DataFrame({"row_id": ids}).with_columns(hash_order(ids, seed)).sort("order")["row_id"]
    passed: set[str] = set()
    while True:
        chosen = order[: rows + len(passed)]
        keys = keyed(scan(scored).filter(pl.col("row_id").is_in(chosen.implode()))).collect(engine="streaming")
        touched = set(contaminated(best_of_each(keys), scored, index)[0]["row_id"])
        if touched == passed or len(chosen) == len(order):
            break
        passed = touched
    ranked = chosen.to_frame().filter(~pl.col("row_id").is_in(sorted(touched))).with_row_index("rank", offset=1)
    table = published(whole_rows(scored, ranked, PUBLISHED_FROM))
    return table, {"wanted": rows, "rows": table.height, "of": len(ids), "contaminated": len(touched)}


def rl_set(
    scored: Sequence[Path], pool: pl.DataFrame, rows: int, seed: int, avoid_sft: bool
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Rows sampled with a seed from the retained pool, without repeats and contaminated rows; smaller sets of a seed
    are the beginnings of larger ones.

    `pool` is the selection's.  With `avoid_sft` on clips (under any name) that the published rows do not have.  Rows
    whose reference names none of their options are passed over: no answer to them could be right.  The report says how
    many rows were wanted, how many there are, and how many of them, and of their clips, SFT has, too.
    """
    sft = pool.filter(pl.col("status") == "selected")
    clean = pool.filter(pl.col("status").is_in(["selected", "below the cut"]))
    unseen = clean.filter(~pl.col("clip").is_in(sft["clip"].implode()))
    source = unseen if avoid_sft else clean
    order = source.with_columns(hash_order(source["row_id"], seed)).sort("order")["row_id"]
    taken, ungradable = order[:0], 0
    while len(taken) < rows and len(taken) + ungradable < len(order):
        more = order[len(taken) + ungradable :][: rows - len(taken)].to_frame().with_row_index("rank", offset=1)
        texts = whole_rows(scored, more, ("row_id", "video", "question", "answer", "p_t", "gain"))
        good = texts.filter([gradable(q, a) for q, a in texts.select("question", "answer").iter_rows()])["row_id"]
        ungradable += more.height - len(good)
        taken = taken.extend(good)
    table = published(whole_rows(scored, taken.to_frame().with_row_index("rank", offset=1), PUBLISHED_FROM))
    chosen = pool.filter(pl.col("row_id").is_in(taken.implode()))
    return table, {
        "wanted": rows,
        "rows": table.height,
        "short": max(0, rows - table.height),
        "clips": chosen["clip"].n_unique(),
        "pool": clean.height,
        "pool_on_unseen_clips": unseen.height,
        "cannot_be_graded": ungradable,
        "rows_shared_with_sft": chosen.filter(pl.col("status") == "selected").height,
        "clips_shared_with_sft": chosen.filter(pl.col("clip").is_in(sft["clip"].implode()))["clip"].n_unique(),
    }


def gradable(question: str, answer: str) -> bool:
    """Whether some answer could be graded right: a multiple-choice reference names one of the options."""
    options = options_of(question)
    return not options or reference_letter(answer, options) is not None
