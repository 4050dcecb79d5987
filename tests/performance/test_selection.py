"""Selection at a third of the full size: 900,000 scored rows, with dedup and a search for the benchmarks' items.

The shards have the columns and the text lengths of real ones; a fifth of the rows passes the thresholds, several rows
share a clip, some repeat others, and some lie in the videos of 2,134 benchmark items.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest

from assets.curation.contamination import benchmark_index
from assets.curation.keys import STOP_WORDS
from assets.curation.selection import SelectionSettings, select
from training.runtime.project import PROJECT

ROWS, SHARDS, ITEMS, SAMPLE = 900_000, 20, 2_134, 20_000

PROGRAM = """
import json, re, sys, time
from pathlib import Path
from assets.curation.contamination import benchmark_index
from assets.curation.selection import SelectionSettings, select
folder = Path(sys.argv[1])
started, cpu = time.perf_counter(), time.process_time()
chosen = select(sorted(folder.glob("?????.parquet")), SelectionSettings(),
                benchmark_index({"twiffbench": folder / "benchmark.parquet"}))
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "report": chosen.report}))
"""

SCORED = """
SELECT printf('%016x', i) AS row_id, 'train-' || ({shard}) AS source, id || '_' || (clip % 4) || '.mp4' AS video,
  'frame_1' || chr(10) || '<image>' || chr(10) || CASE WHEN i % 2 = 0 THEN 'The ' ELSE '' END || ph(clip, 2) || ' '
    || ph(clip, 3) || ' at step ' || (h(i, 14) % 2) || '?' AS question,
  [ph(i, 4) || ' ' || ph(i, 5) || '. ' || ph(i, 6) || ' ' || ph(i, 7) || '.', ph(i, 8) || ' ' || ph(i, 9) || '.', '']
    AS reasoning,
  split_part(ph(clip, 11), ' ', 1) || ' ' || split_part(ph(clip, 12), ' ', 2) AS answer,
  [1::BIGINT] AS observed, [2::BIGINT, 3 + h(i, 15) % 2] AS future,
  ['instructional', 'predictive', 'camera'][i % 3 + 1] AS category,
  '0:00:0' || (clip % 4) || '.000' AS start, '0:00:1' || (clip % 4) || '.000' AS "end",
  ph(i, 16) || ' ' || ph(i, 17) AS process, ph(i, 18) AS summary,
  '/data/panda70m/clips/' || id || '_' || (clip % 4) || '.mp4' AS path, 240::BIGINT AS frame_count, 'seek' AS reader,
  sha256('clip ' || clip) AS sha256, 8::BIGINT AS n_graded_plain, 8::BIGINT AS n_graded_hint, 0::BIGINT AS unjudged,
  t AS n_correct_plain, v AS n_correct_hint, v - t AS gain_low, v - t AS gain_high, i % 100 = 0 AS fully_sampled,
  CASE WHEN full_ THEN t END AS p_t, CASE WHEN full_ THEN v END AS p_v, CASE WHEN full_ THEN v - t END AS gain
FROM (SELECT *, (t <= 6 AND v - t >= 2) OR i % 100 = 0 AS full_ FROM (
  SELECT i, i * 2 // 5 AS clip, substr(sha256('video ' || (i * 2 // 5)), 1, 11) AS id, h(i, 0) % 9 AS t,
    CASE WHEN h(i, 13) % 5 < 3 THEN h(i, 1) % 9 ELSE h(i, 0) % 9 END AS v FROM range({low}, {high}) r(i)))
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 shards and `benchmark.parquet`."""
    folder = tmp_path_factory.mktemp("scored")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 9))) for _ in range(3000)]
    phrases = [" ".join(rng.choice([*words, *STOP_WORDS[:20] * 40], 8)) for _ in range(4096)]
    with duckdb.connect() as connection:
        connection.execute("SET memory_limit = '2GB'")
        connection.execute("CREATE TABLE held AS SELECT $phrases AS phrases", {"phrases": phrases})
        connection.execute("SET VARIABLE phrases = (SELECT phrases FROM held)")
        connection.execute("CREATE MACRO h(i, k) AS (hash(i * 64 + k) >> 3)::BIGINT")
        connection.execute("CREATE MACRO ph(i, k) AS getvariable('phrases')[h(i, k) % 4096 + 1]")
        for shard in range(SHARDS):
            low, high = shard * ROWS // SHARDS, (shard + 1) * ROWS // SHARDS
            rows = SCORED.format(shard=shard, low=low, high=high)
            connection.execute(f"COPY ({rows}) TO '{folder}/{shard:05d}.parquet' (FORMAT parquet, COMPRESSION zstd)")
    clips = rng.choice(ROWS * 2 // 5, ITEMS, replace=False)
    names = [hashlib.sha256(f"video {clip}".encode()).hexdigest()[:11] for clip in clips]
    items = pl.DataFrame({"id": [f"{i:05d}" for i in range(ITEMS)], "video": [f"{name}_1.mp4" for name in names]})
    items.with_columns(
        pl.lit("What happens next?").alias("question"), pl.lit("it falls").alias("answer"),
        *(pl.lit(None, pl.String).alias(name) for name in ("start", "end")),
        pl.lit(None, pl.List(pl.Binary)).alias("question_images"),
    ).write_parquet(folder / "benchmark.parquet")  # fmt: skip
    return folder


def naive(rows: list[dict], items: set[str], top: int) -> list[str]:
    """The same selection row by row in Python, best first."""
    kept, keys = [], set()
    passing = [row for row in rows if row["gain"] is not None and row["p_t"] <= 6 and row["gain"] >= 2]
    passing.sort(key=lambda row: (-row["gain"], hashlib.sha256(row["row_id"].encode()).hexdigest()))
    for row in passing:
        question = re.sub(r"frame_\d+\n<image>", " ", row["question"]).lower()
        words = tuple(word for word in re.findall(r"\w+", question) if word not in STOP_WORDS)
        key = (row["video"], tuple(row["observed"]), tuple(row["future"]), row["answer"].lower(), words)
        if row["video"][:11] not in items and key not in keys:
            keys.add(key)
            kept.append(row["row_id"])
    return kept[:top]


def test_selection_of_900_000_rows(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = [sys.executable, "-c", PROGRAM, str(shards)]
    run = json.loads(subprocess.run(program, check=True, stdout=subprocess.PIPE, cwd=PROJECT).stdout)
    report = run["report"]
    assert report["read"] == ROWS and report["kept"] == 50_000
    assert report["rejected_by_reason"]["repeats"] > 3_000 and report["rejected_by_reason"]["contaminated"] > 500
    rows = pl.read_parquet(shards / "00000.parquet").head(SAMPLE).to_dicts()
    items = set(pl.read_parquet(shards / "benchmark.parquet")["video"].str.head(11))
    started = time.perf_counter()
    naive(rows, items, SAMPLE)
    extrapolated = (time.perf_counter() - started) * ROWS / SAMPLE
    with capsys.disabled():
        print(
            f"\nselection from {ROWS:,} rows ({report['retained']:,} pass the thresholds): {run['seconds']:.1f} s"
            f" ({run['cpu']:.1f} s of CPU), peak {run['peak']:.2f} GiB;"
            f" row by row in Python {extrapolated / run['seconds']:.1f} x as long (extrapolated from {SAMPLE:,}"
            " rows, reading not counted)"
        )


def test_the_same_rows_are_kept_as_row_by_row(shards: Path, tmp_path: Path) -> None:
    sample = pl.read_parquet(shards / "00003.parquet").head(SAMPLE)
    sample.write_parquet(tmp_path / "sample.parquet")
    index = benchmark_index({"twiffbench": shards / "benchmark.parquet"})
    chosen = select([tmp_path / "sample.parquet"], SelectionSettings(top=SAMPLE), index)
    items = set(pl.read_parquet(shards / "benchmark.parquet")["video"].str.head(11))
    assert chosen.rows["row_id"].to_list() == naive(sample.to_dicts(), items, SAMPLE)
