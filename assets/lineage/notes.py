"""What an artifact holds or reports, in a few words."""

from collections.abc import Mapping

from training.storage.artifacts import Artifact


def note_of(artifact: Artifact) -> str:
    """What an artifact holds or reports, from its counts."""
    counts = artifact.provenance["counts"]
    if "accuracy" in counts and "average" in counts:
        score = counts["average"]
        return f"{_percent(score['accuracy'])} correct ({score['correct']:,} of {score['n']:,})"
    if "coverage" in counts:
        marks = [f"{name} {_mean(counts[name])}" for name in ("cot", "answer", "average") if name in counts]
        return ", ".join([*marks, f"{counts['coverage']['judged']:,} judged"])
    for name in ("verdict", "sentence"):
        if name in counts:
            return str(counts[name])
    if "models" in counts:
        return f"models {', '.join(counts['models'])}"
    if "items" in counts:
        return f"{counts['items']:,} items"
    if "sets" in counts:
        return ", ".join(f"{name} {rows:,} rows" for name, rows in counts["sets"].items())
    if "answers" in counts:
        return f"{counts['answers']:,} answers"
    if "kept" in counts and "scored" in counts:
        return f"{counts['kept']:,} of {counts['scored']:,} scored rows"
    return f"revision {counts['revision']}" if "revision" in counts else ""


def folder_of(artifact: Artifact) -> str:
    """The folder of files that an artifact was read from, where it says so."""
    config = artifact.provenance["config"]
    return str(config["folder"]) if isinstance(config, dict) and "folder" in config else ""


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def _mean(score: Mapping[str, float | None]) -> str:
    return "none" if score["mean"] is None else f"{score['mean']:.2f}"
