"""Answers from anywhere are scored by line; a line that cannot be read is missing, never wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.score import score_file


def write(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def answer(number: int, response: str, split: str = "hop1", **fields: Any) -> dict[str, Any]:
    return {"id": number, "question_type": split, "answer": "B", "response": response} | fields


def test_rows_splits_and_average_are_counts_with_intervals(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        answer(1, "<answer>(b)</answer>"),
        answer(2, "<answer>Because</answer>", "hop2"),
        answer(3, "<answer>B</answer>", "hop2"),
    )
    report = score_file("futurebench", path, "strict")
    assert report["rows"][0].items() >= {"id": 1, "parsed": "B", "rule": "letter", "correct": True}.items()
    assert (report["splits"]["hop2"]["correct"], report["splits"]["hop2"]["n"]) == (1, 2)
    assert (report["average"]["correct"], report["average"]["n"], report["unparsed"]["count"]) == (2, 3, 1)
    assert score_file("futurebench", path, "release")["average"]["correct"] == 2


BAD_LINES = ["{", "[]", '{"question_type": "hop1"}', json.dumps(answer(7, "x", answer="B) no")),
             json.dumps(answer(7, "x", "hop9")), '{"id": 8}']


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_malformed_line_is_missing_with_its_number(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, answer(1, "<answer>B</answer>"), line, answer(2, "<answer>B</answer>"))
    report = score_file("futurebench", path, "strict")
    assert (report["average"]["correct"], report["average"]["n"], report["missing"]) == (2, 2, 1)
    assert report["malformed"][0]["line"] == 2


def test_bytes_that_are_not_text_are_a_malformed_line(tmp_path: Path) -> None:
    path = write(tmp_path, answer(1, "<answer>B</answer>"))
    path.write_bytes(path.read_bytes() + b'{"id": "\xff"}\n\n')
    assert [line["line"] for line in score_file("futurebench", path, "strict")["malformed"]] == [2]


def test_a_repeated_id_counts_once(tmp_path: Path) -> None:
    report = score_file("futurebench", write(tmp_path, answer(1, "<answer>B</answer>"), answer(1, "")), "strict")
    assert (report["average"]["n"], report["missing"]) == (1, 1)


def test_option_text_needs_the_options(tmp_path: Path) -> None:
    options = {"A": "red", "B": "blue"}
    path = write(tmp_path, answer(1, "<answer>Blue</answer>", options=options), answer(2, "<answer>blue</answer>"))
    report = score_file("futurebench", path, "option_text")
    assert (report["average"]["correct"], report["average"]["n"], report["missing"]) == (1, 1, 1)


def test_strict_reads_an_options_own_text_as_the_benchmark_does(tmp_path: Path) -> None:
    options = {"A": "He sits", "B": "He runs to gate D", "C": "He sleeps", "D": "He flies"}
    text = "<answer>B. He runs to gate D</answer>"
    lines = [answer(1, text, options=options), answer(2, text), answer(3, text, options=list(options.values()))]
    report = score_file("futurebench", write(tmp_path, *lines), "strict")
    assert [row["rule"] for row in report["rows"]] == ["letter and text", "several letters", "several letters"]


def test_a_reply_is_read_by_no_parser_of_answers(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": 1, "category": "camera", "reply": '{"reasoning": "", "score": [4, 5]}'})
    with pytest.raises(ValueError, match="twiffbench is judged: replies are read by strict or release, not by option"):
        score_file("twiffbench", path, "option_text")


def test_stored_judge_replies_become_means_with_coverage(tmp_path: Path) -> None:
    def reply(number: int, text: str) -> dict[str, Any]:
        return {"id": number, "category": "camera", "reply": text}

    good, fenced = '{"reasoning": "", "score": [4, 5]}', '```json\n{"reasoning": "", "score": [2, 0]}\n```'
    garbage = ['{"reasoning": "", "score": [9, 1]}', "[NaN, 3]", "great answer"]
    path = write(tmp_path, reply(1, good), reply(2, fenced), *(reply(3 + i, text) for i, text in enumerate(garbage)))
    report = score_file("twiffbench", path, "strict")
    assert (report["cot"]["mean"], report["answer"]["mean"], report["average"]["n"]) == (3.0, 2.5, 2)
    assert (report["status"], report["coverage"]["items"], report["coverage"]["judged"]) == ("partial", 5, 2)
    assert report["splits"]["camera"]["cot"]["n"] == 2
    released = score_file("twiffbench", path, "release")
    assert (released["average"]["n"], released["cot"]["mean"]) == (2, 6.5), "no fence is opened, no range is checked"
    nothing = score_file("twiffbench", write(tmp_path, reply(1, "5")), "strict")
    assert (nothing["status"], nothing["average"]["mean"]) == ("unjudged", None)
    assert nothing["reason"] == "none of 1 lines has a reply with marks in it"


@pytest.mark.parametrize("lines", [["{", "[]"], [""], [json.dumps(answer(1, "x", answer=4))]])
def test_a_file_of_only_malformed_lines_is_an_error(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(ValueError, match=r"answers\.jsonl: none of \d lines can be scored"):
        score_file("futurebench", write(tmp_path, *lines), "strict")


def test_seed_bench_is_scored_by_level_with_options_or_a_judges_reply(tmp_path: Path) -> None:
    chosen = [
        {"id": n, "level": f"L{n}", "answer": "A", "response": f"<answer>{letter}</answer>"}
        for n, letter in ((1, "A"), (2, "B"))
    ]
    report = score_file("seedbench", write(tmp_path, *chosen), "strict")
    assert [report["splits"][level]["correct"] for level in ("L1", "L2", "L3")] == [1, 0, 0]
    replies = [{"id": n, "level": "L1", "reply": json.dumps({"reasoning": "", "score": n})} for n in (3, 4, 9)]
    report = score_file("seedbench_open", write(tmp_path, *replies), "strict")
    assert (report["answer"]["mean"], report["splits"]["L1"]["answer"]["n"], report["status"]) == (3.5, 2, "partial")
