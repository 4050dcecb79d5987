"""Choices that nobody makes: by the hash of a name, so that they are the same again, whatever else there is."""

import hashlib


def lot(seed: int, name: str) -> int:
    """A number of 64 bits that decides by lot."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode("utf-8", "replace")).digest()[:8], "big")
