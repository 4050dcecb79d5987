"""`checkpoints/model_hub`: checkpoints pushed to model repositories, with their scores on the pushed copy's card."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg

from assets.benchmarks.assets import FUTURE_REPORT, REPORT, TWIFF_REPORT
from assets.benchmarks.necessity import NECESSITY
from assets.checkpoints.assets import RL, SFT
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result
from assets.framework.partitions import BASE, Checkpoints, key_of
from assets.framework.retries import retry_on_outage
from assets.framework.store import AssetStore, StoreParam, name_of
from assets.hub import HUB, push_folder, refuse_to_push_with_others
from evaluation.reports.model_card import eval_results, scores
from evaluation.reports.run_reports import RunReports
from training.model.latent_config import LatentConfig
from training.runtime.model_card import CARD, CardFields, model_card
from training.runtime.provenance import PROVENANCE, read_provenance
from training.storage.artifacts import MODEL, Artifact
from training.storage.files import read_json

MODEL_HUB = "checkpoints/model_hub"
INDEX = "model.safetensors.index.json"
DECODING_LOOP = "custom_generate/generate.py"
FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model-?????-of-?????.safetensors",
    INDEX, "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja",
    DECODING_LOOP, PROVENANCE,
)  # fmt: skip
"""The files of a checkpoint; nothing else in its folder is pushed.  No pattern has `*`: on a hub that matches `/`, too,
and files of other folders would be deleted."""
NO_REPORTS = RunReports(curation={}, futurebench={})


def model_hub_asset(
    repository: str, checkpoints: Checkpoints, cards: Mapping[str, CardFields], published_data: bool
) -> dg.AssetsDefinition:
    """`repository`: with `{model}`.  `cards`: the fields of each model's card.  `published_data`: models answer the
    published benchmarks."""
    declared = Asset(
        MODEL_HUB,
        "By hand only: pushes a model's current checkpoint to a model hub, with its scores on the card.",
        kinds=("huggingface", "safetensors"),
        code_version=code_of("evaluation.reports.model_card"),
        deps=(SFT, RL, FUTURE_REPORT, TWIFF_REPORT, NECESSITY),
        partitions=checkpoints.model_partitioning(),
        links={"model": MODEL},
        retry_policy=retry_on_outage(),
        group=HUB,
    )

    @asset(declared)
    def push_models(context: dg.AssetExecutionContext, store: StoreParam) -> Iterator[dg.MaterializeResult[None]]:
        refuse_to_push_with_others(context)
        pushed = {}
        for model in context.partition_keys:
            if model == BASE:
                raise ValueError("base is the base model, which was not trained here: push a trained model")
            checkpoint = store.current(*checkpoints.artifact(model))
            checkpoint.verify()
            reports = current_reports(store, model, checkpoint, published_data)
            folder, target = checkpoint.folder(MODEL), repository.format(model=model)
            commit, card = push_checkpoint(folder, target, cards[model], reports)
            text = card.partition("\n---\n")[2]  # without the hub's metadata
            metadata = {"commit": dg.MetadataValue.url(commit), "pushed_card": dg.MetadataValue.md(text)}
            context.add_asset_metadata(metadata, asset_key=key_of(MODEL_HUB), partition_key=model)
            pushed[model] = checkpoint
        yield batch_result(context, store, declared, pushed)

    return push_models


def current_reports(store: AssetStore, model: str, checkpoint: Artifact, published_data: bool) -> RunReports:
    """The model's current reports, without those of another version of its checkpoint."""

    def report(key: str) -> dict[str, Any]:
        current = store.artifacts.current(name_of(key, model)) if store.has(key, model) else None
        return {model: read_json(current.file(REPORT))} if current and is_of(current) else {}

    def is_of(current: Artifact) -> bool:
        inputs = current.provenance["inputs"].items()
        answers = [store.artifacts.find(name_of(key, model), version) for key, version in inputs]
        return {one.provenance["inputs"].get("checkpoint") for one in answers if one} == {checkpoint.version}

    return RunReports(
        curation={},
        futurebench=report(FUTURE_REPORT),
        twiffbench=report(TWIFF_REPORT),
        necessity=report(NECESSITY),
        on_published_data=published_data,
    )


def push_checkpoint(
    folder: Path, repository: str, fields: CardFields, reports: RunReports = NO_REPORTS
) -> tuple[str, str]:
    """Pushes a checkpoint's own files, with a card that has these scores; returns the commit's address and the card.

    The folder stays as it is.  Raises ValueError for a folder that is no checkpoint of ours, and without a license.
    """
    provenance, latent_config = _checked(folder)
    if fields.license is None:
        raise ValueError(f"pushing model {repository} needs its license: name one as hub.model_license in the profile, "
                         "such as apache-2.0")  # fmt: skip
    card = model_card(provenance, latent_config, fields, repository, scores(reports), eval_results(reports))
    with TemporaryDirectory() as copy:
        for path in (path for pattern in FILES for path in folder.glob(pattern)):
            link = Path(copy, path.relative_to(folder))
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path.resolve())
        Path(copy, CARD).write_text(card, encoding="utf-8")
        message = f"{provenance['recipe']['name']}, {provenance['program']} of {provenance['steps']} steps"
        return push_folder(Path(copy), repository, "model", message, replace=FILES), card


def _checked(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The provenance and the latent configuration of a checkpoint that can be pushed."""
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} holds an adapter: merge it into its base, and push that folder")
    index, weights = folder / INDEX, {"model.safetensors"}
    try:
        config = read_json(folder / "config.json")
        latent_config = config.get("future_l1") and LatentConfig(**config["future_l1"])
        if index.is_file():
            weights = {str(name) for name in read_json(index)["weight_map"].values()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{folder} is no checkpoint, its config.json or {INDEX} cannot be used: {type(error).__name__}: {error}"
        ) from error
    provenance = read_provenance(folder)
    if not latent_config or not provenance:
        raise ValueError(f"{folder} is a base model, or was trained elsewhere or by an earlier version: push a folder "
                         f"of training.sft or training.rl, with future_l1 in config.json and {PROVENANCE}")  # fmt: skip
    if missing := [name for name in (*sorted(weights), DECODING_LOOP) if not (folder / name).is_file()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: save the checkpoint again")
    return provenance, latent_config.model_dump(mode="json")
