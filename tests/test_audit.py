"""The audit of pins against a stand-in for OSV on loopback: its messages and its status."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.loopback import Quiet, serving
from training.runtime.project import PROJECT

ADVISORY = {
    "id": "PYSEC-2026-1", "summary": "reads what it should not", "aliases": ["CVE-2026-1"],
    "affected": [{"package": {"name": "jinja2", "ecosystem": "PyPI"},
                  "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.9"}]}]}],
}  # fmt: skip
Answer = Callable[[str, str], tuple[int, bytes]]


def clean(name: str, version: str) -> tuple[int, bytes]:
    return 200, b"{}"


def vulnerable(name: str, version: str) -> tuple[int, bytes]:
    affected = (name, version) == ("jinja2", "3.1.2")
    return 200, json.dumps({"vulns": [ADVISORY]} if affected else {}).encode()


def out_of_order(name: str, version: str) -> tuple[int, bytes]:
    return 503, b"{}"


def login_page(name: str, version: str) -> tuple[int, bytes]:
    return 200, b"<html>Please log in</html>"


def ends_early(name: str, version: str) -> tuple[int, bytes]:
    return (200 if name == "pip" else 500), b"{}"


@contextmanager
def source(answer: Answer) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """An address that answers as OSV does, and the packages of its requests."""
    requests: list[tuple[str, str]] = []

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((question["package"]["name"], question["version"]))
            status, body = answer(*requests[-1])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as url:
        yield f"{url}/v1/query", requests


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    (tmp_path / "pins.txt").write_text("jinja2==3.1.2\ntorch==2.14.1\n")
    return tmp_path / "pins.txt"


def audit(pins: Path, url: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.audit", str(pins), "--source", url]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    return ran.returncode, ran.stdout


def test_pins_without_advisories_pass(pins: Path) -> None:
    with source(clean) as (url, requests):
        assert audit(pins, url) == (0, "audit: 2 of 2 pins audited, 0 known vulnerabilities\n")
    assert {("jinja2", "3.1.2"), ("torch", "2.14.1")} <= set(requests)


def test_every_pin_of_the_project_can_be_audited() -> None:
    pins = PROJECT / "constraints.txt"
    count = len(pins.read_text().split())
    with source(clean) as (url, _):
        assert audit(pins, url) == (0, f"audit: {count} of {count} pins audited, 0 known vulnerabilities\n")


def test_a_known_vulnerability_fails_and_names_the_fixed_version(pins: Path) -> None:
    with source(vulnerable) as (url, _):
        status, output = audit(pins, url)
    assert status == 1
    assert output.splitlines() == [
        "audit: jinja2 3.1.2 has PYSEC-2026-1, mended in 3.1.9",
        "audit: 2 of 2 pins audited, 1 known vulnerabilities",
    ]


@pytest.mark.parametrize(("answer", "reason"), [(out_of_order, "Service Unavailable"), (login_page, "JSONDecodeError")])
def test_without_advisories_one_line_gives_the_reason_and_it_passes(pins: Path, answer: Answer, reason: str) -> None:
    with source(answer) as (url, _):
        status, output = audit(pins, url)
    assert status == 0 and output.count("\n") == 1
    assert f"{pins} was not audited: no advisories from {url} ({reason}" in output


def test_an_unreachable_source_is_named_and_passes(pins: Path) -> None:
    with source(clean) as (url, _):
        pass
    status, output = audit(pins, url)
    assert status == 0 and "was not audited" in output and "Connection refused" in output


def test_a_source_that_goes_away_in_the_middle_is_no_pass(pins: Path) -> None:
    with source(ends_early) as (url, _):
        status, output = audit(pins, url)
    assert status == 2 and "no report" in output
