"""Answers of a checkpoint in `vllm.LLM`, with their latents: a program for the environment of vLLM.

`python vllm_answers.py CHECKPOINT PROMPTS OUT MAX_NEW_TOKENS OPTIONS`: PROMPTS has an object with `messages` and
the request's `options` a line, OPTIONS are further arguments of LLM as JSON.  OUT gets one with `tokens` and `latents`
by span a line, and at last one with vLLM's version, how many requests were preempted, and the CPU's seconds.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from training.engines import engine_arguments
from training.engines.options import PREFIX

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
               "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # fmt: skip
PREEMPTIONS = "vllm:num_preemptions"
AS_THEY_ARE = {"do_resize": False}
"""Pictures come at their final size."""


def trial_run(worker: Any) -> None:
    """What the V2 runner does on a GPU before it knows of any request."""
    import torch

    width = worker.model_runner.model_config.hf_config.text_config.hidden_size
    worker.model_runner._dummy_sampler_run(torch.zeros(2, width))


def main(checkpoint: str, prompts: str, out: str, max_new_tokens: str, options: str) -> None:
    import vllm

    arguments = engine_arguments(cpu=True)
    llm = vllm.LLM(checkpoint, dtype="float32", enforce_eager=True, generation_config="vllm", max_num_seqs=16,
                   disable_log_stats=False, **arguments, **json.loads(options))  # fmt: skip
    if "logits_processors" not in arguments:
        llm.collective_rpc(trial_run)
    rows = [json.loads(line) for line in Path(prompts).read_text().splitlines()]
    params = [
        vllm.SamplingParams(
            temperature=0.0,
            max_tokens=int(max_new_tokens),
            extra_args={**row["options"], f"{PREFIX}return_key": str(number)},
        )
        for number, row in enumerate(rows)
    ]
    start = time.process_time()
    answers = llm.chat([row["messages"] for row in rows], params, use_tqdm=False, mm_processor_kwargs=AS_THEY_ARE)
    cpu_seconds = time.process_time() - start
    lines = []
    for number, answer in enumerate(answers):
        (taken,) = llm.collective_rpc("take_latents", args=(str(number),))
        lines.append({"tokens": list(answer.outputs[0].token_ids), **taken[0]})
    preemptions = sum(metric.value for metric in llm.get_metrics() if metric.name == PREEMPTIONS)
    lines.append({"vllm": vllm.__version__, "preemptions": preemptions, "cpu_seconds": cpu_seconds})
    Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
