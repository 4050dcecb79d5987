"""Our benchmarks as tasks of lmms-eval, for its chat models: items, prompts and grades are those of `future-l1
evaluate`.

A task's YAML holds the fields of the benchmark's settings as `dataset_kwargs`.  An answer that a model could not give
is no wrong answer: it lowers `answered`, and nothing else, as an answer without a mark lowers `judged`.
"""

import threading
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from lmms_eval.api.task import ConfigurableMessagesTask
from loguru import logger

from evaluation.benchmarks.futurebench_items import FutureBenchItems, FutureBenchSettings
from evaluation.benchmarks.options import LETTERS, grade_answer
from evaluation.benchmarks.twiffbench_items import TwiffBenchItems, TwiffBenchSettings
from evaluation.lmms_eval.items import messages, usable_items
from evaluation.lmms_eval.judge import PREFIX, judge_settings
from training.chat.endpoint import EndpointRefusesError
from training.grading.judge import Judge, JudgeSettings

NO_ANSWER = "[LMMS_EVAL_"
"""How the harness marks what a model could not answer."""


class BenchmarkTask(ConfigurableMessagesTask):
    """A benchmark whose items stay outside the harness's data set, which holds what its logs are to show of them."""

    benchmark: FutureBenchItems | TwiffBenchItems
    logged_fields: ClassVar[tuple[str, ...]]

    def __init__(self, config: Mapping[str, Any]) -> None:
        # A function, which the harness copies with its config; a method it would copy with the task and all items.
        graded = {"process_results": lambda doc, results: self._metrics(doc, results[0])}
        super().__init__(config={name: value for name, value in config.items() if name != "class"} | graded)

    @abstractmethod
    def grade(self, row: Mapping[str, Any], answer: str) -> dict[str, float]:
        """The metrics of an answer to an item; without those that it has not."""

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Reads the items.  Raises ValueError where the variable names no folder of the benchmark."""
        self.rows = usable_items(self.benchmark)
        docs = [{"row": n} | {name: row[name] for name in self.logged_fields} for n, row in enumerate(self.rows)]
        self.dataset = self.dataset_no_image = DatasetDict({self.config.test_split: Dataset.from_list(docs)})

    def doc_to_messages(self, doc: Mapping[str, Any], **_: Any) -> list[dict[str, Any]]:
        return messages(self.benchmark.content(self.rows[doc["row"]]))

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """The texts of the prompt: chat models take `doc_to_messages`."""
        return "".join(part["text"] or "" for part in self.benchmark.content(self.rows[doc["row"]]))

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        return str(doc["answer"])

    def _metrics(self, doc: Mapping[str, Any], answer: str) -> dict[str, float]:
        if answer.startswith(NO_ANSWER):
            return {"answered": 0.0}
        return {"answered": 1.0} | self.grade(self.rows[doc["row"]], answer)


class FutureBenchTask(BenchmarkTask):
    """Accuracy by hop and on average, by the parser of the settings."""

    benchmark: FutureBenchItems
    logged_fields = ("id", "question_type", "question", "options", "answer")

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        self.benchmark = FutureBenchItems(FutureBenchSettings(**dataset_kwargs or {}))
        super().download()

    def grade(self, row: Mapping[str, Any], answer: str) -> dict[str, float]:
        options = dict(zip(LETTERS, row["options"], strict=True))
        graded = grade_answer(self.benchmark.settings.parser, answer, options, row["answer"])
        correct = float(graded["correct"])
        parsed = float(graded["parsed"] is not None)
        return {"accuracy": correct, f"accuracy_{row['question_type']}": correct, "parsed": parsed}


class TwiffBenchTask(BenchmarkTask):
    """The marks of the reasoning chain and of the answer, 0 to 5, by our judge and rubric; none without a judge."""

    benchmark: TwiffBenchItems
    logged_fields = ("id", "category", "question", "answer")

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        self.benchmark = TwiffBenchItems(TwiffBenchSettings(**dataset_kwargs or {}))
        self.judge_settings = judge_settings()
        if self.judge_settings is None:
            logger.warning(f"no judge, and so no marks: {PREFIX}BASE_URL and {PREFIX}MODEL name one")
        else:
            Judge(self.judge_settings).preflight()
        self._of_thread = threading.local()
        super().download()

    def grade(self, row: Mapping[str, Any], answer: str) -> dict[str, float]:
        if self.judge_settings is None:
            return {"judged": 0.0}
        judge = self._judge(self.judge_settings)
        payload = list(self.benchmark.payload({**row, "text": answer}, judge))
        samples = range(self.benchmark.settings.judge_samples)
        try:
            judgements = [self.benchmark.ask(judge, [payload], number)[0] for number in samples]
        except EndpointRefusesError as error:  # the harness stores answers after all grades
            logger.error(f"{self.benchmark.name}, item {row['id']} has no mark: {error}")
            return {"judged": 0.0}
        if not any(judgements):
            return {"judged": 0.0}
        by_mark = zip(self.benchmark.marks, zip(*filter(None, judgements), strict=True), strict=True)
        marks = {name: sum(values) / len(values) for name, values in by_mark}
        return {**marks, "average": sum(marks.values()) / len(marks), "judged": 1.0}

    def _judge(self, settings: JudgeSettings) -> Judge:
        """The judge of this thread: the harness grades in several."""
        if not hasattr(self._of_thread, "judge"):
            self._of_thread.judge = Judge(settings)
        return self._of_thread.judge
