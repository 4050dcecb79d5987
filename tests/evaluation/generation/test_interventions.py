"""Interventions change all latents, and nothing else."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file

from evaluation.generation import interventions
from evaluation.generation.interventions import NONE
from evaluation.generation.jobs import INTERVENTIONS, LOCAL_INTERVENTIONS, MEDIATIONS, InterventionName
from evaluation.generation.requests import Request
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.decode import decode
from training.model.encoding import Encoder
from training.model.interventions import Intervention
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import Sampling

LATENT, BUDGET = 9, 3


def decoded(ids: list[list[int]], latents: list[float]) -> Decoded:
    """Answers whose k-th latent is the vector (value, value)."""
    vectors = torch.tensor(latents)[:, None].expand(-1, 2)
    nothing = torch.zeros(len(ids), len(ids[0]))
    done = torch.ones(len(ids), dtype=torch.bool)
    return Decoded(torch.tensor(ids), nothing, nothing.bool(), vectors, vectors[:, 0], done, 0.0, 0.0)


def request(name: str, reference: str | None = None) -> Request:
    return Request(name, [], (0,), (hash(name) % 1000,), name.partition("/")[0], reference)


# rows: two spans of 3 and 1, none, one span of 2, one span of 3
PLAIN = decoded(
    [[1, 9, 9, 9, 1, 9], [1, 1, 1, 1, 1, 1], [1, 9, 9, 1, 1, 1], [9, 9, 9, 1, 1, 1]], [1, 2, 3, 4, 5, 6, 7, 8, 9]
)
USED = [True, False, True, True]
ORIGINAL = -1.0


def at(span: int, slot: int, lenders: Sequence[int] = (2, 2, 3, 0)) -> list[float]:
    """What each of the four rows is fed at this place instead of its own vector."""
    replace = interventions.lent(PLAIN, LATENT, BUDGET, lenders)
    fed = replace(torch.full((4, 2), ORIGINAL), torch.full((4,), span), torch.full((4,), slot), torch.arange(4))
    return fed[:, 0].tolist()


# ---- another item's latents


def test_another_items_latents_are_lent_at_their_span_and_place() -> None:
    assert at(0, 0) == [5, 5, 7, 1]
    assert at(0, 1) == [6, 6, 8, 2]


def test_a_shorter_donor_lends_its_last_span_and_latent() -> None:
    assert at(0, 2) == [6, 6, 9, 3], "the donor of rows 0 and 1 has only two latents"
    assert at(1, 0) == [5, 5, 7, 4], "only row 0, the donor of row 3, has a second span"
    assert at(5, 2) == [6, 6, 9, 4]


def test_rows_in_text_mode_are_no_obstacle() -> None:
    assert len(at(-1, -1)) == 4


def test_without_a_donor_the_latents_stay() -> None:
    assert at(0, 0, (NONE, NONE, 3, NONE)) == [ORIGINAL, ORIGINAL, 7, ORIGINAL]


def test_the_donor_is_the_next_answer_with_latents_about_another_item() -> None:
    items = [request("a"), request("b"), request("c/plain"), request("c/hint")]
    assert interventions.donors("other_item", items, USED) == [2, 2, 0, 0]
    assert interventions.donors("other_item", items, [False, False, True, False]) == [2, 2, NONE, NONE]
    assert interventions.donors("other_item", items[2:], [True, True]) == [NONE, NONE], "one item has two prompts"


def test_the_donors_answer_is_the_same_or_another() -> None:
    items = [request("a", "red"), request("b", "red"), request("c", "blue"), request("d", "red")]
    assert interventions.donors("same_answer", items, USED) == [3, 3, NONE, 0]
    assert interventions.donors("other_answer", items, USED) == [2, 2, 3, 2]
    assert interventions.donors("other_answer", items[:2], [True, True]) == [NONE, NONE]


# ---- noise and constants


def test_noise_has_the_norm_of_what_it_replaces() -> None:
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.5]])
    place, rows = torch.zeros(2).long(), torch.arange(2)
    first, again = (interventions.noise(torch.tensor([1, 2]))(vectors, place, place, rows) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first.norm(dim=-1), torch.tensor([5.0, 0.5]))
    assert not torch.allclose(first, vectors)


def test_noise_depends_on_the_answers_seed_and_the_latents_place() -> None:
    vectors, noise = torch.ones(3, 8), interventions.noise
    spans, slots = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    rows = torch.arange(3)
    batch = noise(torch.tensor([7, 7, 7]))(vectors, spans, slots, rows)
    for row in range(3):
        alone = noise(torch.tensor([7]))(vectors[:1], spans[row : row + 1], slots[row : row + 1], rows[:1])
        assert torch.equal(alone[0], batch[row])
    other = noise(torch.tensor([8, 7, 7]))(vectors, spans, slots, rows)
    assert torch.equal(other[1:], batch[1:])
    left = noise(torch.tensor([8, 7, 7]))(vectors[[0, 2]], spans[[0, 2]], slots[[0, 2]], rows[[0, 2]])
    assert torch.equal(left, other[[0, 2]]), "a row that leaves changes nothing for the others"
    different = [batch[0], batch[1], batch[2], other[0]]
    assert all(not torch.allclose(a, b) for i, a in enumerate(different) for b in different[:i])


def test_latents_that_are_kept_come_first_and_noise_is_added_by_its_norm() -> None:
    vectors, seeds = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    slots, place = torch.arange(4), (torch.zeros(4).long(), torch.arange(4), torch.arange(4))
    noisy = interventions.noise(seeds)(vectors, *place)
    kept = interventions.noise(seeds, 2)(vectors, *place)
    assert torch.equal(kept[slots < 2], vectors[slots < 2]) and torch.equal(kept[slots >= 2], noisy[slots >= 2])
    added = interventions.added_noise(seeds, 0.5)(vectors, *place)
    torch.testing.assert_close(added, vectors + 0.5 * noisy)
    torch.testing.assert_close((added - vectors).norm(dim=-1), vectors.norm(dim=-1) / 2)


def test_the_first_latent_of_each_span_is_repeated() -> None:
    replace = interventions.first_repeated(2)
    slots = [[0, -1], [1, 0], [2, 1], [-1, 2], [0, -1], [1, 0]]  # of two rows that are never in step
    span, rows = torch.zeros(2).long(), torch.arange(2)
    fed = [
        replace(torch.full((2, 1), float(step)), span, torch.tensor(slot), rows)[:, 0].tolist()
        for step, slot in enumerate(slots)
    ]
    spans = [[fed[step][row] for step in range(6) if slots[step][row] >= 0] for row in (0, 1)]
    assert spans == [[0, 0, 0, 4, 4], [1, 1, 1, 5]]


def test_the_mean_is_read_from_a_file_that_fits_the_model(tmp_path: Path) -> None:
    path, cpu = tmp_path / "mean.safetensors", torch.device("cpu")
    save_file({"mean": torch.tensor([1.0, 2.0])}, path)
    mean = interventions.read_mean(path, 2, cpu)
    fed = interventions.constant(mean)(torch.zeros(3, 2), *[torch.arange(3)] * 3)
    assert fed.tolist() == [[1.0, 2.0]] * 3
    with pytest.raises(ValueError, match=r"mean\.safetensors: the model needs a tensor `mean` of \[3\]"):
        interventions.read_mean(path, 3, cpu)
    save_file({"average": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"found \{'average': \[2\]\}"):
        interventions.read_mean(path, 2, cpu)


# ---- on a model


@pytest.fixture(scope="module")
def draw(sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]]) -> interventions.Draw:
    reader = RowReader(encoder, keep=False)
    prompts = [reader.prompt(row) for row in rows[:6]]

    def run(
        intervention: Intervention | None = None, spans: Spans | None = None, scripts: Any = None, masking: Any = None
    ) -> Decoded:
        return decode(
            sft_model.model, sft_model.vision(), sft_model.tokens, prompts, Sampling(60), spans or sft_model.spans,
            [[0]] * 6,
            intervention=intervention, scripts=scripts, masking=masking,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def plain(draw: interventions.Draw, sft_model: FutureL1) -> Decoded:
    whole = draw()
    counts = [sft_model.tokens.span_sizes(answer.ids) for answer in whole.completions(sft_model.tokens)]
    assert sum(map(bool, counts)) > 2, "answers need spans for any of this to mean anything"
    return whole


@pytest.fixture
def under(draw: interventions.Draw, sft_model: FutureL1) -> Callable[..., tuple[Decoded, dict[str, str]]]:
    def run(name: InterventionName, references: str = "xyxyxy") -> tuple[Decoded, dict[str, str]]:
        items = [request(f"item{number}", reference) for number, reference in enumerate(references)]
        mean = torch.full((sft_model.model.config.text_config.hidden_size,), 0.5)
        return interventions.intervene(name, sft_model, draw, items, mean)

    return run


REPLACING = (
    "zeros", "noise", "mean", "other_item", "same_answer", "other_answer", "first_repeated", "added_noise_100",
)  # fmt: skip


@pytest.mark.parametrize("name", REPLACING)
def test_only_what_follows_a_replaced_latent_changes(
    sft_model: FutureL1, plain: Decoded, under: Any, name: InterventionName
) -> None:
    replaced, alone = under(name)
    assert not alone
    t = sft_model.tokens
    for before, after in zip(*([a.ids for a in b.completions(t)] for b in (plain, replaced)), strict=True):
        begin = before.index(t.latent_start) if t.latent_start in before else len(before)
        assert before[: begin + 6] == after[: begin + 6], "the text up to the first span, and its fixed length"
    if name in ("zeros", "mean"):
        assert (replaced.latents == (0.0 if name == "zeros" else 0.5)).all()
    else:
        first = min(len(plain.latents), len(replaced.latents))
        assert not torch.allclose(plain.latents[:first], replaced.latents[:first], atol=1e-2)
    if name == "first_repeated":
        spans = replaced.latents.unflatten(0, (-1, 4))
        torch.testing.assert_close(spans, spans[:, :1].expand_as(spans))


@pytest.mark.parametrize("name", MEDIATIONS)
def test_mediation_feeds_the_latents_of_the_other_prompt(
    sft_model: FutureL1, draw: interventions.Draw, plain: Decoded, name: str
) -> None:
    """The original prompts here are the same in another order, so that each answer's lender is known."""
    reads, lends = [], {True: plain, False: draw(interventions.zeros())}

    def side(original: bool) -> Any:
        def run(intervention: Intervention | None = None, **_: Any) -> Decoded:
            if intervention is None:
                return lends[original]
            reads.append(original)
            return draw(intervention)

        return run

    items = [request(f"item{number}") for number in range(6)]
    answers, alone = interventions.intervene(name, sft_model, side(False), items, None, side(True))  # type: ignore[arg-type]
    assert not alone and reads == [name == "changed_latents"], "which prompt is answered"
    lender = lends[name == "original_latents"]
    for mine, its in zip(answers.completions(sft_model.tokens), lender.completions(sft_model.tokens), strict=True):
        if len(its.latents) and len(mine.latents):
            torch.testing.assert_close(mine.latents[:4], its.latents[:4])


def test_borrowed_latents_are_another_answers(sft_model: FutureL1, plain: Decoded, under: Any) -> None:
    replaced, _ = under("same_answer")
    before, after = ([a.latents for a in b.completions(sft_model.tokens)] for b in (plain, replaced))
    for row, fed in enumerate(after):
        if len(fed):
            lent = [
                number for number, vectors in enumerate(before) if len(vectors) and torch.equal(vectors[:4], fed[:4])
            ]
            assert lent and lent[0] != row and lent[0] % 2 == row % 2, "references alternate"


def test_a_prompt_without_a_donor_is_left_out_and_says_so(plain: Decoded, under: Any, sft_model: FutureL1) -> None:
    used = [bool(len(answer.latents)) for answer in plain.completions(sft_model.tokens)]
    _, alone = under("same_answer", "abcdef")
    assert set(alone) == {f"item{number}" for number, has in enumerate(used) if has}
    assert "no other item of its batch of 6" in next(iter(alone.values()))


def test_donors_by_answer_need_the_answers(draw: interventions.Draw, sft_model: FutureL1) -> None:
    with pytest.raises(ValueError, match="needs the column `reference`; prompt 'b' has none"):
        interventions.intervene("same_answer", sft_model, draw, [request("a", "x"), request("b")], None)


def test_without_spans_none_opens_and_markers_alone_close_at_once(sft_model: FutureL1, under: Any) -> None:
    t = sft_model.tokens
    for answer in under("no_span")[0].completions(t):
        assert not {t.latent, t.latent_start, t.latent_end} & set(answer.ids)
    markers = [answer.ids for answer in under("markers_only")[0].completions(t)]
    assert any(t.latent_start in ids for ids in markers)
    for ids in markers:
        assert set(t.span_sizes(ids[:-1])) <= {0}
        assert all(ids[at + 1] == t.latent_end for at, token in enumerate(ids[:-1]) if token == t.latent_start)


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_exactly_so_many_spans_are_forced_before_the_answer(
    sft_model: FutureL1, plain: Decoded, under: Any, wanted: int
) -> None:
    t, tokenizer = sft_model.tokens, sft_model.processor.tokenizer
    forced, _ = under(f"spans_{wanted}")
    for before, after in zip(plain.completions(t), forced.completions(t), strict=True):
        assert t.span_sizes(after.ids) == [4] * wanted
        sizes, text = t.span_sizes(before.ids), after.decoded_text(t, tokenizer)
        ends = [place for place, token in enumerate(before.ids) if token == t.latent_end]
        if len(sizes) >= wanted:
            begin = ends[wanted - 1] + 1
            assert after.ids[:begin] == before.ids[:begin]
        else:
            begun = before.decoded_text(t, tokenizer).split("<answer>")[0]
            span = "<|latent_start|>" + "<|latent|>" * 4 + "<|latent_end|>\n"
            assert text.startswith(begun + span * (wanted - len(sizes)))
        last = max(place for place, token in enumerate(after.ids) if token == t.latent_end)
        assert not after.sampled[: last + 1].any(), "what is forced was not drawn"
        assert after.sampled[last + 2 :].all()


def test_forced_spans_without_an_answer_tag_stand_at_the_beginning(sft_model: FutureL1) -> None:
    t, tokenizer = sft_model.tokens, sft_model.processor.tokenizer
    words = tokenizer.encode("no tag at all", add_special_tokens=False)
    stray = decoded([[*words, t.latent_end]], [])
    newline = tokenizer.encode("\n", add_special_tokens=False)
    span = [t.latent_start, t.latent, t.latent, t.latent_end, *newline]
    assert interventions.forced_spans(stray, t, tokenizer, 2, budget=2) == [span * 2], "a stray end is no span"


def test_spans_cannot_be_forced_on_a_model_that_knows_none(base: FutureL1, draw: interventions.Draw) -> None:
    for name in ("markers_only", "spans_2"):
        with pytest.raises(ValueError, match="latent spans"):
            interventions.intervene(name, base, draw, [request("a")], None)  # type: ignore[arg-type]


def test_every_name_has_an_intervention(under: Any) -> None:
    assert get_args(InterventionName) == INTERVENTIONS and set(LOCAL_INTERVENTIONS) < {*INTERVENTIONS, *MEDIATIONS}
    for name in INTERVENTIONS:
        if not name.startswith("spans_"):
            assert len(under(name)[0].ids) == 6, name
