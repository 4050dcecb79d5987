"""Generated blocks out of vLLM's shared prefix cache; no vLLM here.

A block of the cache is found by its tokens, and all `<|latent|>` are one token: without this, a request that comes back
after a preemption could go on with the latents of another one that wrote the same text.  Prompts are shared as ever.
"""

import hashlib
from collections.abc import Callable
from typing import Any


def keep_generated_blocks_apart(request: Any) -> None:
    """From now on, a block's hash has the request's name in it: vLLM 0.32 has hashed the prompt's blocks by then."""
    hashes: Callable[[Any], list[bytes]] | None = request._block_hasher
    if hashes is not None:
        name = request.request_id.encode()
        request._block_hasher = lambda r: [hashlib.sha256(name + block).digest() for block in hashes(r)]
