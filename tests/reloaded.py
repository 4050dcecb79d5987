"""What was pushed to a hub, loaded from there by plain transformers in a process of its own."""

import subprocess
import sys
from pathlib import Path

from tests.processes import environment

PROGRAM = """
import sys
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

def load(name):
    processor = AutoProcessor.from_pretrained(name)
    model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True)
    messages = [{"role": "user", "content": "What happens next?"}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], return_tensors="pt")
    return processor, model, model.generate(**inputs, max_new_tokens=24)

(local, kept, answer), (remote, pulled, same) = map(load, sys.argv[1:])
assert local.to_dict() == remote.to_dict() and local.chat_template == remote.chat_template
assert local.tokenizer.get_vocab() == remote.tokenizer.get_vocab()
weights, others = kept.state_dict(), pulled.state_dict()
assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
assert torch.equal(answer, same)
assert pulled.generate.func.__module__.startswith("transformers_modules."), "its own decoding loop"
"""


def load_again(endpoint: str, repository: str, folder: Path, cache: Path) -> None:
    """Raises AssertionError where the repository is not, bit for bit, the folder that was pushed: processor, weights,
    the answer to a prompt by the decoding loop that came with it."""
    command = [sys.executable, "-c", PROGRAM, str(folder), repository]
    variables = environment(HF_ENDPOINT=endpoint, HF_HOME=str(cache), HF_HUB_DISABLE_XET="1")
    loaded = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
