"""The append-only log: what was written is found again, by anyone, whatever a crash left behind."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.storage.files import AppendLog


def test_records_come_back_in_order_and_once(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "deep" / "log.jsonl")
    assert list(log.records()) == []
    log.append({"n": 1})
    assert list(log.records()) == [{"n": 1}]
    other = AppendLog(log.path)
    other.append({"n": 2})
    log.append({"n": 3})
    assert list(log.records()) == [{"n": 2}, {"n": 3}]
    assert list(log.records()) == []
    assert list(other.records()) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_record_is_there_for_others_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "log")
    log.append({"text": "x" * 100_000})
    assert [len(record["text"]) for record in AppendLog(log.path).records()] == [100_000]


@pytest.mark.parametrize("torn", [b'{"n": 2, "text": "ab', b"\xff\xfe", b'{"n": 2}', b"{", b"[" * 100_000 + b"\n"])
def test_a_torn_line_is_passed_over_and_spoils_no_other(tmp_path: Path, torn: bytes) -> None:
    log = AppendLog(tmp_path / "log")
    log.append({"n": 1})
    log.close()
    with log.path.open("ab") as file:
        file.write(torn)
    assert list(log.records()) == [{"n": 1}]
    after = AppendLog(log.path)
    after.append({"n": 3})
    whole = [{"n": 2}] if torn == b'{"n": 2}' else []
    assert list(log.records()) == [*whole, {"n": 3}]
    assert list(AppendLog(log.path).records()) == [{"n": 1}, *whole, {"n": 3}]


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'3\n\n[1]\nnull\n"a"\n{"n": 1}\nnot json\n{"n": NaN}\n')
    assert [record["n"] == 1 for record in AppendLog(path).records()] == [True, False]


def test_closing_is_not_the_end(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "log")
    for n in range(3):
        log.append({"n": n})
        log.close()
    log.close()
    assert [record["n"] for record in log.records()] == [0, 1, 2]


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    log = AppendLog(tmp_path_factory.mktemp("log") / "log")
    log.append({"text": text + "\0\r\n\u2028\x85"})
    log.append({"text": "next"})
    assert [record["text"] for record in log.records()] == [text + "\0\r\n\u2028\x85", "next"]
    log.close()


WRITER = """
import sys
from pathlib import Path
from training.storage.files import AppendLog
log = AppendLog(Path(sys.argv[1]))
for n in range(300):
    log.append({"who": sys.argv[2], "n": n, "text": sys.argv[2] * (n * 50)})
"""


def test_several_processes_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), who]) for who in "abc"]
    reader, read = AppendLog(path), []
    while any(writer.poll() is None for writer in writers):
        read += reader.records()
    read += reader.records()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert all(record["text"] == record["who"] * (record["n"] * 50) for record in read)
    for who in "abc":
        assert [record["n"] for record in read if record["who"] == who] == list(range(300))


FULL = """
import resource, sys
from pathlib import Path
from training.storage.files import AppendLog
log = AppendLog(Path(sys.argv[1]))
log.append({"n": 1})
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, limit[1]))
try:
    log.append({"n": 2, "text": "cut in the middle"})
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
print(log.append({"n": 3}))
"""


def test_a_record_that_only_a_part_of_fits_is_an_error_and_spoils_no_other(tmp_path: Path) -> None:
    """A full disk takes a line's beginning and says nothing."""
    path = tmp_path / "log"
    out = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True).stdout
    assert out == f"[Errno 28] only 11 of a record's 38 bytes were written: {str(path)!r}\n21\n"
    assert [record["n"] for record in AppendLog(path).records()] == [1, 3]
