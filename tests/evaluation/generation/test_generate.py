"""evaluation.generate: tables in, tables out, through kills, unreadable clips and several jobs."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from evaluation import generate as program
from tests.evaluation.jobs import UNTIMED, content, lines, run
from training.data import parts, prompts
from training.data.keyframes import key_frame_number
from training.data.prompts import ANSWERS
from training.data.video import read_frames
from training.grading.parsers import options_of
from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.encoding import Encoder
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.runtime.programs import Reporter
from training.tiny import BASE


def load_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_every_prompt_is_answered_with_its_counts(
    job: Any, tmp_path: Path, prompts_path: Path, sft_model: FutureL1
) -> None:
    result = run(tmp_path, job())
    table = pl.read_parquet(tmp_path / "answers.parquet")
    assert dict(table.schema) == ANSWERS | {"prompt_tokens": pl.Int64}
    assert table["prompt_tokens"].min() > 4  # text, and the frame's vision tokens
    assert table["prompt_id"].to_list() == sorted(pl.read_parquet(prompts_path)["prompt_id"])
    assert result["answers"]["answers"] == 12 and result["answers"]["refused"] == 0
    assert result["answers"]["seconds"] > 0
    t = sft_model.tokens
    for row in table.iter_rows(named=True):
        kept = [i for i in row["tokens"] if i != t.end_of_turn]
        assert row["text"] == sft_model.processor.tokenizer.decode(kept, skip_special_tokens=False)
        assert row["text_tokens"] + row["latent_tokens"] + row["control_tokens"] == len(row["tokens"])
        assert row["latent_tokens"] == row["text"].count("<|latent|>") == sum(row["spans"])
        assert len(row["spans"]) == row["text"].count("<|latent_start|>")
        assert row["finished"] == (row["tokens"][-1] == t.end_of_turn)
    assert table["latent_tokens"].sum() > 0


def test_the_prompts_are_those_of_training(
    job: Any, tmp_path: Path, sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]]
) -> None:
    run(tmp_path, job())
    answers = dict(pl.read_parquet(tmp_path / "answers.parquet").select("prompt_id", "tokens").iter_rows())
    reader = RowReader(encoder, keep=False)
    expected = decode(
        sft_model.model,
        sft_model.vision(),
        sft_model.tokens,
        [reader.prompt(row) for row in rows[:12]],
        Sampling(40),
        sft_model.spans,
        [[0]] * 12,
    )
    for row, ids in zip(rows, expected.ids.tolist(), strict=False):
        assert answers[row["row_id"]] == [i for i in ids if i != sft_model.tokens.pad]


def test_samples_are_numbered_and_reproducible(job: Any, tmp_path: Path) -> None:
    tables = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / place, job(samples=3, temperature=1.5, seed=seed))
        tables.append(pl.read_parquet(tmp_path / place / "answers.parquet").select(UNTIMED))
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    assert tables[0].height == 36
    assert tables[0].group_by("prompt_id").agg(pl.col("sample").sort())["sample"].to_list() == [[0, 1, 2]] * 12


class Killed(Exception):  # noqa: N818 - an event, not an error
    """Stands for a SIGKILL: nothing of the program runs after it."""


class KilledAfter(Reporter):
    """A reporter under which the program dies after a number of answers."""

    def __init__(self, out: Path, answers: int) -> None:
        super().__init__(out, quiet=True)
        self.answers = answers

    def progress(self, done: int, total: int, what: str) -> None:
        if done == self.answers:
            raise Killed


def test_a_killed_run_goes_on_and_pays_for_no_answer_twice(job: Any, tmp_path: Path) -> None:
    sampled = job(samples=2, temperature=1.2)  # four prompts a batch, three batches
    run(tmp_path / "whole", sampled)
    ledger = tmp_path / "kept" / "ledger.jsonl"
    kept = sampled.model_copy(update={"ledger": ledger})
    with pytest.raises(Killed):
        run(tmp_path / "cut", kept, reporter=KilledAfter(tmp_path / "cut", 11))
    assert not (tmp_path / "cut" / "answers.parquet").exists()
    before = lines(ledger)
    assert len(before) == 11
    with ledger.open("a") as file:
        file.write('{"key": "torn by the cra')
    run(tmp_path / "cut", kept)
    after = [line for line in ledger.read_text().splitlines() if line.endswith("}")]
    assert len(after) == 24
    whole, resumed = (pl.read_parquet(tmp_path / name / "answers.parquet").select(UNTIMED) for name in ("whole", "cut"))
    assert whole.equals(resumed)
    run(tmp_path / "elsewhere", kept)
    assert [line for line in ledger.read_text().splitlines() if line.endswith("}")] == after
    assert pl.read_parquet(tmp_path / "elsewhere" / "answers.parquet").equals(
        pl.read_parquet(tmp_path / "cut" / "answers.parquet")
    )


def test_more_samples_are_added_to_those_that_are_there(job: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    run(tmp_path / "two", job(samples=2, temperature=1.2, ledger=ledger))
    run(tmp_path / "three", job(samples=3, temperature=1.2, ledger=ledger))
    assert len(lines(ledger)) == len(set(lines(ledger))) == 36
    run(tmp_path / "at_once", job(samples=3, temperature=1.2))
    tables = [pl.read_parquet(tmp_path / n / "answers.parquet").select(UNTIMED) for n in ("three", "at_once")]
    assert tables[0].equals(tables[1])


def test_a_finished_job_is_not_redone(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path, job())
    monkeypatch.setattr(program, "_engine", lambda *_: pytest.fail("a model is loaded"))
    assert run(tmp_path, job()) == first


def test_an_unreadable_prompt_is_reported_and_the_rest_answered(
    job: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    spoiled = [
        ("broken", content({**rows[0], "path": str(broken)})),
        ("missing", content({**rows[0], "path": str(tmp_path / "missing.mp4")})),
        ("beyond", [parts.frame(rows[0]["path"], 999)]),
        ("not an image", [parts.image(b"not an image")]),
        ("a placeholder", [*content(rows[0]), parts.text("<|image_pad|>")]),
    ]
    table = prompts.prompt_frame([*spoiled, *((row["row_id"], content(row)) for row in rows[:3])])
    table.write_parquet(tmp_path / "prompts.parquet")
    result = run(tmp_path / "out", job(prompts=tmp_path / "prompts.parquet", batch_size=2))
    assert result["answers"]["answers"] == 3
    assert result["answers"]["refused"] == 5
    failed = pl.read_parquet(tmp_path / "out" / "answers.failed")
    assert set(failed["prompt_id"]) == {name for name, _ in spoiled}
    assert failed["reason"].str.len_chars().min() > 10


def test_images_travel_as_clips_or_as_bytes(job: Any, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    row = rows[0]
    sizes = content(row)
    (frame,) = read_frames(row["path"], sizes[1]["frames"], row["reader"])
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(frame)).save(buffer, "PNG")
    table = prompts.prompt_frame([("clip", sizes), ("bytes", [sizes[0], parts.image(buffer.getvalue()), sizes[2]])])
    table.write_parquet(tmp_path / "prompts.parquet")
    run(tmp_path / "out", job(prompts=tmp_path / "prompts.parquet"))
    answers = pl.read_parquet(tmp_path / "out" / "answers.parquet")
    assert answers["tokens"][0].to_list() == answers["tokens"][1].to_list()


def test_the_base_answers_without_spans_and_sees_its_hints(
    job: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    def with_hints(row: dict[str, Any]) -> list[parts.Part]:
        frame_1, observed, question = content(row)
        numbers = [key_frame_number(row["frame_count"], index) for index in row["future"]]
        hints = [parts.frame(row["path"], n, max_tokens=4, reader=row["reader"]) for n in numbers]
        return [frame_1, observed, *hints, question]

    for name, make in (("plain", content), ("hint", with_hints)):
        prompts.prompt_frame([(row["row_id"], make(row)) for row in rows]).write_parquet(tmp_path / f"{name}.parquet")
    jobs = [
        job(name=name, checkpoint=BASE, prompts=tmp_path / f"{name}.parquet", max_new_tokens=8)
        for name in ("plain", "hint")
    ]
    run(tmp_path, *[j.model_copy(update={"name": f"{j.name}_answers"}) for j in jobs])
    right = {}
    for name in ("plain", "hint"):
        answers = pl.read_parquet(tmp_path / f"{name}_answers.parquet")
        assert answers["latent_tokens"].sum() == 0
        texts = dict(answers.select("prompt_id", "text").iter_rows())
        right[name] = sum(f"<answer>{row['answer']}</answer>" in texts[row["row_id"]] for row in rows)
    assert right["hint"] >= 20 > 12 >= right["plain"]


def test_interventions_are_jobs_like_others(job: Any, tmp_path: Path) -> None:
    mean = tmp_path / "mean.safetensors"
    save_file({"mean": torch.zeros(load_config(BASE)["text_config"]["hidden_size"])}, mean)
    names = ("none", "zeros", "noise", "other_item", "mean")
    run(
        tmp_path,
        *(job(name=name, intervention=name, reference_latents=mean if name == "mean" else None) for name in names),
    )
    tables = {name: pl.read_parquet(tmp_path / f"{name}.parquet") for name in names}
    for name, table in tables.items():
        assert table["prompt_id"].equals(tables["none"]["prompt_id"])
        begun = [row["text"].split("<|latent_end|>")[0] for row in table.iter_rows(named=True)]
        assert begun == [row["text"].split("<|latent_end|>")[0] for row in tables["none"].iter_rows(named=True)], name

    assert tables["mean"].select(UNTIMED).equals(tables["zeros"].select(UNTIMED)), "this mean is zero"


def test_controls_are_jobs_like_others(
    job: Any, rows: list[dict[str, Any]], tmp_path: Path, prompts_path: Path, sft_model: FutureL1
) -> None:
    table = pl.read_parquet(prompts_path).with_columns(
        pl.Series("options", [list(options_of(row["question"]).values()) for row in rows[:12]])
    )
    table.write_parquet(tmp_path / "prompts.parquet")
    names = ("none", "no_video", "question_only", "shuffled_frames", "options_2")
    result = run(tmp_path, *(job(name=n, control=n, prompts=tmp_path / "prompts.parquet") for n in names))
    refused = {name: pl.read_parquet(tmp_path / f"{name}.failed") for name in names}
    assert [result[name]["refused"] for name in names] == [0, 0, 0, 12, 0]
    assert set(refused["shuffled_frames"]["prompt_id"]) == set(table["prompt_id"])
    assert "a single frame" in refused["shuffled_frames"]["reason"][0]
    texts_by_control = {name: pl.read_parquet(tmp_path / f"{name}.parquet")["text"].to_list() for name in names}
    assert texts_by_control["shuffled_frames"] == [] and len(texts_by_control["options_2"]) == 12
    for name in ("no_video", "question_only"):
        assert texts_by_control[name] != texts_by_control["none"], f"{name}: these answers rest on what is seen"


def test_a_control_that_cannot_read_a_clip_refuses_its_prompt_and_no_other(
    job: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    table = prompts.prompt_frame([("broken", content({**rows[0], "path": str(broken)})), ("whole", content(rows[1]))])
    table.write_parquet(tmp_path / "prompts.parquet")
    run(tmp_path, job(prompts=tmp_path / "prompts.parquet", control="no_video"))
    assert pl.read_parquet(tmp_path / "answers.parquet")["prompt_id"].to_list() == ["whole"]
    assert pl.read_parquet(tmp_path / "answers.failed")["prompt_id"].to_list() == ["broken"]


def test_kept_latents_survive_a_kill_and_answers_without_them_are_generated_again(job: Any, tmp_path: Path) -> None:
    run(tmp_path / "plain", job())
    assert "latents" not in pl.read_parquet(tmp_path / "plain" / "answers.parquet").columns
    kept = job(keep_latents=True, batch_size=4)
    run(tmp_path / "whole", kept)
    whole = pl.read_parquet(tmp_path / "whole" / "answers.parquet")
    assert whole["latents"].dtype == pl.Binary and 0 < whole["latents"].null_count() < 12
    width = {
        len(data) / 2 / sum(spans) for data, spans in whole.select("latents", "spans").iter_rows() if data is not None
    }
    assert width == {load_config(BASE)["text_config"]["hidden_size"]}
    ledger = tmp_path / "ledger.jsonl"
    run(tmp_path / "without", job(ledger=ledger))
    again = kept.model_copy(update={"ledger": ledger})
    with pytest.raises(Killed):
        run(tmp_path / "cut", again, reporter=KilledAfter(tmp_path / "cut", 7))
    run(tmp_path / "cut", again)
    assert len(lines(ledger)) == 12 + 12, "each answer was given once without its latents and once with them"
    resumed = pl.read_parquet(tmp_path / "cut" / "answers.parquet")
    assert resumed.select(*UNTIMED).equals(whole.select(*UNTIMED))
    for before, after in (
        whole.join(resumed, on="prompt_id", suffix="_cut").select("latents", "latents_cut").iter_rows()
    ):
        if before is None:
            assert after is None
        else:
            np.testing.assert_allclose(np.frombuffer(before, "<f2"), np.frombuffer(after, "<f2"), atol=5e-3)


def test_borrowed_latents_are_the_same_after_a_kill(
    job: Any, rows: list[dict[str, Any]], prompts_path: Path, tmp_path: Path
) -> None:
    answers = pl.Series("reference", ["red" if number % 3 else "blue" for number in range(12)])
    pl.read_parquet(prompts_path).with_columns(answers).write_parquet(tmp_path / "prompts.parquet")
    borrowing = job(prompts=tmp_path / "prompts.parquet", intervention="other_answer", batch_size=5, keep_latents=True)
    result = run(tmp_path / "whole", borrowing)
    assert result["answers"]["answers"] + result["answers"]["refused"] == 12
    with pytest.raises(Killed):
        run(tmp_path / "cut", borrowing, reporter=KilledAfter(tmp_path / "cut", 3))
    assert run(tmp_path / "cut", borrowing)["answers"]["refused"] == result["answers"]["refused"]
    names = [*UNTIMED, "latents"]
    whole, cut = (pl.read_parquet(tmp_path / name / "answers.parquet").select(names) for name in ("whole", "cut"))
    assert whole["latents"].null_count() < 12 and whole.equals(cut)
    with pytest.raises(ValueError, match="needs the column `reference`"):
        run(tmp_path / "without", borrowing.model_copy(update={"prompts": prompts_path}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"intervention": "mean"}, "need each other"),
        ({"intervention": "zeros", "reference_latents": "mean.safetensors"}, "need each other"),
        ({"intervention": "nonsense"}, "Input should be 'none'"),
        ({"control": "nonsense"}, "Input should be 'none'"),
    ],
)
def test_a_job_that_means_nothing_is_a_users_mistake(job: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(**wrong)


def test_two_jobs_of_one_name_are_a_users_mistake(job: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different names"):
        run(tmp_path, job(), job())
