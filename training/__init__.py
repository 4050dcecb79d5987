"""The model, how it learns, how an answer is graded; knows nothing of Dagster."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers would report every training to the hub
