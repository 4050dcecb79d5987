"""`make audit`: known vulnerabilities of the pinned packages, from OSV's advisories, by pip-audit.

A vulnerability fails.  Without a network there are no advisories: one line gives the reason, and the audit passes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SOURCE = "https://api.osv.dev/v1/query"
SECONDS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pins", type=Path, help="a file of name==version lines")
    parser.add_argument("--source", default=SOURCE, help="address of the advisories, with OSV's API (%(default)s)")
    arguments = parser.parse_args()
    if (reason := unreachable(arguments.source)) is not None:
        print(f"audit: {arguments.pins} was not audited: no advisories from {arguments.source} ({reason})")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "audit.json"
        command = [
            "-m", "pip_audit", "--requirement", str(arguments.pins), "--no-deps", "--disable-pip",
            "--cache-dir", folder, "--progress-spinner", "off", "--format", "json", "--output", str(report),
            "--vulnerability-service", "osv", "--osv-url", arguments.source,
        ]  # fmt: skip
        ran = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        if not report.exists():
            lines = ran.stderr.strip().splitlines() or ["nothing"]
            print(f"audit: pip-audit ended with status {ran.returncode} and no report; its last line: {lines[-1]}")
            return 2
        return print_report(json.loads(report.read_text()), len(arguments.pins.read_text().split()))


def unreachable(source: str) -> str | None:
    """Why there are no advisories from this source; None where it answers."""
    question = json.dumps({"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "1.0"}).encode()
    request = urllib.request.Request(source, data=question, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            if not isinstance(json.load(answer), dict):
                return "its answer is none of OSV's"
    except urllib.error.URLError as error:  # also an HTTP status that is no success
        return str(error.reason)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def print_report(report: dict[str, Any], pins: int) -> int:
    """Prints the report's vulnerabilities and counts; returns the exit status."""
    audited = [one for one in report["dependencies"] if "skip_reason" not in one]
    vulnerable = [(one, advisory) for one in audited for advisory in one["vulns"]]
    for one, advisory in vulnerable:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"audit: {one['name']} {one['version']} has {advisory['id']}, mended in {fixed}")
    for one in report["dependencies"]:
        if "skip_reason" in one:
            print(f"audit: {one['name']} was not audited: {one['skip_reason']}")
    print(f"audit: {len(audited)} of {pins} pins audited, {len(vulnerable)} known vulnerabilities")
    return 1 if vulnerable or len(audited) < pins else 0


if __name__ == "__main__":
    raise SystemExit(main())
