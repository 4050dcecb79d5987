"""The programs' imports, and a model's lazy modules: the process from which `tests.forked` forks has them all."""

from importlib import import_module

from training.model.checkpoint import load
from training.tiny import BASE

for module in ("evaluation.generation.local", "tests.forked", "training.rl.__main__", "training.sft.__main__"):
    import_module(module)
load(BASE)
