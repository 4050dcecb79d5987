"""Devices that an estimate is for."""

import math
from dataclasses import dataclass, replace

Range = tuple[float, float]
"""The least and the most that is to be expected."""
ACHIEVED = (0.25, 0.45)
"""The share of a GPU's peak that training reaches; a guess."""


@dataclass(frozen=True)
class Device:
    """A device's memory in GiB as its driver reports it, the FLOP/s that training reaches, the bytes a second of its
    memory, and the seconds of a decoding step for each layer, in which launches take most of the time."""

    name: str
    gib: float
    flops: Range
    bandwidth: float
    layer_seconds: Range = (0.5e-3, 1.2e-3)

    @property
    def is_cpu(self) -> bool:
        return self.name == CPU.name


def _gpu(name: str, gib: float, peak_tflops: float, bandwidth_tb: float) -> Device:
    return Device(name, gib, (ACHIEVED[0] * peak_tflops * 1e12, ACHIEVED[1] * peak_tflops * 1e12), bandwidth_tb * 1e12)


CPU = Device("cpu", math.inf, (2e10, 7e10), 1e10, (4e-3, 12e-3))
"""A core, as the demo's runs were measured on it."""
DEVICES = {
    device.name: device
    for device in (
        _gpu("h100-80gb", 79.1, 989, 3.35),
        _gpu("h200-141gb", 139.8, 989, 4.8),
        _gpu("a100-80gb", 79.1, 312, 2.0),
        _gpu("a100-40gb", 39.4, 312, 1.55),
        _gpu("l40s-48gb", 44.4, 362, 0.86),
        _gpu("rtx-4090-24gb", 23.6, 165, 1.0),
        CPU,
    )
}


def device_of(name: str) -> Device:
    """A device by its name, or one of so many GiB that is as fast as an H100.

    Raises ValueError for anything else.
    """
    if name.lower() in DEVICES:
        return DEVICES[name.lower()]
    try:
        gib = float(name.lower().removesuffix("gib"))
    except ValueError:
        gib = math.nan
    if not 0 < gib < math.inf:
        raise ValueError(f"no device {name!r}: choose from {', '.join(DEVICES)}, or say how many GiB it has")
    return replace(DEVICES["h100-80gb"], name=f"{gib:g} GiB", gib=gib)
