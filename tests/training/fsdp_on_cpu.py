"""A training program under FSDP2 without a GPU: `python -m tests.training.fsdp_on_cpu training.sft --config sft.json`.

torch shards over gloo as over NCCL, but accelerate 1.15 asks for FSDP only where it found accelerators
(`AcceleratorState.__init__`).  Here it takes gloo processes for such; everything else is the program as it is.
"""

import os
import runpy
import sys
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tests.training.killed import Interrupting
from training.runtime import programs

INTERRUPTED = "FUTURE_L1_TEST_INTERRUPTED"
"""The variable with the RANK of the process that gets INT after its first step."""

begin = PartialState.__init__


def begin_as_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    begin(self, *args, **kwargs)
    if self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = begin_as_gpus
    if os.environ["RANK"] == os.environ.get(INTERRUPTED):
        programs.Reporter = lambda out, _pipes, quiet: Interrupting(out, 1, quiet)  # type: ignore
    del sys.argv[0]  # the program finds its own name there
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
