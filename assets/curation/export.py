"""Future-L1-50K as the public release's loader reads it: one JSON list of records (reference/sft.md 2.1 and 2.3).

`<image>` stands for the observed frames in the human turn and for the future ones in the gpt turn, the answer is cut
out to the top level, and `image` and `reasoning_image` are lists of integers, by which the loader knows the kind.
`video` is the clip's name as the row has it; the loader looks for it beside the JSON file.
"""

from pathlib import Path

from training.storage.parquet import read_parquet

PUBLIC_COLUMNS = (
    "video",
    "conversations",
    "image",
    "reasoning_image",
    "answer",
    "meta_data",
    "gain",
    "correct_in_8_base",
    "correct_in_8_hint",
)


def export_json(curated: Path, target: Path) -> int:
    """Writes the rows of a curated parquet to `target`, in rank order; returns how many."""
    import duckdb

    columns = ", ".join(f'"{name}"' for name in PUBLIC_COLUMNS)
    table = read_parquet(curated, columns=[*PUBLIC_COLUMNS, "rank"])
    with duckdb.connect() as connection:
        connection.register("curated", table.to_arrow())
        connection.execute(
            f"COPY (SELECT {columns} FROM curated ORDER BY rank) TO $target (FORMAT json, ARRAY true)",
            {"target": str(target)},
        )
    return table.height
