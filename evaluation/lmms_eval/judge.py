"""The judge of our tasks, from the environment.

FUTURE_L1_JUDGE_BASE_URL and FUTURE_L1_JUDGE_MODEL name it, and the other fields of JudgeSettings are set the same way;
its key comes from `training.chat.endpoint.JUDGE_KEYS`.
"""

import os

from pydantic import ValidationError

from training.grading.judge import JudgeSettings
from training.runtime.errors import validation_message

PREFIX = "FUTURE_L1_JUDGE_"


def judge_settings() -> JudgeSettings | None:
    """The judge's settings; None where no variable names one.

    Raises ValueError, naming the field, where they are not complete or not valid.
    """
    variables = {field: os.environ.get(f"{PREFIX}{field.upper()}", "").strip() for field in JudgeSettings.model_fields}
    settings = {field: value for field, value in variables.items() if value}
    try:
        return JudgeSettings.model_validate(settings) if settings else None
    except ValidationError as error:
        raise ValueError(f"the judge, from variables {PREFIX}...: {validation_message(error)}") from None
