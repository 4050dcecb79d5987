"""The graph as text, recorded in graph.json, so that the difference of that file shows what a change does to it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg

from pipelines.definitions import build_definitions
from pipelines.profile import PRESETS

RECORDED = Path(__file__).with_name("graph.json")
PROFILES = ("demo", "paper")


def graph(profile: str) -> dict[str, Any]:
    """Assets, checks, jobs, schedules and sensors of a preset, by name."""
    definitions = build_definitions(PRESETS[profile](Path("/home-of-the-graph")))
    nodes, repository = definitions.resolve_asset_graph(), definitions.get_repository_def()
    return {
        "assets": {_name(node.key): _asset(node) for node in nodes.asset_nodes},
        "checks": {
            f"{_name(check.key.asset_key)}: {check.key.name}": _check(check) for check in nodes.asset_check_nodes
        },
        "jobs": {job.name: _job(job) for job in repository.get_all_jobs() if not job.name.startswith("__")},
        "schedules": {
            schedule.name: {
                "cron": schedule.cron_schedule,
                "job": schedule.job_name,
                "default status": schedule.default_status.value,
            }
            for schedule in repository.schedule_defs
        },
        "sensors": {
            sensor.name: {
                "jobs": _listed(target.job_name for target in sensor.targets),
                "minimum interval": sensor.minimum_interval_seconds,
                "default status": sensor.default_status.value,
            }
            for sensor in repository.sensor_defs
        },
    }


def _asset(node: Any) -> dict[str, Any]:
    fields = {
        "deps": _listed(_name(key) for key in node.parent_keys),
        "group": node.group_name,
        "kinds": _listed(node.kinds),
        "owners": _listed(node.owners),
        "pool": _listed(node.pools),
        "partitions": _partitions(node.partitions_def),
        "partitions per run": _backfill(node.backfill_policy),
        "freshness policy": _freshness(node.freshness_policy),
        "max retries": _max_retries(node),
    }
    return {name: value for name, value in fields.items() if value}


def _check(node: Any) -> str:
    return "blocking" if node.blocking else "not blocking"


def _job(job: dg.JobDefinition) -> dict[str, Any]:
    fields = {
        "assets": _listed(_name(key) for key in job.asset_layer.executable_asset_keys),
        "partitions": _partitions(job.partitions_def),
    }
    return {name: value for name, value in fields.items() if value}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _partitions(partitions: dg.PartitionsDefinition | None) -> str | None:
    """The name of dynamic partitions, or the static ones in their order."""
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        return partitions.name
    return ", ".join(partitions.get_partition_keys()) if partitions else None


def _backfill(policy: dg.BackfillPolicy | None) -> Any:
    return (policy.max_partitions_per_run or "all") if policy else None


def _freshness(policy: Any) -> str | None:
    if policy is None:
        return None
    late, stale = policy.warn_window.to_timedelta(), policy.fail_window.to_timedelta()
    return f"late after {late.days} days, stale after {stale.days}"


def _max_retries(node: Any) -> int | None:
    policy = getattr(node.assets_def.node_def, "retry_policy", None) if node.is_executable else None
    return policy.max_retries if policy else None


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


def as_text() -> str:
    """Every profile's graph, as graph.json has it."""
    return json.dumps({name: graph(name) for name in PROFILES}, indent=1, sort_keys=True) + "\n"
