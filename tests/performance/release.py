"""An SFT step as the public release takes it, on today's transformers (reference/sft.md 2.4, 2.5, 4, 7.3).

Per sample, one after the other (its micro-batch is 1, accumulated over a step):

1. The clip's frames are decoded, every time.
2. Three texts go through the processor: the whole dialogue, which gives the token ids; the user's turn alone, for the
   pixels of the observed frames; the assistant's turn alone, for those of the future frames.  So each image is
   processed twice, and each time it is resized twice: by qwen-vl-utils' rule with PIL, then by the image processor.
3. The tower and the merger run on the observed frames and, in a second call, on the future ones: in every step.
4. The language model gives logits at all positions, cast to float32, which the shifted cross-entropy takes whole.
5. CE + lambda * MSE, divided by the samples of the step, goes backward.

Left out, as it would only be slower here: bf16 (a CPU emulates it), gradient checkpointing (ours goes without, too) and
the release's Python loops over position ids, in whose place transformers' own stand.  The images are decoded by our
reader, and the rendering of the text is ours: neither is what differs.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from training.data.dialogue import Slot, assistant_pieces, user_pieces
from training.data.keyframes import key_frame_number
from training.data.video import read_frames
from training.model.checkpoint import FutureL1
from training.model.encoding import IGNORE
from training.model.latent_config import LatentConfig
from training.model.rows import Row
from training.model.splice import splice_latents
from training.model.tokens import LATENT_END, LATENT_START

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def step_loss(bundle: FutureL1, latent_config: LatentConfig, rows: list[Row], latent_weight: float) -> float:
    """The loss of a step over these rows, whose gradients are left on the weights."""
    total = 0.0
    for row in rows:
        loss = sample_loss(bundle, prepared(bundle, latent_config, row), latent_weight) / len(rows)
        loss.backward()
        total += float(loss.detach())
    return total


def prepared(bundle: FutureL1, latent_config: LatentConfig, row: Row) -> dict[str, torch.Tensor]:
    """What the release's collator makes of one sample."""
    processor, tokens = bundle.processor, bundle.tokens
    user = user_pieces(row["question"], len(row["observed"]))
    assistant = assistant_pieces(row["reasoning"], row["answer"])
    slots = [p for p in (*user, *assistant) if isinstance(p, Slot)]
    numbers = [key_frame_number(row["frame_count"], row[slot.kind][slot.index]) for slot in slots]
    frames = read_frames(row["path"], numbers, row["reader"])
    observed = [frame for slot, frame in zip(slots, frames, strict=True) if slot.kind == "observed"]
    future = [frame for slot, frame in zip(slots, frames, strict=True) if slot.kind == "future"]
    low, high = latent_config.image_tokens
    least = min(low, latent_config.max_latents)

    def resized(frames: list[np.ndarray], low: int, high: int) -> list[Image.Image]:
        return [_resized(processor, frame, low, high) for frame in frames]

    user_text = "".join(IMAGE if isinstance(p, Slot) else p for p in user)
    assistant_text = "".join(IMAGE if isinstance(p, Slot) else p for p in assistant)
    user_text = f"<|im_start|>user\n{user_text}<|im_end|>\n"
    assistant_text = f"<|im_start|>assistant\n{assistant_text}<|im_end|>\n"
    whole = user_text + assistant_text.replace("<|vision_start|>", LATENT_START).replace("<|vision_end|>", LATENT_END)

    def process(text: str, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        return processor(text=[text], images=images or None, return_tensors="pt")

    both = process(whole, resized(observed, low, high) + resized(future, least, latent_config.max_latents))
    question = process(user_text, resized(observed, low, high))
    imagined = process(assistant_text, resized(future, least, latent_config.max_latents))
    ids = both["input_ids"][0]
    header = tokens_of(processor, "<|im_start|>assistant")
    start = next(t for t in range(len(ids)) if ids[t : t + len(header)].tolist() == header) + len(header)
    inside = torch.tensor(tokens.inside_span(ids[start:].tolist()))
    ids[start:][inside & (ids[start:] == tokens.image)] = tokens.latent
    labels = ids.clone()
    labels[:start] = IGNORE
    labels[ids == tokens.latent] = IGNORE
    return {
        "input_ids": ids[None], "labels": labels[None], "pixel_values": question["pixel_values"],
        "image_grid_thw": question["image_grid_thw"], "pixel_values_latent": imagined["pixel_values"],
        "image_grid_thw_latent": imagined["image_grid_thw"],
    }  # fmt: skip


def sample_loss(bundle: FutureL1, sample: dict[str, torch.Tensor], latent_weight: float) -> torch.Tensor:
    """CE + lambda * MSE of one sample."""
    model, ids, labels = bundle.model, sample["input_ids"], sample["labels"]
    latent = ids == bundle.tokens.latent
    features = model.model.get_image_features(sample["pixel_values_latent"], sample["image_grid_thw_latent"])
    targets = torch.cat(features.pooler_output)
    states: list[torch.Tensor] = []
    hook = model.model.register_forward_hook(lambda _module, _args, out: states.append(out.last_hidden_state))
    with splice_latents(model, latent, targets):
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=sample["pixel_values"],
            image_grid_thw=sample["image_grid_thw"],
            mm_token_type_ids=(ids == bundle.tokens.image).int(),
            use_cache=False,
        ).logits.float()
    hook.remove()
    ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    mse = (states[0][:, :-1][latent[:, 1:]] - targets).pow(2).mean()
    return ce + latent_weight * mse


def _resized(processor: Any, frame: np.ndarray, low: int, high: int) -> Image.Image:
    """The first of the two resizes; the processor does the second."""
    tile = processor.image_processor.patch_size * processor.image_processor.merge_size
    height, width = smart_resize(*frame.shape[:2], tile, low * tile**2, high * tile**2)
    return Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)


def tokens_of(processor: Any, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]
