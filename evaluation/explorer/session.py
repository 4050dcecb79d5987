"""One model that answers one question after the other, each answer with its edits, and reports what it did.

Every answer goes through `training.model.decode` with the prompts, the seed and the replacements of the reports.
Answers and reports of the latest states are kept, so that going back costs nothing.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from evaluation.benchmarks.twiffbench import TwiffBench
from evaluation.explorer.events import Emit
from evaluation.explorer.examples import LENDERS, Example, Group
from evaluation.explorer.imagery import Imagery, ImagerySource
from evaluation.explorer.kept import Kept
from evaluation.explorer.plans import Lenders, Plan, Run, plan_of
from evaluation.explorer.reports import AnswerReport, answer_report, changes_report, item_report
from evaluation.explorer.state import State
from evaluation.explorer.uploads import Uploads
from evaluation.explorer.watch import Watch
from evaluation.generation.config import GenerationConfig
from evaluation.generation.controls import controlled
from evaluation.generation.local import encode
from training.data.video import FrameCache
from training.model.checkpoint import FutureL1
from training.model.decode import Observer, decode
from training.model.encoding import Encoded
from training.model.modes import Spans
from training.model.sampling import Sampling
from training.storage.hashing import stable_hash

FRAMES_BYTES, FEATURES_BYTES = 2**28, 2**28
PROMPTS_BYTES, RUNS_BYTES, REPORTS_BYTES = 2**28, 2**28, 2**27
"""Of prompts, and of the answers and reports of states, that are kept."""


class Session:
    """Answers of one checkpoint to the examples of these groups and to uploaded clips.  One thread at a time."""

    def __init__(
        self, bundle: FutureL1, name: str, groups: Sequence[Group], generation: GenerationConfig, uploads: Uploads,
        seed: int,
    ) -> None:  # fmt: skip
        self.bundle, self.name, self.generation, self.seed = bundle, name, generation, seed
        self.groups = {group.name: group for group in groups}
        self.uploads = uploads
        self.vision = bundle.vision(FEATURES_BYTES)
        self._encoder = bundle.prompt_encoder(generation.image_tokens, generation.system_prompt)
        self._frame_cache = FrameCache(FRAMES_BYTES)
        twiff = next((group.table for group in groups if isinstance(group.benchmark, TwiffBench)), None)
        self._imagery = ImagerySource(bundle, twiff, seed)
        self._prompts: Kept[tuple[str, bool], Encoded] = Kept(PROMPTS_BYTES, _frame_bytes)
        self._runs: Kept[State, Run] = Kept(RUNS_BYTES, lambda run: run.nbytes)
        self._reports: Kept[State, AnswerReport] = Kept(REPORTS_BYTES, lambda report: report.nbytes)

    def example(self, key: str) -> Example:
        """The example of a key.  Raises ValueError, a sentence, for one that is not here."""
        group = self.groups.get(key.partition("/")[0])
        return group.example(key) if group else self.uploads.example(key)

    def titles(self) -> list[dict[str, Any]]:
        """Names, keys and titles of all examples."""
        groups = {name: group.titles for name, group in self.groups.items()} | {"your clips": self.uploads.titles()}
        return [{"name": name, "items": list(titles.items())} for name, titles in groups.items() if titles]

    def show(self, state: State, emit: Emit) -> None:
        """Answers a state: emits `item`; `before` where there are edits, the report on the answer without the last one;
        `changes`, those that are in force; `blocks` and `span` while the answer grows; and `report`.  `earlier` are the
        tokens of answers that it needs.

        Raises ValueError or OSError, a sentence, where there is nothing to show; and what `emit` raises.
        """
        example = self.example(state.item)
        imagery = self._imagery.of(example)
        emit({"event": "item"} | item_report(example, state, self.bundle.spans, imagery, self._frame_cache))
        before = None

        def waits(*_: object) -> None:
            emit({"event": "earlier"})

        if state.edits:
            earlier = State(state.item, state.edits[:-1])
            before = self._report(earlier, example, imagery, waits)
            emit({"event": "before", "report": before.as_json()})
        plan = self._plan(state, example, waits)
        emit({"event": "changes"} | changes_report(plan))
        watch = Watch(self.bundle, imagery, before, emit)
        report = self._report(state, example, imagery, waits, watch)
        if before is not None:
            emit({"event": "before", "report": before.marked_against(report).as_json()})
            report = report.marked_against(before)
        emit({"event": "report", "report": report.as_json()})

    def _report(
        self, state: State, example: Example, imagery: Imagery, waits: Observer, watch: Watch | None = None
    ) -> AnswerReport:
        def make() -> AnswerReport:
            run = self._run(state, example, waits, watch)
            prompt = self._prompt(example, run.plan.grey)
            return answer_report(self.bundle, self.vision, example, imagery, prompt, run)

        return self._reports.get_or_make(state, make)

    def _run(self, state: State, example: Example, waits: Observer, watch: Watch | None = None) -> Run:
        """`waits` observes the answers that this one needs, and this one where nobody watches it."""
        return self._runs.get_or_make(
            state, lambda: self._decoded(self._plan(state, example, waits), example, watch or waits)
        )

    def _plan(self, state: State, example: Example, waits: Observer) -> Plan:
        if not state.edits:
            return Plan()
        earlier = self._run(State(state.item, state.edits[:-1]), example, waits)
        lenders = self._lenders(example, waits)
        return plan_of(state.edits[-1], earlier.plan, earlier.decoded, self.bundle, lenders)

    def _prompt(self, example: Example, grey: bool) -> Encoded:
        def make() -> Encoded:
            content = controlled("no_video" if grey else "none", example.content, example.prompt_id, self.seed, None)
            return encode(self._encoder, content, self._frame_cache)

        return self._prompts.get_or_make((example.key, grey), make)

    def _decoded(self, plan: Plan, example: Example, observer: Observer | None) -> Run:
        prompt, spans = self._prompt(example, plan.grey), self.bundle.spans
        start = time.perf_counter()
        decoded = decode(
            self.bundle.model, self.vision, self.bundle.tokens, [prompt], Sampling(self.generation.max_new_tokens),
            Spans(spans.latents, spans.end, plan.may_open), [[self._answer_seed(example)]],
            intervention=plan.intervention(), scripts=[plan.script], masking=plan.masking(),
            observer=observer,
        )  # fmt: skip
        return Run(plan, decoded, time.perf_counter() - start)

    def _answer_seed(self, example: Example) -> int:
        """That of `evaluation.generation.requests.Prompts`, so that noise is the reports'."""
        return stable_hash(self.seed, example.prompt_id, 0) >> 1

    def _lenders(self, example: Example, waits: Observer) -> Lenders:
        return Lenders(
            lambda index: self._other_item(example, index, waits), lambda index: self._future(example, index),
            self._answer_seed(example),
        )  # fmt: skip

    def _future(self, example: Example, index: int) -> torch.Tensor:
        """The features of the true future frame that stands for a span, as SFT aims at."""
        future = self._imagery.of(example).footage.future
        if index >= len(future):
            frames = f"{len(future)} true future frame{'' if len(future) == 1 else 's'}"
            raise ValueError(f"this item has {frames}, and none for span {index + 1}")
        return torch.from_numpy(future[index].features)

    def _other_item(self, example: Example, index: int, waits: Observer) -> torch.Tensor:
        """The latents of the next item that answers with latents, at the same span or its last one."""
        group = self.groups.get(example.key.partition("/")[0], next(iter(self.groups.values()), None))
        for other in group.after(example.key) if group else ():
            run = self._run(State(other.key), other, waits)
            (completion,) = run.decoded.completions(self.bundle.tokens)
            spans = [s for s in completion.latents.split(self.bundle.tokens.span_sizes(completion.ids)) if len(s)]
            if spans:
                return spans[min(index, len(spans) - 1)]
        raise ValueError(f"none of the next {LENDERS} items is answered with latents that it could lend")


def _frame_bytes(prompt: Encoded) -> int:
    return sum(patches.frames.nbytes for patches in prompt.observed)
