"""`future-l1 evaluate`: a checkpoint on a benchmark without Dagster, and its answers scored again without the model."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource
from rich.table import Table

from evaluation import evaluate as evaluation
from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.options import PARSERS
from evaluation.benchmarks.registry import BENCHMARKS, make_benchmark
from evaluation.generation.config import checkpoint_generation
from evaluation.generation.controls import CONTROLS
from evaluation.generation.jobs import INTERVENTIONS, AnswerJob
from pipelines.cli.common import BENCHMARK, CHECKPOINT, CONSOLE, FILE, FOLDER, POSITIVE, read_text
from pipelines.heartbeat import set_activity
from training.chat.endpoint import ENDPOINT_KEYS, ServerSettings
from training.grading.judge import Judge, JudgeSettings
from training.runtime.printable import printable
from training.storage.artifacts import checkpoint_folder

SCORING_OPTIONS = ("out", "benchmark", "parser", "judge", "judge_model", "judge_samples")
"""Options that need no model."""
SETTINGS = ("layout", "frames", "suffix", "parser", "judge_samples")
"""Options that are fields of a benchmark's settings."""
LAYOUTS = {
    name: get_args(settings.model_fields["layout"].annotation)
    for name, (_, settings) in BENCHMARKS.items()
    if name != "seedbench_open"
}
LAYOUT_HELP = "; ".join(f"{name}: {' or '.join(layouts)}" for name, layouts in LAYOUTS.items())
MAX_NEW_TOKENS = {"futurebench": 2048}
DEFAULT_MAX_NEW_TOKENS = 4096


@click.command()
@CHECKPOINT
@click.option("--endpoint", multiple=True, metavar="URL",
              help="A vLLM server that has the checkpoint (`future-l1 serve`); may be repeated. One on this machine "
                   "says which that is.")  # fmt: skip
@click.option("--concurrency", type=POSITIVE, metavar="N", help="Requests in flight, at the endpoint [64].")
@BENCHMARK
@click.option("--data-dir", type=FOLDER, metavar="DIR", help="The benchmark's folder.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", required=True,
              help="Where answers and report go.")  # fmt: skip
@click.option("--limit", type=POSITIVE, metavar="N", help="N of the items, the same on every machine.")
@click.option("--layout", type=click.Choice(sorted({name for names in LAYOUTS.values() for name in names})),
              metavar="NAME", help=f"Layout of the prompt; {LAYOUT_HELP} [the paper's].")  # fmt: skip
@click.option("--frames", type=click.Choice(["embedded", "clip"]), help="TwiFF-Bench: where its frames are [embedded].")
@click.option("--prompt-suffix", "suffix", metavar="TEXT", help="The text after the question.")
@click.option("--intervention", type=click.Choice(INTERVENTIONS), default="none", show_default=True, metavar="NAME",
              help=f"What replaces the latents: {', '.join(INTERVENTIONS[1:])}.")  # fmt: skip
@click.option("--reference-latents", type=FILE, metavar="FILE", help="Safetensors with `mean`, for that intervention.")
@click.option("--control", type=click.Choice(CONTROLS), default="none", show_default=True, metavar="NAME",
              help=f"How the prompt is changed: {', '.join(CONTROLS[1:])}.")  # fmt: skip
@click.option("--parser", type=click.Choice(PARSERS), help="Multiple choice: the parser of answers [strict].")
@click.option("--judge", metavar="URL", help="The judge's OpenAI-compatible server.")
@click.option("--judge-model", metavar="NAME")
@click.option("--judge-samples", type=POSITIVE, metavar="K", help="Judgements of an answer; a mark is their mean [1].")
@click.option("--max-new-tokens", type=POSITIVE, metavar="N", help="[2048 for futurebench, 4096 for the others]")
@click.option("--image-tokens", type=POSITIVE, nargs=2, metavar="MIN MAX", help="Vision tokens of an image.")
@click.option("--system-prompt", type=FILE, metavar="FILE", help="In place of the checkpoint's own; may be empty.")
@click.option("--batch-size", type=POSITIVE, default=16, show_default=True)
@click.option("--latency-samples", type=click.IntRange(min=0), default=0, metavar="N", show_default=True,
              help="Answer N of the items once more, one at a time, to measure latency.")  # fmt: skip
@click.option("--retry-refused", is_flag=True, help="Send refused prompts again, such as those of unreadable frames.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.pass_context
def evaluate(
    context: click.Context,
    checkpoint: Path | None,
    endpoint: tuple[str, ...],
    concurrency: int | None,
    benchmark: str | None,
    data_dir: Path | None,
    out: Path,
    limit: int | None,
    judge: str | None,
    judge_model: str | None,
    max_new_tokens: int | None,
    image_tokens: tuple[int, int] | None,
    system_prompt: Path | None,
    batch_size: int,
    latency_samples: int,
    retry_refused: bool,
    device: str,
    **options: Any,
) -> None:
    """Answer a benchmark with a checkpoint, and score the answers.

    Each answer is stored in --out at once; started again, the command resumes. Without --checkpoint or --endpoint, and
    --data-dir, the answers in --out are scored again, which needs no model. Keys come from the environment:
    FUTURE_L1_JUDGE_API_KEY, FUTURE_L1_ENDPOINT_API_KEY, else OPENAI_API_KEY.

    \b
    Example:
      future-l1 evaluate --checkpoint DIR --benchmark futurebench --data-dir data/futurebench --out results/futurebench
    """
    if concurrency is not None and not endpoint:
        raise click.UsageError("--concurrency is that of --endpoint")
    if endpoint and latency_samples:
        raise click.UsageError("--latency-samples measures this machine's decoder: leave --endpoint out")
    pace = {"concurrency": concurrency} if concurrency else {}
    servers = ServerSettings(base_urls=endpoint, **pace) if endpoint else None
    if servers is not None and checkpoint is None and data_dir is not None:
        from training.chat.connection import served_folder  # imports openai

        checkpoint = served_folder(servers.base_urls[0], ENDPOINT_KEYS)
    if (checkpoint is None) != (data_dir is None) or (checkpoint and benchmark is None):
        raise click.UsageError(
            "--checkpoint (or --endpoint), --benchmark and --data-dir go together; without them, --out is scored again"
        )
    if checkpoint is None:
        _refuse_generation_options(context)
    if (judge is None) != (judge_model is None):
        raise click.UsageError("--judge and --judge-model go together")
    fields = {name: value for name in SETTINGS if (value := options.pop(name)) is not None}
    if checkpoint and benchmark:
        name, settings = benchmark, fields
    else:
        run = evaluation.stored_run(out, benchmark)
        name, settings = run["benchmark"], run["settings"] | fields
    chosen = make_benchmark(name, settings)
    client = _judge_client(chosen, out, judge, judge_model)
    if checkpoint is not None and data_dir is not None:
        checkpoint = checkpoint_folder(checkpoint)
        if client is not None and evaluation.read_about(out) is None:  # on a resumed run every reply may be stored
            client.preflight()
        generation = checkpoint_generation(
            checkpoint,
            max_new_tokens=max_new_tokens or MAX_NEW_TOKENS.get(name, DEFAULT_MAX_NEW_TOKENS),
            batch_size=batch_size,
            image_tokens=image_tokens,
            system_prompt=read_text(system_prompt),
        )
        job = partial(
            AnswerJob, checkpoint=checkpoint.absolute(), endpoint=servers, generation=generation, **options
        )
        set_activity(f"generating answers to {name}")
        evaluation.answer(chosen, data_dir, job, out, limit, device, retry_refused, latency_samples)
    set_activity(f"scoring answers to {name}")
    report = evaluation.score(chosen, out, client)
    _show(report)
    click.echo(f"Tables   {out}")


def _show(report: Mapping[str, Any]) -> None:
    """Prints the report for people: scores by split with n and interval, then what is missing, and the cost."""
    changed = [f"{what} {report['run'][what]}" for what in ("intervention", "control") if report["run"][what] != "none"]
    title = ", ".join([f"{report['benchmark']}: {report['checkpoint']['name']}", *changed, report["status"]])
    click.echo(printable(title))
    table = Table("", "score" if "judge" in report else "percent", "95 %", "n")
    for label, value in _scores(report):
        if "correct" in value:
            score, scale = value["accuracy"], 100.0
            n = f"{value['correct']} of {value['n']}"
        else:
            score, scale, n = value["mean"], 1.0, str(value["n"])
        interval = "" if score is None else " to ".join(f"{scale * bound:.2f}" for bound in value["interval"])
        table.add_row(label, "–" if score is None else f"{scale * score:.2f}", interval, n)
    CONSOLE.print(table)
    for line in _remarks(report):
        click.echo(printable(line))


def _scores(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Scores of splits, then of all items; of several marks, splits have their average."""
    totals = {mark: report[mark] for mark in ("cot", "answer", "average") if mark in report}
    last = list(totals)[-1]
    return [*((name, score.get(last, score)) for name, score in report["splits"].items()), *totals.items()]


def _remarks(report: Mapping[str, Any]) -> list[str]:
    lines = [f"answered {report['answered']} of {report['items']} items"]
    if report["limit"]:
        lines[0] += f", which are {report['limit']['n']} of {report['limit']['of']}"
    coverage = report["coverage"]
    if "judged" in coverage:
        judgements = coverage["judgements"]
        lines[0] += f"; judged {coverage['judged']} ({judgements['received']} of {judgements['expected']} judgements)"
    else:
        lines[0] += f"; parser {report['parser']}: {report['unparsed']['count']} of {report['unparsed']['n']} unparsed"
    if report["reason"]:
        lines.append(f"no score: {report['reason']}")
    for name, reasons in (("problems", report["problems"]), ("refused", report["refused"]["reasons"])):
        lines += [f"{name}: {n} x {reason}" for reason, n in reasons.items()]
    for mark, agreement in (report.get("agreement") or {}).items():
        kappa = "undefined" if agreement["kappa"] is None else f"{agreement['kappa']:.3f}"
        lines.append(f"agreement of judgements, {mark}: quadratic kappa {kappa} (n = {agreement['n']})")
    return lines + _cost(report)


def _cost(report: Mapping[str, Any]) -> list[str]:
    cost = report["cost"]
    if not cost["n"]:
        return []
    prefilled = "" if cost["prompt_tokens"] is None else f" after {cost['prompt_tokens']:.1f} of its prompt"
    pace = f"{cost['answers_per_second']:.2f} answers a second"
    if report["engines"]:
        pace = f"served by {'; '.join(report['engines'])}: {pace}"
    else:
        pace = (f"one device, batches of {report['batch_size']}: {pace}, {cost['prefill_seconds']:.4f} s prefill and"
                f" {cost['decode_seconds']:.4f} s decoding of each")  # fmt: skip
    lines = [
        f"tokens of an answer: {cost['text_tokens']:.1f} text, {cost['latent_tokens']:.1f} latent,"
        f" {cost['control_tokens']:.1f} control{prefilled}; {cost['cut_short']} of {cost['n']} cut short",
        pace,
    ]
    latency = cost.get("latency")
    if latency:
        per_second = latency["accuracy_per_second"]
        lines.append(
            f"one at a time: {latency['seconds']['mean']:.4f} s an answer (n = {latency['n']})"
            + (f", {per_second:.1f} points of accuracy a second" if per_second is not None else "")
        )
    return lines


def _refuse_generation_options(context: click.Context) -> None:
    """Raises UsageError for an option of generation, where the folder is only scored again."""
    for option in context.command.params:
        on_command_line = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if on_command_line and option.name not in SCORING_OPTIONS:
            raise click.UsageError(f"{option.opts[0]} changes how answers are generated: it needs --checkpoint and "
                                   "--data-dir")  # fmt: skip


def _judge_client(benchmark: Benchmark, out: Path, url: str | None, model: str | None) -> Judge | None:
    if url is None or model is None:
        return None
    if not benchmark.judged:
        raise ValueError(f"{benchmark.name} has no judge: leave --judge and --judge-model out")
    return Judge(JudgeSettings(base_url=url, model=model, cache=out / evaluation.REPLIES))
