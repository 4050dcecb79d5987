"""Twelve rows as prompts, jobs that ask the SFT checkpoint about them, and the figures that plots make."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from evaluation.drawing import style
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import AnswerJob
from tests.evaluation.jobs import content
from training.data import prompts


@pytest.fixture(scope="session")
def prompts_path(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows as prompts."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.parquet"
    prompts.prompt_frame([(row["row_id"], content(row)) for row in rows[:12]]).write_parquet(path)
    return path


@pytest.fixture
def job(sft_checkpoint: Path, prompts_path: Path) -> Any:
    def make(**changes: Any) -> AnswerJob:
        defaults: dict[str, Any] = {
            "name": "answers", "checkpoint": sft_checkpoint, "prompts": prompts_path, "max_new_tokens": 40,
            "batch_size": 8, "image_tokens": (4, 16),
        }  # fmt: skip
        fields = defaults | changes
        generation = {name: fields.pop(name) for name in GenerationConfig.model_fields if name in fields}
        return AnswerJob(generation=GenerationConfig(**generation), **fields)

    return make


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are made, before they become bytes."""
    figures: list[Figure] = []
    png = style.png

    def watched(figure: Figure) -> bytes:
        figures.append(figure)
        return png(figure)

    monkeypatch.setattr(style, "png", watched)
    return figures
