"""The demo's latent checkpoints in stock vLLM with our plug-in: served by `future-l1 serve`, and under both of vLLM's
runners with a cache so small that requests are preempted.  Tokens and latents are those of our own decoder."""

import base64
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import polars as pl

from evaluation.benchmarks.benchmark import sample_items
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.generation.local import encode
from tests.interop.demo import Demo
from tests.interop.plain_transformers import write_messages
from tests.interop.table import Check
from tests.loopback import free_port
from tests.processes import future_l1, until
from training.data.video import FrameCache
from training.engines.middleware import RETURN
from training.engines.options import PREFIX
from training.model.checkpoint import load
from training.model.decode import decode
from training.model.sampling import Sampling

ITEMS, INTERPRETED = 200, 20
PROGRAM = Path(__file__).with_name("vllm_answers.py")
INTERPRETER = Path(__file__).with_name("triton_interpreter")
IN_FLIGHT = 16
TINY_CACHE = {"block_size": 32, "num_gpu_blocks_override": 12, "max_model_len": 256}
"""Twelve blocks for sixteen requests, each of which grows into its third."""
FILLER = "The marble rolls on. "
LATENT_TOLERANCE = 2e-3

Answer = tuple[list[int], np.ndarray]
"""Tokens, and latents in float32."""


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    benchmark = FutureBench(demo.profile.benchmarks.futurebench.recipe)
    generation = demo.profile.benchmarks.futurebench.answers
    usable = demo.items(benchmark.name).filter(pl.col("problem").is_null())
    prompts = benchmark.prompts(sample_items(usable, ITEMS))
    longer = _longer(prompts)
    for folder, table in (("plain", prompts), ("longer", longer)):
        (work / folder).mkdir()
        _write_chat(table, work / folder)
    for model, checkpoint in demo.latent_checkpoints.items():
        stored = demo.answers(benchmark.name, model).join(prompts, on="prompt_id", how="semi")
        rows = stored.select("prompt_id", "tokens", "latents").iter_rows()
        ours = {name: (tokens, np.frombuffer(latents or b"", "<f2").astype("f4")) for name, tokens, latents in rows}
        with _served(demo, checkpoint, work) as url:
            answers = _served_answers(url, work / "plain", generation.max_new_tokens)
            yield from _compared(f"{model}, served", "vLLM's server", ours, answers)
            cases = _requests(url, work / "plain")
            yield Check(f"{model}, served: {', '.join(cases)}", "vLLM's server", sum(cases.values()), len(cases))
        ours = _ours(checkpoint, longer, generation)
        for runner, variables, count in (
            ("V1", {}, ITEMS),
            ("V2", {"VLLM_USE_V2_MODEL_RUNNER": "1", "PYTHONPATH": str(INTERPRETER)}, INTERPRETED),
        ):
            answers, about = _offline_answers(demo, checkpoint, work, generation.max_new_tokens, count, variables)
            program = f"vLLM {about['vllm']}, {runner} runner"
            yield from _compared(f"{model}, preempted", program, {name: ours[name] for name in answers}, answers)
            preempted = int(about["preemptions"])
            yield Check(f"{model}: preemptions in the tiny cache", program, preempted, max(1, preempted))


def _compared(
    title: str, program: str, ours: Mapping[str, Answer], answers: Mapping[str, Answer]
) -> Iterator[Check]:
    same = [name for name, (tokens, _) in ours.items() if answers[name][0] == tokens]
    yield Check(f"{title}: answers token for token", program, len(same), len(ours))
    apart = {name: np.abs(ours[name][1] - answers[name][1]).max(initial=0.0) for name in same}
    near = sum(bool(distance <= LATENT_TOLERANCE) for distance in apart.values())
    yield Check(f"{title}: latents to {LATENT_TOLERANCE}", program, near, len(same))


def _longer(prompts: pl.DataFrame) -> pl.DataFrame:
    """The same prompts with more text before them, so that an answer begins near the end of a block of the cache."""
    rows = prompts.to_dicts()
    for row in rows:
        first = row["content"][0]
        first["text"] = FILLER * 4 + first["text"]
    return pl.DataFrame(rows, schema=prompts.schema)


def _write_chat(prompts: pl.DataFrame, folder: Path) -> None:
    """`prompts.jsonl`, with pictures as data URLs."""
    write_messages(prompts, folder / "pictures.jsonl")
    lines = [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]
    for part in chain.from_iterable(line["messages"][0]["content"] for line in lines):
        if part["type"] == "image":
            data = base64.b64encode(Path(part.pop("path")).read_bytes()).decode()
            part |= {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _ours(checkpoint: Path, prompts: pl.DataFrame, generation: Any) -> dict[str, Answer]:
    """What our own decoder answers."""
    bundle, frames = load(checkpoint), FrameCache(2**26)
    encoder = bundle.prompt_encoder(generation.image_tokens, generation.system_prompt)
    encoded = [encode(encoder, content, frames) for content in prompts["content"].to_list()]
    sampling = Sampling(generation.max_new_tokens)
    seeds = [[0]] * len(encoded)
    decoded = decode(bundle.model, bundle.vision(), bundle.tokens, encoded, sampling, bundle.spans, seeds)
    answers = decoded.completions(bundle.tokens)
    return {name: (answer.ids, answer.latents.numpy().ravel())
            for name, answer in zip(prompts["prompt_id"], answers, strict=True)}  # fmt: skip


def _decoded(spans: list[str]) -> np.ndarray:
    return np.frombuffer(b"".join(map(base64.b64decode, spans)), "<f2").astype("f4")


def _offline_answers(
    demo: Demo, checkpoint: Path, work: Path, limit: int, count: int, variables: Mapping[str, str]
) -> tuple[dict[str, Answer], dict[str, Any]]:
    """The first `count` of the longer prompts, answered by vllm.LLM in the tiny cache; and what it says of itself."""
    prompts, out = work / "some.jsonl", work / "answers.jsonl"
    lines = (work / "longer" / "prompts.jsonl").read_text().splitlines(keepends=True)
    prompts.write_text("".join(lines[:count]))
    command = [demo.vllm, PROGRAM, checkpoint, prompts, out, str(limit), json.dumps(TINY_CACHE)]
    subprocess.run(command, check=True, cwd=work, env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"} | variables)
    *answers, about = map(json.loads, out.read_text().splitlines())
    return {answer["id"]: (answer["tokens"], _decoded(answer["latents"])) for answer in answers}, about


@contextmanager
def _served(demo: Demo, checkpoint: Path, work: Path) -> Iterator[str]:
    """`future-l1 serve`; the URL of its server."""
    port, log = free_port(), work / "serve.txt"
    command = future_l1("serve", "--checkpoint", checkpoint, "--port", port, "--python", demo.vllm, "--",
                        "--max-num-seqs", IN_FLIGHT, "--max-model-len", 1024)  # fmt: skip
    with log.open("w") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines)
    try:
        until(lambda: "is served on" in log.read_text(), f"vLLM is healthy ({log})", 600, process=process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _post(url: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and body of the response to a chat request."""
    with urllib.request.urlopen(f"{url}/models") as response:
        model = json.load(response)["data"][0]["id"]
    data = json.dumps({"model": model, "return_token_ids": True, **body}).encode()
    request = urllib.request.Request(f"{url}/chat/completions", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def _served_answers(url: str, folder: Path, limit: int) -> dict[str, Answer]:
    def answer(row: dict[str, Any]) -> tuple[str, Answer]:
        body = {"messages": row["messages"], "temperature": 0, "max_tokens": limit, RETURN: True}
        (choice,) = _post(url, body)[1]["choices"]
        return row["id"], (choice["token_ids"], _decoded(choice["latents"]))

    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return dict(pool.map(answer, rows))


def _requests(url: str, folder: Path) -> dict[str, bool]:
    """Cases of one request, and whether each came out as it must."""
    messages = json.loads((folder / "prompts.jsonl").read_text().splitlines()[0])["messages"]
    post = partial(_post, url)

    def answers(**fields: Any) -> list[dict[str, Any]]:
        status, body = post({"messages": messages, "max_tokens": 40, "temperature": 0, RETURN: True} | fields)
        assert status == 200, body
        return [{name: choice[name] for name in ("token_ids", "latents", "logprobs")} for choice in body["choices"]]

    (plain,) = answers(logprobs=True)
    latent = [entry["logprob"] for entry in plain["logprobs"]["content"] if entry["token"] == "<|latent|>"]
    sampled = {"n": 4, "temperature": 1.5, "top_p": 0.9}
    four, again, other = (answers(**sampled, seed=seed) for seed in (3, 3, 30))
    (zeros,) = answers(vllm_xargs={f"{PREFIX}latents": "zeros"})
    lent = {f"{PREFIX}latents": "vectors", f"{PREFIX}vectors": zeros["latents"]}
    (text,) = answers(vllm_xargs={f"{PREFIX}may_open": False})
    refused = [
        {"messages": [{"role": "assistant", "content": "<|latent|>"}, *messages]},
        {"messages": messages, RETURN: True, "stream": True},
        {"messages": messages, "vllm_xargs": {f"{PREFIX}latents": "ones"}},
    ]
    return {
        "log-probabilities": bool(latent) and not any(latent),
        "n with seeds": len(four) == 4 and four == again and four != other,
        "zeros": not _decoded(zeros["latents"]).any() and plain["latents"] != zeros["latents"],
        "others' latents": answers(vllm_xargs=lent) == [zeros],
        "text alone": text["latents"] == [],
        "refusals": [post(body)[0] for body in refused] == [400] * 3,
    }
