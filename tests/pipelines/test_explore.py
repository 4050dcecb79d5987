"""`future-l1 explore`: its options, the page that it writes, and which items it takes."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.invoke import invoke

run = partial(invoke, "explore")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "give --checkpoint"),
        (("--video", __file__), "--video and --question go together"),
        (("--question", "Which?"), "--video and --question go together"),
        (("--video", __file__, "--question", "Which?", "--state", "item=a"), "without --state"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: Any, sentence: str, sft_checkpoint: Path) -> None:
    result = run(*(("--checkpoint", sft_checkpoint) if options else ()), *options)
    assert result.exit_code == 2 and sentence in " ".join(result.stderr.split())


def test_it_writes_a_page_of_a_question(
    rows: list[dict[str, Any]], sft_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path / "home"))
    page, question = tmp_path / "deep" / "page.html", rows[2]["question"].split("<image>\n")[1]
    model, elsewhere = ("--checkpoint", sft_checkpoint), ("--export", tmp_path / "x.html")
    result = run(*model, "--video", rows[2]["path"], "--question", question, "--export", page)
    assert result.exit_code == 0, result.output
    assert str(page) in result.stderr.replace("\n", "") and "application/json" in page.read_text(encoding="utf-8")
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no clip")
    result = run(*model, "--video", bad, "--question", question, *elsewhere)
    assert result.exit_code == 1 and "bad.mp4 cannot be read as a video" in result.output.replace("\n", " ")
    result = run(*model, "--data-dir", tmp_path / "deep", *elsewhere)
    output = " ".join(result.output.split())
    assert result.exit_code == 1 and "holds none of the benchmarks futurebench, twiffbench, seedbench" in output
    assert "It has 'page.html'; wanted: no futurebench.json in" in output and "; no test-*.parquet in" in output
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("[]", "no usable item of futurebench"), ('[{"id": "a"}]', "no usable item of futurebench: malformed field")],
)
def test_a_folder_says_as_which_benchmark_it_is_read_and_that_no_item_is_usable(
    content: str, sentence: str, sft_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path / "home"))
    (tmp_path / "futurebench.json").write_text(content, encoding="utf-8")
    result = run("--checkpoint", sft_checkpoint, "--data-dir", tmp_path, "--export", tmp_path / "x.html")
    output = " ".join(result.output.split())
    assert result.exit_code == 1 and sentence in output and "is read as futurebench: 0 usable items" in output
