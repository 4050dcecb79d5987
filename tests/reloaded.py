"""What was pushed to a hub, loaded from there as its card says, by plain transformers in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.processes import environment

PROGRAM = """
import json, pathlib, re, sys
import torch
from huggingface_hub import hf_hub_download

folder, repository = sys.argv[1:]
card = pathlib.Path(hf_hub_download(repository, "README.md")).read_text()
example = re.search(r"```python\\n(.*?)```", card, re.DOTALL)[1]
pulled, kept = {}, {}
exec(example, pulled)
exec(example.replace(f'"{repository}"', repr(folder)), kept)
weights, others = kept["model"].state_dict(), pulled["model"].state_dict()
same = [torch.equal(weight, others[name]) for name, weight in weights.items()]
processors = [space["processor"] for space in (kept, pulled)]
facts = [[one.to_dict(), one.chat_template, one.tokenizer.get_vocab()] for one in processors]
loop = getattr(pulled["model"].generate, "func", pulled["model"].generate).__module__
print(json.dumps({
    "tensors": [sum(same), len(same)],
    "processor": [sum(map(lambda pair: pair[0] == pair[1], zip(*facts))), len(facts[0])],
    "answer": [int(torch.equal(kept["answer"], pulled["answer"])), 1],
    "decoding loop": [int(loop.startswith("transformers_modules.") == ("trust_remote_code" in example)), 1],
}))
"""


def load_again(endpoint: str, repository: str, folder: Path, work: Path) -> dict[str, tuple[int, int]]:
    """Runs the example of a pushed copy's card, and the same with the folder that was pushed: by name, how many tensors
    (facts of the processor, answers, decoding loops, its own or plain transformers') are right, and of how many."""
    Image.effect_noise((64, 64), 80).convert("RGB").save(work / "frame.png")
    variables = environment(HF_ENDPOINT=endpoint, HF_HOME=str(work / "hf"), HF_HUB_DISABLE_XET="1")
    command = [sys.executable, "-c", PROGRAM, str(folder), repository]
    loaded = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    return json.loads(loaded.stdout.splitlines()[-1])
