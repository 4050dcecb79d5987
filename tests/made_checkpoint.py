"""A checkpoint's folder as the training programs leave one, with a few bytes for weights: enough to be pushed; and
artifacts with one, and with reports on it."""

import json
from pathlib import Path
from typing import Any

from assets.framework.store import AssetStore
from tests.toy import LATENT_CONFIG, rl_recipe, sft_recipe
from training.runtime.model_card import CARD, CardFields, model_card
from training.runtime.provenance import PROVENANCE
from training.storage.artifacts import MODEL, Artifact

LATENTS = LATENT_CONFIG.model_dump(mode="json")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def provenance(**changes: Any) -> dict[str, Any]:
    """Of an SFT."""
    facts = {
        "program": "training.sft",
        "data": {"file": "future_l1.parquet", "sha256": "5" * 64, "version": "a1b2c3d4", "rows": 2400},
        "base": {"name": "Qwen3-VL-8B-Instruct", "hash": "0123456789abcdef", "files": {}},
        "recipe": sft_recipe(name="future_l1").model_dump(mode="json"),
        "seed": 7,
        "code": {"version": "0.1.0", "commit": "c0ffee", "changed": False},
        "packages": {"torch": "2.14.1", "peft": None},
        "processes": 1,
        "steps": 900,
        "dtype": "float32",
        "metrics": {"loss": 0.123456, "latent_mse": 1.5},
    }
    return facts | changes


def rl_provenance(start: dict[str, Any]) -> dict[str, Any]:
    """Of RL that starts from a checkpoint with this provenance."""
    name = start["recipe"]["name"]
    return provenance(
        program="training.rl",
        base={"name": name, "hash": "fedcba9876543210", "files": {}, "provenance": start},
        recipe=rl_recipe(name="la_dapo").model_dump(mode="json"),
    )


def write_checkpoint(folder: Path, facts: dict[str, Any] | None = None) -> Path:
    """Two shards of weights, and what else belongs to a checkpoint; and two files that do not.  Returns `folder`."""
    (folder / "custom_generate").mkdir(parents=True)
    facts = facts or provenance()
    index = {"weight_map": dict(zip(("a", "b"), SHARDS, strict=True))}
    texts = {
        "config.json": json.dumps({"model_type": "qwen3_vl", "future_l1": LATENTS}),
        "generation_config.json": "{}",
        "model.safetensors.index.json": json.dumps(index),
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "processor_config.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "custom_generate/generate.py": "def generate(): ...\n",
        PROVENANCE: json.dumps(facts),
        CARD: model_card(facts, LATENTS, CardFields()),
        "optimizer.pt": "states",
        "metrics.jsonl": "/home/somebody",
    } | {shard: shard * 9 for shard in SHARDS}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def publish_checkpoint(
    store: AssetStore, key: str, model: str | None = None, facts: dict[str, Any] | None = None
) -> Artifact:
    """The artifact of a checkpoint with this provenance."""

    def write(folder: Path) -> dict[str, Any]:
        write_checkpoint(folder / MODEL, facts)
        return {}

    return store.work(key, {}, {}, "code", model).do(write)


def publish_report(
    store: AssetStore, key: str, answers_key: str, values: dict[str, Any], checkpoint: Artifact, model: str = "la_dapo"
) -> Artifact:
    """The artifact of a report on answers that a checkpoint has given."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / "report.json").write_text(json.dumps(values))
        return {}

    answers = store.work(answers_key, {"checkpoint": checkpoint}, {}, "code", model).do(lambda folder: {})
    return store.work(key, {answers_key: answers}, {}, "code", model).do(write)
