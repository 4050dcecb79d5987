"""Answers as they are compared, and without the markup that models put around them."""

import re
import unicodedata

_PIECE = re.compile(r"\S{1,1000}|\s+")
_QUOTES = '"“”„«»‹›「」『』`'
_MARKUP = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf|tt)|emph|displaystyle)(?![A-Za-z])|\\(?=[()\[\]{}$])"
    rf"|</?(?:b|strong|i|em|u|code|mark|p|span|br)\s?/?>|[*_#${{}}{_QUOTES}]|(?<!\w)['‘’]|['‘’](?!\w)",
    re.ASCII,
)


def nfkc(text: str) -> str:
    """NFKC, in pieces of at most 1,000 characters: Python's takes quadratic time for a long run of combining marks."""
    if text.isascii():
        return text
    return "".join(unicodedata.normalize("NFKC", piece) for piece in _PIECE.findall(text))


def normalised(text: str) -> str:
    """Text compared without case, width, spacing and closing punctuation."""
    folded = " ".join(nfkc(text).casefold().split())
    return folded.strip("\"'`").rstrip(".!,;:").strip()


def without_markup(text: str) -> str:
    """NFKC without quotation marks, Markdown, HTML's inline tags and LaTeX's boxes and text commands."""
    return _MARKUP.sub("", nfkc(text)).strip()
