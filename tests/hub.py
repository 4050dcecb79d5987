"""A Hugging Face hub on loopback, served from a folder, for the real `huggingface_hub` client.

It speaks what pulling a repository needs: which commit a revision is, a commit's files (in pages), and the files, small
ones from the hub itself and large ones by a redirect to a second server that must not see the token.  The folder is
`ORG/NAME/COMMIT/...` with `ORG/NAME/refs.json`, of data sets and models alike.  And what pushing needs: a repository,
the card's check, which files are large, their upload to the second server by Git LFS (no Xet: its storage is a protocol
of its own), and the commit.  Tests choose its faults.
"""

import base64
import hashlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from huggingface_hub import constants

from tests.loopback import Quiet, serving

PAGE = 3  # files a page of a listing
REPOSITORY = r"(?P<kind>datasets|models)/(?P<repo>[^/]+/[^/]+)"
LARGE = (".parquet", ".gz", ".safetensors")
GIT_ATTRIBUTES = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE).encode()
"""The first file of a repository."""


@dataclass(frozen=True)
class HubRequest:
    """One request: `start` is where the wanted range of bytes begins, `token` what it was authorised with."""

    method: str
    path: str
    start: int
    token: str | None


@dataclass
class Hub:
    """A running hub: its address, its requests, and the faults that it is to have."""

    root: Path
    url: str = ""
    storage: str = ""
    requests: list[HubRequest] = field(default_factory=list)
    private: dict[str, str] = field(default_factory=dict)
    """The token that may read a repository, by the repository's name."""
    accounts: dict[str, bool] = field(default_factory=dict)
    """Whether a token, by its value, has the permission to write."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Repositories that were made by requests, as `datasets` or `models`; all others are data sets."""
    busy: int = 0
    """The number of next requests that get 503."""
    cuts: list[int] = field(default_factory=list)
    """The numbers of bytes after which the next downloads of large files break off."""
    stall_after: int | None = None
    """The number of bytes after which downloads of large files set `stalled` and wait for `released`."""
    lost_uploads: int = 0
    """The number of next uploads whose connection breaks off."""
    spoilt: bool = False
    """Whether large files are sent with one byte changed."""
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def commit(self, repo: str, folder: Path, branch: str = "main") -> str:
        """Makes what is in a folder now the newest commit of a branch."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        listing = [(str(path.relative_to(folder)), hashlib.sha1(path.read_bytes()).hexdigest()) for path in files]
        commit = hashlib.sha1(json.dumps([repo, listing]).encode()).hexdigest()
        home = self.root / repo
        shutil.copytree(folder, home / commit, dirs_exist_ok=True)
        (home / "refs.json").write_text(json.dumps(self.refs(repo) | {branch: commit}))
        return commit

    def change(self, repo: str, branch: str, changes: Mapping[str, bytes], removed: Sequence[str] = ()) -> str:
        """Makes a branch's newest commit with these files added, replaced or removed the newest."""
        with tempfile.TemporaryDirectory() as folder:
            if before := self.refs(repo).get(branch):
                shutil.copytree(self.root / repo / before, folder, dirs_exist_ok=True)
            for name in removed:
                Path(folder, name).unlink()
            for name, content in changes.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return self.commit(repo, Path(folder), branch)

    def page(self, repo: str) -> str:
        """A repository's address."""
        return f"{self.url}/{repo}" if self.kinds.get(repo) == "models" else f"{self.url}/datasets/{repo}"

    def uploaded(self, oid: str) -> Path:
        """Where a large file is that was pushed, before and after a commit names it."""
        return self.root / "uploads" / oid

    def refs(self, repo: str) -> dict[str, str]:
        refs = self.root / repo / "refs.json"
        return json.loads(refs.read_text()) if refs.is_file() else {}

    def uploads(self) -> list[HubRequest]:
        """The requests that brought a large file's content."""
        return [one for one in self.requests if one.method == "PUT"]

    def downloads(self) -> list[HubRequest]:
        """The requests that asked for the content of a large file."""
        return [one for one in self.requests if one.method == "GET" and one.path.startswith("/lfs/")]


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """A hub of the repositories under `root`, for as long as the context lasts."""
    hub = Hub(root)
    with serving(_handler(hub)) as hub.url, serving(_handler(hub)) as hub.storage:
        try:
            yield hub
        finally:
            hub.released.set()


def let_push(hub: Hub, token: str, patch: pytest.MonkeyPatch) -> None:
    """Makes a hub the one that this process uses, with a token that may write."""
    hub.accounts[token] = True
    patch.setenv("HF_ENDPOINT", hub.url)
    patch.setenv("HF_TOKEN", token)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # what the variable of this name does on import


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            start = int(wanted[1]) if wanted else 0
            token = self._token()
            hub.requests.append(HubRequest(self.command, url.path, start, token))
            if hub.busy:
                hub.busy -= 1
                self._answer(503, b"come back later")
            elif url.path.startswith("/lfs/"):
                self._large(Path(unquote(url.path.removeprefix("/lfs/"))), start)
            elif match := re.fullmatch(rf"/api/{REPOSITORY}(?:/(revision|tree)/([^/]+))?", url.path):
                repo, what, revision = match["repo"], match[3] or "revision", unquote(match[4] or "main")
                self._about(match["kind"], repo, what, revision, parse_qs(url.query), token)
            elif match := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path):
                self._file(match[1], unquote(match[2]), unquote(match[3]), start, token)
            else:
                self._answer(404, b"no such page")

        def do_POST(self) -> None:
            path, token = urlsplit(self.path).path, self._token()
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.requests.append(HubRequest(self.command, path, 0, token))
            if path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif token not in hub.accounts:
                message = "Invalid credentials in Authorization header" if token else "Invalid username or password."
                self._json({"error": message}, {"X-Error-Message": message}, 401)
            elif not hub.accounts[token]:
                message = "You don't have the required permissions to write here"
                self._json({"error": message}, {"X-Error-Message": message}, 403)
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif match := re.fullmatch(rf"/api/{REPOSITORY}/(preupload|commit)/([^/]+)", path):
                repo, what, branch = match["repo"], match[3], unquote(match[4])
                if (folder := self._folder(repo, branch, token)) is None:
                    return
                if what == "preupload":
                    self._json({"files": [_mode(folder, file["path"]) for file in json.loads(body)["files"]]})
                else:
                    self._commit(repo, branch, [json.loads(line) for line in body.splitlines()])
            elif re.fullmatch(r"/(datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
                self._json({"transfer": "basic", "objects": [self._upload(o) for o in json.loads(body)["objects"]]})
            else:
                self._json({"error": "no such page"}, status=404)

        def do_PUT(self) -> None:
            oid = urlsplit(self.path).path.removeprefix("/uploads/")
            hub.requests.append(HubRequest(self.command, self.path, 0, self._token()))
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if hub.lost_uploads:
                hub.lost_uploads -= 1
                self.close_connection = True
                return
            if hashlib.sha256(content).hexdigest() != oid:
                self._answer(400, b"not what was announced")
                return
            hub.uploaded(oid).parent.mkdir(parents=True, exist_ok=True)
            hub.uploaded(oid).write_bytes(content)
            self._answer(200, b"")

        def _token(self) -> str | None:
            authorised = self.headers.get("Authorization")
            return authorised.removeprefix("Bearer ") if authorised else None

        def _create(self, wanted: dict[str, Any]) -> None:
            """A repository with a first commit, as a hub makes it."""
            repo = f"{wanted['organization']}/{wanted['name']}"
            kind = wanted.get("type", "model")
            if hub.refs(repo):
                self._json({"error": f"You already created this {kind} repo"}, status=409)
                return
            hub.change(repo, "main", {".gitattributes": GIT_ATTRIBUTES})
            hub.kinds[repo] = f"{kind}s"
            self._json({"url": hub.page(repo), "name": repo})

        def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
            """Where a large file is to be put, unless it is there."""
            reply = {"oid": wanted["oid"], "size": wanted["size"]}
            place = {"upload": {"href": f"{hub.storage}/uploads/{wanted['oid']}"}}
            return reply if hub.uploaded(wanted["oid"]).is_file() else reply | {"actions": place}

        def _commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> None:
            changes: dict[str, bytes] = {}
            removed: list[str] = []
            for key, value in ((line["key"], line["value"]) for line in lines[1:]):  # the first is the message
                if key == "deletedFile":
                    removed.append(value["path"])
                elif key == "file":
                    changes[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile" and hub.uploaded(value["oid"]).is_file():
                    changes[value["path"]] = hub.uploaded(value["oid"]).read_bytes()
                else:
                    self._json({"error": f"cannot commit {key} {value['path']}"}, status=400)
                    return
            commit = hub.change(repo, branch, changes, removed)
            self._json({"commitOid": commit, "commitUrl": f"{hub.page(repo)}/commit/{commit}"})

        def _about(
            self, kind: str, repo: str, what: str, revision: str, query: dict[str, list[str]], token: str | None
        ) -> None:
            if hub.kinds.get(repo, "datasets") != kind:
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
                return
            folder = self._folder(repo, revision, token)
            if folder is None:
                return
            if what == "revision":
                self._json({"id": repo, "sha": folder.name, "private": repo in hub.private})
                return
            files = [_entry(folder, path) for path in sorted(folder.rglob("*"))]
            begin = int(query.get("cursor", ["0"])[0])
            rest = len(files) > begin + PAGE
            following = f"{hub.url}/api/{kind}/{repo}/tree/{folder.name}?recursive=True&cursor={begin + PAGE}"
            self._json(files[begin : begin + PAGE], {"Link": f'<{following}>; rel="next"'} if rest else {})

        def _file(self, repo: str, revision: str, name: str, start: int, token: str | None) -> None:
            folder = self._folder(repo, revision, token)
            if folder is None:
                return
            file = folder / name
            if not file.is_file():
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": folder.name})
            elif (entry := _entry(folder, file)).get("lfs"):
                place = f"{hub.storage}/lfs/{quote(str(file.relative_to(hub.root)))}"
                linked = {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(entry["size"])}
                self._answer(302, b"", {"Location": place, "X-Repo-Commit": folder.name, **linked})
            else:
                self._content(file.read_bytes(), start, {"ETag": f'"{entry["oid"]}"', "X-Repo-Commit": folder.name})

        def _folder(self, repo: str, revision: str, token: str | None) -> Path | None:
            """A commit's folder; None after an answer that says why not."""
            refs = hub.refs(repo)
            if not refs or (repo in hub.private and hub.private[repo] != token):
                self._answer(401 if refs else 404, b"", {"X-Error-Code": "RepoNotFound"})
                return None
            folder = hub.root / repo / refs.get(revision, revision)
            if not folder.is_dir():
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return None
            return folder

        def _large(self, place: Path, start: int) -> None:
            content = (hub.root / place).read_bytes()
            if hub.spoilt:
                content = bytes([content[0] ^ 1]) + content[1:]
            if hub.cuts:
                self._content(content, start, {}, hub.cuts.pop(0))
            elif hub.stall_after is not None:
                self._content(content, start, {}, hub.stall_after, stall=True)
            else:
                self._content(content, start, {})

        def _content(
            self, content: bytes, start: int, headers: dict[str, str], limit: int | None = None, stall: bool = False
        ) -> None:
            body = content[start:]
            if start:
                headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self.send_response(206 if start else 200)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(body[:limit])
            self.wfile.flush()
            if stall:
                hub.stalled.set()
                hub.released.wait()
            if limit is not None:
                self.close_connection = True  # before all of it was sent

        def _json(self, value: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
            self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    """A file or folder as a hub lists it; those that end as LARGE says are large ones, whatever their size."""
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "oid": git, "size": len(content)}
    if _is_large(name):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _mode(folder: Path, name: str) -> dict[str, Any]:
    """How a file is to be pushed, and its content's address if the commit has it."""
    reply = {"path": name, "uploadMode": "lfs" if _is_large(name) else "regular", "shouldIgnore": False}
    if not (folder / name).is_file():
        return reply
    entry = _entry(folder, folder / name)
    return reply | {"oid": entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}


def _is_large(name: str) -> bool:
    return name.endswith(LARGE)
