"""Decoding of text and latent spans in plain transformers, by `from_pretrained(..., trust_remote_code=True)`.

A copy of this file travels in each latent checkpoint: transformers runs it in place of its own `generate`.  A row that
emits `<|latent_start|>` feeds its own last hidden state back as its next input, until the model emits
`<|latent_end|>` or the checkpoint's budget is spent; `<|latent|>` stands for each of these inputs.  The rest is
transformers': it prepares the inputs, processes the logits and says when to stop.  Names: B rows, T tokens,
D hidden size, V vocabulary.
"""

from functools import partial
from typing import Any

import torch


def generate(*args: Any, model: Any, **kwargs: Any) -> Any:
    """Prompts and answers [B,T]; with `return_dict_in_generate`, transformers' output with one more field, `latents`:
    the vectors [n,D] that each row fed.

    The arguments are those of transformers' `generate`: greedy decoding or sampling, `num_return_sequences`,
    `streamer`, logits processors, stopping criteria.  Inside a span a token counts only as far as it ends the span.
    Raises ValueError for settings under which latents are not fed, and for prompts that are padded on the right, hold
    latents, or lack what the processor returns with images.
    """
    _refuse(
        ("an assistant model", kwargs.get("assistant_model") is not None),
        ("a paged cache", kwargs.get("cache_implementation") == "paged"),
        ("synced_gpus", bool(kwargs.get("synced_gpus"))),
        ("stop_strings (a StopStringCriteria does the same)", kwargs.get("stop_strings") is not None),
    )
    if "custom_generate" in kwargs:  # the caller names a loop: transformers looks it up
        return type(model).generate(model, *args, **kwargs)
    # without pixels transformers neither encodes them nor repeats them for a group; a group's prompt is read once
    pixels = {name: kwargs.pop(name, None) for name in ("pixel_values", "pixel_values_videos")}
    vision = pixels | {name: kwargs.get(name) for name in ("image_grid_thw", "video_grid_thw")}
    loop = partial(_decode, streamer=kwargs.get("streamer"), vision=vision)
    return type(model).generate(model, *args, custom_generate=loop, **kwargs)


def _decode(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    streamer: Any,
    vision: dict[str, torch.Tensor | None],
    **kwargs: Any,
) -> Any:
    """The loop over new tokens, in place of transformers' `_sample`, which gets the same arguments but for `vision`:
    the pixels and grids as the caller has them, where the rows of all else are repeated for a group.
    """
    config, settings = model.config, generation_config
    latent, start, end = config.latent_id, config.latent_start_id, config.latent_end_id
    _check_settings(settings)
    _check_prompt(input_ids, latent, kwargs | vision)
    processors = _without_text_only_ban(logits_processor, {latent, start})
    model_ends, wants_output = config.future_l1["span_end"] == "model", settings.return_dict_in_generate
    slot = torch.zeros_like(input_ids[:, -1])  # latents that the open span of each row has fed
    is_open, running = input_ids[:, -1] == start, slot == 0
    fed: list[tuple[torch.Tensor, torch.Tensor]] = []
    kept: dict[str, list[torch.Tensor]] = {"scores": [], "logits": []}
    for name in ("logits_to_keep", "mm_encoder_outputs", *vision):
        kwargs.pop(name, None)
    outputs, hidden = _prefill(model, input_ids, settings.num_return_sequences, kwargs, vision)
    while True:
        kwargs = model._update_model_kwargs_for_generation(outputs, kwargs)
        logits = model.lm_head(hidden).to(input_ids.device, torch.float32)
        allowed = logits.clone()
        for token in (config.image_token_id, config.video_token_id):
            allowed[:, token] = -torch.inf
        allowed[:, latent] = logits[:, latent].where(is_open, -torch.inf)
        scores = processors(input_ids, allowed)
        picked = torch.multinomial(scores.softmax(-1), 1)[:, 0] if settings.do_sample else scores.argmax(-1)
        closing = is_open & ((slot >= config.latent_cap) | ((picked == end) & model_ends))
        feeding = is_open & ~closing
        ids = torch.where(feeding, latent, torch.where(closing, end, picked))
        ids = torch.where(running, ids, settings._pad_token_tensor)
        slot = torch.where(feeding, slot + 1, 0)
        is_open = feeding | (~is_open & (ids == start))
        input_ids = torch.cat([input_ids, ids[:, None]], 1)
        if wants_output:
            fed.append((hidden, ids == latent))
            for name, values in (("scores", scores), ("logits", logits)):
                if getattr(settings, f"output_{name}"):
                    kept[name].append(values)
        if streamer is not None:
            streamer.put(ids.cpu())
        running = running & ~stopping_criteria(input_ids, scores)
        if not running.any():
            break
        inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **kwargs)
        token = inputs.pop("input_ids")
        embedded = model.get_input_embeddings()(token)
        vectors = hidden[:, None].to(embedded.device, embedded.dtype)
        outputs = model.model(inputs_embeds=vectors.where((token == latent)[..., None], embedded), **inputs)
        hidden = outputs.last_hidden_state[:, -1]
    if streamer is not None:
        streamer.end()
    return _output(input_ids, fed, kept, outputs.past_key_values) if wants_output else input_ids


def _prefill(
    model: Any, input_ids: torch.Tensor, group: int, kwargs: dict[str, Any], vision: dict[str, torch.Tensor | None]
) -> tuple[Any, torch.Tensor]:
    """Each prompt once: the output, whose cache is repeated for its group, and the last hidden states [B,D], too."""

    def first(name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value[:, ::group] if name == "position_ids" else value[::group]  # positions have their axes first

    once = {name: first(name, value) for name, value in kwargs.items()} | vision
    outputs = model.model(**model.prepare_inputs_for_generation(input_ids[::group], is_first_iteration=True, **once))
    hidden = outputs.last_hidden_state[:, -1]
    if group > 1:
        row = torch.arange(len(hidden), device=hidden.device).repeat_interleave(group)
        outputs.past_key_values.reorder_cache(row)
        hidden = hidden[row]
    return outputs, hidden


def _without_text_only_ban(processors: Any, ban: set[int]) -> Any:
    """Without the ban by which the checkpoint's generation config keeps loaders without this file to text."""
    from transformers import SuppressTokensLogitsProcessor as Suppressed

    is_ban = [isinstance(p, Suppressed) and set(p.suppress_tokens.tolist()) == ban for p in processors]
    return type(processors)(p for p, banned in zip(processors, is_ban, strict=True) if not banned)


def _check_settings(settings: Any) -> None:
    mode = settings.get_generation_mode()
    _refuse(
        (f"{mode.value.replace('_', ' ')}", mode.value not in ("greedy_search", "sample")),
        ("use_cache=False", not settings.use_cache),
        ("guidance_scale", settings.guidance_scale not in (None, 1)),
        ("prefill_chunk_size", settings.prefill_chunk_size is not None),
        ("output_attentions", bool(settings.output_attentions)),
        ("output_hidden_states", bool(settings.output_hidden_states)),
    )


def _refuse(*settings: tuple[str, bool]) -> None:
    """Raises ValueError with the names of the settings that are in use."""
    if names := [name for name, is_used in settings if is_used]:
        raise ValueError(f"this checkpoint feeds its latents back in greedy decoding and in sampling, one token after "
                         f"the other with a cache; it cannot be decoded with {', '.join(names)}")  # fmt: skip


def _check_prompt(input_ids: torch.Tensor, latent: int, inputs: dict[str, Any]) -> None:
    mask, cache = inputs.get("attention_mask"), inputs.get("past_key_values")
    grids = (inputs.get(f"{kind}_grid_thw") for kind in ("image", "video"))
    is_continued = cache is not None and cache.get_seq_length() > 0
    if input_ids.shape[1] == 0 or inputs.get("mm_encoder_outputs") or is_continued:
        raise ValueError("prompts are token ids and pixels from their beginning: pass neither inputs_embeds, nor "
                         "mm_encoder_outputs, nor the cache of an earlier call")  # fmt: skip
    if mask is not None and not bool(mask[:, -1].all()):
        raise ValueError('prompts are padded on the left: set processor.tokenizer.padding_side = "left"')
    if bool((input_ids == latent).any()):
        raise ValueError("a prompt holds <|latent|>, whose vectors are gone: leave out the spans of earlier answers")
    if inputs.get("mm_token_type_ids") is None and any(grid is not None for grid in grids):
        raise ValueError("images and videos need mm_token_type_ids: pass everything that the processor returns")


def _output(
    sequences: torch.Tensor,
    fed: list[tuple[torch.Tensor, torch.Tensor]],
    kept: dict[str, list[torch.Tensor]],
    cache: Any,
) -> Any:
    """transformers' output of decoding, with the latents of each row."""
    from transformers.generation import GenerateDecoderOnlyOutput

    vectors, masks = (torch.stack(parts, 1) for parts in zip(*fed, strict=True))
    fields = {name: tuple(values) for name, values in kept.items() if values}
    output = GenerateDecoderOnlyOutput(sequences=sequences, past_key_values=cache, **fields)
    output["latents"] = tuple(row[mask.to(row.device)] for row, mask in zip(vectors, masks, strict=True))
    return output
