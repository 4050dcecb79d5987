"""The one option that an answer states: a letter at its beginning or after a stock phrase, and no other one beside it.

A letter names an option where it stands alone: `(B)`, `B.`, `B)`, `B`.  A is an English word, too, and names one only
where no word follows to which an article could belong ("A dog runs").  Markup, quotation marks and width do not count.
Every pattern takes linear time: what repeats is possessive or bounded.
"""

import re
import unicodedata
from collections.abc import Mapping

_PIECE = re.compile(r"\S{1,1000}|\s+")
_QUOTES = '"“”„«»‹›「」『』`'
_MARKUP = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf|tt)|emph|displaystyle)(?![A-Za-z])|\\(?=[()\[\]{}$])"
    rf"|</?(?:b|strong|i|em|u|code|mark|p|span|br)\s?/?>|[*_#${{}}{_QUOTES}]|(?<!\w)['‘’]|['‘’](?!\w)",
    re.ASCII,
)

_WORD = r"A-Za-z0-9À-ɏ'°-"
"""Characters that a letter which stands alone does not touch; Chinese and the like may."""
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_CLOSING = r")\]】〕》>"
_NOT = r"(?:isn't|wasn't|can't|cannot)"
_WRONG = (
    r"(?:not|never|wrong|incorrect|false|invalid|im(?:possible|probable|plausible)|unlikely|le(?:ss|ast)\ likely"
    r"|excluded|eliminated|ruled\ out)"
)
_FLAGS = re.VERBOSE | re.IGNORECASE

_LEAD = re.compile(
    r"""[\s>•·→➡👉\uFE0F:–—✅✓✔【-]*+
    (?:(?:so|thus|hence|therefore|ok|okay|well)\b[\s,]*+)?+
    (?:i\s++(?:think|believe|guess)\b\s*+(?:that\s++)?+)?+
    (?:i(?:'d|'ll|\s++would|\s++will)?+\s++(?:choose|pick|select|take|say|go\s++(?:with|for))\b\s*+)?+
    (?:(?:it|that|this)(?:'s|\s++is|\s++(?:would|should|must)\s++be)\s++)?+
    (?:(?:the|my)\s++)?+
    (?:(?:correct|best|final|right|most|likely|only|chosen|selected|predicted)\s++)*+
    (?:(?:answer|ans|option|choice|letter|prediction|selection)\b\s*+
       (?:(?:is|(?:would|should|must)\s++be)\b\s*+)?+ [:=→–—-]?+ \s*+
       (?:(?:the\s++)?+(?:option|choice|letter)\b\s*+:?+\s*+)?+)?+
    (?:(?:我|认为|觉得|因此|所以|综上|故|应该|应|该|[\s,])*+ (?:最佳|最可能|正确|最终|的)*+
       (?:答案|选项|選項|选择|選擇|选|選|正解|答え|정답|是)
       (?:应该|应|是|为|為|は|은)*+ [\s:】]*+ (?:选项|選項|选|選)?+ \s*+)?+""",
    _FLAGS,
)
_LETTER = re.compile(rf"(?<![{_WORD}])(?:[(\[【〔《<]\s*+)?+([A-D])", re.IGNORECASE)
_ALONE = re.compile(r"[^\w?]*+\Z")
_DELIMITED = re.compile(
    rf"""\s*+[:;。、=→–—{_CLOSING}{_CJK}] | [.,](?![A-Za-z](?![A-Za-z])) | [^\S\n]*+\n | \s++-\s | (?<!A)\s++\(
    | \s++(?:is|{_NOT}|because|since|as|due)\b""",
    _FLAGS,
)
_NAMED = re.compile(
    rf"""(?P<denied>(?:\b(?:{_WRONG}|{_NOT}|neither|except|excluding)|不是|不选|不|非|排除)
         [\s:]*+ (?:(?:the\s++)?+(?:option|answer|choice|letter)\b\s*+)?+ [(\[]?+\s*+)?+
    (?<![{_WORD}])(?<![A-Za-z]\.)
    (?P<letter>[B-D](?![{_WORD}]|\.[A-Za-z])
      | A(?=\s*+\Z | [.,](?![A-Za-z]) | [:;!?。、/{_CLOSING}{_CJK}]
           | \s++(?:[/&+]|(?:or|and|nor|but|vs|is|was|right|correct|{_NOT}|{_WRONG})(?![A-Za-z]))))""",
    _FLAGS,
)
_DENIED = re.compile(
    rf"""[\s.:,{_CLOSING}]*+
    (?:(?:is|was|seems|looks|would|could|should)\b[^.,;\n]{{0,20}}?\b{_WRONG}\b
      | {_NOT}\b | \(\s*+{_WRONG}\s*+\) | [✗✘❌×])
    | [\s,{_CLOSING}]*+(?:是?+(?:不|错|錯|非) | (?:で|では|じゃ)(?:な|あり) | [는은가이]?+\s*+아[니님])""",
    _FLAGS,
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


def stated_letter(text: str, options: Mapping[str, str]) -> tuple[str | None, str]:
    """The letter A-D that `text` states, or None, and the rule that decided.

    The letters in an option's own text name nothing: "C. Plan B fails" is C where that is option C.
    """
    plain = without_markup(text)
    lead = _LEAD.match(plain)
    assert lead is not None  # it may be empty
    match = _LETTER.match(plain, lead.end())
    if match is None:
        return None, "no anchored letter"
    letter, alone = match[1].upper(), _ALONE.match(plain, match.end()) is not None
    if not (alone or _DELIMITED.match(plain, match.end())):
        return None, "no anchored letter"
    rest = plain[match.end() :]
    if letter not in options or normalised(rest.lstrip(f" .:,{_CLOSING}-")) != normalised(options[letter]):
        named = [(other["letter"].upper(), other["denied"]) for other in _NAMED.finditer(plain)]
        if any(other != letter for other, _ in named):
            return None, "several letters"
        if any(denied for _, denied in named) or _DENIED.match(rest):
            return None, "letter denied"
    if any(c.isalpha() for c in lead[0]):
        return letter, "phrase"
    return letter, "letter" if alone else "letter and text"
