"""Programs as pods of a Kubernetes cluster: each on one node that has room for it.

A deleted pod gets TERM and, after its grace period, KILL. Its first process is the program's supervisor, which ends the
program within that time (INT first), as on this machine.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from assets.launching.cluster import (
    Answer,
    ClusterSettings,
    confirmed,
    last_lines,
    mark_of,
    patiently,
    seconds_to_end,
    wait_for_all,
)
from assets.launching.program import Context, Deadlines, Program, Watch, failure, interrupts_wait, op_context
from training.project import PROJECT

if TYPE_CHECKING:
    from dagster_k8s import PipesK8sPodLogsMessageReader
    from kubernetes.client import CoreV1Api, V1Pod

LABEL = "future-l1/out"
"""The pod's label for its working folder: a digest, as labels are short; the annotation of this name has the path."""
NEVER_STARTS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerError", "RunContainerError")


class KubernetesSettings(ClusterSettings):
    """Programs run as pods of a Kubernetes cluster."""

    kind: Literal["kubernetes"] = "kubernetes"
    image: str
    """With the Python environment that `python` names, unless that is on a volume."""
    volumes: Mapping[str, Path] = {}
    """Where each of these PersistentVolumeClaims is mounted: the shared file system, at the same paths as here."""
    env_from: tuple[str, ...] = ()
    """Secrets whose entries become the program's environment: judge key, hub token."""
    namespace: str = "default"
    kubeconfig: Path | None = None
    """None: the cluster that Dagster itself runs in, or the user's own file."""
    kube_context: str | None = None
    """Of the kubeconfig; None: its current one."""
    service_account: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    node_selector: Mapping[str, str] = {}
    tolerations: tuple[Mapping[str, str], ...] = ()
    """As in a pod's spec (`{key = "gpu", operator = "Exists", effect = "NoSchedule"}`)."""
    gpu_resource: str = "nvidia.com/gpu"
    shared_memory_gib: int = Field(default=8, ge=1)
    """/dev/shm, which processes of one program and their data loaders share; it counts as memory."""
    seconds_unreachable: float = Field(default=300.0, gt=0)
    """An API server that does not answer for so long fails the step."""


class KubernetesBackend:
    """Runs programs as pods, which wait there until a node has room."""

    def __init__(self, settings: KubernetesSettings, deadlines: Deadlines) -> None:
        self._settings = settings
        self._deadlines = deadlines

    def run(self, context: Context, programs: Sequence[Program], watch: Watch) -> None:
        """See `assets.launching.program.Backend`."""
        cluster = _Cluster(self._settings, self._deadlines)
        with ExitStack() as stack:
            wait_for_all([stack.enter_context(self._created(context, cluster, one)) for one in programs], watch)

    @contextmanager
    def _created(self, context: Context, cluster: "_Cluster", program: Program) -> "Iterator[_Pod]":
        """A program as a pod, with its Pipes session, until the context ends."""
        from dagster_k8s import PipesK8sPodLogsMessageReader

        name = f"{program.module.replace('.', '-')}-{uuid.uuid4().hex[:12]}"
        cluster.end_those_before(program)
        reader = PipesK8sPodLogsMessageReader()
        with dg.open_pipes_session(
            context=op_context(context), context_injector=dg.PipesEnvContextInjector(), message_reader=reader
        ) as session:
            pod = _Pod(name, program, context, cluster, reader)
            try:
                cluster.create(pod_of(self._settings, self._deadlines, program, name, session.get_bootstrap_env_vars()))
                context.log.info(f"{program.module} is the pod {name} of {self._settings.namespace}")
                yield pod
            finally:
                with interrupts_wait():
                    cluster.end(name)
                pod.read_to_the_end()


def pod_of(
    settings: KubernetesSettings, deadlines: Deadlines, program: Program, name: str, pipes: Mapping[str, str]
) -> "V1Pod":
    """What is submitted.  pipes: the variables of the program's Pipes session."""
    from dagster_k8s.pipes import build_pod_body

    gib, gpus = settings.gib_for(program), settings.gpus_for(program)
    resources = {
        "cpu": str(settings.cpus_for(program)),
        **({} if gib is None else {"memory": f"{gib}Gi"}),
        **({settings.gpu_resource: str(gpus)} if gpus else {}),
    }
    claims = [(f"volume-{i}", claim, path) for i, (claim, path) in enumerate(settings.volumes.items())]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{settings.shared_memory_gib}Gi"}}
    at_most = program.seconds_at_most
    return build_pod_body(
        pod_name=name,
        image=settings.image,
        command=settings.command_for(program, deadlines),
        env_vars={**settings.environment_for(program, deadlines), **pipes},
        base_pod_meta={"labels": {LABEL: mark_of(program)}, "annotations": {LABEL: str(program.out)}},
        base_pod_spec={
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": seconds_to_end(deadlines),
            # Its step ends it before; this is for a pod whose step was killed.
            **({} if at_most is None else {"activeDeadlineSeconds": round(at_most) + 2 * seconds_to_end(deadlines)}),
            **({} if settings.service_account is None else {"serviceAccountName": settings.service_account}),
            "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
            "nodeSelector": dict(settings.node_selector),
            "tolerations": [dict(toleration) for toleration in settings.tolerations],
            "volumes": [
                shm,
                *({"name": volume, "persistentVolumeClaim": {"claimName": claim}} for volume, claim, _ in claims),
            ],
            "containers": [
                {
                    "name": "program",
                    "workingDir": str(PROJECT),
                    "envFrom": [{"secretRef": {"name": secret}} for secret in settings.env_from],
                    "resources": {"requests": resources, "limits": resources},
                    "volumeMounts": [
                        {"name": "shm", "mountPath": "/dev/shm"},
                        *({"name": volume, "mountPath": str(path)} for volume, _, path in claims),
                    ],
                }
            ],
        },
    )


class _Cluster:
    """The part of the Kubernetes API that pods need, asked patiently."""

    def __init__(self, settings: KubernetesSettings, deadlines: Deadlines) -> None:
        from kubernetes import client, config

        self._settings = settings
        self._deadlines = deadlines
        self.namespace = settings.namespace
        try:
            if settings.kubeconfig is None and settings.kube_context is None:
                config.load_config()
            else:
                config.load_kube_config(str(settings.kubeconfig or "~/.kube/config"), settings.kube_context)
        except config.ConfigException as error:
            raise dg.Failure(f"no access to Kubernetes: {error}", allow_retries=False) from error
        self.api: CoreV1Api = client.CoreV1Api()

    def create(self, pod: "V1Pod") -> None:
        """Submit a pod; raises dagster.Failure if it is refused (a quota, an unknown field, no right to)."""
        from kubernetes.client import ApiException

        try:
            self.api.create_namespaced_pod(self.namespace, pod)
        except ApiException as error:
            raise dg.Failure(f"Kubernetes refuses the pod: {error.reason}: {error.body}") from error

    def find(self, name: str) -> "V1Pod | None":
        """A pod, or None when it is gone."""
        return self._patiently(partial(self.api.read_namespaced_pod, name, self.namespace))

    def end_those_before(self, program: Program) -> None:
        """A pod whose step was killed outright goes on: two programs must not work in one folder."""
        left = partial(self.api.list_namespaced_pod, self.namespace, label_selector=f"{LABEL}={mark_of(program)}")
        found = self._patiently(left)
        for pod in found.items if found is not None else []:
            self.end(pod.metadata.name)

    def end(self, name: str) -> None:
        """End a pod, and return only when it is gone."""
        self._patiently(partial(self.api.delete_namespaced_pod, name, self.namespace))
        if not confirmed(lambda: self.find(name) is None, self._deadlines):
            raise dg.Failure(
                f"the pod {name} was deleted and has not gone: see `kubectl describe pod {name} --namespace "
                f"{self.namespace}`, and end it before materialising again"
            )

    def _patiently(self, ask: Callable[[], Answer]) -> Answer | None:
        """The answer, or None if there is no such pod.  Raises ApiException for what asking again will not change."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        def ask_again() -> Answer | None:
            try:
                return ask()
            except ApiException as error:
                if error.status == 404:
                    return None
                if error.status == 429 or error.status >= 500:
                    raise ConnectionError(f"{error.status} {error.reason}") from error
                raise

        return patiently(
            ask_again, (HTTPError, ConnectionError), self._settings.seconds_unreachable, "the Kubernetes API"
        )


@dataclass
class _Pod:
    """A submitted program."""

    name: str
    program: Program
    context: Context
    cluster: _Cluster
    reader: "PipesK8sPodLogsMessageReader"
    reading: threading.Thread | None = None
    """Reads its log, with its messages; None until a node runs it."""

    @property
    def has_started(self) -> bool:
        return self.reading is not None

    def has_ended(self) -> bool:
        """Whether it has; from its first moment on a node its log is read.

        Raises dagster.Failure if it cannot start, or if somebody else deleted it.
        """
        pod = self._found()
        for status in pod.status.container_statuses or []:
            if (waiting := status.state.waiting) is not None and waiting.reason in NEVER_STARTS:
                raise dg.Failure(f"the pod {self.name} cannot start: {waiting.reason}: {waiting.message}")
        ended = pod.status.phase in ("Succeeded", "Failed")
        if self.reading is None and (ended or pod.status.phase == "Running"):
            arguments = (self.context, self.cluster.api, self.name, self.cluster.namespace)
            self.reading = threading.Thread(target=self.reader.consume_pod_logs, args=arguments, daemon=True)
            self.reading.start()
        return ended

    def read_to_the_end(self) -> None:
        """Wait for the last of its log, which ends with the pod."""
        if self.reading is not None:
            self.reading.join(timeout=30.0)

    def raise_if_failed(self) -> None:
        """Raises dagster.Failure with the last lines that the program said, if it failed."""
        pod = self._found()
        if pod.status.phase == "Succeeded":
            return
        self.read_to_the_end()
        ends = [status.state.terminated for status in pod.status.container_statuses or [] if status.state.terminated]
        why = [reason for reason in (pod.status.reason, pod.status.message, *(end.reason for end in ends)) if reason]
        said = self.cluster.api.read_namespaced_pod_log(self.name, self.cluster.namespace, tail_lines=400)
        raise failure(self.program, ends[0].exit_code if ends else None, [*why, *last_lines(said)])

    def _found(self) -> Any:
        pod = self.cluster.find(self.name)
        if pod is None:
            raise dg.Failure(f"the pod {self.name} is gone, but its step did not delete it; materialise again to go on")
        return pod
