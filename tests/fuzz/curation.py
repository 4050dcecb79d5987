"""What `future-l1 curate` does with mutated rows, shards and clips, with mutated replies of both servers, and with a
store in which a file was damaged after it had been published."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.testing import assert_frame_equal

from tests.fuzz.commands import Ended, ViolationError, run
from tests.fuzz.mutants import altered, damaged
from tests.pipelines.served_shards import Model, judge, write_shards
from tests.served import Served, completion, served

SCORES = ["row_id", "p_t", "p_v", "gain"]
COLUMNS: tuple[Callable[[int], pa.Array], ...] = (
    pa.nulls,
    lambda n: pa.array([2**31 - 1] * n, pa.date32()),
    lambda n: pa.array([2**62] * n, pa.duration("s")),
    lambda n: pa.array([2**62] * n, pa.timestamp("us", tz="Mars/Olympus")),
    lambda n: pa.array([b"\xff\0"] * n),
    lambda n: pa.array([["x", None]] * n),
    lambda n: pa.array([[1]] * n, pa.list_(pa.int8(), 1)),
    lambda n: pa.array([{"a": [1, None], "start": "0"}] * n),
    lambda n: pa.array(["x"] * n, pa.large_string()),
    lambda n: pa.array([str(i % 2) for i in range(n)]).dictionary_encode(),
    lambda n: pa.array(["x" * 2**24] * n).dictionary_encode(),
    lambda n: pa.array([float("nan"), float("inf"), -0.0, 1.0] * n).slice(0, n),
    lambda n: pa.array(range(n)),
    lambda n: pa.array([True] * n),
)
"""Columns of so many values, of types that no shard should have."""
STATUSES = (200, 200, 200, 301, 302, 400, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)


def rows(rng: random.Random, folder: Path) -> str:
    """Rows with one altered value each, as JSON lines; one shard of good rows beside them."""
    good = _source(folder, rng)
    # A word of its own for each: otherwise a change to what is not read makes a repeated row.
    fresh = [{**row, "question": row["question"].replace("\n(", f"\nv{n} (", 1)} for n, row in enumerate(good * 4)]
    mutants = [altered(row, rng) for row in fresh]
    lines = [json.dumps(row).encode("utf-8", "surrogatepass") for row in mutants]
    lines += [damaged(line, rng).replace(b"\n", b" ") or b"{" for line in lines[:: len(good)]]
    (folder / "twiff" / "mutants.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    ended, out = _curated(folder, good)
    _every_row_is_somewhere(out, ended, {"mutants": sum(bool(line.strip()) for line in lines)})
    return _outcome(out, ended)


def shards(rng: random.Random, folder: Path) -> str:
    """Parquet shards with columns of other types, and damaged files; one shard of good rows beside them."""
    good = _source(folder, rng)
    table = pl.DataFrame(good).to_arrow()
    for number in range(4):
        column, values = rng.randrange(table.num_columns), rng.choice(COLUMNS)(len(good))
        other = table.set_column(column, rng.choice((table.column_names[column], "question", "video ")), values)
        pq.write_table(other, folder / "twiff" / f"types-{number}.parquet")
    whole = next((folder / "twiff").glob("part-*.parquet")).read_bytes()
    for number in range(4):
        (folder / "twiff" / f"damaged-{number}.parquet").write_bytes(damaged(whole, rng))
    ended, out = _curated(folder, good)
    _every_row_is_somewhere(out, ended, {})
    return _outcome(out, ended)


def clips(rng: random.Random, folder: Path) -> str:
    """Damaged clips, each with a row of its own; one shard of good rows beside them."""
    good = _source(folder, rng)
    files = sorted((folder / "clips").iterdir())
    mutants = []
    for number in range(40):
        original = rng.choice(files)
        name = f"mutant-{number}{rng.choice(('.mp4', '.mp4', '.mkv', '.webm', '.ts', '.avi'))}"
        (folder / "clips" / name).write_bytes(damaged(original.read_bytes(), rng))
        mutants.append({**rng.choice(good), "video": name})
    (folder / "twiff" / "mutants.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mutants))
    ended, out = _curated(folder, good)
    _every_row_is_somewhere(out, ended, {"mutants": len(mutants)})
    return _outcome(out, ended)


def replies(rng: random.Random, folder: Path) -> str:
    """Mutated replies of the endpoint and of the judge; then the same command with both mended ends as if nothing had
    been: nothing wrong was kept, and nothing is lost for good."""
    good = _source(folder, rng)
    share = rng.choice((0.05, 0.3, 1.0))
    ended, out = _curated(folder, good, spoiled=_spoiler(rng.randrange(2**32), share))
    mended, out = _curated(folder, good, out, options=("--retry-refused",))
    clean, expected = _curated(folder, good, folder / "clean")
    for end in (mended, clean):
        if end.status:
            raise ViolationError(f"good servers, and yet: {end.output[-3_000:]}")
    tables = [pl.read_parquet(place / "visual_gain.parquet").select(SCORES).sort("row_id") for place in (out, expected)]
    try:
        assert_frame_equal(*tables)
    except AssertionError as error:
        raise ViolationError(f"replies left their mark after the servers were mended: {error}") from error
    return f"share {share}: {ended.sentence[:100] or 'all answered'}"


def store(rng: random.Random, folder: Path) -> str:
    """A file of a published artifact is damaged: the next start names it, or does not need it."""
    good = _source(folder, rng)
    _, out = _curated(folder, good)
    files = [path for path in (out / "work" / "artifacts").rglob("*") if path.is_file()]
    for path in rng.sample(sorted(files), 3):
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, rng))
        (out / "summary.json").unlink(missing_ok=True)
        ended, _ = _curated(folder, good, out)
        if ended.status and path.parent.parent.name not in ended.output and path.name not in ended.output:
            raise ViolationError(f"{path} was damaged, and the error does not name it: {ended.sentence}")
        path.write_bytes(whole)
    return ended.sentence[:100] or "not needed"


def _source(folder: Path, rng: random.Random) -> list[dict[str, Any]]:
    return write_shards(folder, shards=1, rows=24, faults=0, seed=rng.randrange(2**16))


def _spoiler(seed: int, share: float) -> Any:
    """The script of a server that mutates its replies, around the answer's text, with this probability."""
    rng = random.Random(seed)

    def script(number: int, request: dict[str, Any]) -> tuple[Any, ...] | None:
        if rng.random() >= share:
            return None
        contents = [None] * request.get("n", 1)
        body = altered(json.loads(completion(contents)), rng)
        headers = {"Retry-After": str(rng.choice((0, 0.01, "nan", "-1", "1e9", "soon")))}
        data = json.dumps(body).encode("utf-8", "surrogatepass")
        return rng.choice(STATUSES), rng.choice((data, damaged(data, rng), b"", b"[" * 100_000)), headers

    return script


def _curated(
    folder: Path,
    good: list[dict[str, Any]],
    out: Path | None = None,
    spoiled: Any = None,
    options: tuple[str, ...] = (),
) -> tuple[Ended, Path]:
    out = out or folder / "out"
    script = {"script": spoiled} if spoiled else {}
    with served(Model(good), **script) as endpoint, served(judge, **script) as judging:
        return run(*_arguments(folder, endpoint, judging), "--out", out, *options), out


def _arguments(folder: Path, endpoint: Served, judging: Served) -> list[object]:
    return [
        "curate", "--trajectories", folder / "twiff", "--clips", folder / "clips", "--endpoint", endpoint.url,
        "--model", "served", "--judge", judging.url, "--judge-model", "served", "--timeout", 5, "--concurrency", 16,
    ]  # fmt: skip


def _every_row_is_somewhere(out: Path, ended: Ended, lines: dict[str, int]) -> None:
    """The good shard is scored whatever the others are, and each row of a readable one is scored or quarantined."""
    if not (out / "visual_gain.parquet").exists():
        raise ViolationError(f"good rows were there, and no tables were written: {ended.output[-3_000:]}")
    tables = [pl.read_parquet(out / f"{name}.parquet") for name in ("visual_gain", "quarantine")]
    counts = pl.concat([table.select("source") for table in tables])["source"].value_counts()
    by_source = dict(counts.iter_rows())
    good = {name: n for name, n in by_source.items() if name.startswith("part-")}
    if sum(good.values()) != 24:
        raise ViolationError(f"the good shard has 24 rows, and the tables have {good}")
    for name, expected in lines.items():
        if by_source.get(name) != expected:
            raise ViolationError(f"{name} has {expected} rows, and the tables have {by_source.get(name)}")


def _outcome(out: Path, ended: Ended) -> str:
    summary = json.loads((out / "summary.json").read_text())
    reasons = ", ".join(f"{n} {reason}" for reason, n in summary["quarantined_by_reason"].items())
    return f"{summary['scored']} scored, {summary['quarantined']} quarantined ({reasons}) {ended.sentence[:80]}"
