"""`future-l1 curate` on somebody's own shards: a faulty endpoint, kills, another shard, and nothing paid for twice.

The command that meets no fault, and those that are killed, are processes of their own, and so are their programs.
"""

import json
import os
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest

from tests.forks import forked
from tests.invoke import run
from tests.pipelines.served_shards import Model, as_json_lines, judge, kind_of, repeat_row, write_shards
from tests.processes import environment, future_l1, output, until
from tests.served import Served, completion, served, user_text
from training.runtime.project import PROJECT

pytestmark = pytest.mark.usefixtures("forks")

COMPARED = ["row_id", "p_t", "p_v", "gain", "status"]


def arguments(folder: Path, endpoint: Served, judging: Served, out: Path, *options: str) -> list[str]:
    return [
        "curate", "--trajectories", str(folder / "twiff"), "--clips",
        str(folder / "clips"), "--endpoint", endpoint.url, "--model", "served", "--judge", judging.url,
        "--judge-model", "served", "--top", "12", "--out", str(out), *options,
    ]  # fmt: skip


def curate(folder: Path, endpoint: Served, judging: Served, out: Path, *options: str) -> dict[str, Any]:
    succeed(*arguments(folder, endpoint, judging, out, *options))
    return json.loads((out / "summary.json").read_text())


def succeed(*arguments: str, **variables: str) -> str:
    """The standard output of `future-l1`."""
    ran = run(*arguments, **variables)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def paid(out: Path) -> list[tuple[str, int]]:
    """Every answer in the ledgers."""
    logs = (out / "work" / "ledger").rglob("*.jsonl")
    records = [json.loads(line) for log in logs for line in log.read_text().splitlines() if line.endswith("}")]
    return [(record["prompt_id"], record["sample"]) for record in records]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("own")
    rows = write_shards(folder)
    repeat_row(folder, "part-0-1", next(row for row in rows[:20] if Model([row]).references))
    as_json_lines(folder, "part-0-0")
    return folder, rows


@pytest.fixture(scope="module")
def alone(source: tuple[Path, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curation that met no fault."""
    out = tmp_path_factory.mktemp("alone") / "out"
    folder, rows = source
    with served(Model(rows)) as endpoint, served(judge) as judging:
        output(*arguments(folder, endpoint, judging, out), **forked())
        summary = json.loads((out / "summary.json").read_text())
        assert endpoint.choices == summary["generations"]
        assert judging.choices == summary["judge_calls"] > 0
    # After success nothing is asked: neither server is there any more.
    assert curate(folder, endpoint, judging, out) == summary
    return out


def test_the_tables_account_for_every_row(alone: Path, source: tuple[Path, list[dict[str, Any]]]) -> None:
    summary = json.loads((alone / "summary.json").read_text())
    gains, quarantine = pl.read_parquet(alone / "visual_gain.parquet"), pl.read_parquet(alone / "quarantine.parquet")
    assert summary["read"] == len(source[1]) + 2  # and the torn line, and the row that is repeated
    assert summary["quarantined"] == quarantine.height
    assert summary["scored"] == gains.height == summary["read"] - quarantine.height
    assert {"unreadable row", "repeated row", "unreadable clip"} <= set(quarantine["reason"])
    assert quarantine["row"].null_count() == 0
    assert quarantine.select("source", "row").is_unique().all()
    assert gains["row_id"].is_unique().all()
    assert summary["generations"] == int(gains.select(pl.sum("n_generated_plain") + pl.sum("n_generated_hint")).item())
    assert summary["generations"] + summary["generations_saved"] == 16 * summary["scored"]


def test_the_folder_is_a_data_set_and_says_nothing_of_this_machine(
    alone: Path, source: tuple[Path, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    loaded = datasets.load_dataset(str(alone), split="train", cache_dir=str(tmp_path))
    kept = pl.read_parquet(alone / "future_l1_50k.parquet")
    assert loaded.to_list() == kept.to_dicts() and {"path", "reader"}.isdisjoint(kept.columns)
    assert "right answers among 8, of served, without" in (alone / "README.md").read_text()
    assert all(meta["Process"] and meta["Summary"] for meta in loaded["meta_data"])
    for path in (path for path in alone.iterdir() if path.is_file()):
        is_table = path.suffix == ".parquet"
        content = repr(pl.read_parquet(path).to_dicts()) if is_table else path.read_bytes().decode(errors="replace")
        assert str(source[0]) not in content, path


def test_a_readme_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "work").mkdir()
    ran = run("curate", "--trajectories", "x", "--clips", "y", "--base", "z", "--out", str(tmp_path))
    assert ran.returncode == 1
    assert "has a README.md that no curation wrote: name another folder" in ran.stderr
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"README.md", "work"}


def test_what_the_model_can_answer_decides_which_rows_are_kept_and_how_often_they_are_sampled(alone: Path) -> None:
    gains = pl.read_parquet(alone / "visual_gain.parquet")
    for row in gains.iter_rows(named=True):
        counts = (row["p_t"], row["p_v"], row["n_generated_plain"], row["n_generated_hint"])
        match kind_of(row["question"]):
            case "useful":
                assert counts == (0, 8, 8, 8)
            case "saturated" if not row["fully_sampled"]:
                assert counts == (None, None, 7, 0)
            case "hopeless" if not row["fully_sampled"]:
                assert counts == (None, None, 4, 7)
    assert {"complete", "cut"} == set(gains["status"])
    kept = pl.read_parquet(alone / "future_l1_50k.parquet")
    assert kept.height == 12
    assert set(kept["gain"]) == {8}


def test_a_faulty_endpoint_and_a_faulty_judge_change_nothing(
    alone: Path, source: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, rows = source
    out = tmp_path / "out"
    with (
        served(Model(rows), faults=0.2, seed=1) as endpoint,  # a time-out hangs for longer than the client waits
        served(judge, faults=0.2, seed=2) as judging,
    ):
        summary = curate(folder, endpoint, judging, out, "--timeout", "2", "--concurrency", "16")
    assert sum(endpoint.fault_counts.values()) > 5 and sum(judging.fault_counts.values()) > 0
    assert summary["pending"] == 0
    assert summary == json.loads((alone / "summary.json").read_text())
    for name, columns in (("visual_gain", COMPARED), ("future_l1_50k", ["rank", *COMPARED[:4]])):
        first, second = (pl.read_parquet(place / f"{name}.parquet").select(columns) for place in (alone, out))
        assert first.equals(second), name
    assert max(Counter(paid(out)).values()) == 1


def test_files_that_are_cut_into_shards_are_curated_to_the_same_set(
    alone: Path, source: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, rows = source
    out, profile = tmp_path / "out", tmp_path / "short.toml"
    profile.write_text('extends = "paper"\n[source]\nrows_per_partition = 15\n')
    with served(Model(rows)) as endpoint, served(judge) as judging:
        succeed(*arguments(folder, endpoint, judging, out), FUTURE_L1_PROFILE=str(profile))
    cut, whole = (json.loads((place / "summary.json").read_text()) for place in (out, alone))
    assert cut | {"versions": None} == whole | {"versions": None}
    for name, columns in (("visual_gain", COMPARED), ("future_l1_50k", ["rank", *COMPARED[:4]])):
        first, second = (pl.read_parquet(place / f"{name}.parquet").select(columns) for place in (alone, out))
        assert first.sort("row_id").equals(second.sort("row_id")), name
    rejected = pl.read_parquet(out / "quarantine.parquet").select("source", "row", "reason")
    assert rejected["source"].str.contains("--rows-000000(15|30)$").any()
    by_file = rejected.with_columns(pl.col("source").str.replace("--rows-.*", "")).sort("source", "row")
    assert by_file.equals(pl.read_parquet(alone / "quarantine.parquet").select(by_file.columns).sort("source", "row"))


def test_killed_at_several_points_it_ends_alike_and_pays_once(
    alone: Path, source: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The process and its whole group die, first in the middle of answering, later wherever they are."""
    folder, rows = source
    out = tmp_path / "out"
    with served(Model(rows), latency=0.02) as endpoint, served(judge) as judging:
        for choices in (40, 200, 330):
            running = subprocess.Popen(
                future_l1(*arguments(folder, endpoint, judging, out)), cwd=PROJECT, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=environment(**forked()), start_new_session=True,
            )  # fmt: skip
            until(lambda n=choices: endpoint.choices >= n, f"{choices} choices", interval=0.005, process=running)
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        assert not (out / "summary.json").exists()
        kept = len(paid(out))
        assert kept > 0
        summary = curate(folder, endpoint, judging, out)
    assert summary == json.loads((alone / "summary.json").read_text())
    assert max(Counter(paid(out)).values()) == 1
    # What was in flight at a kill was lost on the way; nothing that arrived was requested again.
    assert endpoint.choices - summary["generations"] <= 3 * 4 * 64
    first, second = (pl.read_parquet(p / "visual_gain.parquet").select(COMPARED) for p in (alone, out))
    assert first.equals(second)


def test_a_new_shard_costs_only_its_own_rows(source: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    rows = write_shards(folder, shards=1, rows=20, faults=0, seed=5)
    with served(Model(rows)) as endpoint, served(judge) as judging:
        first = curate(folder, endpoint, judging, tmp_path / "out")
        before = set(paid(tmp_path / "out"))
        more = write_shards(folder, shards=1, rows=20, faults=0, seed=6)
        endpoint.answer = Model(rows + more)
        second = curate(folder, endpoint, judging, tmp_path / "out")
        assert second["read"] == first["read"] + 20
        fresh = set(paid(tmp_path / "out")) - before
        scored = pl.read_parquet(tmp_path / "out" / "visual_gain.parquet")
        new_rows = set(scored.filter(pl.col("source").str.contains("part-6"))["row_id"])
        assert {prompt_id.partition("/")[0] for prompt_id, _ in fresh} == new_rows
        paid_for = len(endpoint.requests)
        looser = curate(folder, endpoint, judging, tmp_path / "out", "--full-sampling-fraction", "1")
        assert looser["generations_saved"] == 0
        assert len(endpoint.requests) > paid_for
    assert max(Counter(paid(tmp_path / "out")).values()) == 1


def stopped(folder: Path, endpoint: Served, judging: Served, out: Path, *options: str) -> str:
    """What a curation says that ends with an error; nothing is published."""
    ran = run(*arguments(folder, endpoint, judging, out, *options))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr and not (out / "summary.json").exists()
    return ran.stderr


def test_an_empty_account_and_lost_replies_change_nothing_once_they_are_mended(
    alone: Path, source: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The endpoint's account runs dry, then it loses its answers; the judge cannot be read, then wants other forms."""
    folder, rows = source
    out, expected = tmp_path / "out", json.loads((alone / "summary.json").read_text())
    dry = (402, b'{"error": {"message": "Insufficient Balance"}}')
    old = (400, b'{"error": {"message": "use max_completion_tokens; response_format is unavailable"}}')
    with served(Model(rows)) as endpoint, served(judge) as judging:
        endpoint.script = lambda number, _: dry if number >= 30 else None
        assert "account filled up (Error code: 402 - Insufficient Balance)" in stopped(folder, endpoint, judging, out)
        endpoint.script = lambda _, r: (200, completion([None] * r["n"], reasoning="<reason>so"))
        before = len(endpoint.requests)
        assert "no text, reasoning that ends with '<reason>so'" in stopped(folder, endpoint, judging, out)
        assert len(endpoint.requests) - before < 100
        endpoint.script = lambda *_: None
        judging.script = lambda *_: (200, completion(["Yes."]))
        before = len(judging.requests)
        assert "its reply is not the JSON object of the schema: 'Yes.'" in stopped(folder, endpoint, judging, out)
        assert len(judging.requests) - before < 60
        judging.script = lambda _, r: old if "max_tokens" in r or "response_format" in r else None
        assert curate(folder, endpoint, judging, out) == expected
        assert {"max_completion_tokens"} <= set(judging.requests[-1]) and "response_format" not in judging.requests[-1]
    assert max(Counter(paid(out)).values()) == 1
    assert expected == curate(folder, endpoint, judging, out)  # neither is there any more
    first, second = (pl.read_parquet(place / "visual_gain.parquet").select(COMPARED) for place in (alone, out))
    assert first.equals(second)


def test_refused_and_pending_prompts_are_sent_again(
    source: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Of many rows one is refused, and one gets empty replies: what is pending is asked again by each start, what was
    refused where that is wanted."""
    folder, rows = source
    marks = sorted(
        mark for row in rows if Model([row]).references and kind_of(row["question"]) == "useful"
        for mark in re.findall(r"\(0\.\d+\)", row["question"])
    )  # fmt: skip
    refused, silent = marks[:2]

    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        if refused in user_text(request) and "refused" in faulty:
            return 400, b'{"error": {"message": "too long"}}'
        return (200, completion([""] * request["n"])) if silent in user_text(request) and "silent" in faulty else None

    faulty = {"refused", "silent"}
    out = tmp_path / "out"
    with served(Model(rows), script=script) as endpoint, served(judge) as judging:
        assert curate(folder, endpoint, judging, out)["pending"] == 2
        faulty.remove("silent")
        assert curate(folder, endpoint, judging, out)["pending"] == 1
        sent = len(endpoint.requests)
        faulty.remove("refused")
        assert curate(folder, endpoint, judging, out)["pending"] == 1
        assert len(endpoint.requests) == sent, "a refused request is sent again only with --retry-refused"
        assert curate(folder, endpoint, judging, out, "--retry-refused")["pending"] == 0
        sent = len(endpoint.requests)
        done = curate(folder, endpoint, judging, out)
        assert done["pending"] == 0 and len(endpoint.requests) == sent
    assert max(Counter(paid(out)).values()) == 1


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [("other", None, "it serves 'served'"), ("served", "secret", "check its key")],
)
def test_a_wrong_model_or_key_fails_before_any_work(
    source: tuple[Path, list[dict[str, Any]]], tmp_path: Path, model: str, key: str | None, message: str
) -> None:
    folder, rows = source
    with served(Model(rows), key=key) as endpoint, served(judge) as judging:
        options = arguments(folder, endpoint, judging, tmp_path / "out")
        options[options.index("--model") + 1] = model
        ran = run(*options)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_options_that_name_no_model_are_a_users_mistake(tmp_path: Path) -> None:
    ran = run("curate", "--trajectories", "x", "--clips", "y", "--out", "z")
    assert ran.returncode == 1
    assert "name the model" in ran.stderr


def test_a_model_that_never_needs_the_hint_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    rows = write_shards(folder, shards=1, rows=12, faults=0, seed=8)
    (folder / "twiff" / "broken.jsonl").write_text('{"video": 3}\n')  # a shard without a usable row
    with served(Model(rows, right="always")) as endpoint, served(judge) as judging:
        printed = succeed(*arguments(folder, endpoint, judging, tmp_path / "out", "--full-sampling-fraction", "0"))
    assert "check rows_obey_the_rule of curation/future_l1_50k: 0 rows are published" in printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["kept"], summary["scored"], summary["quarantined"]) == (0, 12, 1)
    assert summary["generations"] == 7 * 12
    assert pl.read_parquet(tmp_path / "out" / "future_l1_50k.parquet").height == 0


def test_a_broken_shard_fails_alone_and_the_command_ends_with_the_list(tmp_path: Path) -> None:
    folder, out = tmp_path / "own", tmp_path / "out"
    rows = write_shards(folder, shards=1, rows=8, faults=0, seed=9)
    (folder / "twiff" / "a-broken.parquet").write_bytes(b"PAR1 and no more")
    (folder / "twiff" / "empty.jsonl").write_text("")
    with served(Model(rows, right="always")) as endpoint, served(judge) as judging:
        ran = run(*arguments(folder, endpoint, judging, out, "--full-sampling-fraction", "0"))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 of 3 shards are broken, the others went on:\nshard a-broken is broken" in ran.stderr
    assert "a-broken.parquet cannot be read as parquet" in ran.stderr
    assert "shard empty holds no rows" in ran.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["scored"], summary["empty_shards"]) == (8, ["empty"])
    assert list(summary["broken_shards"]) == ["a-broken"]


def test_where_no_row_is_usable_no_model_is_called_and_the_reasons_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    rows = write_shards(folder, shards=1, rows=6, faults=0, seed=10)
    for clip in (folder / "clips").rglob("*.mp4"):
        clip.unlink()
    (folder / "twiff" / "other.jsonl").write_text('{"video": 3}\n[1]\n')
    with served(Model(rows)) as endpoint, served(judge) as judging:
        ran = run(*arguments(folder, endpoint, judging, tmp_path / "out"))
    assert ran.returncode == 1
    assert endpoint.choices == judging.choices == 0
    assert "of 2 shards no row is usable, so no model is called:\n" in ran.stderr
    table = [line.split(maxsplit=1) for line in ran.stderr.splitlines() if line.startswith("  ")]
    counts = {reason: int(count) for count, reason in table}
    assert counts == {"missing clip": 6, "missing field": 1, "unreadable row": 1}
