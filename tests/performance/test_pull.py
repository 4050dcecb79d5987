"""The memory that pulling a file takes, and the rows that it pulls: few rows against many, at once and in shards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.assets.trajectories.shard_rows import twiff_row, write
from training.runtime.project import PROJECT

FEW, ROWS, MANY = 5_000, 10_000, 50_000
PULL = """
import json, re, sys, time
from pathlib import Path
from assets.trajectories.settings import SourceSettings
from assets.trajectories.sources import source_shards
from assets.trajectories.validate import write_shard
from training.storage.parquet import read_parquet
file, out, rows_per_partition = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
settings = SourceSettings(
    trajectories=file, clips=(), futurebench=out, twiffbench=out, rows_per_partition=rows_per_partition
)
started, kept, quarantined = time.perf_counter(), 0, 0
for shard in source_shards(settings, out)[2].values():
    counts = write_shard(file, shard.name, out / "rows", out / "quarantine", shard.rows, shard.is_last)
    kept, quarantined = kept + counts["rows"], quarantined + counts["quarantined"]
    read_parquet(out / "rows").to_dicts()
seconds = time.perf_counter() - started
# Not ru_maxrss, which a process inherits from the one that started it.
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps([kept, quarantined, peak, seconds]))
"""


def peak(file: Path, rows_per_partition: int) -> tuple[int, int, float, float]:
    """Rows kept and quarantined, the peak of a fresh process's memory in MiB, and its seconds.

    Every shard's rows are read, too, as Python objects, which is what a later stage does at most.
    """
    out = file.with_suffix(f".{rows_per_partition}")
    out.mkdir()
    command = [sys.executable, "-c", PULL, str(file), str(out), str(rows_per_partition)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    kept, quarantined, kibibytes, seconds = json.loads(done.stdout)
    return kept, quarantined, kibibytes / 1024, seconds


def file_of(count: int, kind: str, folder: Path) -> Path:
    """Every fifth row is broken, so that both tables grow; parquet is a single row group."""
    text = "It rolls on to the next tile and on. " * 20
    rows = [
        twiff_row(
            video=f"{number:011d}_0.mp4",
            answer=f"{text}<rimage> <ans>it stops after {number}</ans>",
            reasoning_images_index=[4 if number % 5 else 9],
        )
        for number in range(count)
    ]
    return write(folder / f"{count}.{kind}", rows)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_memory_of_the_pull_as_the_file_grows(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, many = file_of(FEW, kind, tmp_path), file_of(MANY, kind, tmp_path)
    measured = {
        f"{FEW:,} rows": peak(few, FEW),
        f"{MANY:,} rows in one shard": peak(many, MANY),
        f"{MANY:,} rows in shards of {ROWS:,}": peak(many, ROWS),
    }
    assert [(kept, quarantined) for kept, quarantined, _, _ in measured.values()] == [
        (count - count // 5, count // 5) for count in (FEW, MANY, MANY)
    ]
    with capsys.disabled():
        for name, (kept, quarantined, memory, seconds) in measured.items():
            print(f"\npeak memory of pulling and reading {kind}, {name}: {memory:.0f} MiB", end="")
            print(f" ({(kept + quarantined) / seconds:,.0f} rows/s, n={kept + quarantined})", end="")
