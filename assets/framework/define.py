"""How assets are declared: an `Asset` is the declaration, and `@asset(...)` makes Dagster's assets from a function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import dataframely as dy

from assets.framework.partitions import Partitioning, key_of
from assets.framework.retries import no_retry_on_permanent_errors

OWNERS = {
    "inputs": "team:data",
    "trajectories": "team:data",
    "curation": "team:curation",
    "checkpoints": "team:training",
    "benchmarks": "team:evaluation",
    "reports": "team:evaluation",
}
"""The owner of assets by their group, the first part of their keys."""

Function = Callable[..., Any]


@dataclass(frozen=True)
class Asset:
    """The declaration of an asset: its Dagster spec, and what its page shows of an artifact."""

    key: str
    """group/noun"""
    description: str
    """One sentence for the UI."""
    kinds: tuple[str, ...]
    """At most three libraries and formats that a person searches for."""
    code_version: str | None = None
    """The version of the code that decides what an artifact holds (`code.code_of`)."""
    deps: tuple[str, ...] = ()
    """The keys of its upstream assets."""
    partitions: Partitioning | None = None
    """None: the asset is one artifact."""
    table: str | None = None
    """The file of its main table."""
    columns: tuple[type[dy.Schema], ...] = ()
    """The schemas of the main table, whose descriptions of its columns are shown."""
    previews: tuple[str, ...] = ()
    """Files whose content is shown, where an artifact has them: `.md` and `.png`."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Files and folders that are linked, by their names on the page."""
    retry_policy: dg.RetryPolicy | None = None
    """For assets that call remote services (`retries`); all others fail at once."""
    automation_condition: dg.AutomationCondition | None = None
    freshness_policy: dg.FreshnessPolicy | None = None

    @property
    def spec(self) -> dg.AssetSpec:
        group = self.key.partition("/")[0]
        mappings = self.partitions.mappings if self.partitions else {}
        return dg.AssetSpec(
            key_of(self.key),
            deps=[dg.AssetDep(key_of(key), partition_mapping=mappings.get(key)) for key in self.deps],
            description=self.description,
            group_name=group,
            owners=[OWNERS[group]],
            kinds=set(self.kinds),
            code_version=self.code_version,
            partitions_def=self.partitions.definition if self.partitions else None,
            automation_condition=self.automation_condition,
            freshness_policy=self.freshness_policy,
        )


def check_result(
    passed: bool,
    description: str,
    remedy: str,
    metadata: Mapping[str, Any],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """The result of an asset check; the description of a failure ends with the remedy."""
    return dg.AssetCheckResult(
        passed=passed,
        description=description if passed else f"{description}: {remedy}",
        metadata=metadata,
        severity=severity,
    )


def asset(
    *declared: Asset, pool: str | None = None, name: str | None = None, description: str | None = None
) -> Callable[[Function], dg.AssetsDefinition]:
    """The assets that a function makes in one op.

    Partitions and retries are those of the first asset, and so are the op's name and description where no other is
    given; `pool` limits how many of these ops run at a time.
    """
    first = declared[0]
    partitions = first.partitions

    def define(function: Function) -> dg.AssetsDefinition:
        return dg.multi_asset(
            specs=[one.spec for one in declared],
            name=name or key_of(first.key).to_python_identifier(),
            description=description or first.description,
            partitions_def=partitions.definition if partitions else None,
            backfill_policy=partitions.backfill_policy if partitions else None,
            retry_policy=first.retry_policy,
            pool=pool,
        )(no_retry_on_permanent_errors(function))

    return define
