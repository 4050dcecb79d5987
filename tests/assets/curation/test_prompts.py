"""The two conditions differ by the hint alone, and show exactly the frames that the trajectory names."""

import polars as pl

from assets.curation.prompts import PromptSettings, answer_prompts, prompts_hash
from training.data.keyframes import key_frame_number


def parts(rows: pl.DataFrame, condition: str, settings: PromptSettings, row: int) -> list[dict]:
    table = answer_prompts(rows, settings)
    return dict(table.select("prompt_id", "content").iter_rows())[f"{rows['row_id'][row]}/{condition}"]


def test_a_plain_prompt_shows_the_observed_frame_between_its_label_and_the_question(rows: pl.DataFrame) -> None:
    label, image, question = parts(rows, "plain", PromptSettings(), 1)
    assert (label["text"], question["text"]) == ("frame_1", "What happens?")
    assert (image["path"], image["frames"]) == (rows["path"][1], [key_frame_number(24, 1)])


def test_the_hint_adds_the_true_future_frames_after_the_observed_one_and_nothing_else(rows: pl.DataFrame) -> None:
    settings = PromptSettings(hint_tokens=4)
    plain, hinted = parts(rows, "plain", settings, 1), parts(rows, "hint", settings, 1)
    assert hinted[:2] + hinted[4:] == plain
    assert [p["frames"] for p in hinted[2:4]] == [[key_frame_number(24, 2)], [key_frame_number(24, 3)]]
    assert [p["max_tokens"] for p in hinted if p["type"] == "image"] == [None, 4, 4]


def test_prompt_ids_name_the_row_and_the_condition(rows: pl.DataFrame) -> None:
    table = answer_prompts(rows, PromptSettings())
    assert table["prompt_id"].to_list() == [f"{row_id}/{c}" for row_id in rows["row_id"] for c in ("plain", "hint")]


def test_a_prompts_key_is_what_it_shows_and_not_where_the_clip_lies(rows: pl.DataFrame) -> None:
    def keys(rows: pl.DataFrame, settings: PromptSettings = PromptSettings()) -> list[str]:  # noqa: B008 - frozen
        return answer_prompts(rows, settings)["key"].to_list()

    original = keys(rows)
    assert len(set(original)) == len(original) == 6
    assert keys(rows.with_columns(pl.lit("/elsewhere.mp4").alias("path"))) == original
    for changed in (
        keys(rows.with_columns(pl.lit("f" * 64).alias("sha256"))),
        keys(rows.with_columns(pl.lit(2).alias("frame_count"))),
        keys(rows, PromptSettings(instruction="Answer in a tag.")),
    ):
        assert not set(changed) & set(original)
    hinted = keys(rows, PromptSettings(hint_tokens=4))
    assert [a == b for a, b in zip(hinted, original, strict=True)] == [True, False] * 3


def test_rows_with_the_same_question_have_different_keys(rows: pl.DataFrame) -> None:
    """The same question about the same frame, and another future: the plain prompts are equal, the rows are not."""
    twins = pl.concat([rows[1:2], rows[1:2].with_columns(row_id=pl.lit("f" * 16), future=pl.Series([[4]]))])
    table = answer_prompts(twins, PromptSettings())
    plain = table.filter(pl.col("prompt_id").str.ends_with("/plain"))
    assert plain["content"][0].equals(plain["content"][1])
    assert table["key"].is_unique().all()


def test_an_instruction_follows_the_question(rows: pl.DataFrame) -> None:
    assert parts(rows, "plain", PromptSettings(instruction="Answer in a tag."), 0)[-1]["text"] == "Answer in a tag."


def test_the_hash_tells_settings_apart() -> None:
    assert prompts_hash(PromptSettings()) == prompts_hash(PromptSettings())
    assert len({prompts_hash(s) for s in (PromptSettings(), PromptSettings(hint_tokens=4))}) == 2


def test_frames_are_read_by_the_reader_that_the_clip_needs(rows: pl.DataFrame) -> None:
    seeking = rows.with_columns(pl.lit("seek").alias("reader"))
    assert {p["reader"] for p in parts(seeking, "hint", PromptSettings(), 1) if p["type"] == "image"} == {"seek"}
