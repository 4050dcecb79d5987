"""A state of the explorer as a page of its own: no server, no external resources, and the same script and style."""

import base64
import hashlib
import json
from pathlib import Path

from evaluation.explorer.events import Event
from evaluation.explorer.session import Session
from evaluation.explorer.state import State

HERE = Path(__file__).parent
STYLE, SCRIPT = '<link rel="stylesheet" href="page.css">', '<script src="page.js" defer></script>'
FINAL = ("item", "before", "changes", "report")
"""The events that a page needs that is not live."""


def export(session: Session, state: State) -> str:
    """The page.  Raises ValueError or OSError as `Session.show` does."""
    events: dict[str, Event] = {}

    def keep(event: Event) -> None:
        events[event["event"]] = event

    session.show(state, keep)
    return page({"model": session.name, "events": [events[name] for name in FINAL if name in events]})


def page(content: dict[str, object]) -> str:
    """The page with its content; whatever the texts hold is data, which no browser reads as markup."""
    data = json.dumps(content).replace("<", "\\u003c")
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    html = (HERE / "page.html").read_text(encoding="utf-8").replace(STYLE, head).replace(SCRIPT, "")
    tail = f'<script type="application/json" id="export">{data}</script>\n<script>{script}</script>\n</body>'
    return html.replace("</body>", tail)


def _hash(text: str) -> str:
    """What allows exactly this text inline."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
