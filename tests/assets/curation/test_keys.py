"""One question about the same frames of a clip is one row, whatever its wording and the clip's name."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.curation.contamination import benchmark_index
from assets.curation.keys import STOP_WORDS, answer_key, question_key, question_stem, with_clip_interval
from assets.curation.selection import Selection, SelectionSettings, select
from tests.assets.curation.scored_rows import scored_of, trajectory, write_shards
from training.data.clip_names import clip_interval
from training.grading.parsers import normalised

NOTHING = benchmark_index({})


def key(*questions: str) -> list[str]:
    return pl.select(question_key(pl.lit(pl.Series(questions)))).to_series().to_list()


def chosen(folder: Path, *rows: dict[str, Any]) -> Selection:
    """The selection from these rows, ranked as given."""
    counts = [(0, 8 - i) for i in range(len(rows))]
    return select(write_shards(folder, scored_of(rows, counts)), SelectionSettings(), NOTHING)


def row_asking(number: int, question: str, **fields: Any) -> dict[str, Any]:
    defaults = {"video": "abcdefghijk_1.mp4", "answer": "he runs"}
    return trajectory(number, question=f"frame_1\n<image>\n{question}", **(defaults | fields))


SAME = [
    ("What is the man doing?", "what is a MAN doing"),
    ("Where does it go, then?", "Where it go"),
    ("Which colour, at step 3?", "Which colour at step 3"),
    ("What's in the slow-motion shot?", "what's in slow motion shot"),
    ("Is it?", "is it"),
]
OTHER = [
    ("Which colour at step 3?", "Which colour at step 4?"),
    ("Is it 3.5 metres?", "Is it 35 metres?"),
    ("Is it -5 degrees?", "Is it 5 degrees?"),
    ("Is it 5% of them?", "Is it 5 of them?"),
    ("Will he stop before the door?", "Will he stop after the door?"),
    ("Will he stop?", "Will he not stop?"),
    ("1 2", "12"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_case_punctuation_and_stop_words_do_not_tell_questions_apart(one: str, other: str) -> None:
    assert len(set(key(one, other))) == 1


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_numbers_negations_and_order_in_time_tell_questions_apart(one: str, other: str) -> None:
    assert len(set(key(one, other))) == 2


words = st.lists(st.sampled_from(["man", "ball", "colour", "red", "rolls"]), min_size=1, max_size=6)
number = st.one_of(st.integers(0, 99).map(str), st.decimals(0, 9, places=1).map(str))


@given(words=words, data=st.data())
def test_any_spelling_of_the_same_words_has_the_same_key(words: list[str], data: st.DataObject) -> None:
    between = st.lists(st.sampled_from([*STOP_WORDS, ",", ";", "!", "…", '"']), max_size=3).map(" ".join)
    spelt = " ".join(f"{data.draw(between)} {data.draw(st.sampled_from([word, word.upper()]))}" for word in words)
    assert len(set(key(" ".join(words), spelt + "?"))) == 1


@given(words=words, one=number, other=number)
def test_another_number_is_another_question(words: list[str], one: str, other: str) -> None:
    assert (len(set(key(f"{' '.join(words)} {one}?", f"{' '.join(words)} {other}?"))) == 1) == (one == other)


letters = st.characters(categories=("Lu", "Ll", "Nd", "Po", "Zs"))


@given(text=st.text(letters, max_size=20).filter(lambda text: text.lower() == text.casefold()))
def test_answers_are_compared_as_the_grader_compares_them(text: str) -> None:
    expected = normalised(text).replace("ς", "σ")
    assert pl.DataFrame({"a": [text]}).select(answer_key(pl.col("a"))).item() == expected


def test_lettered_options_are_not_part_of_the_stem() -> None:
    questions = ["Which?\nA. red\nB. blue", "Which?", "Which? A) red B) blue"]
    stems = pl.select(question_key(question_stem(pl.lit(pl.Series(questions))))).to_series()
    assert stems.to_list() == ["which"] * 3


NAMES = ["-0AAhXT99Zw-0:04:09.165-0:04:57.213.mp4", "x/abcdefghijk_12.mp4", "abcdefghijk.mp4", "bikes.mp4",
         "abcdefghijk-249.165-297.213", "abcdefghijk-5-3.webm", "abcdefghijk-other.mp4",
         "v_abcdefghijk.mp4"]  # fmt: skip
times = st.one_of(st.none(), st.sampled_from(["0:00:01", "00:05.5", "7", "x", " 0:00:09.000 ", "-1"]))


@given(video=st.sampled_from(NAMES), start=times, end=times)
def test_intervals_over_a_table_are_those_of_the_one_function(video: str, start: str | None, end: str | None) -> None:
    schema = {"video": pl.String, "start": pl.String, "end": pl.String}
    table = pl.LazyFrame([(video, start, end)], schema=schema, orient="row")
    selection = with_clip_interval(table).select("video_id", "begin", "finish").collect().row(0)
    wanted = clip_interval(video, start, end)
    assert selection == pytest.approx((wanted.video_id, wanted.start, wanted.end))


@pytest.mark.parametrize(
    "other",
    [
        {"video": "abcdefghijk_1.mp4"},
        {"video": "elsewhere.mp4", "sha256": trajectory(0, video="abcdefghijk_1.mp4")["sha256"]},
        {"video": "abcdefghijk-0:00:00.000-0:00:03.000.mp4"},
    ],
    ids=["same name", "same file", "same interval"],
)
def test_a_clip_is_the_same_under_another_name(tmp_path: Path, other: dict[str, Any]) -> None:
    selection = chosen(tmp_path, row_asking(0, "What is he doing?"), row_asking(1, "what is he doing", **other))
    assert selection.report["kept"] == 1 and selection.excluded["repeats"].to_list() == [f"{0:016x}"]


def test_sameness_of_clips_reaches_over_a_chain_of_names(tmp_path: Path) -> None:
    first = row_asking(0, "What?")
    second = row_asking(1, "What?", video="copy.mp4", sha256=first["sha256"])
    third = row_asking(2, "What?", video="copy.mp4", sha256="f" * 64)
    assert chosen(tmp_path, third, first, second).report["rejected_by_reason"]["repeats"] == 2


@pytest.mark.parametrize(
    "other",
    [{"answer": "he sits"}, {"future": [3]}, {"video": "abcdefghijk_2.mp4", "start": "3", "end": "5"}],
    ids=["another answer", "other frames", "another clip"],
)
def test_another_answer_frame_or_clip_is_another_row(tmp_path: Path, other: dict[str, Any]) -> None:
    rows = row_asking(0, "What is he doing?"), row_asking(1, "What is he doing?", **other)
    assert chosen(tmp_path, *rows).report["kept"] == 2


row = st.tuples(st.integers(0, 3), st.sampled_from(["What?", "what", "Where?"]), st.integers(2, 8))
rows = st.lists(row, min_size=1, max_size=25)


@settings(max_examples=15)
@given(rows=rows, order=st.randoms(use_true_random=False))
def test_the_best_of_each_class_is_kept_in_any_order_of_shards(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, int]], order: Any
) -> None:
    folder = tmp_path_factory.mktemp("scored")
    videos = [f"abcdefghij{clip}_0.mp4" for clip, _, _ in rows]
    trajectories = [row_asking(i, question, video=videos[i]) for i, (_, question, _) in enumerate(rows)]
    table = scored_of(trajectories, [(0, gain) for *_, gain in rows])
    files = write_shards(folder, table, min(3, len(rows)))
    order.shuffle(files)
    selection = select(files, SelectionSettings(), NOTHING)
    best: dict[tuple[int, str], int] = {}
    for clip, question, gain in rows:
        best[clip, question.lower().strip("?")] = max(gain, best.get((clip, question.lower().strip("?")), 0))
    assert sorted(selection.rows["gain"]) == sorted(best.values())
    gains = dict(table.select("row_id", "gain").iter_rows())
    assert all(gains[row["repeats"]] >= gains[row["row_id"]] for row in selection.excluded.iter_rows(named=True))
    assert selection.rows.equals(select(write_shards(folder, table), SelectionSettings(), NOTHING).rows)
