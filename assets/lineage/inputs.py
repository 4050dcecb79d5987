"""What artifacts recorded as their inputs, and the current artifacts that these are."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from evaluation.reports.edges import DIGESTS, kind_of
from evaluation.reports.run_reports import Edge
from training.storage.artifacts import Artifact

SETS = ("curation/sft_sets/", "curation/rl_sets/")
MADE = ("benchmarks/", "checkpoints/", "curation/", "trajectories/")
"""The groups of assets that are made here; inputs may come from elsewhere."""


@dataclass(frozen=True)
class Input:
    """One input as an artifact recorded it: a version, or a file's digest; and the current artifact that has it."""

    key: str
    value: str
    artifact: str | None

    @property
    def is_current_set(self) -> bool:
        """Whether this is a table of the current training sets; another artifact may have the same bytes."""
        return self.key.startswith(SETS) and self.artifact == self.key.rpartition("/")[0]

    @property
    def is_outdated(self) -> bool:
        """Whether this is an artifact that is not current any more."""
        if self.key.startswith(SETS):
            return not self.is_current_set
        return self.artifact is None and (self.key == "checkpoint" or self.key.startswith(MADE))

    @property
    def is_step(self) -> bool:
        """Whether it is recorded by the name of an input, and another artifact has its file."""
        return self.key.startswith("inputs/") and self.artifact not in (None, self.key)

    def edge(self, artifact: str) -> Edge:
        """The edge to the artifact that recorded it."""
        file = f"{self.key.rpartition('/')[2]}.parquet" if self.is_current_set else ""
        return Edge(artifact=artifact, kind=kind_of(artifact, self.key), input=self.artifact or self.key,
                    version=self.value, file=file)  # fmt: skip


def inputs_of(artifacts: Mapping[str, Artifact]) -> dict[str, list[Input]]:
    """Each artifact's inputs: those that are current are known by their versions, else by the digest of a file.

    An asset that is recorded without an artifact of this version, as the source is, is a step between an artifact and
    the one that has its file.
    """
    by_version = {artifact.version: name for name, artifact in artifacts.items()}
    by_file: defaultdict[str, list[str]] = defaultdict(list)
    for name, artifact in artifacts.items():
        for path, file in artifact.manifest["files"].items():
            if path.endswith(".parquet") or name.startswith("inputs/"):  # models share files that are no data
                by_file[file["sha256"]].append(name)

    def source(name: str, key: str, value: str) -> str | None:
        holders = [holder for holder in by_file.get(value, []) if holder != name]
        named = [holder for holder in holders if key.startswith(f"{holder}/")]
        return by_version.get(value) or next(iter(named or holders), None)

    inputs: defaultdict[str, list[Input]] = defaultdict(list)
    for name, artifact in artifacts.items():
        for key, value in artifact.provenance["inputs"].items():
            if key in DIGESTS:
                continue
            one = Input(key, str(value), source(name, key, str(value)))
            if one.is_step and one not in inputs[key]:
                inputs[key].append(one)
            inputs[name].append(replace(one, artifact=key) if one.is_step else one)
    return inputs
