"""Clips are probed by processes of their own, so that nothing in a file can end a run: a crash, too much memory or too
much time is that clip's reason, and a fresh process goes on with the next clip.
"""

import atexit
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from training.data.decoding import UnreadableVideo
from training.data.probing import Numbers, VideoInfo
from training.runtime.project import python_variables

PROCESSES = min(4, os.cpu_count() or 1)
MAX_BYTES = 2 * 2**30
"""Of memory, for a process: what the largest frames take (`MAX_PIXELS`), and as much again."""
SECONDS = 300
"""For a clip; an hour of 1080p takes about that."""
SECONDS_TO_END = 5
"""For a process that answers no more, until it is killed."""
MAX_LINE = 2**16
VARIABLES = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""Of this process's environment, all that the others get: no secrets, since they decode what anybody wrote."""

_INFO = TypeAdapter(VideoInfo)


class PoolClosed(BaseException):
    """Raised in callers that wait for a probe of a pool that is closed meanwhile."""


class ProbePool:
    """Up to `processes` processes that probe clips, started when they are needed, and kept until `close`."""

    def __init__(self, processes: int = PROCESSES, max_bytes: int = MAX_BYTES, seconds: int = SECONDS) -> None:
        self.closed = False
        self._limits = max_bytes, seconds
        self._places = threading.Semaphore(processes)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    def probe(self, path: Path | str, numbers: Numbers) -> VideoInfo:
        """`probing.probe_clip` in one of the processes, when one has time.

        Raises UnreadableVideo, and PoolClosed.
        """
        with self._places:
            try:
                return self._attempt(path, numbers)
            except _Died as died:
                if died.status == -signal.SIGALRM:
                    raise UnreadableVideo(f"decoding takes more than the {self._limits[1]} s that a clip may") from died
            try:  # once more, since others too can end a process, as the kernel does where memory is short
                return self._attempt(path, numbers)
            except _Died as died:
                raise UnreadableVideo(f"the process that decoded it {died}, twice") from died

    def close(self) -> None:
        """Ends the processes at once; who waits for one gets PoolClosed."""
        with self._lock:
            self.closed = True
            for process in self._all:
                process.end()

    def _attempt(self, path: Path | str, numbers: Numbers) -> VideoInfo:
        process = self._take()
        try:
            info = process.probe(path, numbers)
        except UnreadableVideo:
            self._idle.append(process)
            raise
        except BaseException as error:  # an interrupt, too: its answer is not read any more
            self._drop(process)
            if isinstance(error, _Died) and self.closed:
                raise PoolClosed from error
            raise
        self._idle.append(process)
        return info

    def _take(self) -> "_Process":
        with self._lock:
            if self.closed:
                raise PoolClosed
            while self._idle:
                if (process := self._idle.pop()).alive:
                    return process
                self._all.discard(process)
            process = _Process(*self._limits)
            self._all.add(process)
            return process

    def _drop(self, process: "_Process") -> None:
        process.end()
        with self._lock:
            self._all.discard(process)


class _Process:
    """A process that runs `training.data.probing`."""

    def __init__(self, max_bytes: int, seconds: int) -> None:
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        environment |= python_variables() | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "training.data.probing", str(max_bytes), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment,
            start_new_session=True,  # a Ctrl-C is this process's to handle
        )  # fmt: skip
        assert self._process.stdin is not None and isinstance(self._process.stdout, io.FileIO)
        self._requests, self._answers = self._process.stdin, io.BufferedReader(self._process.stdout)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def probe(self, path: Path | str, numbers: Numbers) -> VideoInfo:
        """Raises UnreadableVideo, or _Died."""
        answer = self._ask({"path": str(Path(path).absolute())})
        if isinstance(frames := answer.get("frames"), int):
            answer = self._ask({"numbers": list(numbers(frames))})
        if "reason" in answer:
            raise UnreadableVideo(str(answer["reason"]))
        try:
            return _INFO.validate_python(answer.get("info"))
        except ValidationError as error:
            raise _Died("answered what is no answer") from error

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError, subprocess.TimeoutExpired):
            self._requests.write(json.dumps(request).encode() + b"\n")
            line = self._answers.readline(MAX_LINE)
            if line and isinstance(answer := json.loads(line), dict):
                return answer
            if not line:
                self._process.wait(SECONDS_TO_END)
        self._process.kill()
        status = self._process.wait()
        raise _Died(f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}", status)


class _Died(Exception):  # noqa: N818 - what became of a process
    def __init__(self, how: str, status: int = 0) -> None:
        super().__init__(how)
        self.status = status


_shared: ProbePool | None = None
_sharing = threading.Lock()


def shared_pool() -> ProbePool:
    """This process's pool; a new one where it was closed."""
    global _shared
    with _sharing:
        if _shared is None:
            atexit.register(_close_shared)
        if _shared is None or _shared.closed:
            _shared = ProbePool()
        return _shared


def _close_shared() -> None:
    if _shared is not None:
        _shared.close()


def _after_fork() -> None:
    """The processes are the parent's."""
    global _shared, _sharing
    _shared, _sharing = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
