"""`future-l1 predict --out page.html`: what a span is near to, what may be painted, and a page that needs nothing."""

import base64
import io
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.generation.segments import segments
from evaluation.latents.clip_retrieval import MIN_FIT_FRAMES, latents_of, retrieve
from evaluation.latents.frame_pool import FrameEncoder
from evaluation.reports.prediction import predict, with_latent_config
from evaluation.reports.prediction_page import answer_page
from tests.invoke import invoke
from training.data.keyframes import key_frame_number
from training.data.records import read_prompt
from training.data.video import read_frames
from training.model.checkpoint import FutureL1

PREDICTION = {"cap": 4, "cap_origin": "L_max"}


class Page(HTMLParser):
    """Tags, the sources of images, and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def prompt_of(row: dict[str, Any], frames: list[int]) -> dict[str, Any]:
    return {"id": "q", "video": row["path"], "frames": frames, "question": row["question"].split("\n", 2)[2]}


def answered(text: str, latents: list[np.ndarray]) -> dict[str, Any]:
    """An answer as `predict` tells it."""
    vectors = [vector.tolist() for span in latents for vector in span]
    return {"text": text, "latents_per_span": [len(span) for span in latents], "latents": vectors, "finished": True}


def features(sft_model: FutureL1, row: dict[str, Any], number: int) -> np.ndarray:
    return FrameEncoder(sft_model).frames(read_frames(row["path"], [number], row["reader"]))[0].features


# ---- what a span shows


def test_a_span_that_is_a_frame_is_nearest_to_it(sft_model: FutureL1, rows: list[dict[str, Any]]) -> None:
    row, record = rows[2], read_prompt(prompt_of(rows[2], [1]), 0, Path())
    number = key_frame_number(row["frame_count"], 4)
    result = retrieve(sft_model, record, [features(sft_model, row, number), features(sft_model, row, number)[:0]])
    assert result.spans[0].nearest[0].number == number
    assert result.spans[0].nearest[0].relative_distance == pytest.approx(0, abs=1e-6)
    shares = [frame.relative_distance or 0 for frame in result.spans[0].nearest]
    assert len(shares) == 3 and shares == sorted(shares) and shares[1] > 0
    assert result.spans[1].nearest == [] and result.spans[1].painting is None


def test_too_few_observed_frames_paint_nothing_and_the_page_says_why(
    sft_model: FutureL1, rows: list[dict[str, Any]]
) -> None:
    result = retrieve(sft_model, read_prompt(prompt_of(rows[2], [1]), 0, Path()), [features(sft_model, rows[2], 3)])
    assert result.readout is None and result.spans[0].painting is None
    assert f"needs {MIN_FIT_FRAMES}" in result.no_readout


def test_enough_observed_frames_paint_and_only_those_are_fitted_on(
    sft_model: FutureL1, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_prompt(prompt_of(rows[2], [1, 7]), 0, Path())
    last = key_frame_number(rows[2]["frame_count"], 7)
    fitted: list[np.ndarray] = []
    from evaluation.latents.readout import ReadoutFit

    inner = ReadoutFit.add_observed

    def noted(self: ReadoutFit, x: np.ndarray, *rest: Any, **named: Any) -> None:
        fitted.append(x)
        inner(self, x, *rest, **named)

    monkeypatch.setattr(ReadoutFit, "add_observed", noted)
    latents = features(sft_model, rows[2], last - 1)
    result = retrieve(sft_model, record, [latents])
    after = [features(sft_model, rows[2], number) for number in range(last + 1, rows[2]["frame_count"])]
    assert MIN_FIT_FRAMES <= len(fitted) <= last + 1
    assert not any(np.array_equal(features_of, other) for features_of in fitted for other in after)
    assert result.readout is not None and result.readout.r2 is not None and 0 < result.readout.r2 <= 1
    assert result.readout.r2_of_change is not None and result.readout.r2_of_change <= result.readout.r2
    painting = result.spans[0].painting
    assert painting is not None and painting.shape == (64, 64, 3), "as the clip is"
    with Image.fromarray(read_frames(rows[2]["path"], [last - 1], "sequential")[0]) as true:
        assert np.abs(np.asarray(true.resize((64, 64))).astype(int) - painting).mean() < 30


# ---- the page


def test_a_painting_says_how_far_to_believe_it(sft_model: FutureL1, rows: list[dict[str, Any]]) -> None:
    span = f"<|latent_start|>{'<|latent|>' * 4}<|latent_end|>"
    answer = answered(f"{span}<answer>red</answer>", [features(sft_model, rows[2], 9)])
    page = Page(answer_page(sft_model, prompt_of(rows[2], [1, 7]), answer, PREDICTION, "c"))
    assert page.tags.count("img") == 2 + 1 + 3, "the frames shown, the painting, and the nearest"
    assert "R² is" in page.text and "of what changed in them it is" in page.text


def test_the_page_needs_nothing_and_shows_every_span(sft_model: FutureL1, rows: list[dict[str, Any]]) -> None:
    latents = [features(sft_model, rows[2], 4), features(sft_model, rows[2], 6)]
    span = "<|latent_start|><|latent|><|latent|><|latent|><|latent|><|latent_end|>"
    answer = answered(f"<reason>First</reason>{span}<reason>then {span}</reason><answer>red</answer>", latents)
    html = answer_page(sft_model, prompt_of(rows[2], [1]), answer, PREDICTION, "some/checkpoint")
    page = Page(html)
    assert "script" not in page.tags and "link" not in page.tags and "http" not in html.replace("http-equiv", "")
    assert len(page.sources) == page.tags.count("img") == 1 + 2 * 3, "the frame shown, and three for each span"
    for source in page.sources:
        head, _, data = source.partition(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.load()
    before, _, after = page.text.partition("First")[2].partition("then")
    assert [re.findall(r"frame \d+", text)[0] for text in (before, after)] == ["frame 4", "frame 6"]
    assert after.index("frame 6") < after.index("red")
    assert "some/checkpoint" in page.text and "not observed" in page.text and f"needs {MIN_FIT_FRAMES}" in page.text


def test_texts_are_only_text(sft_model: FutureL1) -> None:
    odd = "<script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"
    html = answer_page(sft_model, {"question": odd}, answered(f"<answer>{odd}</answer>", []), PREDICTION, odd)
    page = Page(html)
    assert "script" not in page.tags and "img" not in page.tags and page.sources == []
    assert page.text.count("alert(1)") >= 6 and "{{ 7 * 7 }}" in page.text
    assert "How to read" not in page.text, "without a clip there is nothing to look at"


def test_an_unfinished_answer_says_so(sft_model: FutureL1) -> None:
    cut = answered("so", []) | {"finished": False}
    assert "was cut" in answer_page(sft_model, {"question": "Q"}, cut, PREDICTION, "c")
    assert "was cut" not in answer_page(sft_model, {"question": "Q"}, answered("so", []), PREDICTION, "c")


def test_latents_are_split_by_span() -> None:
    spans = latents_of(answered("", [np.ones((2, 3)), np.zeros((0, 3)), np.full((1, 3), 5)]))
    assert [span.tolist() for span in spans] == [[[1, 1, 1]] * 2, [], [[5, 5, 5]]]
    assert latents_of(answered("", [])) == []


# ---- the command


run = partial(invoke, "predict")


def test_the_command_writes_the_page_of_what_it_prints(
    rows: list[dict[str, Any]], sft_checkpoint: Path, sft_model: FutureL1, tmp_path: Path
) -> None:
    question, page = prompt_of(rows[2], [1])["question"], tmp_path / "deep" / "page.html"
    result = run("--checkpoint", sft_checkpoint, "--video", rows[2]["path"], "--frames", "1", "--question", question,
                 "--out", page)  # fmt: skip
    assert result.exit_code == 0, result.output
    [answer] = predict(with_latent_config(sft_model, None, None, False), [prompt_of(rows[2], [1])], Path(), 1024)[
        "prompts"
    ]
    page_text = Page(page.read_text(encoding="utf-8")).text
    for segment in segments(answer["text"]):
        assert segment.text in page_text and segment.text in result.stdout
    assert page_text.count("distance ") >= 3 * sum(size > 0 for size in answer["latents_per_span"])
    assert str(page) in result.stderr.replace("\n", "")


@pytest.mark.parametrize(("which", "out"), [("--question", "x.json"), ("--prompts", "x.html"), ("--prompts", "x.HTM")])
def test_a_page_is_a_questions_and_json_that_of_a_file(which: str, out: str, sft_checkpoint: Path) -> None:
    result = run("--checkpoint", sft_checkpoint, which, Path(__file__), "--out", out)
    assert result.exit_code == 2 and "a question's --out is a page" in " ".join(result.stderr.split())
