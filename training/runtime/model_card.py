"""The model card of a checkpoint, README.md: what it is, how it is loaded, what it was trained on, and its scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from training.runtime.printable import escaped

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"
TEMPLATE = Path(__file__).with_name("model_card.md.j2")
LATENT_TAGS = ("latent-reasoning", "custom_generate")  # the hub lists models with a decoding loop under the second


class CardFields(BaseModel):
    """The fields of a model card that a training program does not know by itself; None: the card leaves them out.

    license: the hub's identifier.  base_model, dataset: repositories on the hub, of the pretrained model and of the
    training data.  data_version: the version of the artifact with the training data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    license: str | None = None
    base_model: str | None = None
    dataset: str | None = None
    data_version: str | None = None


def model_card(
    provenance: Mapping[str, Any],
    latent_config: Mapping[str, Any],
    fields: CardFields,
    repository: str | None = None,
    evaluation: str | None = None,
    results: "Sequence[EvalResult]" = (),
) -> str:
    """The card as Markdown, the same on every machine.

    provenance: of provenance.json.  latent_config: of config.json.  repository: the repository on the hub that the
    card is for; None: the checkpoint's folder.  evaluation, results: scores as Markdown and as the hub's metadata.
    """
    from huggingface_hub import ModelCard, ModelCardData

    recipe = dict(provenance["recipe"])
    latent = has_latent_spans(provenance)
    data = ModelCardData(
        license=fields.license,
        library_name="transformers",
        pipeline_tag="image-text-to-text",  # the base's, and the only one of its kind that transformers' pipeline knows
        base_model=fields.base_model,
        datasets=[fields.dataset] if fields.dataset else None,
        tags=["future-l1", "video", *(LATENT_TAGS if latent else ())],
        model_name=recipe["name"] if results else None,
        eval_results=list(results) or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        latent=latent,
        name=escaped(recipe["name"]),
        reinforced=provenance["program"] == "training.rl",
        start=escaped(provenance["base"]["name"]),
        location=repository or "PATH/OF/THIS/FOLDER",
        repository=repository,
        fields=fields,
        tables={
            "Training": _training(provenance),
            "Last metrics of the training": _rows(provenance["metrics"]),
            "Recipe": _rows({name: value for name, value in recipe.items() if name != "latent_config"}),
            "Latent configuration": _rows(latent_config),
        },
        max_latents=latent_config["max_latents"],
        span_end=latent_config["span_end"],
        evaluation=evaluation,
    )
    return str(card)


def has_latent_spans(provenance: Mapping[str, Any]) -> bool:
    """Whether the SFT of a checkpoint, or of the one that its RL started from, trained on latent spans."""
    if provenance["program"] == "training.sft":
        return any(provenance["recipe"].get("latent_keep_prob", ()))
    start = provenance["base"].get("provenance")
    return has_latent_spans(start) if start else True


def _training(provenance: Mapping[str, Any]) -> dict[str, str]:
    data, code = provenance["data"], provenance["code"]
    commit = f", commit {code['commit']}{' with changes' if code['changed'] else ''}" if code["commit"] else ""
    return _rows(
        {
            "program": provenance["program"],
            "started from": _start(provenance["base"]),
            "training data": f"{data['file']}, {data['rows']:,} rows",
            "version of the training data": data["version"] or "not an artifact of the pipeline",
            "SHA-256 of the training data": data["sha256"],
            "optimiser steps": provenance["steps"],
            "seed": provenance["seed"],
            "precision": provenance["dtype"],
            "processes": provenance["processes"],
            "code": f"future-l1 {code['version']}{commit}",
            "libraries": ", ".join(f"{name} {version}" for name, version in provenance["packages"].items() if version),
        }
    )


def _start(base: Mapping[str, Any]) -> str:
    start = f"{base['name']} (hash {base['hash']})"
    if earlier := base.get("provenance"):
        data = earlier["data"]
        trained_on = f"{data['file']}, {data['rows']:,} rows"
        start += f": {earlier['program']} of {_start(earlier['base'])} on {trained_on}"
    return start


def _rows(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: escaped(_text(value)) for name, value in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
