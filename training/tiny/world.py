"""Marble ring: the demo's world with known dynamics (numpy only).

A 64x64 frame is 4x4 cells of 16 px.  The 12 border cells are a ring of coloured tiles, at most two of a colour.  A
marble sits on one tile; a white marble moves one tile clockwise per step, a black one counter-clockwise.  One observed
frame decides everything that follows: a question asks for the colour under the marble `hop` steps later.

The options of a question are the colours at ring offsets {+h, -h, +h', -h'} (h the question's hop, h' another one), all
distinct and shuffled, so neither the list of options nor "near the marble" gives the answer away; `rule_baselines`
measures what is left.  Boards fall into splits by a hash of their tiles, the same for every seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["base", "train", "validation", "test"]
CATEGORIES = ("instructional", "predictive", "camera")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
RGB = np.array(
    [(220, 40, 40), (40, 170, 60), (40, 80, 220), (240, 220, 50), (130, 40, 170), (245, 140, 30), (60, 210, 220),
     (250, 150, 200)], dtype=np.uint8)  # fmt: skip
RING = np.array([(0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1), (3, 0), (2, 0), (1, 0)])
N_TILES, SIDE, CELL = 12, 64, 16
MARBLE_RADIUS = 5.5
OTHER_HOPS = {0: (1, 2, 3), 1: (2, 3), 2: (1, 3), 3: (2, 4)}  # h' for each asked hop h
SPLIT_SHARES: tuple[tuple[Split, int], ...] = (("base", 50), ("train", 30), ("validation", 5), ("test", 15))
KINDS = {1: "white", -1: "black"}  # the marble of each direction
PHRASES = {
    "predictive": "Which colour is the marble on at step {h}?",
    "instructional": "Move the marble to step {h}. Which colour is it on?",
    "camera": "The camera follows the marble to step {h}. Which colour does it show?",
}


@dataclass(frozen=True)
class Boards:
    """N boards: tiles [N,12] colour ids, pos [N] ring position at step 0, direction [N] (+1 clockwise, -1)."""

    tiles: np.ndarray
    pos: np.ndarray
    direction: np.ndarray

    def __len__(self) -> int:
        return len(self.pos)

    def __getitem__(self, index: slice | np.ndarray) -> "Boards":
        return Boards(self.tiles[index], self.pos[index], self.direction[index])

    def colour_at(self, step: int | np.ndarray) -> np.ndarray:
        """Colour id [N] under the marble `step` steps later (int or [N])."""
        return self.tiles[np.arange(len(self)), (self.pos + self.direction * step) % N_TILES]

    def frames(self, step: float | np.ndarray = 0) -> np.ndarray:
        """uint8 RGB frames [N,64,64,3] at `step`; between whole steps the marble is on its way to the next tile."""
        return render(self.tiles, self.pos + self.direction * np.asarray(step, float), self.direction)


@dataclass(frozen=True)
class Questions:
    """N questions about N boards: hop [N], options [N,4] colour ids, answer [N] colour id."""

    boards: Boards
    hop: np.ndarray
    options: np.ndarray
    answer: np.ndarray

    def __len__(self) -> int:
        return len(self.hop)

    def __getitem__(self, index: slice | np.ndarray) -> "Questions":
        return Questions(self.boards[index], self.hop[index], self.options[index], self.answer[index])


def board_split(tiles: np.ndarray) -> Split:
    """The split of one board (tiles [12]), by SHA-256 of its tiles: independent of every seed."""
    point = int.from_bytes(hashlib.sha256(tiles.astype(np.uint8).tobytes()).digest()[:4], "big") % 100
    for name, share in SPLIT_SHARES:
        if point < share:
            return name
        point -= share
    raise AssertionError("the split shares must add up to 100")


def draw_boards(n: int, rng: np.random.Generator, split: Split) -> Boards:
    """n random boards of one split."""
    kept: list[np.ndarray] = []
    while len(kept) < n:
        tiles = rng.random((2 * n, 2 * len(COLOURS))).argsort(1)[:, :N_TILES] // 2  # at most two tiles of a colour
        kept += [row for row in tiles if board_split(row) == split]
    return Boards(np.stack(kept[:n]), rng.integers(0, N_TILES, n), rng.choice([-1, 1], n))


def ask(boards: Boards, hop: np.ndarray, rng: np.random.Generator) -> tuple[Questions, np.ndarray]:
    """Questions about each board at hop [N], and ok [N]: whether its four option colours are distinct (drop others)."""
    other = np.array([rng.choice(OTHER_HOPS[int(h)]) for h in hop])
    step = boards.direction * hop
    mirror = np.where(hop == 0, other % 3 + 1, -step)  # hop 0 is its own mirror, so another tile takes its place
    offsets = np.stack([step, mirror, other, -other], 1)
    options = np.take_along_axis(boards.tiles, (boards.pos[:, None] + offsets) % N_TILES, 1)
    ok = np.array([len(set(row)) == 4 for row in options])
    return Questions(boards, hop, rng.permuted(options, axis=1), options[:, 0].copy()), ok


def draw_questions(n: int, rng: np.random.Generator, split: Split, hops: Sequence[int] = (1, 2, 3)) -> Questions:
    """n questions on n boards of one split, hops sampled uniformly from `hops`."""
    parts, have = [], 0
    while have < n:
        candidates, ok = ask(draw_boards(2 * n, rng, split), rng.choice(hops, 2 * n), rng)
        parts.append(candidates[ok])
        have += int(ok.sum())
    boards = Boards(*(np.concatenate([getattr(p.boards, f) for p in parts])[:n] for f in ("tiles", "pos", "direction")))
    columns = (np.concatenate([getattr(p, f) for p in parts])[:n] for f in ("hop", "options", "answer"))
    return Questions(boards, *columns)


def render(tiles: np.ndarray, pos: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """uint8 RGB frames [N,64,64,3]: tiles [N,12], pos [N] (fractional: between two tiles), direction [N]."""
    n = len(tiles)
    cells = np.full((n, 4, 4, 3), 128, np.uint8)  # a grey middle
    cells[:, RING[:, 0], RING[:, 1]] = RGB[tiles]
    frames = cells.repeat(CELL, 1).repeat(CELL, 2)
    whole = np.floor(pos).astype(int)
    part = (pos - whole)[:, None]
    cell = RING[whole % N_TILES] * (1 - part) + RING[(whole + 1) % N_TILES] * part
    centre = cell * CELL + (CELL - 1) / 2  # [N,2] row, column in pixels
    grid = np.arange(SIDE)
    rows, columns = (grid - centre[:, :1]) ** 2, (grid - centre[:, 1:]) ** 2
    disc = rows[:, :, None] + columns[:, None, :] <= MARBLE_RADIUS**2
    frames[disc] = np.where(direction == 1, 255, 0).astype(np.uint8).repeat(disc.sum((1, 2)))[:, None]
    return frames


def fog(frames: np.ndarray, level: float) -> np.ndarray:
    """Frames blended into a flat grey; level 0 leaves them as they are, level 1 hides everything."""
    return np.round(frames * (1 - level) + 110 * level).astype(np.uint8)


def question_text(category: str, hop: int, event: tuple[int, int] | None = None) -> str:
    """The question; `event` = (step, colour id) states a later event in words, as FutureBench's interpolation does."""
    prefix = f"At step {event[0]} it is on {COLOURS[event[1]]}. " if event else ""
    return prefix + PHRASES[category].format(h=hop)


def options_text(options: Sequence[int]) -> str:
    """The lettered options, one a line, each line beginning with a newline."""
    return "".join(f"\n{letter}. {COLOURS[c]}" for letter, c in zip("ABCD", options, strict=True))


def reasoning(direction: int, hop: int) -> tuple[str, ...]:
    """The text before each of the frames 1..hop; what follows the last frame is the answer.

    It says what can be seen, which marble rolls and how far, and nothing of a later frame: where words name the
    colours on the way, latents are needless.
    """
    return (f"{KINDS[direction]} rolls to step {hop}", *["Then it rolls on."] * (hop - 1))


def rule_baselines(questions: Questions, seed: int = 0) -> dict[str, float]:
    """Accuracy of rules that must not solve the task, so that a leak through the options would show."""
    rng = np.random.default_rng(seed)
    boards, options, n = questions.boards, questions.options, len(questions)
    rows, coin = np.arange(n), rng.choice([-1, 1], n)
    random_option = options[rows, rng.integers(0, 4, n)]

    def first_named(offsets: Sequence[int | np.ndarray]) -> np.ndarray:
        """The first of these tiles whose colour is an option, else a random option."""
        answer, done = random_option.copy(), np.zeros(n, bool)
        for offset in offsets:
            colour = boards.tiles[rows, (boards.pos + offset) % N_TILES]
            hit = (options == colour[:, None]).any(1) & ~done
            answer[hit], done[hit] = colour[hit], True
        return answer

    counts = (boards.tiles[:, :, None] == options[:, None, :]).sum(1) + rng.random((n, 4)) * 0.1
    rules = {
        "random option": random_option,
        "commonest colour on the board": options[rows, counts.argmax(1)],
        "rarest colour on the board": options[rows, counts.argmin(1)],
        "nearest named tile, either way": first_named([coin * k for k in (0, 1, 1, 2, 2, 3, 3)]),
        "always one tile clockwise": first_named([1]),
        "one tile in its direction": first_named([boards.direction]),
        "nearest named tile in its direction": first_named([boards.direction * k for k in range(1, 5)]),
        "hop tiles, random direction": first_named([coin * questions.hop]),
    }
    return {name: float((answer == questions.answer).mean()) for name, answer in rules.items()}
