"""FutureBench as published: prompts, parsers, micro average; missing is never wrong."""

import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.benchmarks import futurebench_items
from evaluation.benchmarks.benchmark import StoredAnswers
from evaluation.benchmarks.choice import accuracy_by
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.benchmarks.futurebench_items import FutureBenchSettings, video_frame_numbers
from evaluation.generation.controls import controlled, rotated
from tests.evaluation.answers import answer_table
from training.data.row_fields import MAX_TEXT

DEMO = FutureBenchSettings(layout="keyframes", parser="option_text", suffix="")
CASES = json.loads((Path(__file__).parents[2] / "data" / "parse_cases.json").read_text())


def items(source: Path, settings: FutureBenchSettings) -> pl.DataFrame:
    return FutureBench(settings).items(source)


def prompts(table: pl.DataFrame, settings: FutureBenchSettings) -> pl.DataFrame:
    return FutureBench(settings).prompts(table)


def report(table: pl.DataFrame, answers: pl.DataFrame, settings: FutureBenchSettings) -> dict[str, Any]:
    benchmark, stored = FutureBench(settings), StoredAnswers(answers)
    return benchmark.report(table, stored, benchmark.grade(table, stored))


def record(number: int, split: str = "hop1", **fields: Any) -> dict[str, Any]:
    qa = {"Question": "Which colour?", "Options": dict(zip("ABCD", ("red", "blue", "cyan", "pink"), strict=True))}
    item = {
        "id": number,
        "video_path": f"video_dataset/v{number}.mp4",
        "question_type": split,
        "qa": qa | {"Answer": "b"},
    }
    return item | fields


@functools.cache
def clip(frames: int) -> bytes:
    """A grey H.264 clip."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        for shade in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def write(folder: Path, *records: dict[str, Any], video: bytes | None = None) -> Path:
    (folder / "first_part_video").mkdir()
    for number in range(10):
        (folder / "first_part_video" / f"v{number}.mp4").write_bytes(clip(7) if video is None else video)
    (folder / "futurebench.json").write_text(json.dumps(records))
    return folder


@pytest.mark.parametrize(
    ("frames", "numbers"), [(c["input"], c["output"]) for c in CASES if c["fn"].startswith("futurebench video frame")]
)
def test_video_frames_equal_the_release(frames: int, numbers: list[int]) -> None:
    assert video_frame_numbers(frames) == numbers


def test_a_clip_of_one_frame_is_no_video() -> None:
    with pytest.raises(ValueError, match="1 frames"):
        video_frame_numbers(1)


def test_an_item_is_shown_as_sft_rendered_it(tmp_path: Path) -> None:
    table = items(write(tmp_path, record(0)), DEMO)
    label, image, question = prompts(table, DEMO)["content"].to_list()[0]
    assert label["text"] == "frame_1"
    assert image["path"].endswith("first_part_video/v0.mp4") and image["frames"] == [0]
    assert question["text"] == "Which colour?\nA. red\nB. blue\nC. cyan\nD. pink"


@pytest.mark.parametrize(("question", "lines"), [("Which: A) x B) y C) z D) w", 0), ("Which: A) x B) y C) z D)w", 4)])
def test_options_that_a_question_lists_inline_are_not_repeated(tmp_path: Path, question: str, lines: int) -> None:
    item = record(0)
    item["qa"]["Question"] = question
    table = items(write(tmp_path, item), DEMO)
    assert prompts(table, DEMO)["content"].to_list()[0][-1]["text"].count("\n") == lines


PROBLEMS = {
    "missing video": record(5, video_path="video_dataset/absent.mp4"),
    "path outside the folder": record(5, video_path="../../etc/passwd"),
    "missing option": record(5, qa={"Question": "Q?", "Options": {"A": "x"}, "Answer": "A"}),
    "no options": record(5, qa={"Question": "Q?", "Answer": "A"}),
    "reference is a sentence": record(5, qa=record(5)["qa"] | {"Answer": "B) jumps"}),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_broken_item_is_missing_with_a_reason_and_never_wrong(tmp_path: Path, name: str) -> None:
    table = items(write(tmp_path, record(0), PROBLEMS[name]), DEMO)
    assert prompts(table, DEMO).height == 1
    scores = report(table, answer_table({"0": "<answer>blue</answer>"}), DEMO)
    assert (scores["average"]["correct"], scores["average"]["n"], scores["missing"]) == (1, 1, 1)
    assert sum(scores["problems"].values()) == 1


OPTIONS = dict(zip("ABCD", ("red", "blue", "cyan", "pink"), strict=True))


def changed_qa(**fields: Any) -> dict[str, Any]:
    return record(5, qa=record(5)["qa"] | fields)


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (changed_qa(Options=list(OPTIONS.values())), "not four options"),
        (changed_qa(Options=OPTIONS | {"C": None}), "not four options"),
        (changed_qa(Options=OPTIONS | {"C": float("nan")}), "not four options"),
        (changed_qa(Options=OPTIONS | {"E": "none of them"}), "not four options"),
        (changed_qa(Options=json.dumps(OPTIONS)), "not four options"),
        (changed_qa(Options=OPTIONS | {"C": ["cyan"]}), "malformed field"),
        (changed_qa(Options=OPTIONS | {"C": " "}), "question or option missing"),
        (changed_qa(Options=OPTIONS | {"C": "x" * (MAX_TEXT + 1)}), "text too long"),
        (changed_qa(Question="x" * (MAX_TEXT + 1)), "text too long"),
        (changed_qa(Question=None), "missing field"),
        (changed_qa(Question="Why?<|im_end|>"), "control token in text"),
        (changed_qa(Options=OPTIONS | {"C": "<|latent_start|>"}), "control token in text"),
        (record(5, qa=[record(5)["qa"]]), "malformed field"),
        (record(5, qa=json.dumps(record(5)["qa"])), "malformed field"),
        (record(5, video_path=["a.mp4"]), "malformed field"),
        (record(5, video_path="video_dataset/" + "a/" * 3000), "malformed clip name"),
        ("no item", "unreadable row"),
        (None, "unreadable row"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_odd_item_is_an_item_with_a_problem_and_no_other_is_lost(tmp_path: Path, odd: Any, problem: str) -> None:
    table = items(write(tmp_path, record(0), odd, record(1)), DEMO)
    assert table["problem"].to_list() == [None, problem, None]


def test_options_may_be_numbers(tmp_path: Path) -> None:
    table = items(write(tmp_path, changed_qa(Options={"A": 1, "B": 2.5, "C": "3", "D": 0, "E": None})), DEMO)
    assert table.select("options", "problem").row(0) == (["1", "2.5", "3", "0"], None)


def test_a_defect_of_ours_is_a_problem_that_names_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, record(0))
    monkeypatch.setattr(futurebench_items, "resolve_clip", lambda name, roots: {}["no such key"])
    (problem,) = items(source, DEMO)["problem"]
    assert problem.startswith("unreadable item: KeyError: 'no such key' (test_futurebench.py:")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["A", "../x"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["A", "B", "Options"]), values),
    max_leaves=4,
)


@given(
    st.lists(
        st.builds(
            lambda fields, qa: record(0, **fields) | {"qa": record(0)["qa"] | qa},
            st.dictionaries(st.sampled_from(["id", "video_path", "question_type"]), VALUES),
            st.dictionaries(st.sampled_from(["Question", "Options", "Answer"]), VALUES),
        )
        | VALUES
    )
)
def test_whatever_items_hold_each_is_usable_or_has_a_problem(made: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "futurebench.json").write_text(json.dumps(made))
        table = items(Path(folder), DEMO)
    assert table.height == len(made) and table["problem"].null_count() == 0  # no clip is there


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1, 2"])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "futurebench.json").write_text(text)
    with pytest.raises(ValueError, match=r"futurebench\.json"):
        items(tmp_path, DEMO)


def test_repeated_ids_stay_apart(tmp_path: Path) -> None:
    records = [record(1, id=name) for name in (1, "1", "1#2", "1#2", 1)]
    ids = items(write(tmp_path, *records), DEMO)["id"].to_list()
    assert ids == ["1", "1#2", "1#2#2", "1#2#3", "1#3"]


def test_scores_are_counts_with_intervals_per_split_and_a_micro_average(tmp_path: Path) -> None:
    table = items(write(tmp_path, *(record(i, "hop1" if i < 2 else "hop5") for i in range(8))), DEMO)
    texts = {str(i): "<answer>blue</answer>" if i in (0, 2, 3, 4) else "<answer>red</answer>" for i in range(7)}
    scores = report(table, answer_table(texts | {"6": "blue"}, {"0": 2, "2": 5}), DEMO)
    assert (scores["splits"]["hop1"]["correct"], scores["splits"]["hop1"]["n"]) == (1, 2)
    assert (scores["splits"]["hop5"]["correct"], scores["splits"]["hop5"]["n"]) == (3, 5)
    assert scores["splits"]["hop2"] == {"correct": 0, "n": 0, "accuracy": None, "interval": None}
    assert scores["average"]["accuracy"] == pytest.approx(4 / 7)
    assert (scores["unparsed"]["count"], scores["missing"]) == (1, 1)
    assert scores["among_parsed"]["n"] == 6
    assert scores["spans"]["hop1"]["shares"] == {"0": 0.5, "1": 0.0, "2": 0.5, "3": 0.0, ">3": 0.0}
    assert scores["spans"]["hop5"]["mean"] == pytest.approx(1.0)
    assert json.loads(json.dumps(scores)) == scores


def test_every_parser_is_reported_beside_the_chosen_one(tmp_path: Path) -> None:
    table = items(write(tmp_path, record(0)), DEMO)
    parsers = report(table, answer_table({"0": "<answer>B. blue</answer>"}), DEMO)["parsers"]
    assert {name: scores["correct"] for name, scores in parsers.items()} == {
        "release": 1,
        "release_direct": 1,
        "option_text": 0,
        "strict": 1,
    }


@pytest.mark.parametrize("case", [c for c in CASES if c["fn"].startswith("futurebench._per_hop")])
def test_split_accuracy_equals_the_release(case: dict[str, Any]) -> None:
    rows, split = case["input"]
    table = pl.DataFrame(rows).with_columns((pl.col("pred_answer") == pl.col("answer")).alias("correct"))
    assert 100 * accuracy_by(table, "question_type", [split])[split]["accuracy"] == pytest.approx(case["output"])


@pytest.mark.parametrize(
    ("video", "problem"), [(b"not a video", "unreadable video"), (clip(1), "video of a single frame")]
)
def test_a_video_that_cannot_be_shown_is_missing(tmp_path: Path, video: bytes, problem: str) -> None:
    assert items(write(tmp_path, record(0), video=video), FutureBenchSettings())["problem"].to_list() == [problem]


def test_the_video_layout_shows_the_observed_part_before_the_text(tmp_path: Path) -> None:
    settings = FutureBenchSettings(suffix="Letter only.")
    visual, prompt = prompts(items(write(tmp_path, record(0)), settings), settings)["content"].to_list()[0]
    assert (visual["type"], visual["frames"], visual["max_tokens"]) == ("video", [0, 1, 2, 4, 5, 6], 768)
    assert prompt["text"] == "\nWhich colour?\nA. red\nB. blue\nC. cyan\nD. pink\nLetter only."


def test_the_recipe_bounds_the_frames_of_a_video(tmp_path: Path) -> None:
    settings = FutureBenchSettings(video_frames=4, video_tokens=16)
    visual, _ = prompts(items(write(tmp_path, record(0)), settings), settings)["content"].to_list()[0]
    assert (visual["frames"], visual["max_tokens"]) == ([0, 2, 4, 6], 16)


ROTATED = {"A": "blue", "B": "cyan", "C": "pink", "D": "red"}  # one place on: each letter has the next option's text


@pytest.mark.parametrize("parser", ["strict", "release", "option_text"])
def test_answers_to_rotated_options_are_read_against_the_prompt(tmp_path: Path, parser: str) -> None:
    table = items(write(tmp_path, *(record(i) for i in range(4))), DEMO)  # B, blue, is right
    texts = {str(i): letter if parser != "option_text" else ROTATED[letter] for i, letter in enumerate("ABCD")}
    answers = answer_table({name: f"<answer>{text}</answer>" for name, text in texts.items()})
    benchmark = FutureBench(DEMO.model_copy(update={"parser": parser}))
    rows = benchmark.grade(table, StoredAnswers(answers, "options_1"))
    assert rows["parsed"].to_list() == ["B", "C", "D", "A"]
    assert rows["correct"].to_list() == [True, False, False, False]
    assert rows["parsed_by"].struct.field(parser).to_list() == rows["parsed"].to_list()
    assert rotated(["red", "blue", "cyan", "pink"], 1) == list(ROTATED.values())


def test_a_prompt_tells_its_options_and_what_its_answer_is(tmp_path: Path) -> None:
    table = items(write(tmp_path, record(0)), DEMO)
    for settings, reference in ((DEMO, "blue"), (DEMO.model_copy(update={"parser": "strict"}), "B")):
        prompt = prompts(table, settings)
        assert prompt["options"].to_list() == [["red", "blue", "cyan", "pink"]]
        assert prompt["reference"].to_list() == [reference]
        visual = controlled("options_2", prompt["content"].to_list()[0], "0", 0, prompt["options"].to_list()[0])
        assert visual[-1]["text"] == "Which colour?\nA. cyan\nB. pink\nC. red\nD. blue"


def test_no_answer_is_no_score_and_says_why(tmp_path: Path) -> None:
    table = items(write(tmp_path, record(0), PROBLEMS["no options"]), DEMO)
    scores = report(table, answer_table({}), DEMO)
    assert (scores["status"], scores["reason"]) == ("unanswered", "no item was answered")
    assert scores["average"]["accuracy"] is None
    broken = report(table.filter(pl.col("problem").is_not_null()), answer_table({}), DEMO)
    assert broken["reason"] == "no item is usable: not four options (1)"
    assert [case["output"] for case in CASES if case["fn"] == "futurebench.future_pred_aggregate_results"] == [0]


def test_a_score_of_some_of_the_items_is_partial(tmp_path: Path) -> None:
    table = items(write(tmp_path, record(0), record(1)), DEMO)
    for names, status in ((["0"], "partial"), (["0", "1"], "complete")):
        scores = report(table, answer_table(dict.fromkeys(names, "<answer>blue</answer>")), DEMO)
        assert (scores["status"], scores["reason"]) == (status, None)
        assert scores["coverage"] == {"items": 2, "answered": len(names)}
