"""The query of docs/curation.md says what other thresholds would keep: exactly, or between bounds."""

import re
from pathlib import Path

import duckdb
import pytest

from tests.assets.curation.scored_rows import scored_of, trajectory
from training.runtime.project import PROJECT

COUNTS = [(0, 8), (4, 5), (5, 7), (6, 8), (7, 8), (8, 8), (0, 0)]


@pytest.mark.parametrize("cut", [(), (2, 5)])
def test_other_thresholds_are_counted_from_stored_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: tuple[int, ...]
) -> None:
    table = scored_of([trajectory(i) for i in range(len(COUNTS))], COUNTS, cut)
    for shard in (0, 1):
        folder = tmp_path / "visual_gain" / str(shard) / "current"
        folder.mkdir(parents=True)
        table.gather_every(2, shard).write_parquet(folder / "visual_gain.parquet")
    monkeypatch.chdir(tmp_path)
    page = (PROJECT / "docs" / "curation.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == 9
    for max_p_t, min_gain, at_least, at_most, sampled_kept, fully_sampled in rows:
        keeps = [i for i, (p_t, p_v) in enumerate(COUNTS) if p_t <= max_p_t and p_v - p_t >= min_gain]
        whole = len(set(keeps) - set(cut))
        assert (sampled_kept, fully_sampled) == (whole, len(COUNTS) - len(cut))
        # Of a row cut after 5 right plain answers and 2 wrong hinted ones p_t is 5 to 8, the gain at most 6 - 5.
        may_keep = len(cut) if max_p_t >= 5 and min_gain <= 1 else 0
        assert (at_least, at_most) == (whole, whole + may_keep)
