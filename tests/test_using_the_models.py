"""docs/using-the-models.md is true: its snippets run beside a checkpoint and a frame, and answer as `predict` does."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation.reports.prediction import predict
from training.data.keyframes import key_frame_number
from training.data.video import read_frames
from training.model.checkpoint import FutureL1
from training.model.tokens import LATENT
from training.runtime.model_card import CARD
from training.runtime.project import PROJECT

PAGE = (PROJECT / "docs" / "using-the-models.md").read_text()
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = EXAMPLE.findall(PAGE)


def test_the_snippets_for_transformers_answer_as_predict_does(
    sft_model: FutureL1,
    sft_checkpoint: Path,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sft_checkpoint, "checkpoint")
    questions = [row["question"].split("<image>\n")[1] for row in rows]
    prompts = [{"video": r["path"], "frames": [1], "question": q} for r, q in zip(rows, questions, strict=True)]
    answers = [answer["text"] for answer in predict(sft_model, prompts, tmp_path, 512)["prompts"]]
    chosen = next(number for number, answer in enumerate(answers) if LATENT in answer)
    row, question, expected = rows[chosen], questions[chosen], answers[chosen]
    (pixels,) = read_frames(row["path"], [key_frame_number(row["frame_count"], 1)], row["reader"])
    Image.fromarray(pixels).save("frame.png")
    names: dict[str, Any] = {}
    of_card: dict[str, Any] = {}
    exec(SNIPPETS[0].replace('"What happens next?"', repr(question)), names)
    assert capsys.readouterr().out == expected + "<|im_end|>\n"
    exec(SNIPPETS[1], names)
    assert len(capsys.readouterr().out.splitlines()) == 8
    (example,) = EXAMPLE.findall((sft_checkpoint / CARD).read_text())
    exec(example.replace('"What happens next?"', repr(question)).replace("PATH/OF/THIS/FOLDER", "checkpoint"), of_card)
    assert capsys.readouterr().out == expected + "<|im_end|>\n", "the card's example"
    assert of_card["inputs"]["input_ids"].tolist() == names["inputs"]["input_ids"].tolist()


def test_a_checkpoint_holds_what_the_page_lists(sft_checkpoint: Path) -> None:
    section = PAGE.partition("## What a latent checkpoint holds")[2].partition("\n## ")[0]
    files = set(re.findall(r"`([\w/]+\.(?:safetensors|json|py|jinja|md))`", section))
    assert len(files) == 8
    assert not [name for name in files if not (sft_checkpoint / name).is_file()]
    config = json.loads((sft_checkpoint / "config.json").read_text())
    for names in re.findall(r"^\| `config\.json`: ([^|]*) \|", section, re.MULTILINE):
        assert set(re.findall(r"`(\w+)`", names)) <= set(config)
    assert "suppress_tokens" in json.loads((sft_checkpoint / "generation_config.json").read_text())
