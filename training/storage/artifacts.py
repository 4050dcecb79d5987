"""Content-addressed folders: an artifact's version is the hash of what it was made from.

A version is the hash of the input versions, the configuration and the code, so an interrupted run finds its own
half-done work, an unchanged input is not recomputed, and a changed one never overwrites. Work is done in
`<version>.partial`; its manifest is written last and the folder renamed into place, so half a folder is never an
artifact.

    $FUTURE_L1_HOME/artifacts/<stage>/<noun>[/<partition>]/<version>/...
    $FUTURE_L1_HOME/artifacts/<stage>/<noun>[/<partition>]/current -> <version>
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from training.storage.files import atomic_write
from training.storage.hashing import digest, file_digest

MANIFEST = "manifest.json"
CURRENT = "current"
PARTIAL = ".partial"
READ_WHOLE = (".parquet", ".json", ".jsonl")
"""Files whose content is checked when they are read (tables and JSON); `Artifact.verify` checks weights, too."""
MODEL = "model"
"""The folder of an artifact that holds a model."""


class MissingArtifactError(ValueError):
    """An artifact is not in the store; the message says what to materialise."""


class DamagedArtifactError(ValueError):
    """An artifact is not as it was published; the message names the file, and says what to do."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(f"{what}: delete the folder {folder} and materialise it again")


@dataclass(frozen=True)
class Artifact:
    """A complete, immutable folder with its manifest (name, version, inputs, config, code, provenance, files)."""

    path: Path
    version: str
    manifest: dict[str, Any]

    def file(self, name: str) -> Path:
        """The path of one of the artifact's files, to read it now.

        Raises MissingArtifactError if the manifest does not list it, and DamagedArtifactError if it has another size
        or, a table or JSON, other content than when it was published.
        """
        if name not in self.manifest["files"]:
            raise MissingArtifactError(f"{self.path} has no file {name!r}; it has {sorted(self.manifest['files'])}")
        self._check(name, content=name.endswith(READ_WHOLE))
        return self.path / name

    def folder(self, name: str) -> Path:
        """The path of one of its folders, as a model's, whose files have the sizes that they were published with."""
        for file in self.manifest["files"]:
            if file.startswith(f"{name}/"):
                self._check(file, content=file.endswith(READ_WHOLE))
        return self.path / name

    def verify(self) -> None:
        """Reads every file.  Raises DamagedArtifactError for the first that is not as it was published."""
        for name in self.manifest["files"]:
            self._check(name, content=True)

    def _check(self, name: str, content: bool) -> None:
        path, published = self.path / name, self.manifest["files"][name]
        try:
            stat = path.stat()
        except FileNotFoundError as error:
            raise DamagedArtifactError(self.path, f"{path} is missing") from error
        if stat.st_size != published["bytes"]:
            raise DamagedArtifactError(
                self.path, f"{path} has {stat.st_size:,} bytes, and was published with {published['bytes']:,}"
            )
        if content and _digest_of(path, stat.st_ino, stat.st_mtime_ns) != published["sha256"]:
            raise DamagedArtifactError(self.path, f"{path} has other content than it was published with")

    @property
    def provenance(self) -> dict[str, Any]:
        return self.manifest["provenance"]


def checkpoint_folder(folder: Path) -> Path:
    """A checkpoint's own folder, from that or from the folder of the artifact that holds it."""
    return folder / MODEL if (folder / MODEL / "config.json").is_file() else folder


@cache
def _digest_of(path: Path, inode: int, changed: int) -> str:
    """Once a process, as long as the file stays the same."""
    return file_digest(path)


@dataclass(frozen=True)
class ArtifactStore:
    """Finds, builds and publishes artifacts under `root`; several processes may use one root."""

    root: Path

    def version(self, name: str, inputs: Mapping[str, str], config: Any, code: str) -> str:
        """The version that an artifact made from these inputs, with this configuration and code, has."""
        return digest({"name": name, "inputs": dict(inputs), "config": config, "code": code})

    def find(self, name: str, version: str) -> Artifact | None:
        """The complete artifact of exactly this version, or None.  Raises DamagedArtifactError: broken manifest."""
        folder = self._folder(name) / version
        return _read(folder) if (folder / MANIFEST).is_file() else None

    def workspace(self, name: str, version: str) -> Path:
        """The folder for half-done work of exactly this version; what a killed run left there is still there."""
        folder = self._folder(name) / f"{version}{PARTIAL}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, name: str, version: str, workspace: Path, provenance: Mapping[str, Any]) -> Artifact:
        """Turns a workspace into the artifact `version`: files to disk, manifest last, one rename.

        If another process published the same version meanwhile, its folder stays and this workspace is removed.
        """
        manifest = {
            "name": name,
            "version": version,
            "provenance": dict(provenance),
            "files": {str(path.relative_to(workspace)): _describe(path) for path in _files(workspace)},
        }
        _write_durably(workspace / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, default=str))
        target = self._folder(name) / version
        try:
            workspace.rename(target)
        except OSError:
            if self.find(name, version) is None:
                raise
            shutil.rmtree(workspace)
        _sync_folder(target.parent)
        published = self.find(name, version)
        assert published is not None, target
        return published

    def make_current(self, name: str, version: str) -> None:
        """Points `current` to a published version, atomically."""
        folder = self._folder(name)
        if self.find(name, version) is None:
            raise MissingArtifactError(f"{name} has no complete version {version} under {folder}")
        pointer = folder / CURRENT
        if pointer.is_symlink() and pointer.readlink() == Path(version):
            return
        fresh = folder / f".{CURRENT}-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(version)
        fresh.replace(pointer)

    def current(self, name: str) -> Artifact:
        """The version that was last made current; raises MissingArtifactError if there is none."""
        pointer = self._folder(name) / CURRENT
        artifact = self.find(name, str(pointer.readlink())) if pointer.is_symlink() else None
        if artifact is None:
            raise MissingArtifactError(f"nothing is published as {name}: materialise it first ({pointer})")
        return artifact

    def versions(self, name: str) -> list[Artifact]:
        """Every complete version, the oldest first."""
        folders = self._folder(name).glob(f"*/{MANIFEST}")
        newest_last = sorted(folders, key=lambda manifest: (manifest.stat().st_mtime_ns, str(manifest)))
        return [
            _read(manifest.parent)
            for manifest in newest_last
            if not (manifest.parent.is_symlink() or manifest.parent.suffix == PARTIAL or manifest.parent.name[0] == ".")
        ]

    def prune(self, name: str, keep: int) -> list[str]:
        """Removes all but the newest `keep` versions, never the current one; returns the removed versions."""
        pointer = self._folder(name) / CURRENT
        current = str(pointer.readlink()) if pointer.is_symlink() else None
        old = [a for a in self.versions(name) if a.version != current]
        removed = old[: max(0, len(old) - (keep - (current is not None)))]
        for artifact in removed:
            hidden = artifact.path.with_name(f".{artifact.version}.gone")  # nobody reads half a version
            artifact.path.rename(hidden)
            shutil.rmtree(hidden)
        return [artifact.version for artifact in removed]

    def _folder(self, name: str) -> Path:
        parts = name.split("/")
        if not all(parts) or any(part in {".", "..", CURRENT} or part.startswith(".") for part in parts):
            raise ValueError(f"{name!r} is not an artifact name: want stage/noun or stage/noun/partition")
        return self.root.joinpath(*parts)


def _read(folder: Path) -> Artifact:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        for part in (manifest["provenance"], *manifest["files"].values()):
            if not isinstance(part, dict):
                raise TypeError(f"a {type(part).__name__} where an object belongs")
        [(file["bytes"], file["sha256"]) for file in manifest["files"].values()]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifactError(folder, f"{path} is no manifest ({type(error).__name__}: {error})") from error
    return Artifact(folder, folder.name, manifest)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _write_durably(path: Path, text: str) -> None:
    with atomic_write(path) as fresh, fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
