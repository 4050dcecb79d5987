"""vLLM's schedulers, with generated blocks out of the shared prefix cache (training.engines.blocks)."""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from training.engines.blocks import keep_generated_blocks_apart


class LatentScheduler(Scheduler):
    """`--scheduler-cls` of the V1 runner on a CPU."""

    def add_request(self, request: Any) -> None:
        keep_generated_blocks_apart(request)
        super().add_request(request)


class LatentAsyncScheduler(AsyncScheduler):
    """`--scheduler-cls` of the V2 runner."""

    def add_request(self, request: Any) -> None:
        keep_generated_blocks_apart(request)
        super().add_request(request)
