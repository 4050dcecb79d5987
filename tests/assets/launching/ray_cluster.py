"""A Ray cluster of two nodes on this machine, which ends with the process that started it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

CLUSTER = """
import sys
from pathlib import Path
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80_000_000}
dashboard = {"include_dashboard": True, "dashboard_port": 0, "dashboard_host": "127.0.0.1"}
Path(sys.argv[1], "ray").mkdir()
cluster = Cluster(initialize_head=True, head_node_args=node | dashboard | {"node_ip_address": "127.0.0.2"})
cluster.add_node(**node, node_ip_address="127.0.0.3")  # Ray takes 127.0.0.1 for a name of the machine's own address
print(cluster.webui_url, flush=True)
sys.stdin.read()
"""


@contextmanager
def ray_cluster(token: str) -> Iterator[str]:
    """The address of its dashboard, which requires the token.  Each node has a CPU, and a GPU that is only a number."""
    timeouts = {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240", "RAY_gcs_server_port_wait_time_s": "240"}  # on a busy machine
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {**os.environ, **timeouts, **access}
    environment.pop("RAY_ADDRESS", None)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp"))  # sockets' paths are short
        errors = Path(folder) / "errors"
        head = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, folder],
            env=environment | {"RAY_TMPDIR": folder}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=stack.enter_context(errors.open("w")),
        )  # fmt: skip
        assert head.stdin is not None and head.stdout is not None
        try:
            address = head.stdout.readline().strip()
            assert address, errors.read_text()
            yield f"http://{address}"
        finally:
            processes = psutil.Process(head.pid).children(recursive=True)
            head.stdin.close()
            head.wait(timeout=60)
            _, alive = psutil.wait_procs(processes, timeout=30)
            for process in alive:
                process.kill()
            head.stdout.close()
