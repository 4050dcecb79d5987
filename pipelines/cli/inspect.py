"""`future-l1 inspect`: artifacts, records, rewards."""

from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from assets.framework.store import AssetStore
from pipelines.cli.common import (
    CHECKPOINT,
    CONSOLE,
    FILE,
    NEW_FILE,
    POSITIVE,
    SYSTEM_PROMPT,
    current_profile,
    make_room,
    read_text,
    report_entries,
    write_json_lines,
)
from pipelines.heartbeat import set_activity
from training.data.records import load_records
from training.storage.artifacts import DamagedArtifactError


def _inspect_rewards(rewards: Path, out: Path | None, **others: Any) -> None:
    """Writes what `training.rl.inspection` finds."""
    if out is None or any(value is not None for value in others.values()):
        raise click.UsageError("to look at rewards, give --rewards and --out, and nothing else")
    groups = load_records(rewards)
    make_room(out, rewards)
    from training.recipes import paper_rl
    from training.rl.inspection import inspect_rewards

    if len(groups) == 1 and isinstance(groups[0], dict) and "groups" in groups[0]:
        groups = groups[0]["groups"]
    write_json_lines(inspect_rewards(groups, paper_rl("la_dapo")), out)


def _inspect_records(
    checkpoint: Path | None,
    records: Path | None,
    max_latents: int | None,
    system_prompt: Path | None,
    resize: str | None,
    out: Path | None,
) -> None:
    """Writes what `training.sft.inspection` finds; fails when no record could be shown."""
    if checkpoint is None or records is None or out is None:
        raise click.UsageError("to look at records, give --checkpoint, --records and --out")
    values, system = load_records(records), read_text(system_prompt)
    make_room(out, records)
    from training.sft.inspection import inspect_records, latent_config_of, open_checkpoint

    bundle = open_checkpoint(checkpoint)
    latent_config = latent_config_of(bundle, max_latents, system)
    report = inspect_records(bundle, values, records.parent, latent_config, resize or "exact")  # type: ignore[arg-type]
    write_json_lines(report, out)
    report_entries(report["records"], "records shown", out)


@click.command()
@CHECKPOINT
@click.option("--records", type=FILE, metavar="FILE", help="JSON; clips lie relative to it.")
@click.option("--max-latents", type=POSITIVE, metavar="N", help="Latents a span (L_max), if not the checkpoint's.")
@SYSTEM_PROMPT
@click.option("--resize", type=click.Choice(["exact", "release"]), help="How frames get their size [exact].")
@click.option("--rewards", type=FILE, metavar="FILE", help="Instead: JSON of recorded groups, for their rewards.")
@click.option("--out", type=NEW_FILE, metavar="FILE", help="Where the JSON goes (docs/data-contracts.md).")
@click.option("--verify", is_flag=True, help="Read every file of every artifact, and say which are damaged.")
def inspect(verify: bool, **options: Any) -> None:
    """List every current artifact with its version and folder; or show what records become in training.

    With --checkpoint, --records and --out: for each record of a JSON file (a list, one record, or one a line) and for
    all as a batch, the text, token ids, labels, latent positions, key frames and both losses.  Records may be in the
    release's layout, TwiFF's or ours; a record that curation would reject is there with the reason.

    With --rewards and --out: the parts of the reward of recorded groups of rollouts.

    \b
    Example:
      future-l1 inspect --checkpoint DIR --records records.json --out inspected.json
    """
    if verify and any(value is not None for value in options.values()):
        raise click.UsageError("--verify reads every artifact, and goes with no other option")
    if options["rewards"] is not None:
        _inspect_rewards(**options)
        return
    del options["rewards"]
    if any(value is not None for value in options.values()):
        _inspect_records(**options)
        return
    home = current_profile().home
    store = AssetStore(home)
    artifacts, errors = store.read_all()
    damaged = [str(error) for error in errors.values()]
    if not artifacts:
        click.echo(f"no artifacts in {home} (FUTURE_L1_HOME): `future-l1 demo` makes some", err=True)
    for name, artifact in artifacts.items():
        CONSOLE.print(f"{escape(name)}  [dim]{artifact.version}  {escape(str(artifact.path))}[/]", soft_wrap=True,
                      highlight=False)  # fmt: skip
        if verify:
            set_activity(f"verifying {name}")
            try:
                artifact.verify()
            except DamagedArtifactError as error:
                damaged.append(str(error))
    if damaged:
        raise click.ClickException("\n".join(damaged))
