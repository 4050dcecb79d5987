"""The start of the generation program, `python -m evaluation.generate`: for assets, and here without Dagster."""

from evaluation.generation.jobs import GenerateConfig
from training.runtime.launch import Start, describe_status, supervised
from training.runtime.programs import CONFIG_ERROR
from training.runtime.supervisor import Deadlines

PROGRAM = "evaluation.generate"
DEADLINES = Deadlines(sigint_grace=15.0, sigterm_grace=15.0)


class GenerationFailedError(RuntimeError):
    """The generation program ended before every prompt had its answer; the answers until then are in the ledger."""


def start_of(config: GenerateConfig) -> Start:
    """The program with this config, for Dagster's launcher or `generate`."""
    return Start(PROGRAM, config.out, config.model_dump(mode="json", exclude={"out"}))


def generate(config: GenerateConfig) -> None:
    """Runs the program to its end; it ends with this process, however that ends.  Its log goes to standard error.

    Raises ValueError where it refuses its config, GenerationFailedError where it fails otherwise.
    """
    with supervised(start_of(config).arguments(), DEADLINES, {}, stdout=2) as process:
        status = process.wait()
    if status == CONFIG_ERROR:
        raise ValueError(f"{PROGRAM} refuses its config ({config.out / 'config.json'}); its message is above")
    if status != 0:
        raise GenerationFailedError(f"{PROGRAM} {describe_status(status)}; the same command goes on from here")
