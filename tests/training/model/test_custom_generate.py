"""A checkpoint in plain transformers, with the decoding loop that travels in its folder: the answers are `decode`'s."""

import ast
import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LogitsProcessorList,
    Qwen3VLForConditionalGeneration,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
    TextStreamer,
)
from transformers.video_utils import VideoMetadata

from tests.toy import LATENT_CONFIG
from tests.training.model.test_template import messages
from training.data.video import read_frames
from training.model.checkpoint import CUSTOM_GENERATE, load
from training.model.completions import Completion
from training.model.decode import decode
from training.model.encoding import Encoded
from training.model.randomness import TOKENS, uniform
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.model.tokens import LATENT_START
from training.runtime.project import PROJECT
from training.tiny import BASE

LONGEST = 40
FIRST, THEN = "<reason>white rolls to step 2</reason>\n", "<reason>Then it rolls on.</reason>\n"
BEGUN = ("", FIRST, "", FIRST + THEN, FIRST + "<answer>", "")
"""What the prompts of a batch have of their answers already: so its rows are in different modes at once."""


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the code of checkpoints out of the person's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module", params=["fixed", "model"])
def folder(request: pytest.FixtureRequest, sft_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose spans the budget ends, and one whose spans the model may end."""
    bundle, folder = load(sft_checkpoint), tmp_path_factory.mktemp("checkpoint")
    assert bundle.latent_config is not None
    bundle.save(folder, bundle.latent_config.model_copy(update={"span_end": request.param}))
    return folder


class Ours:
    """The checkpoint in this project."""

    def __init__(self, folder: Path) -> None:
        self.bundle = load(folder)
        self.tokens = self.bundle.tokens
        assert self.bundle.latent_config is not None
        self.encoder = self.bundle.encoder(self.bundle.latent_config)

    def prompts(self, rows: Sequence[dict[str, Any]], begun: Sequence[str]) -> list[Encoded]:
        reader = RowReader(self.encoder, keep=False)
        return [self.begin(reader.prompt(row), text) for row, text in zip(rows, begun, strict=True)]

    def begin(self, prompt: Encoded, text: str) -> Encoded:
        ids = self.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        start = int(prompt.positions.max()) + 1
        positions = torch.arange(start, start + len(ids)).expand(3, -1)
        return replace(
            prompt, ids=prompt.ids + ids, labels=prompt.labels + [-100] * len(ids),
            positions=torch.cat([prompt.positions, positions], 1),
        )  # fmt: skip

    def answers(
        self, prompts: Sequence[Encoded], sampling: Sampling | None = None, seeds: Any = None, **options: Any
    ) -> list[Completion]:
        bundle, sampling, seeds = self.bundle, sampling or Sampling(LONGEST), seeds or [[0]] * len(prompts)
        decoded = decode(
            bundle.model, bundle.vision(), bundle.tokens, prompts, sampling, bundle.spans, seeds, **options
        )
        return list(decoded.completions(bundle.tokens))


class Plain:
    """The checkpoint as a user of transformers has it: messages, pictures, `generate`."""

    def __init__(self, folder: Path) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
        self.pad = self.processor.tokenizer.pad_token_id

    def inputs(self, rows: Sequence[dict[str, Any]], begun: Sequence[str], **options: Any) -> Any:
        turns = [messages(row, None)[:1] for row in rows]
        texts = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        texts = [text + start for text, start in zip(texts, begun, strict=True)]
        images = [[Image.fromarray(read_frames(row["path"], [0], row["reader"])[0])] for row in rows]
        return self.processor(text=texts, images=images, padding=True, return_tensors="pt", **options)

    def answers(self, inputs: Any, **options: Any) -> list[list[int]]:
        """The new tokens of each row, without padding."""
        return self.new(inputs, self.model.generate(**inputs, **{"max_new_tokens": LONGEST} | options))

    def new(self, inputs: Any, sequences: torch.Tensor) -> list[list[int]]:
        rows = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        return [[token for token in row if token != self.pad] for row in rows]


@pytest.fixture(scope="module")
def ours(folder: Path) -> Ours:
    return Ours(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Plain:
    return Plain(folder)


@pytest.fixture(scope="module")
def some(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose prompts differ in length."""
    unasked = {**rows[4], "question": rows[4]["question"].split("\nA.")[0]}
    return [rows[0], rows[1], unasked, rows[2], rows[3], rows[5]]


@contextmanager
def preferring(tokens: Sequence[int], *models: Any) -> Iterator[None]:
    """Within the context the models want one of these tokens, whatever they see (the first most)."""

    def lift(_module: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        for rank, token in enumerate(tokens):
            logits[..., token] += 1000.0 * (len(tokens) - rank)
        return logits

    hooks = [model.lm_head.register_forward_hook(lift) for model in models]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---- greedy answers are ours


def test_a_padded_batch(ours: Ours, plain: Plain, some: list[dict[str, Any]]) -> None:
    inputs, prompts = plain.inputs(some, BEGUN), ours.prompts(some, BEGUN)
    assert [row[row != plain.pad].tolist() for row in inputs["input_ids"]] == [prompt.ids for prompt in prompts]
    assert len({len(prompt.ids) for prompt in prompts}) > 3, "rows must need padding"
    answers = ours.answers(prompts)
    assert sum(ours.tokens.latent in answer.ids for answer in answers) > 2
    assert plain.answers(inputs) == [answer.ids for answer in answers]
    output = plain.model.generate(**inputs, max_new_tokens=LONGEST, return_dict_in_generate=True)
    for latents, answer in zip(output.latents, answers, strict=True):
        torch.testing.assert_close(latents, answer.latents, atol=1e-4, rtol=0)


def test_groups(ours: Ours, plain: Plain, some: list[dict[str, Any]]) -> None:
    inputs, prompts = plain.inputs(some[:3], BEGUN[:3]), ours.prompts(some[:3], BEGUN[:3])
    expected = [answer.ids for answer in ours.answers(prompts, seeds=[[0, 1]] * 3)]
    assert plain.answers(inputs, num_return_sequences=2, do_sample=True, top_k=1) == expected


def test_a_video_an_image_and_neither(ours: Ours, plain: Plain, some: list[dict[str, Any]]) -> None:
    clip = list(np.random.default_rng(0).integers(0, 256, (5, 48, 80, 3), dtype=np.uint8))
    numbers, picture = [0, 7, 13, 20, 26], np.full((64, 64, 3), 200, dtype=np.uint8)
    question = some[0]["question"].split("<image>")[1].strip()
    pieces = [
        ["Before. ", *ours.encoder.patch_video(clip, numbers, 29.97, 4, 16), question],
        [ours.encoder.patch(picture, 4, 16), question], [question],
    ]  # fmt: skip
    contents = [["Before. ", {"type": "video"}, question], [{"type": "image"}, question], [question]]
    turns = [
        [{"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]}]
        for content in contents
    ]
    texts = plain.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    inputs = plain.processor(
        text=texts, images=[Image.fromarray(picture)], videos=[np.stack(clip)], padding=True, return_tensors="pt",
        video_metadata=[VideoMetadata(total_num_frames=40, fps=29.97, frames_indices=numbers)],
        do_sample_frames=False,
    )  # fmt: skip
    prompts = [ours.encoder.prompt(of_prompt) for of_prompt in pieces]
    assert [row[row != plain.pad].tolist() for row in inputs["input_ids"]] == [prompt.ids for prompt in prompts]
    t = ours.tokens
    for wanted in ((), (t.latent_start, t.latent), (t.latent_start, t.latent_end)):
        with preferring(wanted, ours.bundle.model, plain.model):
            assert plain.answers(inputs) == [answer.ids for answer in ours.answers(prompts)]


def test_groups_of_two_images_with_deepstack(tmp_path: Path, some: list[dict[str, Any]]) -> None:
    """An untrained model with DeepStack after both layers of its tower, as the real ones have it."""
    base = load(BASE)
    config = copy.deepcopy(base.model.config)
    config.vision_config.deepstack_visual_indexes = [0, 1]
    torch.manual_seed(0)
    replace(base, model=Qwen3VLForConditionalGeneration(config)).save(tmp_path, LATENT_CONFIG)
    ours, plain = Ours(tmp_path), Plain(tmp_path)
    pictures = [np.full((64, 48 + 16 * number, 3), 60 * number, dtype=np.uint8) for number in range(3)]
    contents = [["one", pictures[0], "two", pictures[1]], ["three", pictures[2]]]
    turns = [
        [{"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else
                                      {"type": "image", "image": Image.fromarray(part)} for part in content]}]
        for content in contents
    ]  # fmt: skip
    inputs = plain.processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True},
    )  # fmt: skip
    pieces = [[p if isinstance(p, str) else ours.encoder.patch(p, 4, 16) for p in content] for content in contents]
    prompts, options = [ours.encoder.prompt(of_prompt) for of_prompt in pieces], {"do_sample": True, "top_k": 1}
    for wanted in ((), (ours.tokens.latent_start,)):
        with preferring(wanted, ours.bundle.model, plain.model):
            answers = ours.answers(prompts, Sampling(12), seeds=[[0, 1]] * 2)
            output = plain.model.generate(
                **inputs, max_new_tokens=12, num_return_sequences=2, return_dict_in_generate=True, **options
            )
        assert plain.new(inputs, output.sequences) == [answer.ids for answer in answers]
        for latents, answer in zip(output.latents, answers, strict=True):
            torch.testing.assert_close(latents, answer.latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "wanted",
    [
        ("latent_start",), ("latent_start", "end_of_turn"), ("latent", "latent_start", "latent_end"),
        ("latent_end", "latent_start"), ("latent", "latent_end", "latent_start"), ("image", "video", "pad"),
        ("latent", "end_of_turn"),
    ],
)  # fmt: skip
def test_whatever_the_model_prefers(
    ours: Ours, plain: Plain, some: list[dict[str, Any]], wanted: tuple[str, ...]
) -> None:
    """An end of turn inside a span is discarded, the budget ends a span, padding ends a turn."""
    inputs, prompts = plain.inputs(some[:2], BEGUN[:2]), ours.prompts(some[:2], BEGUN[:2])
    with preferring([getattr(ours.tokens, name) for name in wanted], ours.bundle.model, plain.model):
        assert plain.answers(inputs) == [answer.ids for answer in ours.answers(prompts)]


def test_an_answer_that_begins_with_an_open_span(ours: Ours, plain: Plain, some: list[dict[str, Any]]) -> None:
    expected = ours.answers(ours.prompts(some[:2], BEGUN[:2]), scripts=[[ours.tokens.latent_start]] * 2)
    inputs = plain.inputs(some[:2], [text + LATENT_START for text in BEGUN[:2]])
    assert plain.answers(inputs, max_new_tokens=LONGEST - 1) == [answer.ids[1:] for answer in expected]


@pytest.mark.parametrize("length", [1, 3, 6])
def test_max_length_counts_the_prompt(ours: Ours, plain: Plain, some: list[dict[str, Any]], length: int) -> None:
    inputs, prompts = plain.inputs(some[:1], BEGUN[:1]), ours.prompts(some[:1], BEGUN[:1])
    expected = [answer.ids for answer in ours.answers(prompts, Sampling(length))]
    longest = inputs["input_ids"].shape[1] + length
    assert plain.answers(inputs, max_new_tokens=None, max_length=longest) == expected


# ---- sampled answers are ours, given the same random numbers


@pytest.mark.parametrize("sampling", [Sampling(LONGEST, 1.5), Sampling(LONGEST, 1.2, 0.9)])
def test_sampling(
    ours: Ours, plain: Plain, some: list[dict[str, Any]], sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' multinomial with `pick`'s random numbers: then equal distributions give equal tokens."""
    seeds = torch.tensor([range(8 * row, 8 * row + 8) for row in range(len(some))])
    steps = iter(range(LONGEST))

    def multinomial(probs: torch.Tensor, number: int) -> torch.Tensor:
        reached = (probs * 2.0**40).long().cumsum(-1)
        threshold = (uniform(seeds.flatten(), TOKENS, next(steps), number) * reached[:, -1:]).long()
        return torch.searchsorted(reached, threshold, right=True)

    expected = [answer.ids for answer in ours.answers(ours.prompts(some, BEGUN), sampling, seeds.tolist())]
    assert len(set(map(tuple, expected))) > 2 * len(some), "answers must differ for this to mean anything"
    monkeypatch.setattr(torch, "multinomial", multinomial)
    options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    sampled = plain.answers(plain.inputs(some, BEGUN), do_sample=True, num_return_sequences=8, **options)
    assert sampled == expected


def test_random_numbers_come_from_torch(plain: Plain, some: list[dict[str, Any]]) -> None:
    inputs = plain.inputs(some, BEGUN)
    torch.manual_seed(0)
    first, other = (plain.answers(inputs, do_sample=True, temperature=2.0) for _ in range(2))
    torch.manual_seed(0)
    assert plain.answers(inputs, do_sample=True, temperature=2.0) == first != other


# ---- the rest of `generate`


def test_the_other_way_to_ask_for_it(folder: Path, plain: Plain, some: list[dict[str, Any]]) -> None:
    inputs = plain.inputs(some[:2], BEGUN[:2])
    untrusting = AutoModelForImageTextToText.from_pretrained(folder)
    sequences = untrusting.generate(
        **inputs, max_new_tokens=LONGEST, custom_generate=str(folder), trust_remote_code=True
    )
    assert torch.equal(sequences, plain.model.generate(**inputs, max_new_tokens=LONGEST))
    again = plain.model.generate(**inputs, max_new_tokens=LONGEST, custom_generate=str(folder), trust_remote_code=True)
    assert torch.equal(sequences, again)


def test_a_streamer(plain: Plain, some: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    inputs = plain.inputs(some[:1], BEGUN[:1])
    (answer,) = plain.answers(inputs, streamer=TextStreamer(plain.processor.tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.strip() == plain.processor.decode(answer).strip()


def test_processors_and_criteria_of_the_caller(plain: Plain, some: list[dict[str, Any]]) -> None:
    inputs, start = plain.inputs(some, BEGUN), plain.model.config.latent_start_id
    free = plain.answers(inputs)
    ban = LogitsProcessorList([SuppressTokensLogitsProcessor([start])])
    banned = plain.answers(inputs, logits_processor=ban)
    assert any(start in ids for ids in free) and not any(start in ids for ids in banned)
    assert plain.answers(inputs, suppress_tokens=[start]) == banned
    opened = StoppingCriteriaList([lambda ids, _scores: ids[:, -1] == start])
    stopped = plain.answers(inputs, stopping_criteria=opened)
    assert stopped == [ids[: ids.index(start) + 1] if start in ids else ids for ids in free]


def test_scores_and_logits(plain: Plain, some: list[dict[str, Any]]) -> None:
    inputs, config = plain.inputs(some, BEGUN), plain.model.config
    output = plain.model.generate(
        **inputs, max_new_tokens=LONGEST, return_dict_in_generate=True, output_scores=True, output_logits=True
    )
    new = output.sequences[:, inputs["input_ids"].shape[1] :]
    assert len(output.scores) == len(output.logits) == new.shape[1]
    for step, (scores, logits) in enumerate(zip(output.scores, output.logits, strict=True)):
        text = ~torch.isin(new[:, step], torch.tensor([config.latent_id, config.latent_end_id, plain.pad]))
        assert torch.equal(scores.argmax(-1)[text], new[text, step])
        assert (scores[:, config.image_token_id] == -torch.inf).all() and logits.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "beam search"),
        ({"num_beams": 2, "do_sample": True}, "beam sample"),
        ({"prompt_lookup_num_tokens": 2}, "assisted generation"),
        ({"assistant_model": object()}, "an assistant model"),
        ({"cache_implementation": "paged"}, "a paged cache"),
        ({"synced_gpus": True}, "synced_gpus"),
        ({"stop_strings": ["</reason>"]}, "stop_strings"),
        ({"use_cache": False}, "use_cache=False"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
        ({"prefill_chunk_size": 8}, "prefill_chunk_size"),
        ({"return_dict_in_generate": True, "output_hidden_states": True}, "output_hidden_states"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "output_attentions"),
    ],
)
def test_what_would_feed_no_latents_is_refused(
    plain: Plain, some: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"it cannot be decoded with {message}"):
        plain.answers(plain.inputs(some[:1], BEGUN[:1]), **options)


def test_prompts_that_cannot_be_answered_are_refused(plain: Plain, some: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match='padding_side = "left"'):
        plain.answers(plain.inputs(some, BEGUN, padding_side="right"))
    with pytest.raises(ValueError, match=r"a prompt holds <\|latent\|>"):
        plain.answers(plain.inputs(some[:1], ["<|latent_start|><|latent|><|latent_end|>"]))
    inputs = plain.inputs(some[:1], BEGUN[:1])
    embedded = plain.model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="prompts are token ids"):
        plain.answers({"input_ids": inputs["input_ids"][:, :0], "inputs_embeds": embedded})
    del inputs["mm_token_type_ids"]
    with pytest.raises(ValueError, match="need mm_token_type_ids"):
        plain.answers(inputs)


# ---- the file


def test_one_source_is_copied_and_needs_torch_alone(folder: Path) -> None:
    source = PROJECT / "training" / "model" / CUSTOM_GENERATE
    assert (folder / CUSTOM_GENERATE).read_bytes() == source.read_bytes()
    imports = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == [
        "from functools import partial", "from typing import Any", "import torch"
    ]  # fmt: skip


def test_our_own_loader_runs_no_code_of_the_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / CUSTOM_GENERATE).write_text("raise SystemExit('code of the folder was run')")
    load(tmp_path / "copy")
    with pytest.raises(SystemExit):
        Plain(tmp_path / "copy")
