"""`future-l1 inspect` of records: the release's recorded numbers, straight-line recomputation, what goes wrong."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result
from PIL import Image

from tests.invoke import invoke
from training.model.checkpoint import FutureL1, load
from training.recipes import paper_sft
from training.sft.inspection import latent_config_of, open_checkpoint
from training.tiny import BASE

PARITY = Path(__file__).parents[2] / "data" / "parity"
CHECKPOINT = PARITY / "checkpoint"
CASES = json.loads((PARITY / "expected.json").read_text())["cases"]
POOL = json.loads((PARITY / "expected.json").read_text())["meta"]["pool_frame_numbers"]
SYSTEM = PARITY / "system_prompt.txt"


def inspect(records: Path, out: Path, *options: str, checkpoint: Path = CHECKPOINT) -> Result:
    return invoke("inspect", "--checkpoint", checkpoint, "--records", records, "--out", out, *options)


def record(future: list[int], observed: list[int], **changes: Any) -> dict[str, Any]:
    """A record in the release's layout about the recorded clip."""
    markers = "".join(f"frame_{k}\n<image>\n" for k in range(1, len(observed) + 1))
    thoughts = "".join(f"THOUGHT {k}: it rolls on to {k}.\n<image>\n" for k in range(len(future)))
    turns = [
        {"from": "system", "value": "ignored"},
        {"from": "human", "value": f"{markers}Where is the ball?"},
        {"from": "gpt", "value": f"{thoughts}So it is there."},
    ]
    return {
        "id": f"{observed} to {future}",
        "video": str(PARITY / "clip.mp4"),
        "image": observed,
        "reasoning_image": future,
        "conversations": turns,
        "answer": "right",
    } | changes


MIXED = [
    record([5], [1]),
    record([4, 6], [1, 3]),
    {"id": "bad in the middle"},
    record([8, 5, 5], [2]),
    record([], [1, 2]),
    record([], [1], answer="  ", reasoning_image=None),
]
LEFT_OUT = 2


@pytest.fixture(scope="module")
def release() -> FutureL1:
    return load(CHECKPOINT)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "records.json").write_text(json.dumps(MIXED))
    result = inspect(folder / "records.json", folder / "out.json", "--max-latents", "8", "--system-prompt", str(SYSTEM))
    assert result.exit_code == 0, result.output
    assert "record bad in the middle" in result.stderr
    return json.loads((folder / "out.json").read_text())


# ---- the release's numbers


@pytest.mark.parametrize("name", CASES)
def test_the_releases_recorded_numbers_come_out(name: str, tmp_path: Path) -> None:
    recorded, arrays = CASES[name], np.load(PARITY / f"{name}.npz")
    options = ["--max-latents", str(recorded["L_max"]), "--system-prompt", str(SYSTEM)]
    result = inspect(PARITY / "records.json", tmp_path / "out.json", *options)
    assert result.exit_code == 0, result.output
    inspection = json.loads((tmp_path / "out.json").read_text())
    [entry], batch, [row] = inspection["records"], inspection["batch"], recorded["rows"]
    places = ("record", "spans", "latents_per_span", "latent_positions", "observed_frames", "future_frames")
    assert {key: entry[key] for key in places} == {key: row[key] for key in places}
    assert batch["latent_positions"] == [row["latent_positions"]]
    for key in ("input_ids", "labels"):
        assert batch[key] == [entry[key]] == arrays[key].tolist()
    for losses in (entry, batch):
        assert losses["ce"] == pytest.approx(recorded["ce_loss"], abs=1e-5)
        assert losses["latent_mse"] == pytest.approx(recorded["latent_mse"], abs=1e-5)
    latents = "<|latent|>" * row["latents_per_span"][0]
    rendered = recorded["rendered_text"][0]
    rendered = rendered.replace("<|vision_start|><|image_pad|>", "<|vision_start|>" + "<|image_pad|>" * 60)
    assert entry["rendered_text"] == rendered.replace("<|latent_start|><|image_pad|>", f"<|latent_start|>{latents}")
    assert entry["problem"] is None


# ---- a batch of all kinds


def frames_of(clip: Path) -> list[Image.Image]:
    with av.open(str(clip)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


@torch.no_grad()
def naive(bundle: FutureL1, value: dict[str, Any]) -> tuple[list[int], list[torch.Tensor], list[torch.Tensor]]:
    """Ids, the cross-entropy of every label and the squares of every latent, of one record, everything by hand."""
    model, processor = bundle.model, bundle.processor
    images, tokenizer = frames_of(PARITY / "clip.mp4"), processor.tokenizer

    def features(key_frames: list[int], size: tuple[int, int]) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        inspection = []
        for key_frame in key_frames:
            image = images[POOL[key_frame - 1]].resize(size, Image.Resampling.BICUBIC)
            pixels = processor.image_processor(image, do_resize=False, return_tensors="pt")
            out = model.model.visual(pixels["pixel_values"], pixels["image_grid_thw"])
            inspection.append((out.pooler_output, out.deepstack_features))
        return inspection

    observed = features(value["image"], (320, 192))
    imagined = features(value["reasoning_image"] or [], (96, 64))  # 16:9 under a cap of 8: 2 x 3 latents
    user = "".join(
        f"frame_{k + 1}<|vision_start|>{'<|image_pad|>' * 60}<|vision_end|>" for k in range(len(value["image"]))
    )
    turn = "".join(
        f"<reason>it rolls on to {k}.</reason>\n<|latent_start|>{'<|latent|>' * 6}<|latent_end|>\n"
        for k in range(len(imagined))
    )
    answer = "<answer>right</answer>" if value["answer"].strip() else ""
    prompt = f"<|im_start|>system\n{SYSTEM.read_text()}<|im_end|>\n<|im_start|>user\n{user}Where is the ball?"
    prompt += "<|im_end|>\n<|im_start|>assistant"
    report = f"\n{turn}<reason>So it is there.</reason>\n{answer}<|im_end|>\n"
    ids = tokenizer(prompt + report, add_special_tokens=False)["input_ids"]
    begin = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])

    tokens = torch.tensor(ids)
    pads, latent = tokens == bundle.tokens.image, tokens == bundle.tokens.latent
    embeddings = model.get_input_embeddings()(tokens)
    embeddings[pads] = torch.cat([merged for merged, _ in observed])
    targets = torch.cat([merged for merged, _ in imagined]) if imagined else torch.zeros(0, embeddings.shape[1])
    embeddings[latent] = targets
    positions, _ = model.model.get_rope_index(
        tokens[None], pads[None].long(), image_grid_thw=torch.tensor([[1, 12, 20]] * len(observed))
    )
    states = model.model.language_model(
        inputs_embeds=embeddings[None],
        position_ids=positions,
        visual_pos_masks=pads[None],
        deepstack_visual_embeds=[torch.cat(layer) for layer in zip(*(deep for _, deep in observed), strict=True)],
        use_cache=False,
    ).last_hidden_state[0]
    labelled = [t for t in range(begin, len(ids)) if not latent[t]]
    logits = model.lm_head(states)
    surprise = [F.cross_entropy(logits[t - 1], tokens[t]) for t in labelled]
    squares = [(states[t - 1] - embeddings[t]).pow(2).mean() for t in range(len(ids)) if latent[t]]
    return ids, surprise, squares


def test_a_mixed_batch_is_what_straight_line_code_makes_of_it(release: FutureL1, mixed: dict[str, Any]) -> None:
    usable = [value for number, value in enumerate(MIXED) if number != LEFT_OUT]
    entries = [entry for entry in mixed["records"] if "error" not in entry]
    expected = [naive(release, value) for value in usable]
    for entry, (ids, surprise, squares) in zip(entries, expected, strict=True):
        assert entry["input_ids"] == ids
        assert entry["ce"] == pytest.approx(float(torch.stack(surprise).mean()), abs=1e-6)
        assert len(entry["latent_positions"]) == len(squares)
        if squares:
            assert entry["latent_mse"] == pytest.approx(float(torch.stack(squares).mean()), abs=1e-6)
        else:
            assert entry["latent_mse"] is None
    surprise = [one for _, row, _ in expected for one in row]
    squares = [one for _, _, row in expected for one in row]
    batch = mixed["batch"]
    assert batch["ce"] == pytest.approx(float(torch.stack(surprise).mean()), abs=1e-6)
    assert batch["latent_mse"] == pytest.approx(float(torch.stack(squares).mean()), abs=1e-6)
    assert len({round(entry["ce"], 3) for entry in entries}) == len(entries), "means of means would differ"


def test_the_batch_is_the_records_padded_on_the_right(release: FutureL1, mixed: dict[str, Any]) -> None:
    entries = [entry for entry in mixed["records"] if "error" not in entry]
    batch, width = mixed["batch"], max(len(entry["input_ids"]) for entry in entries)
    for key, filler in (("input_ids", release.tokens.pad), ("labels", -100)):
        assert batch[key] == [entry[key] + [filler] * (width - len(entry[key])) for entry in entries]
    assert batch["latent_positions"] == [entry["latent_positions"] for entry in entries]


def test_several_spans_and_frames_are_told_apart(mixed: dict[str, Any]) -> None:
    entry = mixed["records"][3]
    assert entry["latents_per_span"] == [6, 6, 6]
    assert [last - first + 1 for first, last in entry["spans"]] == [6, 6, 6]
    assert [p for first, last in entry["spans"] for p in range(first, last + 1)] == entry["latent_positions"]
    assert entry["observed_frames"] == [POOL[1]]
    assert entry["future_frames"] == [POOL[7], POOL[4], POOL[4]]


def test_a_row_that_curation_would_reject_is_rendered_with_the_reason(mixed: dict[str, Any]) -> None:
    problems = [entry.get("problem") for entry in mixed["records"]]
    assert problems[:2] == [None, None]
    assert "no key frames: reasoning_image is empty" in problems[4]
    assert "empty answer" in problems[5] or "missing field" in problems[5]
    assert "<answer>" not in mixed["records"][5]["rendered_text"].split("assistant")[-1]


def test_a_record_that_cannot_be_rendered_has_an_error_and_no_tensors(mixed: dict[str, Any]) -> None:
    entry = mixed["records"][LEFT_OUT]
    assert set(entry) == {"record", "error"}
    assert len(mixed["batch"]["input_ids"]) == len(MIXED) - 1


# ---- latent configuration and resize


def test_without_a_cap_the_checkpoints_is_used(
    sft_checkpoint: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "records.json").write_text(json.dumps(rows[:3]))
    result = inspect(tmp_path / "records.json", tmp_path / "out.json", checkpoint=sft_checkpoint)
    assert result.exit_code == 0, result.output
    entries = json.loads((tmp_path / "out.json").read_text())["records"]
    assert [entry["latents_per_span"] for entry in entries] == [[4], [4, 4], [4, 4, 4]]
    assert [entry["record"] for entry in entries] == [row["row_id"] for row in rows[:3]]
    assert all(entry["problem"] is None for entry in entries)
    assert "<|im_start|>system" not in entries[0]["rendered_text"]


def test_a_base_model_is_inspected_under_the_papers_latent_config(base: FutureL1) -> None:
    paper = paper_sft("future_l1").latent_config
    assert latent_config_of(base, None, None) == paper
    assert latent_config_of(base, 7, "Look.") == paper.model_copy(update={"max_latents": 7, "system_prompt": "Look."})


def test_the_releases_resize_counts_are_an_option(tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(json.dumps(record([5], [1])))
    sizes = {}
    for resize in ("exact", "release"):
        out = tmp_path / f"{resize}.json"
        assert inspect(tmp_path / "records.json", out, "--max-latents", "1", "--resize", resize).exit_code == 0
        sizes[resize] = json.loads(out.read_text())["records"][0]["latents_per_span"]
    assert sizes == {"exact": [1], "release": [4]}


def test_the_system_prompt_is_the_files_exact_text(tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(json.dumps(record([5], [1])))
    (tmp_path / "system.txt").write_bytes(b"\n  Look. \r\n")
    assert inspect(tmp_path / "records.json", tmp_path / "out.json", "--system-prompt", str(tmp_path / "system.txt"))
    text = json.loads((tmp_path / "out.json").read_text())["records"][0]["rendered_text"]
    assert text.startswith("<|im_start|>system\n\n  Look. \r\n<|im_end|>\n<|im_start|>user\n")


# ---- what goes wrong


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "no list of records"),
        ("[]", "holds no records"),
        ("3", "found int"),
        ('[{"id": "a", "video": "gone.mp4", "question": "Q", "frames": [1]}]', "record a: there is no clip"),
        (json.dumps(record([9], [1])), "key frame outside 1..8: reasoning_image holds 9"),
        (json.dumps(record([5], [1], answer="<|im_end|>")), "the answer carries the control string <|im_end|>"),
    ],
)
def test_the_command_fails_when_no_record_can_be_rendered(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(text)
    result = inspect(tmp_path / "records.json", tmp_path / "out.json")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert sentence in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--records", "nowhere.json"], "does not exist"),
        (["--checkpoint", str(PARITY / "nowhere")], "does not exist"),
        (["--checkpoint", str(PARITY)], "is no checkpoint that can be loaded"),
        (["--max-latents", "0"], "is not in the range x>=1"),
        (["--checkpoint", str(CHECKPOINT)], "give --checkpoint, --records and --out"),
        (["--system-prompt", str(PARITY / "clip.mp4")], "is no UTF-8 text"),
    ],
)
def test_options_that_cannot_be_say_what_to_do(options: list[str], sentence: str, tmp_path: Path) -> None:
    values = {"--checkpoint": str(CHECKPOINT), "--records": str(PARITY / "records.json"), "--out": str(tmp_path / "o")}
    if sentence.startswith("give"):
        values = {}
    arguments = [part for pair in (values | dict([options])).items() for part in pair]  # type: ignore[arg-type]
    result = invoke("inspect", *arguments)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert sentence in " ".join(result.stderr.split())


def test_a_system_prompt_may_name_tags_but_no_placeholders(base: FutureL1) -> None:
    assert latent_config_of(base, None, "<|latent_start|> a view <|latent_end|>")
    with pytest.raises(ValueError, match=r"<\|latent\|>, which stand for vectors"):
        latent_config_of(base, None, "use <|latent|>")


def test_an_artifacts_folder_is_as_good_as_the_checkpoint_in_it(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(BASE)
    assert open_checkpoint(tmp_path).latent_config is None


def test_without_options_artifacts_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path))
    assert invoke("inspect").exit_code == 0
