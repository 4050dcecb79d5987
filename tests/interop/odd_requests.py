"""Requests to our model in lmms-eval, odd ones among them.

`python odd_requests.py CHECKPOINT`, in its environment, prints as JSON which of the cases came out as they must.

The classes are the harness's own; its tasks of this kind need a network.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.models import get_model
from PIL import Image

CONTENT = {"audio": {"type": "audio", "url": "a.wav"}, "lost video": {"type": "video", "url": "none.mp4"},
           "no image": {"type": "image", "url": __file__}, "text": {"type": "text", "text": "Which colour is it?"},
           "image": {"type": "image", "url": Image.new("RGB", (64, 64), "red")}}  # fmt: skip
GREEDY = {"max_new_tokens": 12, "temperature": 0, "do_sample": False, "until": ["\n\n"]}
SAMPLED = {"max_new_tokens": 12, "temperature": 1.0, "do_sample": True}


def request(name: str, kwargs: dict[str, Any]) -> Instance:
    """A request of the one image and question, or of the odd content alone."""
    content = [CONTENT["image"], CONTENT["text"]] if name == "usual" else [CONTENT[name]]

    def doc_to_messages(_doc: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": content}]

    arguments = ("", doc_to_messages, dict(kwargs), 0, "task", "test")
    return Instance("generate_until", arguments, 0, {"task": "task", "doc_id": 0, "repeats": 1})


def cases(checkpoint: str) -> dict[str, bool]:
    """The cases by name, and whether each came out as it must."""
    model = get_model("future_l1").create_from_arg_string(
        f"pretrained={checkpoint}", {"batch_size": 4, "device": "cpu"}
    )
    model.task_dict = {"task": {"test": [None]}}

    def answers(*requests: tuple[str, dict[str, Any]]) -> list[GenerationResult]:
        return model.generate_until([request(*one) for one in requests])

    (alone,) = answers(("usual", GREEDY))
    odd = ("audio", "lost video", "no image")
    mixed = answers(*[(name, GREEDY) for name in odd], ("usual", GREEDY), ("text", SAMPLED), ("usual", GREEDY))
    first, second = answers(("usual", SAMPLED), ("usual", SAMPLED))
    (stopped,) = answers(("usual", {**GREEDY, "until": [alone.text[3:6]]}))
    (short,) = answers(("usual", {**GREEDY, "max_new_tokens": 3}))
    return {
        **{name: result.text.startswith("[LMMS_EVAL_REQUEST_FAILED") and result.token_counts is None
           for name, result in zip(odd, mixed, strict=False)},
        "the others of a batch are answered": mixed[3].text == mixed[5].text == alone.text != "",
        "a repeated request is sampled anew": first.text != second.text,
        "sampling repeats with its seed": [first, second] == answers(("usual", SAMPLED), ("usual", SAMPLED)),
        "an answer ends at its stop": stopped.text == alone.text[:3],
        "tokens are counted": short.token_counts.output_tokens == 3,
        "beams are refused": _refuses(ValueError, lambda: answers(("usual", {**GREEDY, "num_beams": 4}))),
        "likelihoods are refused": _refuses(NotImplementedError, lambda: model.loglikelihood([])),
        "rounds are refused": _refuses(NotImplementedError, lambda: model.generate_until_multi_round([])),
    }  # fmt: skip


def _refuses(error: type[Exception], call: Callable[[], Any]) -> bool:
    try:
        call()
    except error as raised:
        return bool(str(raised))
    return False


if __name__ == "__main__":
    print(json.dumps(cases(sys.argv[1])))
