"""Blocks of vLLM's prefix cache, which are found by their tokens: those with generated ones are a request's own."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from training.engines.blocks import keep_generated_blocks_apart

SIZE = 4
PROMPT = list(range(10))  # two blocks, and the beginning of a third


def hasher(request: Any) -> list[bytes]:
    """vLLM's: the blocks that have become full, each hashed with the one before it."""
    hashes, before = [], request.block_hashes[-1] if request.block_hashes else b""
    for start in range(SIZE * len(request.block_hashes), len(request.tokens) - SIZE + 1, SIZE):
        before = f"{before!r} {request.tokens[start : start + SIZE]}".encode()
        hashes.append(before)
    return hashes


def generate(request: Any, tokens: list[int]) -> None:
    request.tokens += tokens
    request.block_hashes += request._block_hasher(request)


def request(name: str, block_hasher: Callable[[Any], list[bytes]] | None = hasher) -> Any:
    """A new request, whose prompt vLLM has hashed."""
    made = SimpleNamespace(request_id=name, tokens=[], block_hashes=[], _block_hasher=block_hasher)
    if block_hasher:
        generate(made, PROMPT)
    keep_generated_blocks_apart(made)
    return made


def test_prompts_are_shared_and_what_is_generated_is_not() -> None:
    first, second = request("a"), request("b")
    for number in range(3):
        for one in (first, second):
            generate(one, [number] * SIZE)
    assert first.tokens == second.tokens and len(first.block_hashes) == 5
    assert first.block_hashes[:2] == second.block_hashes[:2]
    assert not set(first.block_hashes[2:]) & set(second.block_hashes[2:])


def test_hashes_are_all_different_and_kept() -> None:
    """Blocks of a request that comes back are found under the hashes that it has kept."""
    one = request("a")
    generate(one, [1] * SIZE)
    kept = list(one.block_hashes)
    generate(one, [1] * SIZE)
    assert one.block_hashes[: len(kept)] == kept and len(set(one.block_hashes)) == 4


def test_without_a_prefix_cache_nothing_is_hashed() -> None:
    assert request("a", None)._block_hasher is None
