"""The last JSON object in a text: what a judge that thinks or talks first has to say."""

import json

LONGEST = 50_000
"""Characters at the end of the text that are searched; a verdict is far shorter."""
THOUGHTS, THOUGHTS_END = "<think>", "</think>"


def last_object(text: str) -> str:
    """The last JSON object of a text that is in no other, as it stands there; empty without one.

    What stands before the end of thoughts is a draft, and all is where they do not end.  Each opening brace is read at
    most as deep as Python reads JSON, within a bounded text, so that the time is bounded for any text.
    """
    text = text.rpartition(THOUGHTS_END)[2]
    if text.lstrip().startswith(THOUGHTS):
        return ""
    text = text[-LONGEST:]
    decoder, found, at = json.JSONDecoder(), "", text.find("{")
    while at >= 0:
        try:
            end = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError):
            end = at + 1
        else:
            found = text[at:end]
        at = text.find("{", end)
    return found
