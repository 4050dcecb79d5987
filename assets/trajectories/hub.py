"""Files of a dataset repository on a Hugging Face hub, at one commit; downloads are resumed and checked.

`huggingface_hub.hf_hub_download` would start over after a kill (2.4: its temporary file belongs to one process); its
`http_get`, which this uses, resumes a partial file.
"""

import glob
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from assets.trajectories.locations import hub_location, pattern_root
from assets.trajectories.shards import TAIL_BYTES, DamagedFileError, Listing, SourceFile, download_file
from training.storage.hashing import file_digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

WAITS = (1, 2, 4, 8)  # seconds, before asking a hub again that answered 429 or 5xx

T = TypeVar("T")


def hub_access() -> tuple[str, str]:
    """The hub's address and the token, empty without one, that HF_ENDPOINT and HF_TOKEN are now.

    The library reads them once, when it is imported, and takes a token that is stored on this machine.
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    return endpoint, os.environ.get("HF_TOKEN", "").strip()


class HubSource:
    """The files of a repository that `hf://datasets/ORG/NAME@REVISION/files*` names, everything in it by default.

    A `.json` file counts only where it is named: repositories keep settings in such files.
    """

    def __init__(self, location: str) -> None:
        self._hub = hub_location(location)
        self._endpoint, token = hub_access()
        self._token = token or False  # False: not the one that is stored on this machine either
        self._commit: str | None = None

    def listing(self) -> Listing:
        from huggingface_hub import RepoFile

        commit, pattern = self._resolved(), self._hub.files
        api = self._api()
        entries = self._with_retries(
            lambda: list(api.list_repo_tree(self._hub.repo, recursive=True, revision=commit, repo_type="dataset"))
        )
        files = [(entry.path, _stamp(entry), entry.size) for entry in entries if isinstance(entry, RepoFile)]
        if any(file == pattern for file, _, _ in files):
            root, files = str(Path(pattern).parent).removeprefix("."), [entry for entry in files if entry[0] == pattern]
        elif glob.has_magic(pattern):
            root, files = pattern_root(pattern), [entry for entry in files if _matches(entry[0], pattern)]
        else:
            root = f"{pattern}/" if pattern else ""
            files = [entry for entry in files if entry[0].startswith(root) and not entry[0].endswith(".json")]
        where = f"{self._hub.repo}/{pattern} at {self._hub.revision} on {self._endpoint}"
        return Listing.of(where, root, files, commit)

    def version(self, file: SourceFile) -> str:
        return file.stamp.removeprefix("sha256:")  # then it is that of a local copy, too

    @contextmanager
    def fetch(self, file: SourceFile, scratch: Path) -> Iterator[Path]:
        def go_on(partial: Path) -> None:
            with partial.open("ab", buffering=0) as opened:
                if opened.tell() > file.bytes:
                    opened.truncate(0)
                self._get(file, opened, opened.tell())

        def download(partial: Path) -> None:
            self._with_retries(lambda: go_on(partial))
            if (address := _address(partial, file.stamp)) != file.stamp:
                raise DamagedFileError(
                    f"{self._url(file)} came as {address} where the hub lists {file.stamp}: start again"
                )

        yield download_file(file, scratch, download)

    @contextmanager
    def tail(self, file: SourceFile) -> Iterator[BinaryIO]:
        with TemporaryFile() as opened:  # not in memory: a server may ignore from where it is to send
            self._with_retries(lambda: self._get(file, opened, max(0, file.bytes - TAIL_BYTES)))
            yield opened

    def _get(self, file: SourceFile, opened: BinaryIO, begin: int) -> None:
        """Appends what the hub has of a file from a byte on."""
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers, disable_progress_bars

        disable_progress_bars("huggingface_hub.http_get")
        # A file that is compressed on its way cannot be resumed.
        headers = build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        http_get(self._url(file), opened, resume_size=begin, headers=headers, expected_size=file.bytes)

    def _url(self, file: SourceFile) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(
            self._hub.repo, file.path, repo_type="dataset", revision=self._resolved(), endpoint=self._endpoint
        )

    def _api(self) -> "HfApi":
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=self._token)

    def _resolved(self) -> str:
        """The commit of the revision, resolved once: one source is one commit."""
        if self._commit is None:
            api = self._api()
            info = self._with_retries(lambda: api.dataset_info(self._hub.repo, revision=self._hub.revision))
            if not info.sha:
                raise ValueError(f"{self._endpoint} does not say which commit {self._hub.revision} is: is it a hub?")
            self._commit = info.sha
        return self._commit

    def _with_retries(self, ask: Callable[[], T]) -> T:
        """Retries a hub that is busy; ValueError for an error that a retry does not help."""
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

        hub = self._hub
        for wait in (*WAITS, None):
            try:
                return ask()
            except RevisionNotFoundError as error:
                raise ValueError(f"{hub.repo} on {self._endpoint} has no revision {hub.revision!r}") from error
            except RepositoryNotFoundError as error:  # a gated one too
                why = "HF_TOKEN may not read it" if self._token else "if it is private or gated, set HF_TOKEN"
                raise ValueError(f"{self._endpoint} shows no dataset {hub.repo}: {why}") from error
            except HfHubHTTPError as error:
                busy = error.response.status_code == 429 or error.response.status_code >= 500
                if not busy or wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def _stamp(entry: "RepoFile") -> str:
    """A file's content address: the SHA-256 of a large file, git's own hash of a small one."""
    return f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}"


def _address(file: Path, stamp: str) -> str:
    """A local file's content address, of the same kind as the stamp."""
    if stamp.startswith("sha256:"):
        return f"sha256:{file_digest(file)}"
    git = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as content:
        return f"git:{hashlib.file_digest(content, lambda: git).hexdigest()}"


def _matches(path: str, pattern: str) -> bool:
    from fsspec.utils import glob_translate

    return re.fullmatch(glob_translate(pattern), path) is not None
