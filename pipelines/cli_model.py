"""`future-l1 inspect` of records and `future-l1 predict`: the commands that load a model into this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.data.records import load_records
from training.runtime.printable import printable

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
POSITIVE = click.IntRange(min=1)
LABELS = {"reason": "reason", "span": "span", "answer": "[bold]answer[/]", "text": "text"}

Command = Callable[..., Any]


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_CHECKPOINT = click.option("--checkpoint", type=FOLDER, metavar="DIR", help="A checkpoint's or a base model's folder.")
_SYSTEM = click.option("--system-prompt", type=FILE, metavar="FILE", help="In place of the checkpoint's own.")
_OUT = click.option("--out", type=NEW_FILE, metavar="FILE", help="Where the JSON goes (docs/data-contracts.md).")
_PAGE = click.option("--out", type=NEW_FILE, metavar="FILE", help="Where the JSON or, for a question, the page goes.")
PAGES = (".html", ".htm")

INSPECT_OPTIONS = _options(
    _CHECKPOINT,
    click.option("--records", type=FILE, metavar="FILE", help="JSON; clips lie relative to it."),
    click.option("--max-latents", type=POSITIVE, metavar="N", help="Latents a span (L_max), if not the checkpoint's."),
    _SYSTEM,
    click.option("--resize", type=click.Choice(["exact", "release"]), help="How frames get their size [exact]."),
    click.option("--rewards", type=FILE, metavar="FILE", help="Instead: JSON of recorded groups, to see what is paid."),
    _OUT,
)


def inspect_rewards(rewards: Path, out: Path | None, **others: Any) -> None:
    """Writes what `training.rl.inspection` finds."""
    if out is None or any(value is not None for value in others.values()):
        raise click.UsageError("to look at rewards, give --rewards and --out, and nothing else")
    try:
        groups = load_records(rewards)
        _make_room(out)
        from training.recipes import paper_rl
        from training.rl.inspection import inspect_rewards

        if len(groups) == 1 and isinstance(groups[0], dict) and "groups" in groups[0]:
            groups = groups[0]["groups"]
        found = inspect_rewards(groups, paper_rl("la_dapo"))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    _write(found, out)


def inspect_records(
    console: Console,
    checkpoint: Path | None,
    records: Path | None,
    max_latents: int | None,
    system_prompt: Path | None,
    resize: str | None,
    out: Path | None,
) -> None:
    """Writes what `training.inspection` finds; fails when no record could be shown."""
    if checkpoint is None or records is None or out is None:
        raise click.UsageError("to look at records, give --checkpoint, --records and --out")
    try:
        values, system = load_records(records), _text(system_prompt)
        _make_room(out)
        from training.inspection import inspect_records, open_checkpoint, teaching_of

        bundle = open_checkpoint(checkpoint)
        teaching = teaching_of(bundle, max_latents, system)
        found = inspect_records(bundle, values, records.parent, teaching, resize or "exact")  # type: ignore[arg-type]
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    _write(found, out)
    _report(found["records"], "records shown", out, console)


@click.command()
@_CHECKPOINT
@click.option("--video", type=FILE, metavar="CLIP", help="The clip that the question is about.")
@click.option("--frames", metavar="K,K", help="Which of its key frames 1..8 are shown, as 1,3.")
@click.option("--question", metavar="TEXT")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--prompts", type=FILE, metavar="FILE", help="Instead: a JSON file of records or questions, one batch.")
@_PAGE
@click.option("--max-latents", type=POSITIVE, metavar="N", help="The cap on a span (L_max), if not the checkpoint's.")
@click.option("--release-cap", is_flag=True, help="Twice that cap, as the public release decodes.")
@click.option("--max-new-tokens", type=POSITIVE, default=1024, show_default=True, metavar="N")
@_SYSTEM
def predict(
    checkpoint: Path | None,
    video: Path | None,
    frames: str | None,
    question: str | None,
    as_json: bool,
    prompts: Path | None,
    out: Path | None,
    max_latents: int | None,
    release_cap: bool,
    max_new_tokens: int,
    system_prompt: Path | None,
) -> None:
    """Answer a question about a clip, greedily, and show the reasoning, the latent spans and the answer.

    With --out PAGE.html also on a page of its own, with the frames of the clip that are nearest to each span and, where
    enough of the clip was observed, the latents painted.  With --prompts and --out, decode all prompts of a file as one
    batch into token ids, spans and latents.
    """
    if checkpoint is None:
        raise click.UsageError("which model is to answer? give --checkpoint")
    if (question is None) == (prompts is None) or (prompts is not None and out is None):
        raise click.UsageError("give --question (with --video and --frames), or --prompts and --out")
    page = out if question is not None else None
    if out is not None and (out.suffix.lower() in PAGES) != (page is not None):
        raise click.UsageError("a question's --out is a page, as answer.html; that of --prompts is JSON")
    if (video is None) != (frames is None) or (prompts and (video or as_json)):
        raise click.UsageError("--video and --frames go together, and with --question; so does --json")
    try:
        values = load_records(prompts) if prompts else [_asked(question, video, frames)]
        system = _text(system_prompt)
        if out is not None:
            _make_room(out)
        from evaluation.reports.prediction import predict, with_teaching
        from training.inspection import open_checkpoint

        bundle = with_teaching(open_checkpoint(checkpoint), max_latents, system, release_cap)
        found = predict(bundle, values, prompts.parent if prompts else Path(), max_new_tokens)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if prompts is not None and out is not None:
        _write(found, out)
        _report(found["prompts"], "prompts answered", out, Console())
        return
    [answer] = found.pop("prompts")
    if "error" in answer:
        raise click.ClickException(answer["error"])
    _show(answer | found, max_new_tokens, as_json)
    if page is not None:
        from evaluation.reports.prediction_page import answer_page

        try:
            html = answer_page(bundle, values[0], answer, found, str(checkpoint))
        except ValueError as error:
            raise click.ClickException(f"{page} is not written: {error}") from error
        page.write_text(html, encoding="utf-8", errors="backslashreplace")
        click.echo(f"page: {page}", err=True)


def _asked(question: str | None, video: Path | None, frames: str | None) -> dict[str, Any]:
    """The options as a prompt of a file would be."""
    if video is None or frames is None:
        return {"id": "--question", "question": question}
    try:
        indices = [int(part) for part in frames.split(",")]
    except ValueError:
        raise click.BadParameter(f"key frames are numbers 1..8 with commas between, as 1,3; found {frames!r}",
                                 param_hint="--frames") from None  # fmt: skip
    return {"id": video.name, "video": str(video.absolute()), "frames": indices, "question": question}


def _show(answer: dict[str, Any], max_new_tokens: int, as_json: bool) -> None:
    from evaluation.reports.said import parts

    told = parts(answer["text"])
    if as_json:
        reasoning = [part.text for part in told if part.kind == "reason"]
        final = next((part.text for part in reversed(told) if part.kind == "answer"), None)
        click.echo(json.dumps(answer | {"reasoning": reasoning, "answer": final}))
        return
    table = Table.grid("", "", padding=(0, 2))
    for part in told:
        latents = f"{part.latents} latent{'' if part.latents == 1 else 's'}"
        table.add_row(LABELS[part.kind], Text(latents if part.kind == "span" else printable(part.text, keep="\n")))
    console = Console()
    console.print(table)
    if not answer["finished"]:
        console.print(f"[yellow]![/] cut after {max_new_tokens} tokens: --max-new-tokens lets it go on")
    if not any(part.kind == "answer" for part in told):
        console.print("[yellow]![/] it gave no <answer>")


def _text(path: Path | None) -> str | None:
    """A file's exact text."""
    try:
        return path.read_bytes().decode() if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from error


def _make_room(out: Path) -> None:
    """Before any work, so that it is not lost."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error}") from error


def _write(found: dict[str, Any], out: Path) -> None:
    """JSON, with each item of a list on a line of its own."""
    fields = []
    for name, value in found.items():
        items = value if isinstance(value, list) else [value]
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        fields.append(f'"{name}": ' + (f"[\n{lines}\n]" if isinstance(value, list) else lines))
    # half a character, as an id may hold, becomes the JSON escape that it was
    out.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8", errors="backslashreplace")


def _report(entries: list[dict[str, Any]], what: str, out: Path, console: Console) -> None:
    """How many entries are in the file, and what is wrong with the others; fails when it is none."""
    errors = [entry["error"] for entry in entries if "error" in entry]
    if len(errors) == len(entries):
        raise click.ClickException("\n".join([f"none of {len(entries)} {what}", *errors]))
    for error in errors:
        click.echo(f"! {printable(error)}", err=True)
    console.print(f"{len(entries) - len(errors)} of {len(entries)} {what}: {out}", soft_wrap=True, highlight=False,
                  markup=False)  # fmt: skip
