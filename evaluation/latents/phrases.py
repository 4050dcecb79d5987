"""Sentences of the necessity report: what an intervention or control does, and what each outcome means."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrase:
    """`subject`: of the sentence; then its end if accuracy is lost, is equal (a loss of MIN_LOSS is excluded), or is
    gained."""

    subject: str
    lost: str
    equal: str
    gained: str


def _replacing(by: str) -> Phrase:
    return Phrase(
        f"replacing latents by {by}", "these latents are used", "these latents are not used", "these latents do harm"
    )


def _forcing(spans: int) -> Phrase:
    return Phrase(
        f"forcing exactly {spans} span{'s' if spans > 1 else ''}",
        "the model's choice of spans, in number and place, is better",
        "so many are as good as the model's choice",
        "so many are better than the model's choice",
    )


def _showing(subject: str, what: str) -> Phrase:
    return Phrase(subject, f"{what} is used", f"{what} is not used", f"{what} does harm")


def _rotating(places: int) -> Phrase:
    return Phrase(
        f"rotating the options by {places} place{'s' if places > 1 else ''}",
        "where an option stands decides answers",
        "accuracy does not depend on where an option stands",
        "where an option stands decides answers",
    )


WITHOUT_LATENTS = "this model's answers have no spans, so nothing was changed"
PHRASES: dict[str, Phrase] = {
    "zeros": _replacing("zeros"),
    "noise": _replacing("noise of the same norm"),
    "mean": _replacing("the mean of the training rows' future frames"),
    "other_item": _replacing("another item's latents"),
    "other_answer": _replacing("the latents of an item with another answer"),
    "same_answer": Phrase(
        "replacing latents by those of an item with the same answer",
        "these latents carry more than which answer is right",
        "latents of any item with the same answer do as well",
        "latents of another item with the same answer do better",
    ),
    "first_repeated": Phrase(
        "repeating the first latent of each span",
        "the later latents of a span are used",
        "the later latents of a span are not used",
        "the later latents of a span do harm",
    ),
    "markers_only": Phrase(
        "closing each span as soon as it opens",
        "what spans hold is used",
        "what spans hold is not used",
        "what spans hold does harm",
    ),
    "no_span": Phrase("allowing no span", "spans are used", "spans are not used", "spans do harm"),
    "spans_1": _forcing(1),
    "spans_2": _forcing(2),
    "spans_3": _forcing(3),
    "no_video": _showing("showing grey frames", "what the frames show"),
    "question_only": _showing("leaving the frames out", "what the frames show"),
    "shuffled_frames": _showing("shuffling the frames", "the order of the frames"),
    "options_1": _rotating(1),
    "options_2": _rotating(2),
    "options_3": _rotating(3),
}
