"""Trajectory records, key frames, video reading, dialogue and the toy world; no torch at import."""
