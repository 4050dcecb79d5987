"""Content-addressed folders: an artifact's version is the hash of what it was made from.

A version is the hash of the input versions, the configuration and the code, so an interrupted run finds its own
half-done work, an unchanged input is not recomputed, and a changed one never overwrites. Work is done in
`<version>.partial`; its manifest is written last and the folder renamed into place, so half a folder is never an
artifact.

    $FUTURE_L1_HOME/artifacts/<stage>/<noun>[/<partition>]/<version>/...
    $FUTURE_L1_HOME/artifacts/<stage>/<noun>[/<partition>]/current -> <version>
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.files import whole

MANIFEST = "manifest.json"
CURRENT = "current"
PARTIAL = ".partial"
MODEL = "model"
"""The folder of an artifact that holds a model."""


class MissingArtifactError(ValueError):
    """An artifact that was asked for is not in the store; the message says what to materialise."""


class UnusableCheckpointError(ValueError):
    """A folder holds no model that can be loaded; the message says which, and what it lacks."""


@dataclass(frozen=True)
class Artifact:
    """A complete, immutable folder with its manifest (name, version, inputs, config, code, provenance, files)."""

    path: Path
    version: str
    manifest: dict[str, Any]

    def file(self, name: str) -> Path:
        """The path of one of the artifact's files; raises if the manifest does not list it."""
        if name not in self.manifest["files"]:
            raise MissingArtifactError(f"{self.path} has no file {name!r}; it has {sorted(self.manifest['files'])}")
        return self.path / name

    @property
    def provenance(self) -> dict[str, Any]:
        return self.manifest["provenance"]


def checkpoint_folder(folder: Path) -> Path:
    """A checkpoint's own folder, given that or the folder of the artifact that holds it."""
    return folder / MODEL if (folder / MODEL / "config.json").is_file() else folder


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in full."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `folder` when the context ends without an error.

    A process that is killed leaves the old folder, the new one, or none; never half of one.
    """
    fresh, old = folder.with_name(f".{folder.name}.fresh"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class ArtifactStore:
    """Finds, builds and publishes artifacts under `root`; several processes may use one root."""

    root: Path

    def version(self, name: str, inputs: Mapping[str, str], config: Any, code: str) -> str:
        """The version that an artifact made from these inputs, with this configuration and code, has."""
        return digest({"name": name, "inputs": dict(inputs), "config": config, "code": code})

    def find(self, name: str, version: str) -> Artifact | None:
        """The complete artifact of exactly this version, or None."""
        folder = self._folder(name) / version
        manifest = folder / MANIFEST
        if not manifest.is_file():
            return None
        return Artifact(folder, version, json.loads(manifest.read_text()))

    def workspace(self, name: str, version: str) -> Path:
        """The folder for half-done work of exactly this version; what a killed run left there is still there."""
        folder = self._folder(name) / f"{version}{PARTIAL}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, name: str, version: str, workspace: Path, provenance: Mapping[str, Any]) -> Artifact:
        """Turn a workspace into the artifact `version`: files to disk, manifest last, one rename.

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
        """Point `current` at a published version, atomically."""
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
        found = self.find(name, str(pointer.readlink())) if pointer.is_symlink() else None
        if found is None:
            raise MissingArtifactError(f"nothing is published as {name}: materialise it first ({pointer})")
        return found

    def versions(self, name: str) -> list[Artifact]:
        """Every complete version, the oldest first."""
        folders = self._folder(name).glob(f"*/{MANIFEST}")
        newest_last = sorted(folders, key=lambda manifest: (manifest.stat().st_mtime_ns, str(manifest)))
        return [
            Artifact(manifest.parent, manifest.parent.name, json.loads(manifest.read_text()))
            for manifest in newest_last
            if not (manifest.parent.is_symlink() or manifest.parent.suffix == PARTIAL or manifest.parent.name[0] == ".")
        ]

    def prune(self, name: str, keep: int) -> list[str]:
        """Remove all but the newest `keep` versions, never the current one; returns the versions that went."""
        pointer = self._folder(name) / CURRENT
        current = str(pointer.readlink()) if pointer.is_symlink() else None
        old = [a for a in self.versions(name) if a.version != current]
        gone = old[: max(0, len(old) - (keep - (current is not None)))]
        for artifact in gone:
            doomed = artifact.path.with_name(f".{artifact.version}.gone")  # not half a version for anybody who looks
            artifact.path.rename(doomed)
            shutil.rmtree(doomed)
        return [artifact.version for artifact in gone]

    def _folder(self, name: str) -> Path:
        parts = name.split("/")
        if not all(parts) or any(part in {".", "..", CURRENT} or part.startswith(".") for part in parts):
            raise ValueError(f"{name!r} is not an artifact name: want stage/noun or stage/noun/partition")
        return self.root.joinpath(*parts)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _write_durably(path: Path, text: str) -> None:
    with whole(path) as fresh, fresh.open("w") as file:
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
