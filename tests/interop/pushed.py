"""The demo's trained models, pushed to the stand-in hub by `future-l1 push`, and loaded again from there as their cards
say."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tests.hub import serve
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.processes import output
from tests.reduced import write_overlay
from tests.reloaded import load_again
from training.storage.artifacts import MODEL

PROGRAM = f"transformers {version('transformers')}"
TOKEN = "hf_of_the_stand_in"


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    hub_settings = demo.profile.hub.model_copy(update={"model_license": "other"})
    profile = write_overlay(work / "profile.toml", demo.profile.model_copy(update={"hub": hub_settings}))
    variables = {"FUTURE_L1_HOME": str(demo.profile.home), "FUTURE_L1_PROFILE": str(profile)}
    with serve(work / "hub") as hub:
        hub.accounts[TOKEN] = True
        variables |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        for model in demo.profile.cards:
            repository = f"lab/future-l1-{model}"
            output("push", "--checkpoint", model, "--repo", repository, **variables)
            folder = demo.store.current(*demo.profile.checkpoints.artifact(model)).path / MODEL
            (place := work / model).mkdir()
            for what, (right, of) in load_again(hub.url, repository, folder, place).items():
                yield Check(f"{model}, pushed and loaded again: {what}", PROGRAM, right, of)
