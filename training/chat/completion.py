"""Chat completions: the fields that are read, and text that is safe to store and to print.

Servers differ in where they put text: `content` is text or a list of parts; a reasoning model's thoughts are in
`reasoning_content` (older) or `reasoning`.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from training.runtime.printable import printable

QUOTED_CHARACTERS = 300
TEXT_PARTS = ("text", "output_text")


class MalformedError(Exception):
    """A completion without a usable reply."""


def plain_text(text: str) -> str:
    """Text that every store takes: U+FFFD in place of NUL and of half a surrogate pair."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def one_line(text: str, keys: Sequence[str] = ()) -> str:
    """One short line of a server's message, without control characters and the keys, which it may repeat."""
    for key in keys:
        text = text.replace(key, "[key]") if key != "loopback" else text
    line = " ".join(printable(text[: 10 * QUOTED_CHARACTERS]).split())
    return line if len(line) <= QUOTED_CHARACTERS else line[:QUOTED_CHARACTERS] + " ..."


def _text(value: Any) -> Any:
    """The text of `content`: parts of type "text" are put together, others (images, thoughts) passed over."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        texts = (part.get("text") for part in value if part.get("type", "text") in TEXT_PARTS)
        value = "".join(text for text in texts if isinstance(text, str))
    return plain_text(value) if isinstance(value, str) else value


def _text_if_any(value: Any) -> str | None:
    text = _text(value)
    return text if isinstance(text, str) else None


class Message(BaseModel):
    content: Annotated[str | None, BeforeValidator(_text)] = None
    reasoning_content: Annotated[str | None, BeforeValidator(_text_if_any)] = None
    reasoning: Annotated[str | None, BeforeValidator(_text_if_any)] = None

    @property
    def text(self) -> str:
        """The model's reply; empty without any."""
        return self.content or ""

    @property
    def thoughts(self) -> str:
        """The reasoning that the server set apart; empty without any."""
        return (self.reasoning_content or self.reasoning or "").strip()


class Choice(BaseModel):
    """One reply; `token_ids` and what follows come from vLLM with our plug-in, and are checked where they are used."""

    message: Message
    finish_reason: str | None = None
    token_ids: Any = None
    latents: Any = None
    latents_error: str | None = None


def _count_if_any(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**31 else None


Count = Annotated[int | None, BeforeValidator(_count_if_any)]
"""A count that fits a table; any other value is read as none."""


class Usage(BaseModel):
    prompt_tokens: Count = None
    completion_tokens: Count = None


class ChatCompletion(BaseModel):
    """A chat completion (openai's own type validates nothing).

    plugin: the hash of our plug-in, where the server has it; seconds: latency of this attempt.
    """

    choices: list[Choice] = Field(min_length=1)
    usage: Annotated[Usage | None, BeforeValidator(lambda value: value if isinstance(value, dict) else None)] = None
    prompt_token_ids: Any = None
    system_fingerprint: Annotated[str | None, BeforeValidator(_text_if_any)] = None
    plugin: str | None = None
    seconds: float = 0.0
