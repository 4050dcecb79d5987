"""The tiny Qwen3-VL that the demo and the tests start from: `python -m training.tiny` makes the weights kept here.

It perceives well and predicts poorly: it names any tile that it sees and answers with the future frames as hints, but
it was never trained on a frame that it could not see.
"""

from pathlib import Path

BASE = Path(__file__).parent / "base"  # the checkpoint that ships with the project
