"""The device of a run: its memory, its clock, and its facts for the JSON."""

import gc
import platform
from typing import Any

import torch

from tests.gpu.packages import versions
from training.runtime.project import commit

GIB = 2**30
CARD_GIB = 79.1
"""The memory of a card of 80 GB, which no part goes beyond, on a larger one either."""


class Machine:
    """A CUDA device, or the CPU, whose peak memory is not measured."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"
        if self.is_cuda:
            total = torch.cuda.get_device_properties(device).total_memory / GIB
            torch.cuda.set_per_process_memory_fraction(min(1.0, CARD_GIB / total), device)
        torch.backends.cudnn.allow_tf32 = False  # the tower's first layer: fp32 is compared with the CPU's

    def free(self) -> None:
        """Frees what an earlier part left, and begins to measure the peak anew."""
        gc.collect()  # a trainer and its model refer to each other
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """The most memory of tensors at once since `free`."""
        return torch.cuda.max_memory_allocated(self.device) / GIB if self.is_cuda else None

    def facts(self) -> dict[str, Any]:
        name, gib = platform.processor() or platform.machine(), None
        if self.is_cuda:
            properties = torch.cuda.get_device_properties(self.device)
            name, gib = properties.name, properties.total_memory / GIB
        return {
            "device": name, "device_gib": gib, "cuda": torch.version.cuda, "python": platform.python_version(),
            "packages": versions(), **commit(),
        }  # fmt: skip
