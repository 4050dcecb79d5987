"""`future-l1 predict`: a model answers a question, or a file of them, in this process."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from pipelines.cli.common import (
    CHECKPOINT,
    CONSOLE,
    FILE,
    NEW_FILE,
    POSITIVE,
    SYSTEM_PROMPT,
    make_room,
    read_text,
    report_entries,
    write_json_lines,
)
from training.data.records import load_records
from training.runtime.printable import printable

LABELS = {"reason": "reason", "span": "span", "answer": "[bold]answer[/]", "text": "text"}


@click.command()
@CHECKPOINT
@click.option("--video", type=FILE, metavar="CLIP", help="The clip that the question is about.")
@click.option("--frames", metavar="K,K", help="Which of its key frames 1..8 are shown, as 1,3.")
@click.option("--question", metavar="TEXT")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--prompts", type=FILE, metavar="FILE", help="Instead: a JSON file of records or questions, one batch.")
@click.option("--out", type=NEW_FILE, metavar="FILE", help="Where the JSON of --prompts goes.")
@click.option("--max-latents", type=POSITIVE, metavar="N", help="The cap on a span (L_max), if not the checkpoint's.")
@click.option("--release-cap", is_flag=True, help="Twice that cap, as the public release decodes.")
@click.option("--max-new-tokens", type=POSITIVE, default=1024, show_default=True, metavar="N")
@SYSTEM_PROMPT
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

    With --prompts and --out, decode all prompts of a file as one batch into token ids, spans and latents.  `explore
    --export` makes a page of a question, with what its spans resemble.

    \b
    Example:
      future-l1 predict --checkpoint DIR --video clip.mp4 --frames 1,3 --question "What happens next?"
    """
    if checkpoint is None:
        raise click.UsageError("give --checkpoint, the model that answers")
    if (question is None) == (prompts is None) or (prompts is None) != (out is None):
        raise click.UsageError("give --question (with --video and --frames), or --prompts and --out")
    if (video is None) != (frames is None) or (prompts and (video or as_json)):
        raise click.UsageError("--video and --frames go together, and with --question; so does --json")
    values = load_records(prompts) if prompts else [_prompt(question, video, frames)]
    system = read_text(system_prompt)
    make_room(out, prompts)
    from evaluation.reports.prediction import predict, with_latent_config
    from training.sft.inspection import open_checkpoint

    bundle = with_latent_config(open_checkpoint(checkpoint), max_latents, system, release_cap)
    report = predict(bundle, values, prompts.parent if prompts else Path(), max_new_tokens)
    if prompts is not None and out is not None:
        write_json_lines(report, out)
        report_entries(report["prompts"], "prompts answered", out)
        return
    [answer] = report.pop("prompts")
    if "error" in answer:
        raise click.ClickException(answer["error"])
    _show(answer | report, max_new_tokens, as_json)


def _prompt(question: str | None, video: Path | None, frames: str | None) -> dict[str, Any]:
    """The options as a prompt of a file would be."""
    if video is None or frames is None:
        return {"id": "--question", "question": question}
    try:
        indices = [int(index) for index in frames.split(",")]
    except ValueError:
        raise click.BadParameter(f"key frames are numbers 1..8 with commas between, as 1,3; found {frames!r}",
                                 param_hint="--frames") from None  # fmt: skip
    return {"id": video.name, "video": str(video.absolute()), "frames": indices, "question": question}


def _show(answer: dict[str, Any], max_new_tokens: int, as_json: bool) -> None:
    from evaluation.generation.segments import segments

    pieces = segments(answer["text"])
    if as_json:
        reasoning = [segment.text for segment in pieces if segment.kind == "reason"]
        final = next((segment.text for segment in reversed(pieces) if segment.kind == "answer"), None)
        click.echo(json.dumps(answer | {"reasoning": reasoning, "answer": final}))
        return
    table = Table.grid("", "", padding=(0, 2))
    for segment in pieces:
        latents = f"{segment.latents} latent{'' if segment.latents == 1 else 's'}"
        table.add_row(
            LABELS[segment.kind], Text(latents if segment.kind == "span" else printable(segment.text, keep="\n"))
        )
    CONSOLE.print(table)
    if not answer["finished"]:
        CONSOLE.print(f"[yellow]![/] cut after {max_new_tokens} tokens: --max-new-tokens lets it go on")
    if not any(segment.kind == "answer" for segment in pieces):
        CONSOLE.print("[yellow]![/] it gave no <answer>")
