"""The imports of programs and commands, and a model's lazy modules: what a fork need not import."""

from importlib import import_module

from training.model.checkpoint import load
from training.tiny import BASE

MODULES = (
    "evaluation.generation.endpoint", "evaluation.generation.local", "evaluation.latent_retrieval",
    "pipelines.definitions", "training.rl.__main__", "training.sft.__main__",
)  # fmt: skip
for module in MODULES:
    import_module(module)
load(BASE)
