"""A Future-L1 checkpoint as a model of lmms-eval: messages in, latent decoding by the project's decoder, text out."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from huggingface_hub import snapshot_download
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from loguru import logger
from tqdm import tqdm

from evaluation.generation.config import checkpoint_generation
from evaluation.lmms_eval.generation_kwargs import cut, sampling, until
from evaluation.lmms_eval.media import PromptReader
from training.model.checkpoint import load
from training.model.encoding import Encoded
from training.model.sampling import Sampling
from training.model.token_budget import TokenBudget
from training.storage.artifacts import checkpoint_folder
from training.storage.hashing import stable_hash

REFUSED = "[LMMS_EVAL_REQUEST_FAILED] "
"""How an answer begins that the harness's models could not give."""


class FutureL1Chat(lmms):
    """`--model future_l1`.

    pretrained: a checkpoint's folder, or a repository of the Hugging Face hub.  System prompt and frame sizes are those
    of `checkpoint_generation`, as `future-l1 evaluate` takes them.  max_new_tokens: where a task names none.
    max_frames, video_tokens: of a video, and of each of its pairs of frames.  max_batch_tokens: as in GenerationConfig.
    seed: of sampled answers.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,  # the harness hands it over; the token budget is the bound
        max_new_tokens: int = 4096,
        max_frames: int = 32,
        video_tokens: int = 768,
        max_batch_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.accelerator = Accelerator()  # one process a GPU, as `accelerate launch` starts them
        several = self.accelerator.num_processes > 1
        self.device = self.accelerator.device if several or device is None else torch.device(device)
        local = pretrained if Path(pretrained).is_dir() else snapshot_download(pretrained)
        folder = checkpoint_folder(Path(local))
        generation = checkpoint_generation(folder, max_new_tokens=max_new_tokens, batch_size=int(batch_size))
        self.bundle = load(folder, self.device, torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.vision = self.bundle.vision()
        encoder = self.bundle.prompt_encoder(generation.image_tokens, generation.system_prompt)
        self.reader = PromptReader(encoder, int(max_frames), int(video_tokens))
        self.budget, self.batch_size = TokenBudget(max_batch_tokens), generation.batch_size
        self.max_new_tokens, self.seed = generation.max_new_tokens, int(seed)
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """An answer to each request, in order; a request that it cannot take is answered by REFUSED and the reason.

        Raises ValueError for generation_kwargs that the decoder does not have.
        """
        by_kwargs: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            by_kwargs[json.dumps(request.args[2], sort_keys=True)].append(number)
        settings = {key: sampling(json.loads(key), self.max_new_tokens) for key in by_kwargs}
        seeds = list(self._seeds(requests))
        results: dict[int, GenerationResult] = {}
        start = time.monotonic()
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding") as progress:
            for key, numbers in by_kwargs.items():
                stops = until(json.loads(key))
                for at in range(0, len(numbers), self.batch_size):
                    batch = numbers[at : at + self.batch_size]
                    for number, result in self._answers({n: requests[n] for n in batch}, settings[key], stops, seeds):
                        results[number] = result
                    progress.update(len(batch))
        self._log_metrics([results[number] for number in range(len(requests))], time.monotonic() - start)
        return [results[number] for number in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("future_l1 generates: the likelihood of a text without its latents means nothing")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("future_l1 answers one user turn, as it was trained: it takes no task of many rounds")

    def clean(self) -> None:
        """Frees the model, for a judge on the same GPU."""
        del self.bundle, self.vision
        super().clean()

    def _seeds(self, requests: Sequence[Instance]) -> Iterator[int]:
        """63 bits each; by task and item, and by the number of the request where the harness repeats it."""
        repeats: Counter[tuple[Any, ...]] = Counter()
        for request in requests:
            item = (*request.args[4:6], request.args[3])
            yield stable_hash(self.seed, *item, repeats[item]) >> 1
            repeats[item] += 1

    def _answers(
        self, requests: dict[int, Instance], settings: Sampling, stops: tuple[str, ...], seeds: Sequence[int]
    ) -> Iterator[tuple[int, GenerationResult]]:
        """The answers to a batch, by the requests' numbers."""
        prompts: dict[int, Encoded] = {}
        for number, request in requests.items():
            try:
                prompts[number] = self._prompt(request)
            except (ValueError, OSError) as error:
                logger.error(f"{request.args[4]}, item {request.args[3]}: {error}")
                yield number, GenerationResult(f"{REFUSED}{error}")
        numbers, tokens, tokenizer = list(prompts), self.bundle.tokens, self.bundle.processor.tokenizer
        encoded = list(prompts.values())
        for place, decoded in self.budget.decode(
            self.bundle.model, self.vision, tokens, encoded, settings, self.bundle.spans,
            [[seeds[number]] for number in numbers],
        ):  # fmt: skip
            (completion,) = decoded.completions(tokens)
            latents = completion.ids.count(tokens.latent)
            counts = TokenCounts(len(encoded[place].ids), len(completion.ids), latents)
            yield numbers[place], GenerationResult(cut(completion.decoded_text(tokens, tokenizer), stops), counts)

    def _prompt(self, request: Instance) -> Encoded:
        """Raises ValueError or OSError as PromptReader does, and where the messages are none."""
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
        return self.reader.prompt(messages.model_dump()["messages"])

    def _log_metrics(self, results: Sequence[GenerationResult], seconds: float) -> None:
        counts = [result.token_counts for result in results if result.token_counts]
        tokens = sum(count.output_tokens or 0 for count in counts)
        latents = sum(count.reasoning_tokens or 0 for count in counts)
        refused = len(results) - len(counts)
        extra = {"latents": latents, "refused": refused}
        log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, extra)
