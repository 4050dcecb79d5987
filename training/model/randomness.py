"""Random numbers by counter: each is a hash of a seed, a stream, a step and a place, and of nothing else.

So an answer depends on its own seed, not on the batch that it was decoded in.  The hash is splitmix64's output function
(Steele, Lea & Flood 2014) in torch's int64, which wraps as unsigned arithmetic does: same bits on every device, and the
host never waits.  Names: B rows, n numbers a row.
"""

import hashlib
import math

import torch

TOKENS, LATENTS, INTERVENTION = 1, 2, 3  # streams: what numbers are for


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits from these parts, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def uniform(seeds: torch.Tensor, stream: int, step: int | torch.Tensor, n: int) -> torch.Tensor:
    """Float64 [B,n] in [0,1), 53 random bits each; seeds int64 [B], step one number or one for each row [B]."""
    place = torch.arange(1, n + 1, device=seeds.device) * _GOLDEN
    step = _mixed(torch.as_tensor(step) + (stream << 56))  # a number stays on the host: torch takes it as a scalar
    state = _mixed(_mixed(seeds ^ step).unsqueeze(-1) + place)
    return _shifted(state, 11).double() * 2.0**-53


def normal(seeds: torch.Tensor, stream: int, step: int | torch.Tensor, n: int) -> torch.Tensor:
    """Float32 [B,n] of a standard normal distribution (Box-Muller); arguments as those of `uniform`."""
    half = (n + 1) // 2
    radius, angle = uniform(seeds, stream, step, 2 * half).split(half, -1)
    radius, angle = (-2 * torch.log1p(-radius)).sqrt(), 2 * math.pi * angle
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[:, :n].float()


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned right shift: torch's own repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)
