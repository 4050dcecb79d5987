"""What latents say in words: whether the words nearest to them name the option that the answer chooses.

Two readings of each latent (`training.model.lens`): the token with the nearest embedding, and the logit lens of the
latent and of the state in its place after each layer.  An option is named where a word stands among the readings of an
answer's latents that is in this option's text and in no other of the item's.  Two baselines: the item's other options,
which the answer does not choose; and the latents of the other answers, which name what all latents and all answers
lean to.  No torch.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from evaluation.benchmarks.options import LETTERS
from evaluation.latents.outcomes import outcome_of_mean
from evaluation.statistics import bootstrap_mean

READINGS = ("lens", "nearest")
OUTCOMES = ("not used", "undecided", "used")
"""From the weakest to the strongest."""
BASELINES = ("other_option", "other_latents")
MIN_DIFFERENCE = 0.05
"""The smallest surplus of answers whose latents name the chosen option, over each baseline, that counts."""
MOST_FREQUENT = 8


def words_report(items: pl.DataFrame, graded: pl.DataFrame, readings: pl.DataFrame) -> dict[str, Any] | None:
    """Per reading: how many answers' latents name the chosen option, and another one on average; how many of the other
    answers' latents name the chosen option; the paired differences to both, the share of each layer, and the most
    frequent words; the `strongest` reading, its outcome, and a sentence.

    items: id, options; graded: id, parsed; readings: answers with `words`.  None without readings of latents.
    """
    table = readings.filter(pl.col("words").list.len() > 0).select("prompt_id", "words")
    rows = table.join(graded.filter(pl.col("parsed").is_not_null()), left_on="prompt_id", right_on="id")
    rows = rows.join(items.select("id", "options"), left_on="prompt_id", right_on="id")
    if rows.is_empty():
        return None
    chosen = list(rows.select("words", "parsed", "options").iter_rows())
    report: dict[str, Any] = {"n": len(chosen)}
    for reading in READINGS:
        report[reading] = _reading([([_of(word, reading) for word in words], *rest) for words, *rest in chosen])
    outcomes = {reading: _outcome(report[reading]["differences"]) for reading in READINGS}
    report["strongest"] = max(READINGS, key=lambda reading: OUTCOMES.index(outcomes[reading]))
    report["outcome"] = outcomes[report["strongest"]]
    return report | {"sentence": _sentence(report)}


def _of(word: Mapping[str, Any], reading: str) -> list[str]:
    """A latent's words: one, or one a layer."""
    value = word[reading]
    return [value] if isinstance(value, str) else list(value)


def _reading(answers: Sequence[tuple[list[list[str]], str, list[str]]]) -> dict[str, Any]:
    """answers: the words of each latent (one a layer), the letter of the chosen option, and the options."""
    chosen, layers = [], [list[bool]() for _ in answers[0][0][0]]
    other: dict[str, list[float]] = {baseline: [] for baseline in BASELINES}
    frequent, answers_with = Counter[str](), defaultdict[str, set[int]](set)
    vocabularies = [{word for latent in latents for word in map(_word, latent)} for latents, _, _ in answers]
    for number, words in enumerate(vocabularies):
        for word in words:
            answers_with[word].add(number)
    for number, ((latents, letter, options), words) in enumerate(zip(answers, vocabularies, strict=True)):
        distinctive, place = distinctive_words(options), LETTERS.index(letter)
        named = [bool(of_option & words) for of_option in distinctive]
        chosen.append(float(named[place]))
        other["other_option"].append(sum(named[:place] + named[place + 1 :]) / (len(options) - 1))
        naming = set[int]().union(*(answers_with.get(word, ()) for word in distinctive[place])) - {number}
        other["other_latents"].append(len(naming) / max(1, len(answers) - 1))
        for layer, hits in enumerate(layers):
            hits.append(bool(distinctive[place] & {_word(latent[layer]) for latent in latents}))
        frequent.update(_word(latent[0]) for latent in latents)
    differences = {
        baseline: bootstrap_mean([mine - its for mine, its in zip(chosen, values, strict=True)]).as_dict()
        for baseline, values in other.items()
    }
    return {
        "chosen_option": bootstrap_mean(chosen).as_dict(),
        **{baseline: bootstrap_mean(values).as_dict() for baseline, values in other.items()},
        "differences": differences,
        "by_layer": [sum(hits) / len(hits) for hits in layers],
        "most_frequent": dict(frequent.most_common(MOST_FREQUENT)),
    }


def distinctive_words(options: Sequence[str]) -> list[set[str]]:
    """The words of each option that no other option has."""
    words = [set(re.findall(r"\w+", option.lower())) for option in options]
    counts = Counter(word for of_option in words for word in of_option)
    return [{word for word in of_option if counts[word] == 1} for of_option in words]


def _word(token: str) -> str:
    return token.strip().lower()


def _outcome(differences: Mapping[str, Any]) -> str:
    """A reading has the weakest outcome of its differences."""
    return min((outcome_of_mean(differences[of], MIN_DIFFERENCE) for of in BASELINES), key=OUTCOMES.index)


def _sentence(report: Mapping[str, Any]) -> str:
    shares = {}
    for name in READINGS:
        chosen, *others = (100 * report[name][of]["mean"] for of in ("chosen_option", *BASELINES))
        shares[name] = f"{chosen:.1f} % ({', '.join(f'{other:.1f} %' for other in others)})"
    conclusion = {
        "used": "these latents can be read as words",
        "not used": "these latents say nothing in words",
        "undecided": "whether these latents say anything in words is undecided",
    }[report["outcome"]]
    return (
        "The option that the answer chooses (another option of the item, the chosen one by another answer's latents) is"
        f" named by the words nearest to its latents in {shares['nearest']} and by the logit lens in"
        f" {shares['lens']} of answers (n = {report['n']}): {conclusion}."
    )
