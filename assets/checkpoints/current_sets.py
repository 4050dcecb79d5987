"""Whether models are trained on the current sets: what turns when rows were curated again, since nodes stay green."""

from collections.abc import Mapping

import dagster as dg

from assets.checkpoints.assets import BASE, RL, SFT
from assets.curation.assets import RL_SETS, SFT_SETS
from assets.framework.define import CheckOutcome, check
from assets.framework.partitions import Checkpoints
from assets.framework.store import AssetStore, name_of
from assets.lineage.trace import Lineage


def current_sets_check(key: str, checkpoints: Checkpoints) -> dg.AssetChecksDefinition:
    """The check of an asset about its own models, or about all models where it is no checkpoint."""
    names = {model: name_of(*checkpoints.artifact(model)) for model in (*checkpoints.sft, *checkpoints.rl)}
    models = {model: name for model, name in names.items() if key not in (SFT, RL) or name.startswith(f"{key}/")}
    return trained_on_current_sets.of(key, deps=(SFT_SETS, RL_SETS), models=models)


@check(
    "Each model was trained on the current sets, from a base and an SFT model that are current.",
    "materialise checkpoints/sft, checkpoints/rl and what is downstream of them again, or turn on the sensor retrain",
    severity=dg.AssetCheckSeverity.WARN,
)
def trained_on_current_sets(store: AssetStore, key: str, models: Mapping[str, str]) -> CheckOutcome:
    lineage = Lineage(store.current_artifacts(BASE, SFT_SETS, RL_SETS, SFT, RL))
    trained = {model: lineage.outdated(name) for model, name in models.items() if name in lineage.artifacts}
    texts = [
        f"{model} was trained with an earlier {' and '.join(inputs)}" for model, inputs in trained.items() if inputs
    ]
    return CheckOutcome(
        passed=not texts,
        description="; ".join(texts) or f"trained on the current sets: {', '.join(trained) or 'no model yet'}",
        metadata={"earlier_inputs": trained},
    )
