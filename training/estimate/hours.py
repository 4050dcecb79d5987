"""Seconds of training and of rollouts: floating-point operations at a device's rate, and steps of decoding.

Each is a range, since the rates are guesses.
"""

import math

from training.estimate.devices import Device, Range
from training.estimate.shape import BatchShape, ModelShape

ADAPTED_STEP = 1.8
"""Operations of a decoding step with adapters on all projections beside those of one without: each is a launch."""
MAX_STEPS = 512
"""Intervals of the numeric integral over an answer's length."""


def forward_flops(model: ModelShape, batch: BatchShape) -> float:
    """Operations of a forward pass of the language model, causal attention included."""
    tokens = batch.rows * batch.tokens
    attention = 2 * model.queries * batch.tokens * model.layers
    head = 2 * batch.rows * batch.scored * model.embedding_parameters
    return tokens * (2 * model.layers * model.layer_parameters + attention) + head


def vision_flops(model: ModelShape, batch: BatchShape) -> float:
    """Operations of the tower: four patches a merged token, and a seventh more for attention inside a 720p frame."""
    return 8 / 7 * 2 * model.vision_parameters * 4 * batch.rows * batch.vision_tokens


def seconds(flops: float, device: Device) -> Range:
    """The fastest and the slowest."""
    return flops / device.flops[1], flops / device.flops[0]


def step_seconds(model: ModelShape, device: Device, adapters: bool = False) -> Range:
    """Of a decoding step, whatever its rows: each layer's launches, and one reading of the weights."""
    reading, launches = 2 * model.language_parameters / device.bandwidth, ADAPTED_STEP if adapters else 1
    low, high = (model.layers * launches * layer + reading for layer in device.layer_seconds)
    return low, high


def decoding_steps(answers: int, at_once: int, devices: int, mean: float, most: int) -> float:
    """Steps of a round in which each device decodes so many answers, `at_once` of them, of exponential length cut at
    `most`: as long as the longest of all devices' answers, and those that wait for a place before it."""
    at_once = max(1, min(at_once, answers))
    return _longest(answers * devices, mean, most) + (answers - at_once) * _mean(mean, most) / at_once


def _longest(answers: int, mean: float, most: int) -> float:
    """The expected longest of so many lengths."""
    width = most / MAX_STEPS
    shorter = (1 - math.exp(-(step + 0.5) * width / mean) for step in range(MAX_STEPS))
    return sum(width * (1 - share**answers) for share in shorter)


def _mean(mean: float, most: int) -> float:
    return mean * (1 - math.exp(-most / mean))
