"""Writes the demo's source: a world with known dynamics, laid out as the real sources are."""
