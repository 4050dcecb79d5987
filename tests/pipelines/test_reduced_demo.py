"""The whole lineage, end to end, in a reduced demo: the same code, fewer rows and steps.

Interrupted at every stage and killed in SFT, it goes on where it was and ends with the numbers of a run left alone.
Programs that are not interrupted are forks of one process (tests.forks).
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import dataframely as dy
import polars as pl
import psutil
import pytest

from assets.framework.partitions import key_of
from assets.framework.store import AssetStore
from assets.lineage.report import lineage_report, trace_storyboard
from assets.lineage.trace import Lineage
from assets.trajectories.usable import UsableTable
from evaluation.benchmarks.choice import GradedTable
from evaluation.latents.dose import DOSES
from evaluation.reports.edges import asset_of
from pipelines.definitions import build_definitions
from pipelines.driver import LOG_LEVEL
from pipelines.instance import driver_instance
from pipelines.jobs import plan
from tests import forks
from tests.processes import environment, messages
from tests.reduced import reduced_demo, write_overlay
from training.data.prompts import AnswerTable, BenchmarkAnswerTable
from training.runtime.programs import read_metrics
from training.runtime.project import PROJECT

pytestmark = pytest.mark.usefixtures("forks")

DRIVE = """
if __name__ == "__main__":  # processes that encode clips import this file
    import os, sys
    from assets.benchmarks import comparison
    from pipelines.cli.main import main
    from pipelines.driver import Screen

    def send_signals(*_):
        for number in map(int, sys.argv[2:]):
            os.kill(os.getpid(), number)

    def on_progress(screen, done, total, what):
        if sys.argv[1] and what.startswith(sys.argv[1]) and done:
            send_signals()

    Screen.__call__ = on_progress
    if sys.argv[1] == "reports/comparison":
        comparison.build_page = send_signals
    main(["demo"])
"""
STAGES: dict[str, tuple[signal.Signals, ...]] = {
    "clips": (signal.SIGINT,),
    "answers train-": (signal.SIGINT, signal.SIGINT),
    "SFT": (signal.SIGKILL,),
    "RL": (signal.SIGTERM,),
    "answers benchmarks.futurebench_answers.": (signal.SIGINT,),
    "reports/comparison": (signal.SIGTERM,),
}
"""The signals that end the demo early, by the beginning of a progress message or by the asset."""
INTERRUPTED = {"answers train-": "evaluation.generate", "SFT": "training.sft", "RL": "training.rl",
               "answers benchmarks.futurebench_answers.": "evaluation.generate"}  # fmt: skip
"""The program that a stage's signals reach."""

CANARY = "sk-canary-0f1e2d"
SECRETS = dict.fromkeys(
    ("FUTURE_L1_JUDGE_API_KEY", "FUTURE_L1_ENDPOINT_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "FUTURE_L1_WEBHOOK"), CANARY
)


def drive(home: Path, stage: str = "") -> subprocess.CompletedProcess[str]:
    script = home.parent / "drive.py"
    script.write_text(DRIVE)
    profile = write_overlay(home.parent / "reduced.toml", reduced_demo(home))
    others = forks.forked(*(program for program in forks.PROGRAMS if program != INTERRUPTED.get(stage)))
    variables = environment(FUTURE_L1_HOME=str(home), FUTURE_L1_PROFILE=str(profile), **SECRETS, **others)
    command = [sys.executable, str(script), stage, *(str(int(number)) for number in STAGES.get(stage, ()))]
    return subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, check=False)


def numbers(home: Path) -> dict:
    """The summary without what a second measurement of time would change."""
    summary = json.loads((home / "summary.json").read_text())
    for report in summary["latent_necessity"].values():
        del report["cost"]
    return {name: value for name, value in summary.items() if name != "seconds"}


def versions(home: Path) -> dict[str, str]:
    return {name: artifact.version for name, artifact in AssetStore(home).everything().items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("alone") / "home"
    ran = drive(home)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (home / "output.txt").write_text(ran.stdout + ran.stderr)
    return home


def test_every_model_is_scored_with_counts_and_intervals(home: Path) -> None:
    summary = json.loads((home / "summary.json").read_text())
    assert set(summary["futurebench"]) == set(summary["twiffbench"]) == {"base", "text_only", "future_l1", "la_dapo"}
    for splits in summary["futurebench"].values():
        assert {name: score["n"] for name, score in splits.items()} == {
            "hop1": 8, "hop2": 8, "hop3": 8, "hop5": 8, "average": 32,
        }  # fmt: skip
        assert all(low <= score["correct"] / score["n"] <= high for score in splits.values()
                   for low, high in [score["interval"]])  # fmt: skip
    for marks in summary["twiffbench"].values():
        assert {name: mark["n"] for name, mark in marks.items()} == {"cot": 12, "answer": 12, "average": 12}
    assert set(summary["latent_necessity"]) == {"future_l1", "la_dapo"}
    necessity = reduced_demo(home).benchmarks.necessity
    for report in summary["latent_necessity"].values():
        done = {*report["interventions"], *report["controls"], *report["untested"]}
        assert done == {*necessity.interventions, *necessity.controls, *necessity.mediation} - {*DOSES}
        doses = [point["dose"] for curve in report["dose"].values() for point in curve["points"]]
        assert doses == [0, 1, 2, 3, None, 0, 0.5, 1, 2] and set(report["mediation"]) == {*necessity.mediation}
        assert report["attention"]["n"] and all(row["outcome"] for row in report["diagnostics"].values())


def test_no_secret_is_in_any_file_database_or_line_of_the_run(home: Path) -> None:
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 200 and any(path.suffix == ".db" for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def test_every_benchmark_answer_is_in_a_ledger_of_its_model(home: Path) -> None:
    ledgers = sorted((home / "ledger" / "benchmarks").glob("*/*.jsonl"))
    assert {path.name for path in ledgers} == {"futurebench.jsonl", "twiffbench.jsonl"} and len(ledgers) == 8
    for path in ledgers:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len({line["key"] for line in lines}) == len(lines) == (32 if path.stem == "futurebench" else 12)
        assert all("latents" in line for line in lines)


def test_a_row_is_followed_to_the_report_and_an_item_back_to_the_source(home: Path) -> None:
    store = AssetStore(home)
    lineage = Lineage(store.everything())
    row = pl.read_parquet(store.current("curation/sft_sets").file("future_l1.parquet"))["row_id"][0]
    onward = lineage.trace(row)
    assert {one.artifact.rpartition("/train-")[0] or one.artifact for one in onward.tables} >= {
        "trajectories/twiff_rows", "trajectories/twiff_clips", "curation/gain_answers", "curation/visual_gain",
        "curation/future_l1_50k", "curation/sft_sets",
    }  # fmt: skip
    assert {"checkpoints/sft/future_l1", "checkpoints/rl/la_dapo"} <= set(onward.checkpoints)
    assert "reports/comparison" in onward.reports
    item = pl.read_parquet(store.current("inputs/futurebench_items").file("items.parquet"))["id"][0]
    back = lineage.trace(item)
    assert {"checkpoints/rl/la_dapo", "curation/future_l1_50k", "inputs/toyworld_source"} <= set(back.upstream)


def test_no_model_is_trained_on_what_was_kept_out_of_its_rows(home: Path) -> None:
    store = AssetStore(home)
    lineage = Lineage(store.everything())
    items = lineage.trace("inputs/futurebench_items")
    assert items.checkpoints == {}
    assert {(edge.artifact, edge.kind) for edge in items.used_by if edge.direct} == {
        *((f"curation/{name}", "excluded by") for name in ("future_l1_50k", "rl_sets", "sft_sets")),
        *((f"benchmarks/futurebench_{noun}/{model}", "evaluated on") for noun in ("answers", "report")
          for model in ("base", "text_only", "future_l1", "la_dapo")),
        *((f"reports/{noun}/{model}", "evaluated on") for noun in ("intervened_answers", "latent_necessity")
          for model in ("future_l1", "la_dapo")),
    }  # fmt: skip
    assert [(edge.kind, edge.input) for edge in items.made_from] == [("read by", "inputs/toyworld_source")]
    number = lineage.trace("la_dapo")
    assert "correct (" in number.notes["benchmarks/futurebench_report/la_dapo"]
    assert {Path(one.path).name for one in number.training_sets} == {"twiff.parquet", "future_l1.parquet"}
    (row, *_) = [row for one in number.training_sets for row in one.examples]
    assert row["observed"] and row["future"] and Path(row["path"]).is_file()
    report = lineage_report(lineage, {"base": "inputs/base_model", "la_dapo": "checkpoints/rl/la_dapo"})
    item = pl.read_parquet(store.current("inputs/futurebench_items").file("items.parquet"))["id"][0]
    for trace in (lineage.trace(row["row_id"]), lineage.trace(item), *report.rows, *report.items):
        assert (trace_storyboard(lineage, trace) or b"").startswith(b"\x89PNG")
    page = store.current("reports/comparison").file("report.html").read_text()
    assert report.rows and page.count('<figure id="storyboard-') >= len(report.rows) + len(report.items)


@pytest.mark.parametrize(
    ("asset", "file", "schema"),
    [
        ("curation/gain_answers", "answers.parquet", AnswerTable),
        ("curation/visual_gain", "visual_gain.parquet", UsableTable),
        ("benchmarks/futurebench_answers", "answers.parquet", BenchmarkAnswerTable),
        ("benchmarks/futurebench_report", "graded.parquet", GradedTable),
    ],
)
def test_tables_that_are_written_without_validation_satisfy_their_schemas(
    home: Path, asset: str, file: str, schema: type[dy.Schema]
) -> None:
    tables = [one.file(file) for name, one in AssetStore(home).everything().items() if name.startswith(f"{asset}/")]
    assert len(tables) > 2
    for table in tables:
        schema.validate(pl.read_parquet(table, columns=schema.column_names()))


def test_every_row_is_accounted_for(home: Path) -> None:
    store = AssetStore(home)
    curation = json.loads((home / "summary.json").read_text())["curation"]
    pulled = usable = quarantined = 0
    for name, artifact in store.everything().items():
        counts = artifact.provenance["counts"]
        if name.startswith("trajectories/twiff_rows/"):
            pulled += counts["rows"]
            quarantined += counts["quarantined"]
        if name.startswith("trajectories/twiff_clips/"):
            usable -= counts["rows_without_clip"]
    usable += pulled
    assert pulled + quarantined == store.current("inputs/toyworld_source").provenance["counts"]["rows"]
    assert quarantined > 0
    assert curation["scored"] == usable
    assert curation["kept"] + curation["rejected"] == curation["scored"]
    assert sum(curation["gain_histogram"].values()) == curation["scored"]


def test_every_artifact_records_what_its_asset_is_declared_to_be_made_from(home: Path) -> None:
    """Else it would not be made again when that changes; of checkpoints one is a model's, of items a benchmark's."""
    graph = build_definitions(reduced_demo(home)).resolve_asset_graph()
    lineage = Lineage(AssetStore(home).everything())
    for name in lineage.artifacts:
        declared = {key.to_user_string() for key in graph.get(key_of(asset_of(name))).parent_keys}
        recorded = {asset_of(one.artifact or one.key) for one in lineage.inputs.get(name, [])}
        missing = declared - recorded - {"inputs/base_model", "checkpoints/sft", "checkpoints/rl"}
        if name.startswith(("benchmarks/futurebench_answers/", "benchmarks/twiffbench_answers/")):
            missing -= {"inputs/futurebench_items", "inputs/twiffbench_items"}
        assert not missing, name


def test_everything_is_one_run_for_each_step_of_the_plan(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    jobs = [step.stage.job for step in plan(reduced_demo(home))]
    assert jobs == [
        "00_write_source", "01_list_source", "02_prepare", "03_ingest", "04_score", "05_select", "06_train_sft",
        "07_train_rl", "08_evaluate", "09_intervene", "10_compare",
    ]  # fmt: skip
    with driver_instance(home) as instance:
        runs = list(reversed(instance.get_runs()))[: len(jobs)]  # another test runs everything again
    assert [run.job_name for run in runs] == jobs
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}


def test_every_asset_was_materialised_with_its_artifacts_version(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    with driver_instance(home) as instance:
        for name, artifact in AssetStore(home).everything().items():
            stage, noun, *partition = name.split("/")
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(dg.AssetKey([stage, noun]), asset_partitions=partition or None), limit=1
            ).records
            assert records[0].asset_materialization is not None, name
            assert records[0].asset_materialization.metadata["version"].value == artifact.version


def test_every_checkpoint_was_opened_again_and_shows_its_curves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    trained = ("checkpoints/rl/la_dapo", "checkpoints/sft/future_l1", "checkpoints/sft/text_only")
    for artifact in map(AssetStore(home).current, trained):
        assert {"curves.png", "metrics.jsonl", "model/provenance.json"} <= set(artifact.manifest["files"])
        assert artifact.provenance["counts"]["verified"]["states_finite"]
    held = ["training_went_well", "loads_and_decodes", "latents_are_finite", "rows_were_readable"]
    checks = [dg.AssetCheckKey(dg.AssetKey(["checkpoints", kind]), name) for kind in ("sft", "rl") for name in held]
    with driver_instance(home) as instance:
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    assert {key.name: latest[key].status.value for key in checks} == dict.fromkeys(held, "SUCCEEDED")


def test_every_asset_page_has_its_metadata(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, files, provenance, the way to follow it; of a main table rows and columns."""
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    nodes = build_definitions(reduced_demo(home)).resolve_asset_graph().asset_nodes
    with driver_instance(home) as instance:
        events = {
            node.key: instance.get_latest_materialization_event(node.key) for node in nodes if node.is_materializable
        }
    pages = {key.to_user_string(): event.asset_materialization for key, event in events.items() if event}
    assert len(pages) == len(events) == len(nodes)
    del pages["inputs/twiff_source"]  # a list of files, which has no artifact
    real = {
        key: set(pl.read_parquet_schema(page.metadata["dagster/uri"].value))
        for key, page in pages.items()
        if "dagster/uri" in page.metadata
    }
    assert set(pages) - set(real) == {
        "inputs/toyworld_source", "inputs/base_model", "checkpoints/sft", "checkpoints/rl", "reports/latent_retrieval",
        "reports/intervened_answers", "reports/latent_necessity", "reports/comparison",
    }  # fmt: skip
    for key, page in pages.items():
        as_json = {name for name, value in page.metadata.items() if isinstance(value, dg.JsonMetadataValue)}
        assert as_json == {"provenance"}, key
        assert {"folder", "seconds", "version", "provenance", "lineage", "comparison_page"} <= set(page.metadata), key
        assert page.tags["dagster/data_version"], key
        linked = [one.value for one in page.metadata.values() if isinstance(one, dg.PathMetadataValue)]
        assert len(linked) > 1 and all(Path(path).exists() for path in linked), key
    for key, columns in real.items():
        metadata = pages[key].metadata
        assert metadata["dagster/row_count"].value > 0, key
        schema = metadata["dagster/column_schema"].value
        assert {column.name for column in schema.columns} == columns and all(c.description for c in schema.columns), key
    assert {key for key, page in pages.items() if any(name.endswith("_figure") for name in page.metadata)} == {
        "curation/visual_gain", "curation/future_l1_50k", "checkpoints/sft", "checkpoints/rl",
        "benchmarks/futurebench_report", "benchmarks/twiffbench_report", "reports/latent_retrieval",
        "reports/latent_necessity", "reports/comparison",
    }  # fmt: skip


def test_a_trial_of_one_step_is_a_checkpoint_beside_that_of_the_recipe(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    store = AssetStore(home)
    regular = store.current("checkpoints/sft", "text_only")
    job = build_definitions(reduced_demo(home)).resolve_job_def("06_train_sft")
    with driver_instance(home) as instance:
        steps = [{"max_steps": {"text_only": number}} for number in (1, 0)]
        for config, succeeds in (({**steps[0], "seed": 5}, True), (steps[1], False), ({}, True)):
            ran = job.execute_in_process(
                instance=instance, partition_key="text_only", raise_on_error=False,
                run_config=LOG_LEVEL | {"ops": {"checkpoints__sft": {"config": config}}},
            )  # fmt: skip
            assert ran.success is succeeds
            if "seed" in config:
                trial = store.current("checkpoints/sft", "text_only")
    assert trial.version != regular.version == store.current("checkpoints/sft", "text_only").version
    config = trial.provenance["config"]
    assert (config["recipe"]["max_steps"], config["seed"]) == (1, 5) and read_metrics(trial.path)[-1]["step"] == 1


def test_running_it_again_makes_nothing_new(home: Path) -> None:
    before, summary = versions(home), (home / "summary.json").read_text()
    folders = sorted(path for path in (home / "artifacts").rglob("manifest.json"))
    assert drive(home).returncode == 0
    assert versions(home) == before
    assert sorted(path for path in (home / "artifacts").rglob("manifest.json")) == folders
    assert (home / "summary.json").read_text() == summary


def test_interrupted_at_every_stage_it_ends_with_the_same_numbers(home: Path, tmp_path: Path) -> None:
    ended = tmp_path / "home"
    for stage, numbers_sent in STAGES.items():
        ran, (number, *_) = drive(ended, stage), numbers_sent
        left = [process for process in psutil.process_iter(["cmdline"]) if str(ended) in str(process.info["cmdline"])]
        if number == signal.SIGKILL:
            assert ran.returncode == -number
            assert psutil.wait_procs(left, timeout=60)[1] == []
        else:
            assert ran.returncode == 128 + number, (stage, ran.stdout, ran.stderr)
            assert messages(ran.stderr) == [f"stopped by {number.name}: the same command goes on from here"]
            assert left == []
        assert not (ended / "summary.json").exists()
    ran = drive(ended)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert numbers(ended) == numbers(home)
