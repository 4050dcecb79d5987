"""The cost of a large run of curation: answers, tokens, GPU-hours, judge calls and money, disk; with each assumption.

It is arithmetic on quantities with their sources.  A request prefills its prompt once, for all its samples.
"""

from collections.abc import Sequence
from math import inf
from pathlib import Path

import polars as pl
from pydantic import model_validator

from assets.framework.settings import Settings
from evaluation.generation.curtailment import CONDITIONS, GainRule
from training.grading.parsers import answer_text
from training.storage.parquet import scan_parquet

STATED = "stated"
_LINE_BYTES = 330  # of a ledger line besides the answer's text and token ids
_RATES = ("answers_per_second", "prefill_per_second", "decode_per_second", "gpus")
_SHARES = ("judge_share", "judge_distinct")
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Quantity(Settings):
    """A number and its source: assumed, measured or stated.  A guess is between `value` and `most`."""

    value: float
    source: str
    most: float | None = None


def _assumed(value: float, why: str) -> Quantity:
    return Quantity(value=value, source=f"assumed: {why}")


class Assumptions(Settings):
    """Inputs of an estimate besides the rule; the defaults are for the paper's setting."""

    answers_per_row: Quantity | None = None
    """Answers of a row in both conditions; None: all that the rule may need, of which curtailment generates a part."""
    plain_tokens: Quantity = _assumed(980, "one observed frame of 1280x720 (880 merged tokens) and 100 of text")
    """Prompt tokens without the hint."""
    hint_tokens: Quantity = _assumed(2230, "the same and 1.42 future frames a row (the paper's figure 6)")
    """Prompt tokens with the hint."""
    answer_tokens: Quantity = _assumed(289, "Qwen3-VL-8B on FutureBench (the paper, table 7)")
    """Completion tokens of an answer."""
    answers_per_second: Quantity | None = None
    """Per GPU; where it is set, tokens per second are not looked at."""
    prefill_per_second: Quantity = _assumed(20_000, "prompt tokens per GPU; 8.8 G parameters at 40 % of 989 TFLOP/s")
    decode_per_second: Quantity = Quantity(
        value=800, most=2_900, source="assumed: our decoder on a GPU; at most 87 tokens in 30 ms"
    )
    """Completion tokens per GPU."""
    gpus: Quantity = _assumed(8, "one node")
    judge_share: Quantity = _assumed(0.9, "answers that no rule settles; TwiFF's questions are open-ended")
    judge_distinct: Quantity = _assumed(0.7, "different texts among those; the same text is judged once")
    judge_prompt_tokens: Quantity = _assumed(350, "the judge's instructions, a question and two short answers")
    judge_answer_tokens: Quantity = _assumed(10, "a verdict in JSON, no thinking")
    price_in: Quantity | None = None
    """Of a million prompt tokens of the judge."""
    price_out: Quantity | None = None
    """Of a million completion tokens of the judge."""
    ledger_bytes: Quantity = _assumed(11, "per token of an answer: its text and its token ids in JSON")
    table_bytes: Quantity = _assumed(5.5, "per token of an answer: answers and verdicts in parquet")
    row_bytes: Quantity = _assumed(1_000, "a row's question, reasoning and counts in parquet")
    verdict_bytes: Quantity = _assumed(300, "a reply in the judge's ledger")
    clip_bytes: Quantity = _assumed(7e5, "Panda-70M at 360 px, 1.6 TB for 2.4 M clips; at most one a row")

    @model_validator(mode="after")
    def _each_is_in_range(self) -> "Assumptions":
        for name, quantity in self:
            if quantity is not None and name in _RATES and not 0 < quantity.value < inf:
                raise ValueError(f"{name} must be more than 0; found {quantity.value}")
            if quantity is not None and not 0 <= quantity.value <= (1 if name in _SHARES else inf):
                raise ValueError(f"{name} must be 0 or more{', at most 1' * (name in _SHARES)}; found {quantity.value}")
        return self

    def stated(self, **values: float | None) -> "Assumptions":
        """With these values; None leaves a field as it is.  Raises ValueError for a value that is out of range."""
        quantities = {name: Quantity(value=value, source=STATED) for name, value in values.items() if value is not None}
        return self.model_validate({**dict(self), **quantities})

    def at_most(self) -> "Assumptions":
        """With the most that each guess may be."""
        guesses = {name: Quantity(value=q.most, source=q.source) for name, q in self if q is not None and q.most}
        return self.model_copy(update=guesses)

    def measured(
        self, rows: int, answers: Sequence[Path], verdicts: Sequence[Path], at_once: float = 1.0
    ) -> "Assumptions":
        """With what earlier runs show: answers of a row, tokens of an answer, answers per second, what went to the
        judge.

        `answers` and `verdicts` are tables of curation/gain_answers and curation/visual_gain, about `rows` rows;
        `at_once` requests were in flight per GPU, 1 where the model ran locally, since its answers carry their share of
        their batch's seconds.
        """
        counts = scan_parquet(*answers).select(
            pl.len(),
            pl.sum_horizontal("text_tokens", "latent_tokens", "control_tokens").sum(),
            seconds=pl.sum("prefill_seconds") + pl.sum("decode_seconds"),
        )
        n, tokens, seconds = counts.collect().row(0)
        graded = scan_parquet(*verdicts).select("row_id", "text", "graded_by").collect()
        judged = graded.filter(graded_by="judge")
        distinct = len({(row_id, answer_text(text)) for row_id, text, _ in judged.iter_rows()})
        ratios = {
            "answers_per_row": (n, rows if n else 0, f"{rows:,} rows"),
            "answer_tokens": (tokens, n, f"{n:,} answers"),
            "answers_per_second": (at_once * n, seconds, f"{n:,} answers"),
            "judge_share": (judged.height, graded.height, f"{graded.height:,} verdicts"),
            "judge_distinct": (distinct, judged.height, f"{judged.height:,} verdicts of the judge"),
        }
        values = {
            name: Quantity(value=part / whole, source=f"measured on {source}")
            for name, (part, whole, source) in ratios.items()
            if whole
        }
        return self.model_validate({**dict(self), **values})


class Estimate(Settings):
    """The cost of so many rows by the titles of a table, and its assumptions; `least`: where guesses are at their
    most."""

    rows: Quantity
    rule: GainRule
    cost: dict[str, float | None]
    least: dict[str, float | None]
    assumptions: Assumptions

    def lines(self) -> list[tuple[str, str]]:
        """A table: title and amount."""
        units = {title: "B" if title.startswith("disk") else "" for title in self.cost}
        return [(title, bounds(self.least[title], self.cost[title], unit)) for title, unit in units.items()]

    def assumed(self) -> list[tuple[str, str, str]]:
        """A table: quantity, value and source."""
        rule = self.rule
        fixed = [
            ("rows", f"{self.rows.value:,.0f}", self.rows.source),
            ("rule", f"p_t ≤ {rule.max_p_t}, gain ≥ {rule.min_gain} of {rule.samples} + {rule.samples}", "profile"),
            ("samples per round", f"{rule.samples_per_round}", "profile"),
            ("rows sampled in full", f"{100 * rule.full_sampling_fraction:g} %", "profile"),
        ]
        rest = {name.replace("_", " "): getattr(self.assumptions, name) for name in Assumptions.model_fields}
        return fixed + [
            (name, bounds(quantity.value, quantity.most or quantity.value), quantity.source)
            for name, quantity in rest.items()
            if quantity
        ]


def estimate(rows: Quantity, rule: GainRule, assumptions: Assumptions) -> Estimate:
    """The cost of so many rows.  Raises ValueError for no rows."""
    if not 1 <= rows.value < inf:
        raise ValueError(f"an estimate is for at least one row; found {rows.value}")
    everything = _assumed(len(CONDITIONS) * rule.samples, "every answer that the rule may ask for; at most")
    assumptions = assumptions.model_copy(update={"answers_per_row": assumptions.answers_per_row or everything})
    cost, least = (_cost(int(rows.value), rule, values) for values in (assumptions, assumptions.at_most()))
    return Estimate(rows=rows, rule=rule, cost=cost, least=least, assumptions=assumptions)


def _cost(rows: int, rule: GainRule, assumptions: Assumptions) -> dict[str, float | None]:
    per = {name: quantity.value for name, quantity in assumptions if quantity}
    answers = rows * per["answers_per_row"]
    per_round = rule.samples if rule.full_sampling_fraction == 1 else min(rule.samples_per_round, rule.samples)
    requests = answers / per_round
    prompt = requests * (per["plain_tokens"] + per["hint_tokens"]) / len(CONDITIONS)
    completion = answers * per["answer_tokens"]
    seconds = prompt / per["prefill_per_second"] + completion / per["decode_per_second"]
    if "answers_per_second" in per:
        seconds = answers / per["answers_per_second"]
    calls = answers * per["judge_share"] * per["judge_distinct"]
    judge_in, judge_out = calls * per["judge_prompt_tokens"], calls * per["judge_answer_tokens"]
    priced = "price_in" in per and "price_out" in per
    return {
        "answers": answers,
        "requests (prefills)": requests,
        "prompt tokens": prompt,
        "completion tokens": completion,
        "GPU-hours": seconds / 3600,
        f"hours on {per['gpus']:g} GPU{'s' * (per['gpus'] != 1)}": seconds / 3600 / per["gpus"],
        "judge calls": calls,
        "judge prompt tokens": judge_in,
        "judge completion tokens": judge_out,
        "judge's price": (judge_in * per["price_in"] + judge_out * per["price_out"]) / 1e6 if priced else None,
        "disk: ledgers": answers * _LINE_BYTES + completion * per["ledger_bytes"] + calls * per["verdict_bytes"],
        "disk: tables": completion * per["table_bytes"] + rows * per["row_bytes"],
        "disk: clips": rows * per["clip_bytes"],
    }


def bounds(least: float | None, most: float | None, unit: str = "") -> str:
    """An amount, or the two between which it is."""
    return " – ".join(dict.fromkeys((brief(least, unit), brief(most, unit))))


def brief(value: float | None, unit: str = "") -> str:
    """Three digits and a unit; a dash for what is missing."""
    if value is None:
        return "-"
    size, prefix = next(((size, prefix) for size, prefix in _UNITS if value >= size), (1.0, ""))
    return " ".join(filter(None, (f"{value / size:.3g}", prefix + unit)))
