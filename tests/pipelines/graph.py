"""The whole graph as text that a person can read, recorded in graph.json.

Whoever changes the graph reads in the difference of that file what else has changed.
"""

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
                "begins": schedule.default_status.value,
            }
            for schedule in repository.schedule_defs
        },
        "sensors": {
            sensor.name: {
                "jobs": _listed(target.job_name for target in sensor.targets),
                "seconds between looks": sensor.minimum_interval_seconds,
                "begins": sensor.default_status.value,
            }
            for sensor in repository.sensor_defs
        },
    }


def _asset(node: Any) -> dict[str, Any]:
    condition = node.automation_condition
    told = {
        "made from": _listed(_name(key) for key in node.parent_keys),
        "group": node.group_name,
        "kinds": _listed(node.kinds),
        "owners": _listed(node.owners),
        "pool": _listed(node.pools),
        "partitions": _partitions(node.partitions_def),
        "partitions a run": _backfill(node.backfill_policy),
        "made by itself when": condition.get_label() or str(condition) if condition else None,
        "fresh": _fresh(node.freshness_policy),
        "tried again": _tried_again(node),
    }
    return {name: value for name, value in told.items() if value}


def _check(node: Any) -> str:
    cut = _partitions(node.partitions_def)
    return ("blocking" if node.blocking else "told") + (f", by {cut}" if cut else "")


def _job(job: dg.JobDefinition) -> dict[str, Any]:
    told = {
        "assets": _listed(_name(key) for key in job.asset_layer.executable_asset_keys),
        "partitions": _partitions(job.partitions_def),
    }
    return {name: value for name, value in told.items() if value}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _partitions(cut: dg.PartitionsDefinition | None) -> str | None:
    """The name of what grows, or the partitions in their order."""
    if isinstance(cut, dg.DynamicPartitionsDefinition):
        return cut.name
    return ", ".join(cut.get_partition_keys()) if cut else None


def _backfill(policy: dg.BackfillPolicy | None) -> Any:
    return (policy.max_partitions_per_run or "all") if policy else None


def _fresh(policy: Any) -> str | None:
    if policy is None:
        return None
    late, stale = policy.warn_window.to_timedelta(), policy.fail_window.to_timedelta()
    return f"late after {late.days} days, stale after {stale.days}"


def _tried_again(node: Any) -> int | None:
    policy = getattr(node.assets_def.node_def, "retry_policy", None) if node.is_executable else None
    return policy.max_retries if policy else None


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


def as_text() -> str:
    """Every profile's graph, as graph.json has it."""
    return json.dumps({name: graph(name) for name in PROFILES}, indent=1, sort_keys=True) + "\n"
