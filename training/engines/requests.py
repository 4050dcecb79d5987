"""What vLLM's server lets through to the engine: requests that are checked, and marked where latents are to be
returned."""

import secrets
from itertools import chain
from typing import Any

import torch

from training.engines.kept import LATENTS_IN_PROMPT
from training.engines.latent_model import LatentModel
from training.engines.options import PREFIX, latent_options
from training.model.tokens import LATENT

RETURN = "return_latents"
CHAT = "/v1/chat/completions"
VIDEO_FIELDS = {"num_frames", "fps", "frames_indices", "total_num_frames", "duration"}
"""What a request may say of the frames that it sends as a video."""


def prepared(request: dict[str, Any], path: str, model: LatentModel | None) -> str | None:
    """Checks a request and, where its latents are to be returned, adds the key under which they are kept.

    Raises ValueError with what is wrong; what gets past it gets an empty answer.
    """
    _check_media(request)
    if model is None:
        if request.get(RETURN):
            raise ValueError(f"{RETURN}: this checkpoint has no latents")
        return None
    if _holds_latents(request, model.tokens.latent):
        raise ValueError(LATENTS_IN_PROMPT)
    if request.get("use_beam_search"):
        raise ValueError("a beam is a new request, whose prompt would hold latents: leave out use_beam_search")
    params = request.get("sampling_params")  # of vLLM's own requests with token ids
    xargs = request.get("vllm_xargs", params.get("extra_args") if isinstance(params, dict) else None)
    options = latent_options(xargs if isinstance(xargs, dict) else None)
    if options.return_key is not None or options.first_seed is not None:
        raise ValueError(f"{PREFIX}return_key and {PREFIX}first_seed are the server's own: ask with {RETURN}")
    options.intervention(model.width, 0, torch.device("cpu"))
    options.check_script(model)
    if not request.pop(RETURN, False):
        return None
    if not path.endswith(CHAT):
        raise ValueError(f"{RETURN} is for {CHAT}")
    if request.get("stream"):
        raise ValueError(f"{RETURN} and stream exclude each other: latents come with the whole answer")
    ends, stops = sorted({model.tokens.end_of_turn, model.tokens.pad}), request.get("stop_token_ids") or []
    others = not isinstance(stops, list) or any(stop not in ends for stop in stops)
    if others or request.get("stop") or request.get("ignore_eos"):
        raise ValueError(f"{RETURN}: the engine keeps latents until the turn's own end: leave out stop, ignore_eos and "
                         f"all of stop_token_ids but {ends}")  # fmt: skip
    key, fields = secrets.token_hex(16), {}
    if (request.get("n") or 1) != 1:
        seed = request.get("seed")
        if seed in (None, -1):  # to vLLM -1 is none, too
            seed = secrets.randbits(62)
        fields[f"{PREFIX}first_seed"] = request["seed"] = seed
    request["vllm_xargs"] = {**(xargs or {}), f"{PREFIX}return_key": key, **fields}
    return key


def _check_media(request: dict[str, Any]) -> None:
    """Raises ValueError for more than frames at their final size need: vLLM trusts what this lets pass."""
    if (request.get("mm_processor_kwargs") or {"do_resize": False}) != {"do_resize": False}:
        raise ValueError('mm_processor_kwargs is {"do_resize": false}, for pictures at their final size, or left out')
    media = request.get("media_io_kwargs") or {}
    video = media.get("video", {}) if isinstance(media, dict) and media.keys() <= {"video"} else None
    if not isinstance(video, dict) or not video.keys() <= VIDEO_FIELDS:
        fields = ", ".join(sorted(VIDEO_FIELDS))
        raise ValueError(f'media_io_kwargs is {{"video": ...}} with some of {fields}, or left out')


def _holds_latents(request: dict[str, Any], latent: int) -> bool:
    """Whether a request has a latent's placeholder, as text anywhere (tools and more are in prompts, too) or as a token
    of a prompt."""
    pending: list[Any] = [request]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and LATENT in value:
            return True
        pending += value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    prompts = [request.get(field) for field in ("prompt", "token_ids")]
    lists = [prompt for prompt in prompts if isinstance(prompt, list)]
    return any(latent in p if isinstance(p, list) else p == latent for p in chain(*lists))
