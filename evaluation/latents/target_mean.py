"""The mean latent target: the mean feature of the future frames of training rows, for an intervention on latents."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch
from safetensors.torch import save_file

from training.model.checkpoint import FutureL1
from training.model.rows import RowReader
from training.sft.inspection import latent_config_of
from training.storage.files import atomic_write
from training.storage.hashing import stable_hash
from training.storage.parquet import scan_parquet


def write_mean(
    bundle: FutureL1, rows: Path, n: int, seed: int, target: Path, progress: Callable[[int, int], None]
) -> dict[str, int]:
    """Writes tensor `mean` [D], the mean over all latent targets of at most `n` rows, sampled by a hash of their ids.

    rows: training.runtime.programs.TrainingConfig.data.  Returns the rows and latents in it, and the rows that could
    not be read.  A base model has the paper's L_max.  Raises ValueError when no row gives a target.
    """
    table = scan_parquet(rows)
    ids = sorted(table.select("row_id").collect()["row_id"].to_list(), key=lambda name: stable_hash(seed, name))[:n]
    chosen = table.filter(pl.col("row_id").is_in(ids)).collect()
    reader, vision = RowReader(bundle.encoder(latent_config_of(bundle, None, None)), keep=False), bundle.vision()
    total, latents, unreadable = torch.zeros(vision.width, dtype=torch.float64), 0, []
    for number, row in enumerate(chosen.iter_rows(named=True), start=1):
        try:
            targets = vision.merged(reader.dialogue(row, spans=True).future)
        except (ValueError, OSError) as error:
            unreadable.append(f"{row['row_id']}: {error}")
            continue
        total += targets.double().sum(0).cpu()
        latents += len(targets)
        progress(number, chosen.height)
    if not latents:
        first = unreadable[0] if unreadable else "none has future frames"
        raise ValueError(f"{rows}: none of {chosen.height} rows gives a latent target: {first}")
    counts = {"rows": chosen.height - len(unreadable), "latents": latents, "unreadable": len(unreadable)}
    with atomic_write(target) as fresh:
        save_file({"mean": (total / latents).float()}, fresh, {name: str(count) for name, count in counts.items()})
    return counts
