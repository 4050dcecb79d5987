"""Prompts to a model of which nothing is known but its name, and the text of its replies: all missing answers of a
prompt are one request with `n`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.generation.chat_messages import chat_messages, served_text, why_no_text
from evaluation.generation.config import GenerationConfig
from evaluation.generation.requests import Answer, Request
from training.chat.completion import ChatCompletion, Choice, MalformedError
from training.chat.connection import ReplyRules
from training.chat.endpoint import EndpointRefusesError, EndpointSettings
from training.chat.server import GOES_ON
from training.data.video import FrameCache

MIN_EMPTY, MAX_EMPTY_SHARE = 20, 0.2
"""The work ends at so many replies without an answer, if they are at least this share of all replies."""


class TextForm:
    """Implements evaluation.generation.endpoint.ChatForm, and counts the replies without an answer.

    Only the first reply to each prompt counts: one that gets none however often it is sent counts once.  `answers`:
    those that the model gave before.
    """

    rules = ReplyRules()

    def __init__(self, settings: EndpointSettings, generation: GenerationConfig, factor: int, answers: int) -> None:
        self.failure: EndpointRefusesError | None = None
        self._who = f"the endpoint {settings.model!r} at {', '.join(settings.base_urls)}"
        self._generation, self._factor = generation, factor
        self._replies, self._empty = answers, 0
        self._counted: set[str] = set()

    def chat(self, request: Request, frame_cache: FrameCache) -> "TextChat":
        messages = chat_messages(self._generation, self._factor, request.content, frame_cache)
        return TextChat(self, request.prompt_id, {"messages": messages, **sampling(self._generation)})

    def count(self, prompt_id: str, choices: Sequence[Choice]) -> None:
        """Sets `failure` where too many replies are empty."""
        if prompt_id in self._counted:
            return
        self._counted.add(prompt_id)
        empty = [choice for choice in choices if served_text(choice) is None]
        self._replies += len(choices)
        self._empty += len(empty)
        if empty and self._empty >= max(MIN_EMPTY, MAX_EMPTY_SHARE * self._replies):
            self.failure = EndpointRefusesError(
                f"{self._who}: {self._empty} of {self._replies} replies hold no answer, one of them: "
                f"{why_no_text(empty[0])}; {GOES_ON}"
            )


@dataclass(frozen=True)
class TextChat:
    """Implements evaluation.generation.endpoint.Chat."""

    form: TextForm
    prompt_id: str
    fields: dict[str, Any]

    def body(self, samples: Sequence[int]) -> dict[str, Any]:
        return {**self.fields, "n": len(samples)}

    def answers(self, samples: Sequence[int], completion: ChatCompletion) -> list[Answer]:
        self.form.count(self.prompt_id, completion.choices)
        answered = [(text, choice) for choice in completion.choices if (text := served_text(choice)) is not None]
        if not answered:
            raise MalformedError(f"a reply without an answer: {why_no_text(completion.choices[0])}")
        return [
            _answer(self.prompt_id, sample, text, choice, completion)
            for sample, (text, choice) in zip(samples, answered, strict=False)
        ]


def sampling(generation: GenerationConfig) -> dict[str, Any]:
    """The fields of a request that say how answers are sampled."""
    return {"temperature": generation.temperature, "top_p": generation.top_p, "max_tokens": generation.max_new_tokens}


def _answer(prompt_id: str, sample: int, text: str, choice: Choice, completion: ChatCompletion) -> Answer:
    share = len(completion.choices)
    used = (completion.usage and completion.usage.completion_tokens) or 0
    return {
        "prompt_id": prompt_id,
        "sample": sample,
        "text": text,
        "tokens": [],
        "text_tokens": used // share,
        "latent_tokens": 0,
        "control_tokens": 0,
        "spans": [],
        "finished": choice.finish_reason == "stop",
        "prefill_seconds": 0.0,
        "decode_seconds": completion.seconds / share,
    }
