"""The memory that pulling a shard takes, and the rows that it pulls: few rows against many."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.assets.trajectories.shard_rows import twiff_row, write
from training.runtime.project import PROJECT

FEW, MANY = 5_000, 100_000
PULL = """
import json, re, sys, time
from pathlib import Path
from assets.trajectories.validate import write_shard
started = time.perf_counter()
counts = write_shard(Path(sys.argv[1]), "shard", Path(sys.argv[2]), Path(sys.argv[3]))
seconds = time.perf_counter() - started
# Not ru_maxrss, which a process inherits from the one that started it.
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps([counts["rows"], counts["quarantined"], peak, seconds]))
"""


def peak(shard: Path) -> tuple[int, int, float, float]:
    """Rows kept and quarantined, the peak of a fresh process's memory in MiB, and the seconds of the pull alone."""
    files = [str(shard), str(shard.with_suffix(".rows")), str(shard.with_suffix(".quarantine"))]
    done = subprocess.run([sys.executable, "-c", PULL, *files], cwd=PROJECT, capture_output=True, text=True, check=True)
    rows, quarantined, kibibytes, seconds = json.loads(done.stdout)
    return rows, quarantined, kibibytes / 1024, seconds


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_memory_of_the_pull_as_the_shard_grows(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every fifth row is broken, so that both tables grow; the parquet shard is a single row group."""
    peaks = {}
    for count in (FEW, MANY):
        text = "It rolls on to the next tile and on. " * 20
        rows = [
            twiff_row(
                video=f"{number:011d}_0.mp4",
                answer=f"{text}<rimage> <ans>it stops after {number}</ans>",
                reasoning_images_index=[4 if number % 5 else 9],
            )
            for number in range(count)
        ]
        kept, quarantined, peaks[count], seconds = peak(write(tmp_path / f"{count}.{kind}", rows))
        assert (kept, quarantined) == (count - count // 5, count // 5)
    with capsys.disabled():
        print(
            f"\npeak memory of pulling {MANY:,} rows of {kind} against {FEW:,}: {peaks[MANY] / peaks[FEW]:.2f} x "
            f"({peaks[MANY]:.0f} MiB vs {peaks[FEW]:.0f} MiB, n={MANY}, {MANY / seconds:,.0f} rows/s)"
        )
