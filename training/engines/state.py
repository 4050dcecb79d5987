"""vLLM's V2 runner: its model state hands latents to the model, and its sampler keeps to the rules of spans."""

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.sample.output import SamplerOutput
from vllm.v1.worker.gpu.states import RequestState

from training.engines.config import latent_model_of
from training.engines.slots import Slots


class LatentModelState(DefaultModelState):
    """Follows the requests, and puts latents into the inputs, in vLLM's own buffer: CUDA graphs read it, too."""

    def __init__(
        self, vllm_config: VllmConfig, model: Any, encoder_cache: EncoderCache | None, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self.slots = Slots(latent_model_of(vllm_config), self.max_num_reqs, self.dtype, device)

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        super().add_request(req_index, new_req_data)
        self.slots.start(
            req_index, new_req_data.req_id, new_req_data.sampling_params, new_req_data.prompt_len,
            new_req_data.prefill_token_ids,
        )  # fmt: skip

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self.slots.remove(req_id)

    def custom_sampler(self, sampler: Any) -> tuple[Any, Any]:
        return LatentSampler(sampler, self.slots, self.model), None

    def prepare_inputs_embeds(
        self, scheduled_encoder_inputs: dict[str, list[int]], input_batch: InputBatch, req_states: RequestState
    ) -> torch.Tensor:
        embeddings = super().prepare_inputs_embeds(scheduled_encoder_inputs, input_batch, req_states)
        rows = input_batch.num_reqs
        last = input_batch.query_start_loc[1 : rows + 1].long() - 1
        self.slots.feed(
            input_batch.input_ids, embeddings, input_batch.idx_mapping[:rows].long(), last, input_batch.req_ids,
            input_batch.query_start_loc_np[: rows + 1].tolist(), input_batch.num_computed_tokens_np[:rows].tolist(),
        )  # fmt: skip
        return embeddings


class LatentSampler:
    """vLLM's sampler within the rules of spans; all else that the runner wants of a sampler is its own."""

    def __init__(self, sampler: Any, slots: Slots, model: Any) -> None:
        self.__dict__.update(_sampler=sampler, _slots=slots, _model=model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._sampler, name, value)

    def __call__(self, logits: torch.Tensor, input_batch: InputBatch) -> SamplerOutput:
        if not self._slots.know(input_batch.req_ids):  # vLLM's trial run, before it measures the GPU's memory
            return self._sampler(logits, input_batch)
        slots = input_batch.idx_mapping[: input_batch.num_reqs].long()
        output = self._sampler(self._slots.forbid(logits, slots), input_batch)
        picked = output.sampled_token_ids[:, 0]
        ids, sampled = self._slots.advance(
            picked.long(), self._model.sampled_hidden, slots, output.num_sampled > 0, input_batch.req_ids
        )
        picked.copy_(ids)
        if output.logprobs_tensors is not None:  # the first column is the token's own; nobody chose a forced one
            output.logprobs_tensors.logprob_token_ids[:, 0] = ids
            output.logprobs_tensors.logprobs[:, 0].masked_fill_(~sampled, 0.0)
        return output
