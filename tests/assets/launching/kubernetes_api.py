"""Enough of the Kubernetes API, on loopback, for a real client to run pods: each is a process of this machine.

A container's process gets what its pod's spec says and what the named Secrets hold, and nothing else of our
environment. As from a kubelet, it gets TERM when its pod is deleted, KILL after the grace period, and the pod is gone
when the process is.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PODS = "/api/v1/namespaces/here/pods"


@dataclass
class Pod:
    """A pod, and its container's process unless no node has room for it."""

    body: dict[str, Any]
    process: subprocess.Popen[bytes] | None
    log: Path

    def told(self) -> dict[str, Any]:
        """The pod as the API shows it."""
        return {"apiVersion": "v1", "kind": "Pod", **self.body, "status": self._status()}

    def _status(self) -> dict[str, Any]:
        if self.process is None:
            return {"phase": "Pending"}
        code = self.process.poll()
        state = (
            {"running": {}} if code is None else {"terminated": {"exitCode": code % 256 if code >= 0 else 128 - code}}
        )
        phase = "Running" if code is None else "Failed" if code else "Succeeded"
        container = {"name": "program", "image": "", "imageID": "", "ready": True, "restartCount": 0, "state": state}
        return {"phase": phase, "containerStatuses": [container]}

    def end(self) -> None:
        """As the kubelet does."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(self.body["spec"]["terminationGracePeriodSeconds"])
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass
class Cluster:
    """What was submitted, and what is there now; `secrets` are their entries by name.

    stuck: the node of a deleted pod does not answer, so the pod stays.
    """

    folder: Path
    secrets: Mapping[str, Mapping[str, str]]
    gpus: int = 0
    stuck: bool = False
    submitted: list[dict[str, Any]] = field(default_factory=list)
    pods: dict[str, Pod] = field(default_factory=dict)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        self.submitted.append(body)
        (container,) = body["spec"]["containers"]
        name, log = body["metadata"]["name"], self.folder / f"{body['metadata']['name']}.log"
        wanted = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        process = self._start(container, log) if wanted <= self.gpus else None
        self.pods[name] = Pod(body, process, log)
        return self.pods[name].told()

    def _start(self, container: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        for source in container.get("envFrom", []):
            environment |= self.secrets[source["secretRef"]["name"]]
        environment |= {entry["name"]: entry["value"] for entry in container["env"]}
        with log.open("wb") as file:
            return subprocess.Popen(
                container["command"], env=environment, cwd=container["workingDir"], stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def delete(self, name: str) -> dict[str, Any]:
        pod = self.pods[name]

        def end() -> None:
            pod.end()
            self.pods.pop(name, None)

        if not self.stuck:
            threading.Thread(target=end, daemon=True).start()
        return pod.told()

    def lines(self, name: str, follow: bool) -> Iterator[bytes]:
        """The log, to its present end or to the container's."""
        pod = self.pods[name]
        with pod.log.open("rb") as file:
            while True:
                ended = pod.process is None or pod.process.poll() is not None
                yield from file
                if ended or not follow:
                    return
                if pod.process is not None:
                    wait_a_moment(pod.process)


def wait_a_moment(process: subprocess.Popen[bytes]) -> None:
    """Wait a moment, or until it ends."""
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return


@contextmanager
def kubernetes_api(cluster: Cluster) -> Iterator[str]:
    """The address where the cluster answers; its pods end with it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_POST(self) -> None:
            assert self.path == PODS, self.path
            length = int(self.headers["Content-Length"])
            self._tell(201, cluster.create(json.loads(self.rfile.read(length))))

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            if url.path == PODS:
                key, value = asked["labelSelector"].split("=")
                found = [pod.told() for pod in cluster.pods.values() if pod.body["metadata"]["labels"][key] == value]
                self._tell(200, {"apiVersion": "v1", "kind": "PodList", "items": found})
                return
            name, _, what = url.path.removeprefix(f"{PODS}/").partition("/")
            if name not in cluster.pods:
                self._missing()
            elif what == "log":
                self._tell_log(name, asked)
            else:
                self._tell(200, cluster.pods[name].told())

        def do_DELETE(self) -> None:
            name = urlsplit(self.path).path.removeprefix(f"{PODS}/")
            if name in cluster.pods:
                self._tell(200, cluster.delete(name))
            else:
                self._missing()

        def _missing(self) -> None:
            self._tell(404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})

        def _tell(self, status: int, body: Mapping[str, Any]) -> None:
            told = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def _tell_log(self, name: str, asked: Mapping[str, str]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            stamped = asked.get("timestamps") == "True"
            for line in cluster.lines(name, asked.get("follow") == "True"):
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode() if stamped else b""
                self.wfile.write(now + line)
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        for pod in cluster.pods.values():
            pod.end()
