"""`future-l1 push`: a checkpoint to a model repository on a Hugging Face hub."""

from pathlib import Path

import click

from assets.framework.retries import is_transient
from assets.framework.store import AssetStore, name_of
from assets.hub import REPOSITORY
from assets.model_hub import NO_REPORTS, current_reports, push_checkpoint
from evaluation.reports.run_reports import RunReports
from pipelines.cli.common import CHECKPOINT, current_profile
from pipelines.heartbeat import set_activity
from pipelines.profile import Profile
from training.runtime.errors import OutageError
from training.runtime.model_card import CardFields
from training.storage.artifacts import MODEL, checkpoint_folder


@click.command()
@CHECKPOINT
@click.option("--repo", metavar="ORG/NAME", required=True, help="The model repository; it is made if there is none.")
def push(checkpoint: Path | None, repo: str) -> None:
    """Push a checkpoint to a model repository, with a model card.

    The card of a model's current checkpoint in FUTURE_L1_HOME has the scores of its reports there. The license is the
    profile's hub.model_license, the token HF_TOKEN, the hub HF_ENDPOINT. The same checkpoint pushed again changes
    nothing.

    \b
    Example:
      future-l1 push --checkpoint la_dapo --repo ORG/future-l1-la_dapo
    """
    if checkpoint is None:
        raise click.UsageError("name what is pushed as --checkpoint")
    if not REPOSITORY.fullmatch(repo):
        raise click.BadParameter(f"{repo!r} is not ORG/NAME", param_hint="--repo")
    folder = checkpoint_folder(checkpoint)
    fields, reports = _of_profile(current_profile(), folder)
    set_activity(f"pushing {folder} to {repo}")
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


def _of_profile(profile: Profile, folder: Path) -> tuple[CardFields, RunReports]:
    """What the profile and its home know of a checkpoint: its card's fields, and the reports of a current one.

    Raises DamagedArtifactError for a current one that is not as it was published.
    """
    store = AssetStore(profile.home)
    for model, fields in profile.cards.items():
        key = profile.checkpoints.artifact(model)
        artifact = store.artifacts.current(name_of(*key)) if store.has(*key) else None
        if artifact and (artifact.path / MODEL).resolve() == folder.resolve():
            artifact.verify()
            return fields, current_reports(store, model, artifact, profile.published_data)
    return profile.hub.card(), NO_REPORTS
