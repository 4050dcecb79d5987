"""`future-l1 evaluate`: a checkpoint on a benchmark without Dagster, and its answers scored again without the model."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table

from evaluation import evaluate as evaluation
from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.futurebench import FutureBench, FutureBenchSettings
from evaluation.benchmarks.seedbench import SeedBench, SeedBenchSettings
from evaluation.benchmarks.twiffbench import TwiffBench, TwiffBenchSettings
from evaluation.generation.controls import CONTROLS
from evaluation.generation.jobs import INTERVENTIONS, AnswerJob, checkpoint_generation
from pipelines.cli.common import CHECKPOINT, CONSOLE, FILE, FOLDER, POSITIVE
from training.chat.endpoint import EndpointDownError, EndpointRefusesError
from training.grading.judge import Judge, JudgeSettings
from training.runtime.printable import printable
from training.storage.artifacts import checkpoint_folder

SCORING = ("out", "name", "parser", "judge_url", "judge_model", "repeat_judgements")
"""The options that need no model."""
BENCHMARKS = ("futurebench", "twiffbench", "seedbench", "seedbench_open")
LAYOUTS = {
    "futurebench": ("video32", "keyframes"),
    "twiffbench": ("images_first", "interleaved"),
    "seedbench": ("video", "observation"),
}
LAYOUTS_TOLD = "; ".join(f"{name}: {', '.join(layouts)}" for name, layouts in LAYOUTS.items())
PARSERS = ("strict", "release", "release_direct", "option_text")
NEW_TOKENS = {"futurebench": 2048}
MOST_NEW_TOKENS = 4096  # of the others


@click.command()
@CHECKPOINT
@click.option("--benchmark", "name", type=click.Choice(BENCHMARKS), help="seedbench_open: without its options.")
@click.option("--source", type=FOLDER, metavar="DIR", help="The benchmark's folder.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", required=True)
@click.option("--limit", type=POSITIVE, metavar="N", help="N of the items, the same on every machine.")
@click.option("--layout", type=click.Choice([name for of_one in LAYOUTS.values() for name in of_one]), metavar="NAME",
              help=f"How items are shown. {LAYOUTS_TOLD} [the first of each].")  # fmt: skip
@click.option("--frames", type=click.Choice(["embedded", "clip"]), help="TwiFF-Bench: where its frames are [embedded].")
@click.option("--suffix", metavar="TEXT", help="What follows the question.")
@click.option("--intervention", type=click.Choice(INTERVENTIONS), default="none", show_default=True, metavar="NAME",
              help=f"What stands in for the latents: {', '.join(INTERVENTIONS[1:])}.")  # fmt: skip
@click.option("--reference-latents", type=FILE, metavar="FILE", help="Safetensors with `mean`, for that intervention.")
@click.option(
    "--control", type=click.Choice(CONTROLS), default="none", show_default=True, help="What is shown instead."
)
@click.option("--parser", type=click.Choice(PARSERS), help="Multiple choice: what reads the answer [strict].")
@click.option("--judge-url", metavar="URL", help="The judge's OpenAI-compatible server.")
@click.option("--judge-model", metavar="NAME")
@click.option("--repeat-judgements", type=POSITIVE, metavar="K", help="Judgements of an answer; a mark is their mean.")
@click.option("--max-new-tokens", type=POSITIVE, metavar="N", help="[2048 for futurebench, 4096]")
@click.option("--image-tokens", type=POSITIVE, nargs=2, metavar="LEAST MOST", help="Vision tokens of an image.")
@click.option("--system-prompt", type=FILE, metavar="FILE", help="In place of the checkpoint's own; may be empty.")
@click.option("--batch-size", type=POSITIVE, default=16, show_default=True)
@click.option("--time", "timed", type=click.IntRange(min=0), default=0, metavar="N", show_default=True,
              help="Answer N of the items once more, one at a time, to time an answer.")  # fmt: skip
@click.option("--retry-refused", is_flag=True, help="Ask again what was refused, such as unreadable frames.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.pass_context
def evaluate(
    context: click.Context,
    checkpoint: Path | None,
    name: str | None,
    source: Path | None,
    out: Path,
    limit: int | None,
    layout: str | None,
    frames: str | None,
    suffix: str | None,
    parser: str | None,
    judge_url: str | None,
    judge_model: str | None,
    repeat_judgements: int | None,
    max_new_tokens: int | None,
    image_tokens: tuple[int, int] | None,
    system_prompt: Path | None,
    batch_size: int,
    device: str,
    retry_refused: bool,
    timed: int,
    **how: Any,
) -> None:
    """Have a checkpoint answer a benchmark, and score the answers.

    Every answer is kept in --out as it is given; started again, the command goes on from there. Without --checkpoint
    and --source, the answers that are in --out are scored again, which needs no model. The judge's key comes from the
    environment: FUTURE_L1_JUDGE_API_KEY, else OPENAI_API_KEY.
    """
    if (checkpoint is None) != (source is None) or (checkpoint and name is None):
        raise click.UsageError(
            "--checkpoint, --benchmark and --source go together; without them, --out is scored again"
        )
    if checkpoint is None:
        _refuse_what_needs_asking(context)
    if (judge_url is None) != (judge_model is None):
        raise click.UsageError("--judge-url and --judge-model go together")
    given = {
        "layout": layout, "frames": frames, "suffix": suffix, "parser": parser, "judgements": repeat_judgements
    }  # fmt: skip
    try:
        chosen, settings = (name, {}) if checkpoint and name else _stored(name, out)
        settings |= {option: value for option, value in given.items() if value is not None}
        benchmark = _benchmark(chosen, settings)
        judge = _judge(benchmark, out, judge_url, judge_model)
        if checkpoint is not None and source is not None:
            checkpoint = checkpoint_folder(checkpoint)
            if judge is not None and evaluation.held(out) is None:  # later there may be nothing to ask it
                judge.preflight()
            generation = checkpoint_generation(
                checkpoint,
                max_new_tokens=max_new_tokens or NEW_TOKENS.get(benchmark.name, MOST_NEW_TOKENS),
                batch_size=batch_size,
                image_tokens=image_tokens,
                system=system_prompt and system_prompt.read_text(encoding="utf-8"),
            )
            job = partial(AnswerJob, checkpoint=checkpoint.absolute(), generation=generation, **how)
            evaluation.answer(benchmark, source, job, out, limit, device, retry_refused, timed)
        report = evaluation.score(benchmark, out, judge)
    except (ValueError, OSError, evaluation.AnsweringFailedError, EndpointDownError, EndpointRefusesError) as error:
        raise click.ClickException(str(error)) from error
    show(report, CONSOLE)
    CONSOLE.print(f"Tables   {out}", soft_wrap=True, highlight=False, markup=False)


def show(report: Mapping[str, Any], console: Console) -> None:
    """The report for people: scores by split with n and interval, then what is missing, and the cost."""
    changed = [f"{what} {report['run'][what]}" for what in ("intervention", "control") if report["run"][what] != "none"]
    title = ", ".join([f"{report['benchmark']}: {report['checkpoint']['name']}", *changed, report["status"]])
    console.print(printable(title), highlight=False, markup=False, soft_wrap=True)
    table = Table("", "score" if "judge" in report else "percent", "95 %", "n")
    for label, value in _scores(report):
        if "correct" in value:
            score, scale = value["accuracy"], 100.0
            n = f"{value['correct']} of {value['n']}"
        else:
            score, scale, n = value["mean"], 1.0, str(value["n"])
        interval = "" if score is None else " to ".join(f"{scale * bound:.2f}" for bound in value["interval"])
        table.add_row(label, "–" if score is None else f"{scale * score:.2f}", interval, n)
    console.print(table)
    for line in _remarks(report):
        console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def _scores(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    own = {mark: report[mark] for mark in ("cot", "answer", "average") if mark in report}
    splits = report.get("splits") or {name: marks["average"] for name, marks in report["categories"].items()}
    return [*splits.items(), *own.items()]


def _remarks(report: Mapping[str, Any]) -> list[str]:
    lines = [f"answered {report['answered']} of {report['items']} items"]
    if report["limit"]:
        lines[0] += f", which are {report['limit']['asked']} of {report['limit']['of']}"
    counted = report["coverage"]
    if "judged" in counted:
        given = counted["judgements"]
        lines[0] += f"; judged {counted['judged']} ({given['given']} of {given['asked']} judgements)"
    else:
        lines[0] += f"; parser {report['parser']}: {report['unparsed']['count']} of {report['unparsed']['n']} unparsed"
    if report["reason"]:
        lines.append(f"no score: {report['reason']}")
    for found in ("problems", "refused"):
        reasons = report[found] if found == "problems" else report[found]["reasons"]
        lines += [f"{found}: {n} x {reason}" for reason, n in reasons.items()]
    for mark, told in (report.get("agreement") or {}).items():
        kappa = "undefined" if told["kappa"] is None else f"{told['kappa']:.3f}"
        lines.append(f"agreement of judgements, {mark}: quadratic kappa {kappa} (n = {told['n']})")
    return lines + _cost(report)


def _cost(report: Mapping[str, Any]) -> list[str]:
    told = report["cost"]
    if not told["n"]:
        return []
    prefilled = "" if told["prompt_tokens"] is None else f" after {told['prompt_tokens']:.1f} of its prompt"
    lines = [
        f"tokens of an answer: {told['text_tokens']:.1f} text, {told['latent_tokens']:.1f} latent,"
        f" {told['control_tokens']:.1f} control{prefilled}; {told['cut_short']} of {told['n']} cut short",
        f"one device, batches of {report['batch_size']}: {told['answers_per_second']:.2f} answers a second,"
        f" {told['prefill_seconds']:.4f} s prefill and {told['decode_seconds']:.4f} s decoding of each",
    ]
    one = told.get("latency")
    if one:
        per_second = one["accuracy_per_second"]
        lines.append(
            f"one at a time: {one['seconds']['mean']:.4f} s an answer (n = {one['n']})"
            + (f", {per_second:.1f} points of accuracy a second" if per_second is not None else "")
        )
    return lines


def _refuse_what_needs_asking(context: click.Context) -> None:
    """Raises UsageError for an option that would change what is in the folder, where it is only scored again."""
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if given and option.name not in SCORING:
            raise click.UsageError(f"{option.opts[0]} changes how a model is asked: it needs --checkpoint and --source")


def _stored(name: str | None, out: Path) -> tuple[str, dict[str, Any]]:
    """The benchmark in the folder, and its settings.  Raises ValueError where there is none, or another."""
    about = evaluation.held(out)
    if about is None:
        raise ValueError(f"{out} holds no answers: give --checkpoint, --benchmark and --source, to have some")
    if name not in (None, about["benchmark"]):
        raise ValueError(f"{out} holds answers to {about['benchmark']}, not to {name}")
    return about["benchmark"], about["settings"]


def _benchmark(name: str, given: dict[str, Any]) -> Benchmark:
    """The benchmark with the settings that were given.  Raises ValueError for one that it does not have."""
    if name == "futurebench" and given.get("layout") == "keyframes":
        given = {"suffix": "", **given}  # a question as SFT rendered it has nothing after it
    kinds: dict[str, Any] = {"futurebench": FutureBenchSettings, "twiffbench": TwiffBenchSettings}
    kind = kinds.get(name, SeedBenchSettings)
    for option in set(given) - set(kind.model_fields):
        raise ValueError(f"{name} has no {option}: leave the option out")
    fields = given | ({"open_ended": name == "seedbench_open"} if kind is SeedBenchSettings else {})
    settings = kind(**fields)
    match name:
        case "futurebench":
            return FutureBench(settings)
        case "twiffbench":
            return TwiffBench(settings)
        case _:
            return SeedBench(settings)


def _judge(benchmark: Benchmark, out: Path, url: str | None, model: str | None) -> Judge | None:
    if url is None or model is None:
        return None
    if not benchmark.judged:
        raise ValueError(f"nothing of {benchmark.name} is judged: leave --judge-url and --judge-model out")
    return Judge(JudgeSettings(base_url=url, model=model, cache=out / evaluation.REPLIES))
