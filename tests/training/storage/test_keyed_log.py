"""The keyed log: each record is found by its key, whatever a crash or another process did to the file."""

import os
import signal
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.storage import keyed_log
from training.storage.files import AppendLog
from training.storage.keyed_log import KeyedLog

WRITER = """
import itertools, sys
from pathlib import Path
from training.storage.keyed_log import KeyedLog
log = KeyedLog(Path(sys.argv[1]))
for n in range(int(sys.argv[3])) if len(sys.argv) > 3 else itertools.count():
    log.append({"who": sys.argv[2], "n": n, "text": sys.argv[2] * n}, key=f"{sys.argv[2]}{n}")
    print(n, flush=True)
"""


def writer(path: Path, who: str, *count: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), who, *count]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def stored(log: KeyedLog, *keys: str) -> dict[str, Any]:
    return {key: record["n"] for key, record in log.find(keys)}


def test_records_are_found_by_key_and_the_last_of_one_key_counts(tmp_path: Path) -> None:
    log, other = KeyedLog(tmp_path / "deep" / "log"), KeyedLog(tmp_path / "deep" / "log")
    assert stored(log, "a") == {}
    log.append({"n": 1}, key="a")
    log.append({"n": 2}, key="b")
    log.append({"n": 3, "key": "c"})
    assert stored(log, "c", "b", "a") == stored(other, "c", "b", "a") == {"a": 1, "b": 2}
    other.append({"n": 4}, key="a")
    assert stored(log, "a") == {"a": 4}
    assert [record["n"] for record in AppendLog(tmp_path / "deep" / "log").records()] == [1, 2, 3, 4]


@given(keys=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=40))
def test_it_is_a_dictionary(tmp_path_factory: pytest.TempPathFactory, keys: list[str]) -> None:
    log = KeyedLog(tmp_path_factory.mktemp("log") / "log")
    wanted = [*dict.fromkeys(keys), "another"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed_log, "MAX_RECENT", 7)
        expected: dict[str, int] = {}
        for n, key in enumerate(keys):
            log.append({"n": n}, key=key)
            expected[key] = n
            if n % 5 == 0:
                assert stored(log, *wanted) == expected
        assert stored(log, *wanted) == stored(KeyedLog(log.path), *wanted) == expected
    log.close()


@pytest.mark.parametrize("damage", [b'{"key": "a", "n', b'{"key": "a", "n": }\n', b'{"key": "a\n', b"\xff\n", b"[1]\n"])
def test_a_damaged_line_spoils_no_other(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "log"
    KeyedLog(path).append({"n": 0}, key="b")
    with path.open("ab") as file:
        file.write(damage)
    log = KeyedLog(path)
    assert stored(log, "a", "b") == {"b": 0}
    log.append({"n": 1}, key="a")
    assert stored(log, "a", "b") == stored(KeyedLog(path), "a", "b") == {"a": 1, "b": 0}


def test_nothing_that_a_killed_writer_stored_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with writer(path, "a") as killed:
        assert killed.stdout is not None
        numbers = [int(line) for line in islice(killed.stdout, 500)]
        os.kill(killed.pid, signal.SIGKILL)
    log = KeyedLog(path)
    log.append({"n": -1}, key="next")
    names = [f"a{n}" for n in numbers]
    assert stored(log, "next", *names) == {"next": -1} | dict(zip(names, numbers, strict=True))


def test_processes_write_at_once_and_a_reader_finds_all(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log, names = KeyedLog(path), {f"{who}{n}": n for who in "abc" for n in range(300)}
    writers = [writer(path, who, "300") for who in "abc"]
    for process in writers:
        process.communicate()
        assert set(stored(log, *names).items()) <= set(names.items())
    assert stored(log, *names) == names


def test_memory_holds_sixteen_bytes_of_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_log, "MAX_RECENT", 100)
    log, n = KeyedLog(tmp_path / "log"), 5_000
    for number in range(n):
        log.append({"n": number, "text": "x" * 200}, key=f"{number:064}")
    log.close()
    tracemalloc.start()
    assert stored(log, f"{7:064}") == {f"{7:064}": 7}
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 16 * n <= held < 24 * n
