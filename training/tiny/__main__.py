"""`python -m training.tiny --out DIR`: makes the tiny base checkpoint (a few minutes on two CPU cores)."""

from pathlib import Path

import click

from training.runtime.interrupts import exiting
from training.tiny import BASE
from training.tiny.build import build_model, build_processor
from training.tiny.train import accuracy, train


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=BASE, show_default=True)
@click.option("--steps", default=600, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, steps: int, seed: int) -> None:
    """Trains the tiny base from scratch and saves model, tokenizer and processor."""
    with exiting("the same command starts over"):
        _make(out, steps, seed)


def _make(out: Path, steps: int, seed: int) -> None:
    processor = build_processor()
    model = build_model(processor.tokenizer, seed)
    train(model, processor, steps, seed, log=click.echo)
    for hints in (True, False):
        for hop, (generated, among) in accuracy(model, processor, hints).items():
            prompt = "with hints" if hints else "without hints"
            click.echo(f"{prompt}, step {hop}: {generated:.3f} as generated, {among:.3f} among the options")
    model.save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    main()
