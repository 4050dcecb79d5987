"""Both conditions of rows as one job: curtailment changes no kept row, and the ledger is paid once."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.curation.prompts import PromptSettings, answer_prompts
from assets.curation.visual_gain import verdicts, visual_gain
from evaluation.generation.curtailment import GainRule
from evaluation.generation.jobs import AnswerJob, VisualGainScoring
from tests.evaluation.jobs import UNTIMED, lines, run
from training.grading.parsers import options_of
from training.tiny import BASE


@pytest.fixture
def gain_job(job: Any, rows: list[dict[str, Any]], tmp_path: Path) -> Any:
    """Visual gain of eight rows by the base that ships with the project; three references name a wrong option."""
    references = [dict(row) for row in rows[:8]]
    for row in references[:3]:
        row["answer"] = next(text for text in options_of(row["question"]).values() if text != row["answer"])
    table = pl.DataFrame(references).with_columns(pl.lit("0" * 64).alias("sha256"))
    answer_prompts(table, PromptSettings(hint_tokens=4)).write_parquet(tmp_path / "both.parquet")
    table.write_parquet(tmp_path / "references.parquet")

    def make(ledger: str, **rule: Any) -> AnswerJob:
        gain = VisualGainScoring(rule=GainRule(**rule), parser="option_text")
        return job(
            checkpoint=BASE, prompts=tmp_path / "both.parquet", samples=8, temperature=1.0, max_new_tokens=8,
            batch_size=64, gain=gain, ledger=tmp_path / ledger,
        )  # fmt: skip

    return make


def test_curtailed_rows_have_the_answers_of_the_full_procedure_and_fewer(gain_job: Any, tmp_path: Path) -> None:
    run(tmp_path / "full", gain_job("full.jsonl", full_sampling_fraction=1.0))
    run(tmp_path / "short", gain_job("short.jsonl", full_sampling_fraction=0.0, samples_per_round=3))
    full, short = (pl.read_parquet(tmp_path / n / "answers.parquet").select(UNTIMED) for n in ("full", "short"))
    assert full.height == 8 * 16
    assert short.height < full.height
    assert short.join(full, on=UNTIMED, how="semi", nulls_equal=True).height == short.height
    references = pl.read_parquet(tmp_path / "references.parquet", columns=["row_id", "question", "answer"])
    rule = GainRule(full_sampling_fraction=0.0)
    gains = [visual_gain(references, verdicts(references, t, "option_text", None), rule) for t in (full, short)]
    kept = [g.filter((pl.col("p_t") <= 6) & (pl.col("gain") >= 2)).select("row_id", "p_t", "p_v") for g in gains]
    assert kept[0].height > 0 and kept[0].equals(kept[1])
    assert set(gains[1]["status"]) == {"complete", "cut"}


def test_another_threshold_asks_only_for_what_the_ledger_lacks(gain_job: Any, tmp_path: Path) -> None:
    run(tmp_path / "strict", gain_job("ledger.jsonl", full_sampling_fraction=0.0, min_gain=8))
    paid = lines(tmp_path / "ledger.jsonl")
    run(tmp_path / "loose", gain_job("ledger.jsonl", full_sampling_fraction=0.0, min_gain=1))
    everything = lines(tmp_path / "ledger.jsonl")
    assert everything[: len(paid)] == paid
    assert len(set(everything)) == len(everything)
    run(tmp_path / "strict_again", gain_job("ledger.jsonl", full_sampling_fraction=0.0, min_gain=8))
    assert lines(tmp_path / "ledger.jsonl") == everything


def test_a_row_whose_clip_is_gone_is_reported_and_the_others_are_answered(gain_job: Any, tmp_path: Path) -> None:
    prompts_table = pl.read_parquet(tmp_path / "both.parquet")
    broken = prompts_table.to_dicts()
    for prompt in broken[:2]:
        for part in prompt["content"]:
            part["path"] = part["path"] and str(tmp_path / "gone.mp4")
    pl.DataFrame(broken, schema=prompts_table.schema).write_parquet(tmp_path / "both.parquet")
    result = run(tmp_path / "out", gain_job("ledger.jsonl", full_sampling_fraction=1.0))
    assert result["answers"]["answers"] == 7 * 16
    failed = pl.read_parquet(tmp_path / "out" / "answers.failed")
    assert set(failed["prompt_id"]) == {prompt["prompt_id"] for prompt in broken[:2]}


def test_visual_gain_is_scored_without_a_control(gain_job: Any) -> None:
    settings = gain_job("ledger.jsonl").model_dump()
    with pytest.raises(ValueError, match="not under a control"):
        AnswerJob(**settings | {"control": "no_video"})
