"""Answers of a checkpoint in plain transformers: a program that imports nothing of the project.

`python transformers_answers.py CHECKPOINT PROMPTS OUT MAX_NEW_TOKENS`: PROMPTS has an object with `id` and `messages` a
line, OUT gets one with `id` and the answer's `tokens`, and at last one with `transformers`' version and `seconds`.
"""

import json
import sys
import time
from pathlib import Path

import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor

BATCH_SIZE = 50


def main(checkpoint: str, prompts: str, out: str, max_new_tokens: str) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True)
    rows = [json.loads(line) for line in Path(prompts).read_text().splitlines()]
    start, lines, pad = time.perf_counter(), [], processor.tokenizer.pad_token_id
    for begin in range(0, len(rows), BATCH_SIZE):
        batch = rows[begin : begin + BATCH_SIZE]
        inputs = processor.apply_chat_template(
            [row["messages"] for row in batch], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt", processor_kwargs={"padding": True},
        )  # fmt: skip
        sequences = model.generate(**inputs, max_new_tokens=int(max_new_tokens), do_sample=False)
        answers = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        for row, answer in zip(batch, answers, strict=True):
            lines.append({"id": row["id"], "tokens": [token for token in answer if token != pad]})
    lines.append({"transformers": transformers.__version__, "seconds": time.perf_counter() - start})
    rooms = {"assets", "evaluation", "pipelines", "training"} & {name.partition(".")[0] for name in sys.modules}
    assert not rooms, f"not plain transformers: {rooms}"
    Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
