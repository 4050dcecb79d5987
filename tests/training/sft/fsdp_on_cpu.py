"""`training.sft` under FSDP2 without a GPU: `python -m tests.training.sft.fsdp_on_cpu --config sft.json`.

torch shards over gloo as over NCCL, but accelerate 1.15 asks for FSDP only where it found accelerators
(`AcceleratorState.__init__`).  Here it takes gloo processes for such; everything else is the program as it is.
"""

from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from training.programs import run_program
from training.sft.__main__ import SftConfig, main

begin = PartialState.__init__


def begin_as_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    begin(self, *args, **kwargs)
    if self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = begin_as_gpus
    run_program(SftConfig, main)
