"""What a profile costs before anything runs.

The arithmetic is in assets.curation.estimate and training.estimate; here a profile's settings meet it (inputs), and the
parts become one estimate (costs).
"""
