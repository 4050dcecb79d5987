"""`future-l1 lineage ID` prints the lineage of an id; control characters in data reach no terminal."""

import json
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from assets.framework.store import AssetStore
from tests.invoke import invoke

HOSTILE = "\x1b[31mred\x1b[0m [bold]loud[/] \x07\u202e"
CLIP = "-w5n_0.mp4"


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A home with one shard of one row, which the environment names; the shard's version."""
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path))
    monkeypatch.setenv("FUTURE_L1_PROFILE", "demo")
    row = {"row_id": "0123456789abcdef", "video": CLIP, "answer": HOSTILE, "row": 3}

    def write(workspace: Path) -> dict[str, object]:
        pl.DataFrame([row]).write_parquet(workspace / "trajectories.parquet")
        return {"rows": 1, "revision": "57364a4b"}

    return AssetStore(tmp_path).work("trajectories/twiff_rows", {}, {}, "code", "shard").do(write).version


lineage = partial(invoke, "lineage")


@pytest.mark.parametrize("identifier", ["0123456789abcdef", CLIP])
def test_a_row_or_a_clip_is_traced_and_text_of_data_is_printed_as_text(version: str, identifier: str) -> None:
    ran = lineage(identifier)  # a clip's name may begin with a dash
    assert ran.exit_code == 0, ran.output
    output = " ".join(ran.output.split())
    assert f"in trajectories/twiff_rows/shard {version} trajectories.parquet, revision 57364a4b" in output
    assert "row 3" in output and "[bold]loud[/]" in output
    assert not {"\x1b", "\x07", "\u202e"} & set(ran.output)


def test_an_artifact_is_traced_by_its_version_as_json(version: str) -> None:
    ran = lineage(version, "--json")
    assert json.loads(ran.output)["artifacts"] == {"trajectories/twiff_rows/shard": version}


@pytest.mark.parametrize("identifier", ["nobody", "-0aBcDeFgHi_3.mp4", "-hAbCdEfGhI_1.mp4", "--AbCdEfGhI_1.mp4"])
def test_an_unknown_id_is_an_error_and_no_traceback(version: str, identifier: str) -> None:
    ran = lineage(identifier)
    assert ran.exit_code == 1
    assert ran.output.startswith(f"Error: '{identifier}' is no artifact's name or version, and no table has it")
