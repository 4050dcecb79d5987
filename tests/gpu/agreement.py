"""The tiny checkpoint: its answers on the device against the CPU's, and its decoder against its own replay."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tests.gpu.machine import Machine
from tests.gpu.results import Figure
from tests.gpu.rows import ArrayReader, toy_rows
from training.model.checkpoint import FutureL1, load
from training.model.decode import decode
from training.model.sampling import Sampling, banned
from training.model.splice import inputs_of, spliced_forward
from training.recipes import demo_sft
from training.rl.rollouts import Replay, Rollout, unpack
from training.tiny import BASE

ROWS, LONGEST = 24, 24
MARGINS = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""The largest difference of the two likeliest tokens' logits that rounding can turn round."""
PARITY = 1e-4


@dataclass(frozen=True)
class Agreement:
    """Answers that are the reference's; that leave it where two tokens are as likely, within a margin; and others."""

    equal: int
    explained: int
    unexplained: int


def agreement(machine: Machine) -> list[Figure]:
    """Greedy answers with a span each, in fp32 and in bf16, and the replay of sampled ones in fp32."""
    greedy = Sampling(LONGEST)
    cpu = tiny(torch.device("cpu"), torch.float32)
    reference = rollouts_of(cpu, greedy, samples=1)
    reference_margins = margins(cpu, reference)
    figures = []
    for dtype, margin in MARGINS.items():
        answers = rollouts_of(tiny(machine.device, dtype), greedy, samples=1)
        counts = compare(reference, reference_margins, answers, margin)
        name = str(dtype).removeprefix("torch.")
        figures += [
            Figure(f"{name}: answers as on the CPU", counts.equal, f"of {len(answers)}"),
            Figure(f"{name}: others within a margin of {margin:g}", counts.explained, f"of {len(answers)}"),
            Figure(f"{name}: beyond it", counts.unexplained, f"of {len(answers)}", ok=counts.unexplained == 0),
        ]
    latents, log_probs = replay_differences(tiny(machine.device, torch.float32))
    for what, difference in (("latents", latents), ("log-probabilities", log_probs)):
        figures.append(Figure(f"replay, {what}: most", difference, "", PARITY, "at most", difference <= PARITY))
    return figures


def tiny(device: torch.device, dtype: torch.dtype) -> FutureL1:
    """The base that ships with the project, with the demo's spans."""
    return replace(load(BASE, device, dtype), latent_config=demo_sft("future_l1").latent_config)


def rollouts_of(bundle: FutureL1, sampling: Sampling, samples: int) -> list[Rollout]:
    """So many answers to each row; a span opens each, which the base never opens by itself."""
    assert bundle.latent_config is not None
    rows, reader = toy_rows(ROWS), ArrayReader(bundle.encoder(bundle.latent_config), keep=False)
    prompts, seeds = [reader.prompt(row) for row in rows], [range(i, i + samples) for i in range(0, 1000 * ROWS, 1000)]
    scripts = [[bundle.tokens.latent_start]] * (ROWS * samples)
    decoded = decode(
        bundle.model, bundle.vision(), bundle.tokens, prompts, sampling, bundle.spans, seeds, scripts=scripts
    )
    return unpack(rows, prompts, seeds, decoded, bundle.tokens, bundle.processor.tokenizer)


@torch.no_grad()
def replayed(bundle: FutureL1, rollouts: Sequence[Rollout]) -> tuple[Replay, torch.Tensor, torch.Tensor]:
    """One pass over all rollouts: their batch, the states [m,D] before latents, and the logits [n,V] of the sampled
    tokens."""
    device, tokens = bundle.model.device, bundle.tokens
    replay = Replay.of(rollouts, tokens, device)
    latent, inputs = replay.ids == tokens.latent, inputs_of(replay, bundle.vision(), device)
    states, logits = spliced_forward(bundle.model, inputs, latent, replay.latents, replay.sampled.roll(-1, 1))
    return replay, states[latent.roll(-1, 1)], banned(logits.float(), tokens, replay.in_span[replay.sampled])


def margins(bundle: FutureL1, rollouts: Sequence[Rollout]) -> list[list[float]]:
    """For each sampled token of each rollout, how far the likeliest token's logit lies above the second's."""
    _, _, logits = replayed(bundle, rollouts)
    first, second = logits.topk(2).values.unbind(-1)
    return [part.tolist() for part in (first - second).split([int(r.sampled.sum()) for r in rollouts])]


def compare(
    reference: Sequence[Rollout], margins: Sequence[Sequence[float]], answers: Sequence[Rollout], margin: float
) -> Agreement:
    """How answers relate to the reference's, whose margins are those of its sampled tokens."""
    equal = explained = 0
    for expected, of_sampled, answer in zip(reference, margins, answers, strict=True):
        if expected.ids == answer.ids:
            equal += 1
            continue
        pairs = enumerate(zip(expected.ids, answer.ids, strict=False))
        first = next((at for at, (a, b) in pairs if a != b), None)
        if first is not None and expected.sampled[first] and of_sampled[int(expected.sampled[:first].sum())] <= margin:
            explained += 1
    return Agreement(equal, explained, len(answers) - equal - explained)


def replay_differences(bundle: FutureL1) -> tuple[float, float]:
    """The largest difference of latents, and of sampled tokens' log-probabilities, between decoding and one pass."""
    rollouts = rollouts_of(bundle, Sampling(LONGEST, temperature=1.0), samples=4)
    replay, states, logits = replayed(bundle, rollouts)
    picked = replay.ids[replay.sampled].unsqueeze(-1)
    log_probs = logits.log_softmax(-1).gather(-1, picked)[:, 0]
    return float((states - replay.latents).abs().max()), float((log_probs - replay.log_probs).abs().max())
