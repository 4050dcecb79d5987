"""`make fuzz`: mutated clips, rows, shards, images, replies of servers and stored files through the real commands.

Nothing but a result, quarantine, an item's problem or a sentence may come out of it, in bounded time and memory. Rounds
follow each other until the time is over; each prints its seed, and `make fuzz FUZZ="--only ROUND --seed SEED"` repeats
it. Ends with status 1 if a round found something; its folder is kept.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import benchmarks, curation
from tests.fuzz.commands import ViolationError

ROUNDS: dict[str, Callable[[random.Random, Path], str]] = {
    round_.__name__: round_
    for round_ in (
        curation.rows, curation.clips, curation.shards, curation.replies, curation.store,
        benchmarks.futurebench, benchmarks.twiffbench, benchmarks.score, benchmarks.predict,
    )
}  # fmt: skip
SECONDS = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the first round")
    parser.add_argument("--only", choices=ROUNDS, action="append", help="this kind of round; may be repeated")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no round begins (%(default)s)")
    arguments = parser.parse_args()
    violations, started, seed = 0, time.monotonic(), arguments.seed
    names = arguments.only or list(ROUNDS)
    while True:
        for name in names:
            violations += not _holds(name, seed)
            if time.monotonic() - started > arguments.seconds or (arguments.only and violations):
                print(f"{violations} violations in {time.monotonic() - started:.0f} s")
                return bool(violations)
        seed += 1


def _holds(name: str, seed: int) -> bool:
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    try:
        outcome = ROUNDS[name](random.Random(f"{name}:{seed}"), folder)
    except ViolationError as violation:
        print(f"{name:12} seed {seed}: VIOLATION in {folder}: {violation}", flush=True)
        return False
    print(f"{name:12} seed {seed}: {outcome}", flush=True)
    shutil.rmtree(folder)
    return True


if __name__ == "__main__":
    sys.exit(main())
