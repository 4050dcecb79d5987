"""`future-l1 demo`, `steps` and `train`: the plan, whole or in part."""

import click

from evaluation.generation.controls import CHANGES, CONTROLS
from evaluation.generation.jobs import INTERVENTIONS
from pipelines.cli.common import CONSOLE, current_profile, fail_if, run_steps
from pipelines.curate import broken_shards
from pipelines.jobs import TRAIN_RL, TRAIN_SFT, Step, plan
from pipelines.profile import overlaid
from pipelines.summary import finish


@click.command()
@click.option("--seed", type=click.IntRange(min=0), help="The seed of the worlds and of training (SEED, else 0).")
@click.option("--full-report", is_flag=True, help="Every intervention and control, for every model on every item.")
def demo(seed: int | None, full_report: bool) -> None:
    """Make everything, from the source to the comparison, and print the numbers.

    \b
    Example:
      future-l1 demo --seed 0
    """
    profile = current_profile(seed)
    if full_report:
        necessity = {"models": profile.checkpoints.models, "n": None, "interventions": INTERVENTIONS[1:],
                     "controls": CONTROLS[1:], "mediation": CHANGES}  # fmt: skip
        profile = overlaid(profile, {"benchmarks": {"necessity": necessity}})
    run_steps(profile, plan(profile))
    finish(profile, CONSOLE)
    fail_if(broken_shards(profile))


@click.command()
def steps() -> None:
    """Print the steps that make everything, in order, and what each one makes.

    \b
    Example:
      FUTURE_L1_PROFILE=paper future-l1 steps
    """
    for number, step in enumerate(plan(current_profile()), start=1):
        partitions = "every shard" if step.shards else ", ".join(step.partitions)
        CONSOLE.print(f"{number:2}  [bold]{step.stage.job}[/] {partitions}  [dim]{', '.join(step.stage.assets)}[/]")


@click.command()
@click.argument("recipes", nargs=-1, required=True)
def train(recipes: tuple[str, ...]) -> None:
    """Train the named SFT and RL recipes, in the order given, from the sets that are current.

    \b
    Example:
      future-l1 train future_l1 la_dapo
    """
    profile = current_profile()
    stages = dict.fromkeys(profile.checkpoints.sft, TRAIN_SFT) | dict.fromkeys(profile.checkpoints.rl, TRAIN_RL)
    unknown = [name for name in recipes if name not in stages]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: this profile has {', '.join(stages)}", param_hint="RECIPES")
    run_steps(profile, [Step(stages[name], (name,)) for name in recipes])
