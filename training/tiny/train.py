"""The training of the tiny base: dense drills about visible frames, and the main question only with its hints.

Every step mixes (1) packed drills on one full frame, (2) the same on one frame of latent size, and (3) the main
question about the present, or about a later step whose frames are hints.  Never: anything about a frame that is not in
the prompt.  Gaussian noise on the merged features, ramped up, gives the content of the drills a larger share of the
feature variance and makes reading robust; a small penalty keeps the features' mean square near one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from training.tiny import world
from training.tiny.build import MARBLE_DRILLS, TILE_DRILL

DRILLS = world.N_TILES + len(MARBLE_DRILLS)


def downscale(frames: np.ndarray) -> np.ndarray:
    """uint8 [N,64,64,3] to [N,32,32,3] by averaging 2x2 px."""
    n, side = len(frames), frames.shape[1] // 2
    return frames.reshape(n, side, 2, side, 2, 3).mean((2, 4)).round().astype(np.uint8)


class Lesson:
    """Batches for the base: token ids, positions and pixels of prompts whose rows all have one shape."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.image_id = model.config.image_token_id

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of text with its chat and vision markers."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def images(self, frames: list[np.ndarray], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Pixels of the frames ([N,S,S,3] each), interleaved row by row, with a little pixel noise as video has it."""
        noisy = [np.clip(f + rng.integers(-6, 7, f.shape), 0, 255).astype(np.uint8) for f in frames]
        flat = [torch.from_numpy(f[i]).permute(2, 0, 1) for i in range(len(noisy[0])) for f in noisy]
        return dict(self.processor.image_processor(flat, do_resize=False, return_tensors="pt"))

    def states(
        self,
        ids: torch.Tensor,
        images: dict[str, torch.Tensor],
        positions: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Last hidden states [B,T,D] of ids [B,T]."""
        kinds = (ids == self.image_id).int()
        return self.model.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            mm_token_type_ids=kinds,
            use_cache=False,
            **images,
        ).last_hidden_state


def image_text(frame: np.ndarray) -> str:
    """The placeholder of one frame [.., S, S, 3]."""
    tokens = (frame.shape[-2] // 16) ** 2
    return "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>"


def drill_loss(lesson: Lesson, boards: world.Boards, frames: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """CE of the packed one-token answers about the visible frames; the three marble questions count four times."""
    n = len(boards)
    word = {w: lesson.ids(w)[0] for w in (*world.COLOURS, "white", "black", *map(str, range(world.N_TILES)))}
    prefix = lesson.ids(f"<|im_start|>user\nframe_1{image_text(frames)}")
    texts = [f"{TILE_DRILL}{k}" for k in range(world.N_TILES)] + [f"{drill}\n" for drill in MARBLE_DRILLS]
    questions = [lesson.ids(text) for text in texts]
    assert all(len(q) == 2 for q in questions), questions
    ids = torch.tensor(prefix + [token for question in questions for token in question]).expand(n, -1)
    colours = torch.tensor([word[c] for c in world.COLOURS])[torch.from_numpy(boards.tiles)]
    pos = torch.from_numpy(boards.pos)
    places = torch.tensor([word[str(k)] for k in range(world.N_TILES)])[pos]
    kinds = torch.where(torch.from_numpy(boards.direction) == 1, word["white"], word["black"])
    answers = torch.cat([colours, places[:, None], kinds[:, None], colours.gather(1, pos[:, None])], 1)
    # each question sees the prefix and itself, and starts at the same position
    owner = torch.cat([torch.full((len(prefix),), -1), torch.arange(DRILLS).repeat_interleave(2)])
    visible = torch.ones(len(owner), len(owner)).tril().bool() & ((owner[:, None] == owner) | (owner[None] == -1))
    images = lesson.images([frames], rng)
    row = torch.tensor([[*prefix, 0, 0]])
    positions, _ = lesson.model.model.get_rope_index(
        row, (row == lesson.image_id).int(), image_grid_thw=images["image_grid_thw"][:1]
    )
    positions = torch.cat([positions[..., : len(prefix)], positions[..., len(prefix) :].repeat(1, 1, DRILLS)], 2)
    mask = visible[None, None].expand(n, 1, -1, -1)
    states = lesson.states(ids, images, positions.expand(3, n, -1), mask)[:, len(prefix) + 1 :: 2]
    loss = F.cross_entropy(lesson.model.lm_head(states).transpose(1, 2), answers, reduction="none")
    weight = torch.ones(DRILLS)
    weight[world.N_TILES :] = 4.0
    return (loss * weight).sum(1).mean() / weight.sum()


def question_batch(
    lesson: Lesson, questions: world.Questions, hop: int, rng: np.random.Generator, hints: bool = True
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """ids [B,T] of whole dialogues and their pixels: the main question at one hop, with the later frames as hints.

    One category and one form (options, stated later event) a batch, so that all rows have the same length.
    """
    category = world.CATEGORIES[rng.integers(3)]
    options, with_event = rng.random() < 0.8, hop < 3 and rng.random() < 0.3
    boards = questions.boards
    frames = [boards.frames(0)] + [downscale(boards.frames(s)) for s in range(1, hop + 1) if hints]
    images = "frame_1" + "".join(image_text(f) for f in frames)
    later = boards.colour_at(hop + 1)
    rows = []
    for i in range(len(questions)):
        question = world.question_text(category, hop, (hop + 1, int(later[i])) if with_event else None)
        question += world.options_text(questions.options[i]) if options else ""
        answer = f"<answer>{world.COLOURS[questions.answer[i]]}</answer>"
        rows.append(
            lesson.ids(f"<|im_start|>user\n{images}{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>")
        )
    return torch.tensor(rows), lesson.images(frames, rng)


def question_loss(lesson: Lesson, questions: world.Questions, hop: int, rng: np.random.Generator) -> torch.Tensor:
    """CE of `<answer>C</answer><|im_end|>`."""
    ids, images = question_batch(lesson, questions, hop, rng)
    states = lesson.states(ids, images)[:, -5:-1]
    return F.cross_entropy(lesson.model.lm_head(states).transpose(1, 2), ids[:, -4:])


def train(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    steps: int,
    seed: int = 0,
    batch: int = 40,
    rate: float = 2e-3,
    noise: float = 0.8,
    log: Callable[[str], None] = print,
) -> None:
    """Trains the whole model in place for a number of steps; `noise` is the final std of the feature noise."""
    rng = np.random.default_rng(1000 + seed)
    torch.manual_seed(seed)
    lesson = Lesson(model, processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    pools = [world.draw_questions(8000, rng, "base", hops=[hop]) for hop in range(4)]
    level, squares = 0.0, []

    def disturb(_module: Any, _args: Any, features: torch.Tensor) -> torch.Tensor:
        squares.append(features.pow(2).mean(-1).flatten())
        return features + level * torch.randn_like(features)

    hook = model.model.visual.merger.register_forward_hook(disturb)
    model.train()
    for step in range(steps):
        share = step / steps
        level = noise * min(1.0, share / 0.4)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * share)))
        squares.clear()
        full, small = (world.draw_boards(batch, rng, "base") for _ in range(2))
        loss = drill_loss(lesson, full, full.frames(0), rng)
        loss = loss + drill_loss(lesson, small, downscale(small.frames(0)), rng)
        drills = loss.item()
        question_ce = 0.0
        if share > 0.25:
            hop = step % 4
            picked = pools[hop][rng.integers(0, len(pools[hop]), batch // 2)]
            answer_loss = question_loss(lesson, picked, hop, rng)
            loss, question_ce = loss + answer_loss, answer_loss.item()
        mean_square = torch.cat(squares)
        loss = loss + 0.05 * (mean_square - 1).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            losses = f"drills {drills:.3f} question {question_ce:.3f}"
            log(f"step {step} {losses} feature mean square {mean_square.mean():.2f}")
    hook.remove()
    model.eval()


@torch.no_grad()
def accuracy(
    model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, hints: bool, n: int = 300, seed: int = 5
) -> dict[int, tuple[float, float]]:
    """Per hop 1..3 on validation boards: share of right answers as generated, and among the four options."""
    lesson, result = Lesson(model, processor), {}
    for hop in (1, 2, 3):
        rng = np.random.default_rng(seed + hop)
        questions = world.draw_questions(n, rng, "validation", hops=[hop])
        ids, images = question_batch(lesson, questions, hop, rng, hints)
        logits = model.lm_head(lesson.states(ids, images)[:, -4])  # after <answer>, before the colour
        colours = torch.tensor([lesson.ids(c)[0] for c in world.COLOURS])
        options = colours[torch.from_numpy(questions.options)]
        right = ids[:, -3]
        among = options.gather(1, logits.gather(1, options).argmax(1, keepdim=True))[:, 0]
        result[hop] = (float((logits.argmax(-1) == right).float().mean()), float((among == right).float().mean()))
    return result
