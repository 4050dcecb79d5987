"""Python imports this at its start where this folder is on PYTHONPATH: vLLM's V2 runner, which is made for GPUs, then
runs its Triton kernels in Triton's own interpreter, on a CPU."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import triton.backends


class _Driver:
    @staticmethod
    def is_active() -> bool:
        return True

    def __getattr__(self, name: str) -> object:
        raise AttributeError(name)


class _Backend:
    driver, compiler = _Driver, None


triton.backends.backends["cpu"] = _Backend
