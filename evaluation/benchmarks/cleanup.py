"""A response as TwiFF-Bench's judge reads it: the release's clean-up, step for step (reference/evaluation.md 2.3)."""

import re

_LATENT = re.compile(r"<\|latent(?:_start|_end)?\|>", re.IGNORECASE)
_CHAT = re.compile(r"<\|(?:im_start|im_end|endoftext|redacted_im_end)\|>")
_ANS = re.compile(r"<(/?)ans\s*>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer\s*>(.*?)</answer\s*>", re.IGNORECASE | re.DOTALL)
_ANSWER_SPAN = re.compile(r"<ans(?:wer)?\s*>(.*?)</ans(?:wer)?\s*>", re.IGNORECASE | re.DOTALL)
_REASON = re.compile(r"<reason\s*>(.*?)</reason\s*>", re.IGNORECASE | re.DOTALL)
_REASON_TAG = re.compile(r"</?reason\s*>", re.IGNORECASE)
_IMAGE = re.compile(r"<image>\s*")


def cleaned_response(text: str) -> str:
    """The reasoning blocks, then what stood outside them, then the first answer in its tag; control tokens removed."""
    chain, answer = split_response(text)
    return f"{chain}\n<answer>{answer}</answer>" if answer else chain


def split_response(text: str) -> tuple[str, str]:
    """The cleaned reasoning chain and answer; the answer is empty where no tag is complete."""
    plain = _ANS.sub(r"<\1answer>", _CHAT.sub("", _LATENT.sub("", text)))
    match = _ANSWER.search(plain)
    head, answer = (plain[: match.start()], match.group(1).strip()) if match else (plain, "")
    return _tidy(merged_reasons(head)), _tidy(answer)


def merged_reasons(text: str) -> str:
    """The inner texts of all complete reason blocks, joined by blank lines, and after them what was left outside."""
    blocks = [inner.strip() for inner in _REASON.findall(text)]
    return "\n\n".join(piece for piece in (*blocks, _REASON.sub("", text).strip()) if piece)


def answer_span(text: str) -> str:
    """The inner text of the first `<answer>` or `<ans>`, stripped; empty without one."""
    match = _ANSWER_SPAN.search(text)
    return match.group(1).strip() if match else ""


def without_image_markers(question: str) -> str:
    """The question as the release shows it: markers and the white space after them removed."""
    return _IMAGE.sub("", question).strip()


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", _REASON_TAG.sub("", text)).strip()
