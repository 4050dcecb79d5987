"""Checkpoints: the base as it is resolved, and what SFT and RL make of it."""
