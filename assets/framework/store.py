"""The artifacts of assets: published ones are reused, missing ones are made.

An asset's function gets its `Work` from `AssetStore.work(...)`; the version is the hash of the inputs' versions, the
config and the code. Of a published artifact the asset is only materialised again with the same data version, so Dagster
sees that nothing changed.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from training.storage.artifacts import CURRENT, Artifact, ArtifactStore, DamagedArtifactError, MissingArtifactError
from training.storage.files import write_json
from training.storage.hashing import digest

Counts = Mapping[str, Any]


def name_of(key: str, partition: str | None = None) -> str:
    """An artifact's name: its asset's key as group/noun, and the partition."""
    return key if partition is None else f"{key}/{partition}"


@dataclass(frozen=True)
class Work:
    """An artifact before it is made: published once, whichever process makes it, and then reused."""

    store: ArtifactStore
    name: str
    version: str
    inputs: Mapping[str, str]
    config: Any
    code: str

    def published(self) -> Artifact | None:
        """The published artifact, or None."""
        return self.store.find(self.name, self.version)

    def reuse(self) -> Artifact | None:
        """The published artifact, now current; or None."""
        artifact = self.published()
        if artifact is not None:
            self.store.make_current(self.name, self.version)
        return artifact

    def do(self, make: Callable[[Path], Counts], spent_before: float = 0.0) -> Artifact:
        """The published artifact; if there is none, `make` fills the workspace and returns the counts for it.

        Several processes that want the same version take turns, and all but the first reuse it. `spent_before`: seconds
        of this work that were spent elsewhere.
        """
        made = self.do_together({self.name: self}, lambda folders: {self.name: make(folders[self.name])}, spent_before)
        return made[self.name]

    @staticmethod
    def do_together(
        works: "Mapping[str, Work]",
        make: Callable[[Mapping[str, Path]], Mapping[str, Counts]],
        spent_before: float = 0.0,
    ) -> dict[str, Artifact]:
        """Several artifacts by name; one call of `make` makes those that are missing, each in a workspace of its own.

        Each has an equal share of the seconds.
        """
        with ExitStack() as stack:
            workspaces = {name: stack.enter_context(work._workspace()) for name, work in sorted(works.items())}
            done = {name: artifact for name, work in works.items() if (artifact := work.reuse()) is not None}
            missing = {name: workspaces[name] for name in works if name not in done}
            if missing:
                started = time.monotonic()
                counts = make(missing)
                seconds = (spent_before + time.monotonic() - started) / len(missing)
                done |= {name: works[name]._publish(path, counts[name], seconds) for name, path in missing.items()}
            return done

    def _publish(self, workspace: Path, counts: Counts, seconds: float) -> Artifact:
        provenance = {
            "inputs": dict(self.inputs),
            "config": self.config,
            "code": self.code,
            "counts": dict(counts),
            "seconds": round(seconds, 3),
        }
        artifact = self.store.publish(self.name, self.version, workspace, provenance)
        self.store.make_current(self.name, self.version)
        return artifact

    @contextmanager
    def _workspace(self) -> Iterator[Path]:
        """The workspace, under an OS lock on the folder that ends with the process."""
        workspace = self.store.workspace(self.name, self.version)
        descriptor = os.open(workspace, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever held the lock before may have published this very folder under its final name.
            yield self.store.workspace(self.name, self.version)
        finally:
            os.close(descriptor)


class AssetStore:
    """The artifacts under a home folder by asset key and partition, scratch folders, and the ledgers of answers."""

    def __init__(self, home: Path) -> None:
        self.artifacts = ArtifactStore(home / "artifacts")
        self.scratch = home / "work"
        self.ledgers = home / "ledger"

    def work(
        self, key: str, inputs: Mapping[str, Artifact | str], config: Any, code: str, partition: str | None = None
    ) -> Work:
        """The artifact of `key` and `partition` made from these inputs (artifacts or versions)."""
        versions = {name: one.version if isinstance(one, Artifact) else one for name, one in inputs.items()}
        name = name_of(key, partition)
        return Work(
            self.artifacts,
            name,
            self.artifacts.version(name, versions, config, code),
            versions,
            config,
            code,
        )

    def current(self, key: str, partition: str | None = None) -> Artifact:
        """The current artifact of an asset; without one, a failure that says which asset to materialise."""
        try:
            return self.artifacts.current(name_of(key, partition))
        except MissingArtifactError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    def ledger(self, kind: str, about: Mapping[str, Any]) -> Path:
        """The folder of a ledger; `about` is all that its answers depend on besides the prompts."""
        folder = self.ledgers / kind / digest(dict(about))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "ABOUT.json", dict(about))
        return folder

    def current_artifacts(self, *keys: str) -> dict[str, Artifact]:
        """The current artifacts of these assets and of their partitions, by name."""
        names = [(key, partition) for key in keys for partition in (None, *self.partitions(key))]
        return {name_of(*name): self.current(*name) for name in names if self.has(*name)}

    def everything(self) -> dict[str, Artifact]:
        """Every current artifact by its name, in order of name, without those whose manifest is broken."""
        return self.read_all()[0]

    def read_all(self) -> tuple[dict[str, Artifact], dict[str, ValueError]]:
        """`everything`, and the errors of the artifacts whose manifest is broken, by name."""
        root = self.artifacts.root
        artifacts, errors = dict[str, Artifact](), dict[str, ValueError]()
        for pointer in sorted(pointer for pointer in root.rglob(CURRENT) if pointer.is_symlink()):
            name = str(pointer.parent.relative_to(root))
            try:
                artifacts[name] = self.artifacts.current(name)
            except (DamagedArtifactError, MissingArtifactError) as error:
                errors[name] = error
        return artifacts, errors

    def partitions(self, key: str) -> list[str]:
        """The partitions of an asset that have a current artifact, in order."""
        pointers = self.artifacts.root.joinpath(*key.split("/")).glob(f"*/{CURRENT}")
        return sorted(pointer.parent.name for pointer in pointers if pointer.is_symlink())

    def has(self, key: str, partition: str | None = None) -> bool:
        pointer = self.artifacts.root.joinpath(*name_of(key, partition).split("/"), CURRENT)
        return pointer.is_symlink()


StoreParam = dg.ResourceParam[AssetStore]
