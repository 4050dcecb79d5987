"""What vLLM may not do with latents, as sentences; no vLLM here."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.engines import PROCESSOR


def check_config(config: Any) -> None:
    """Raises ValueError for a vLLM config under which latents would not be fed, or fed wrongly."""
    parallel, scheduler, hf_config = config.parallel_config, config.scheduler_config, config.model_config.hf_config
    v1 = not config.use_v2_model_runner
    refused = (
        (not hasattr(hf_config, "future_l1"),
         "config.json has no `future_l1`: this is no checkpoint with latents of Future-L1; serve it as Qwen3-VL"),
        (parallel.pipeline_parallel_size > 1,
         "a latent is the last stage's hidden state and the first stage's next input: leave out "
         "--pipeline-parallel-size; --tensor-parallel-size splits the model, too"),
        (parallel.data_parallel_size > 1,
         "latents are asked of one replica: leave out --data-parallel-size, and start a server for each"),
        (config.speculative_config is not None,
         "a latent is known only when the one before was fed, so that nothing can be speculated: leave out "
         "--speculative-config"),
        (parallel.enable_batch_sharded_sampling,
         "each rank must see all hidden states: leave out --enable-batch-sharded-sampling"),
        (not str(scheduler.scheduler_cls).startswith("training.engines."),
         "generated blocks must stay out of the shared prefix cache: add the scheduler_cls of "
         "training.engines.engine_arguments"),
        (scheduler.policy != "fcfs",
         "a preempted request whose turn never comes would lose its latents: leave out --scheduling-policy"),
        (v1 and config.device_config.device_type != "cpu",
         "on a GPU latents are fed by vLLM's V2 model runner: set VLLM_USE_V2_MODEL_RUNNER=1, or leave it unset"),
        (v1 and scheduler.async_scheduling,
         "the V1 model runner must know a token before it schedules the next: add --no-async-scheduling"),
        (v1 and PROCESSOR not in (config.model_config.logits_processors or ()),
         f"the V1 model runner needs {PROCESSOR} among its --logits-processors"),
        (not v1 and PROCESSOR in (config.model_config.logits_processors or ()),
         f"{PROCESSOR} is of the V1 model runner, and this is the V2: leave out --logits-processors"),
    )  # fmt: skip
    if reasons := [reason for is_wrong, reason in refused if is_wrong]:
        raise ValueError("; ".join(reasons))


SECRETS = {"api-key": "VLLM_API_KEY", "hf-token": "HF_TOKEN"}
"""Options of vLLM's that hold a key, and the variables that do the same."""


OTHER_ANSWERS = (
    "model", "model-impl", "model-class-overrides", "model-loader-extra-config", "revision", "code-revision",
    "hf-config-path", "hf-overrides", "config", "config-format", "load-format", "ignore-patterns", "runner", "convert",
    "quantization", "quantization-config", "kv-cache-dtype", "enable-lora", "lora-modules", "default-mm-loras",
    "tokenizer", "tokenizer-mode", "tokenizer-revision", "chat-template", "default-chat-template-kwargs",
    "interleave-mm-strings", "io-processor-plugin", "mm-processor-kwargs", "mm-encoder-attn-dtype",
    "mm-device-do-normalize", "media-io-kwargs", "video-pruning-rate", "video-pruning-method", "language-model-only",
    "generation-config", "override-generation-config", "logits-processors", "watermark-config", "worker-cls",
    "worker-extension-cls", "scheduler-cls",
)  # fmt: skip
"""Options of vLLM's for other weights, another arithmetic, other prompts or another sampling than the checkpoint's."""


def option_names(options: Sequence[str]) -> Iterator[str]:
    """The names of vLLM's options, or the beginnings that it takes for them."""
    for option in options:
        name = option.partition("=")[0].partition(".")[0].removeprefix("--").replace("_", "-")
        name = {"-q": "quantization"}.get(option[:2], name)
        if option.startswith("-") and name:
            yield name


def check_options(options: Sequence[str]) -> None:
    """Raises ValueError for a key among the options of a server, and for OTHER_ANSWERS."""
    for name in option_names(options):
        for secret, variable in SECRETS.items():
            if secret.startswith(name):
                raise ValueError(f"--{name}: everybody on this machine can read a command's options: leave it out, and "
                                 f"set {variable} in the environment")  # fmt: skip
        if any(other.startswith(name) for other in OTHER_ANSWERS):
            raise ValueError(f"--{name}: answers would not be those of the checkpoint that the server names to its "
                             "clients: leave it out, or start `vllm serve` itself, which names none")  # fmt: skip


def read_config(checkpoint: Path) -> dict[str, Any]:
    """A model's config.json.  Raises ValueError where the folder holds no model, or latents in the release's form."""
    try:
        config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint} is no model's folder: {error}") from error
    if "latent_id" in config and "future_l1" not in config:
        raise ValueError(f"{checkpoint}: its latents are in the public release's form: load it with "
                         "training.model.checkpoint, and serve what that saves")  # fmt: skip
    return config


def has_chat_template(checkpoint: Path) -> bool:
    """Whether a model's folder says how a chat is written.  Raises ValueError where that cannot be read."""
    if any((checkpoint / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    config = checkpoint / "tokenizer_config.json"
    try:
        return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
    except ValueError as error:
        raise ValueError(f"{config} is no JSON: {error}") from error
