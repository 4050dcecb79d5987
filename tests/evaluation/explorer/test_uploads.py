"""Clips of one's own: what is taken, and that everything else is a sentence."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.explorer import uploads as module
from evaluation.explorer.uploads import Uploads
from training.data.keyframes import key_frame_number

QUESTION = "What is next?\nA. red\nB. blue"


@pytest.fixture
def clip(rows: list[dict[str, Any]]) -> bytes:
    return Path(rows[0]["path"]).read_bytes()


def test_a_clip_is_a_question_about_its_key_frames(clip: bytes, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    example = uploads.add(clip, "../../etc/<i>clip</i>.mp4", "1,3", QUESTION)
    frames = [part["frames"] for part in example.content if part["type"] == "image"]
    assert frames == [[key_frame_number(16, 1)], [key_frame_number(16, 3)]]
    assert example.options == {"A": "red", "B": "blue"} and example.title == "i>.mp4"
    assert example.clip is not None and example.clip.future[0] == key_frame_number(16, 4)
    assert uploads.example(example.key) is example is uploads.add(clip, "again.mp4", "1,3", QUESTION)
    assert [path.parent for path in tmp_path.iterdir()] == [tmp_path], "nothing is written elsewhere"


@pytest.mark.parametrize(
    ("data", "frames", "question", "sentence"),
    [
        (b"no clip at all", "1", QUESTION, "clip.mp4 cannot be read as a video: "),
        (b"", "1", QUESTION, "cannot be read as a video"),
        (None, "9", QUESTION, "an integer from 1 to 8; found 9"),
        (None, "one", QUESTION, "key frames are different numbers 1..8"),
        (None, "1,1", QUESTION, "key frames are different numbers 1..8"),
        (None, "1", "?" * 8001, "the question has 8001 characters; at most 8000"),
        (None, "1", "  ", "needs a question"),
        (None, "1", "What <|latent|> next?", "control string"),
        (None, "1", "<image> and <image>?", "2 <image> markers for 1 observed"),
    ],
)
def test_what_cannot_be_taken_is_a_sentence_and_leaves_nothing(
    clip: bytes, data: bytes | None, frames: str, question: str, sentence: str, tmp_path: Path
) -> None:
    uploads = Uploads(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        uploads.add(clip if data is None else data, "clip.mp4", frames, question)
    assert list(tmp_path.iterdir()) == [] and uploads.titles() == {}


def test_large_and_long_clips_are_refused(clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRAMES", 15)
    with pytest.raises(ValueError, match="has 16 frames; at most 15"):
        Uploads(tmp_path).add(clip, "clip.mp4", "1", QUESTION)
    monkeypatch.setattr(module, "MAX_FRAMES", 16)
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match=r"has frames of \d+ x \d+ pixels; at most 100"):
        Uploads(tmp_path).add(clip, "clip.mp4", "1", QUESTION)
    monkeypatch.setattr(module, "MAX_BYTES", len(clip) - 1)
    with pytest.raises(ValueError, match="the clip is larger than"):
        Uploads(tmp_path).add(clip, "clip.mp4", "1", QUESTION)


def test_the_oldest_clips_go(clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    uploads = Uploads(tmp_path)
    keys = [uploads.add(clip, "clip.mp4", "1", f"Question {n}?").key for n in range(3)]
    assert list(uploads.titles()) == [keys[2], keys[1]] and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="give it again"):
        uploads.example(keys[0])
