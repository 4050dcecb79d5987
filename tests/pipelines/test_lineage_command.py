"""`future-l1 lineage ID` prints the lineage of an id; control characters in data reach no terminal."""

import json
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from assets.framework.store import AssetStore
from tests.invoke import invoke
from training.storage.artifacts import Artifact

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


def test_only_h_and_help_are_no_ids(version: str) -> None:
    for arguments in (("-h",), ("--help",), ("--json", "-h")):
        ran = lineage(*arguments)
        assert ran.exit_code == 0 and "Usage: " in ran.output and "Follow an id both ways" in ran.output
    assert "'-h' is no asset" in lineage("--", "-h").output


def test_long_paths_and_names_stay_on_one_line(tmp_path: Path, version: str) -> None:
    path = f"/clips/{'folder ' * 40}/{CLIP}"

    def write(workspace: Path) -> dict[str, object]:
        clip = {"video": CLIP, "path": path, "frames": 16, "reason": "x" * 300}
        pl.DataFrame([clip]).write_parquet(workspace / "clips.parquet")
        return {}

    inputs = {"trajectories/twiff_rows": version}
    AssetStore(tmp_path).work("trajectories/twiff_clips", inputs, {}, "code", "shard").do(write)
    lines = lineage(CLIP).output.splitlines()
    assert any(line.endswith(f"path {path}") for line in lines)
    assert "x" * 119 + "…" in "\n".join(lines) and "x" * 120 not in "\n".join(lines)


def test_partitions_are_summed_up_and_direct_inputs_are_the_first_level(tmp_path: Path, version: str) -> None:
    store = AssetStore(tmp_path)
    scored: dict[str, Artifact | str] = {}
    for number in range(70):
        inputs = {"trajectories/twiff_rows": version}
        gain = store.work("curation/visual_gain", inputs, {}, "code", f"shard-{number:02}").do(lambda workspace: {})
        scored[f"curation/visual_gain/shard-{number:02}"] = gain
    curated = store.work("curation/future_l1_50k", scored, {}, "code").do(lambda workspace: {"kept": 3, "scored": 7})
    lines = lineage("curation/future_l1_50k").output.splitlines()
    assert lines[:5] == [
        f"curation/future_l1_50k {curated.version}, 3 of 7 scored rows",
        f"  in {curated.path}",
        "made from, directly at the first level",
        "  selects from curation/visual_gain (70: shard-00 … shard-69)",
        f"    scores trajectories/twiff_rows/shard {version}, revision 57364a4b",
    ]
    assert lineage("visual_gain").output.splitlines()[:2] == [
        "curation/visual_gain (70: shard-00 … shard-69)", "made from, directly at the first level",
    ]  # fmt: skip
    (direct,) = {edge["direct"] for edge in json.loads(lineage("curation/future_l1_50k", "--json").output)["made_from"]
                 if edge["artifact"] == "curation/future_l1_50k"}  # fmt: skip
    assert direct


def test_a_storyboard_is_drawn_of_what_has_one(tmp_path: Path, version: str) -> None:
    out = tmp_path / "storyboard.png"
    ran = lineage(version, "--out", out)
    assert ran.exit_code == 1 and "there is no storyboard of" in ran.output and not out.exists()


@pytest.mark.parametrize("identifier", ["nobody", "-0aBcDeFgHi_3.mp4", "-hAbCdEfGhI_1.mp4", "--AbCdEfGhI_1.mp4"])
def test_an_unknown_id_is_an_error_and_no_traceback(version: str, identifier: str) -> None:
    ran = lineage(identifier)
    assert ran.exit_code == 1
    assert ran.output.startswith(f"Error: '{identifier}' is no asset, no partition, no artifact's name or version, ")
