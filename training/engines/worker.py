"""The worker's part: latents for the caller."""

from typing import Any

from training.engines.options import Returned


class LatentWorker:
    """`--worker-extension-cls`: vLLM adds this class to its workers."""

    model_runner: Any

    def take_latents(self, key: str) -> dict[int, Returned]:
        """The latents kept under a key, by the number of the answer and by span; they are kept no longer."""
        state = getattr(self.model_runner, "model_state", None)  # the V2 runner's
        requests = state.slots if state is not None else self.model_runner.get_model().rows
        taken: dict[int, Returned] = requests.take(key)
        return taken
