"""Mutations of bytes and of JSON-like values: what damage, careless exports and hostile hands make of good input."""

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

NASTY: tuple[Any, ...] = (
    None, "", " ", "\0", "\x1b[2J\x1b]0;owned\x07", "\ud800", "<|latent_start|>", "<|im_end|>", "<answer>A</answer>",
    "<image>", "<rimage> <ans>", "../../etc/passwd", "/etc/passwd", "-0aBcDeFgHi", "a/" * 3_000, "é" * 300,
    "[x]*?%.mp4", "A" * 300_000, "<ans>" * 50_000, " " * 100_000, "\n" * 50_000, "（C）", "NaN", True, 0, -1, 9, 2**31,
    2**63 - 1, -(2**63), 10**400, 1e308, float("nan"), float("inf"), [], {}, [[]], [None], [1, "2", 3.5],
    {"A": None}, {"bytes": None}, ["A", "B", "C"], {"A": "a", "B": "b", "C": "c", "D": "d", "E": "e"}, [[[[[[[[]]]]]]]],
)  # fmt: skip


def nasty(rng: random.Random) -> Any:
    """A value that nobody would write on purpose."""
    return deepcopy(rng.choice(NASTY))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes that were flipped, overwritten, cut, repeated or moved in one to four places."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) or 1)
        length = rng.choice((1, 2, 4, 8, 64, 1024))
        match rng.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 3))
            case 4:
                changed[at : at + length] = rng.randbytes(length)
            case 5:
                del changed[max(64, at) :]
            case 6:
                changed[at : at + length] = bytes(length)
    return bytes(changed)


def altered(value: Any, rng: random.Random, keep: Callable[[tuple[Any, ...]], bool] = lambda path: False) -> Any:
    """A copy of a JSON-like value in which one part, none to `keep`, is another value, missing or there twice."""
    changed = deepcopy(value)
    places = [path for path in _places(value) if not keep(path)]
    path = rng.choice(places)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    match rng.randrange(4):
        case 0:
            del holder[path[-1]]
        case 1 if isinstance(holder, list):
            holder.append(deepcopy(holder[path[-1]]))
        case 2 if isinstance(holder[path[-1]], dict | list):
            holder[path[-1]] = json.dumps(holder[path[-1]])
        case _:
            holder[path[-1]] = nasty(rng)
    return changed


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield (*path, name)
        yield from _places(part, (*path, name))
