"""`future-l1 push`: a checkpoint to a model repository on a Hugging Face hub."""

from pathlib import Path

import click

from assets.framework.retries import is_transient
from assets.framework.store import AssetStore
from assets.hub import REPOSITORY
from assets.model_hub import NO_REPORTS, current_reports, push_checkpoint, trained
from pipelines.cli.common import current_profile
from training.runtime.errors import OutageError
from training.storage.artifacts import MODEL, checkpoint_folder


@click.command()
@click.option("--checkpoint", metavar="DIR|MODEL", required=True,
              help="A checkpoint's folder, or the name of a model of the profile.")  # fmt: skip
@click.option("--repo", metavar="ORG/NAME", required=True, help="The model repository; it is made if there is none.")
def push(checkpoint: str, repo: str) -> None:
    """Push a checkpoint to a model repository, with a model card.

    A model's name stands for its current checkpoint, and the card then has the scores of its current reports. The
    license is the profile's hub.model_license, the token HF_TOKEN, the hub HF_ENDPOINT. The same checkpoint pushed
    again changes nothing.

    \b
    Example:
      future-l1 push --checkpoint la_dapo --repo ORG/future-l1-la_dapo
    """
    if not REPOSITORY.fullmatch(repo):
        raise click.BadParameter(f"{repo!r} is not ORG/NAME", param_hint="--repo")
    profile = current_profile()
    store, fields, reports = AssetStore(profile.home), profile.hub.card(), NO_REPORTS
    if checkpoint in profile.checkpoints.models:
        artifact = trained(store, profile.checkpoints, checkpoint)
        folder, fields = artifact.folder(MODEL), profile.cards[checkpoint]
        reports = current_reports(store, checkpoint, artifact, profile.published_data)
    elif Path(checkpoint).is_dir():
        folder = checkpoint_folder(Path(checkpoint))
    else:
        raise click.BadParameter(f"{checkpoint} is no folder, and no model of the profile: it has "
                                 f"{', '.join(profile.checkpoints.models)}", param_hint="--checkpoint")  # fmt: skip
    try:
        commit, _ = push_checkpoint(folder, repo, fields, reports)
    except Exception as error:
        if is_transient(error):
            raise OutageError(f"the hub cannot be reached or is busy: {error}; start again later") from error
        raise
    benchmarks = {"FutureBench": reports.futurebench, "TwiFF-Bench": reports.twiffbench}
    scores = [name for name, report in (benchmarks | {"latent necessity": reports.necessity}).items() if report]
    click.echo(f"Commit   {commit}")
    click.echo(f"Scores   {', '.join(scores) or 'none are known'}")
