"""How assets are declared: the one place for what each of them says of itself.

An `Asset` is the declaration. `@asset(...)` makes one from a function, `@op_assets(...)` one or several from an op of
their own (what starts a GPU program, and what makes several at once); both take everything else from the declaration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from assets.framework.columns import TABLES, Table
from assets.framework.partitions import Cut, key_of
from assets.framework.retries import failing_at_once

STAGES = {
    "toyworld": ("toyworld", "team:data"),
    "twiff": ("trajectories", "team:data"),
    "curation": ("curation", "team:curation"),
    "checkpoints": ("checkpoints", "team:training"),
    "futurebench": ("benchmarks", "team:evaluation"),
    "twiffbench": ("benchmarks", "team:evaluation"),
    "reports": ("reports", "team:evaluation"),
}
"""The first part of a key: the group that it is shown in, and who answers for it."""

Function = Callable[..., Any]


@dataclass(frozen=True)
class Asset:
    """What an asset says of itself, once: for Dagster, and for the page that shows what was made."""

    key: str
    """stage/noun"""
    says: str
    """One sentence for the UI."""
    kinds: tuple[str, ...]
    """At most three, what a person looks for: libraries and formats."""
    code: str | None = None
    """The version of the code that decides what is in it (`code.code_of`)."""
    upstream: tuple[str, ...] = ()
    """The keys of what it is made from."""
    cut: Cut | None = None
    """Its partitions; None: it is one artifact."""
    table: str | None = None
    """The file of its main table, whose columns are declared in `columns.TABLES`."""
    columns: Table | None = None
    """Their declaration, where it is another one in this profile."""
    shown: tuple[str, ...] = ()
    """Files that a person would rather see than open, where an artifact has them: `.md` and `.png`."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Files and folders that the page leads to, by what they are called there."""
    retry: dg.RetryPolicy | None = None
    """For what asks something remote (`retries`); everything else fails at once."""
    condition: dg.AutomationCondition | None = None
    fresh: dg.FreshnessPolicy | None = None
    """How old it may be before somebody is told."""

    @property
    def told_columns(self) -> Table:
        """What is said of the main table's columns."""
        return self.columns or TABLES[self.key]

    @property
    def spec(self) -> dg.AssetSpec:
        """For Dagster: all but what belongs to whoever computes it."""
        group, owner = STAGES[self.key.partition("/")[0]]
        mappings = self.cut.mappings if self.cut else {}
        return dg.AssetSpec(
            key_of(self.key),
            deps=[dg.AssetDep(key_of(key), partition_mapping=mappings.get(key)) for key in self.upstream],
            description=self.says,
            group_name=group,
            owners=[owner],
            kinds=set(self.kinds),
            code_version=self.code,
            partitions_def=self.cut.partitions if self.cut else None,
            automation_condition=self.condition,
            freshness_policy=self.fresh,
        )


def asset(declared: Asset) -> Callable[[Function], dg.AssetsDefinition]:
    """The asset that a function makes."""
    spec = declared.spec

    def define(function: Function) -> dg.AssetsDefinition:
        return dg.asset(
            key=spec.key,
            deps=spec.deps,
            description=spec.description,
            group_name=spec.group_name,
            owners=spec.owners,
            kinds=set(declared.kinds),
            code_version=spec.code_version,
            partitions_def=spec.partitions_def,
            backfill_policy=declared.cut.backfill if declared.cut else None,
            automation_condition=spec.automation_condition,
            freshness_policy=declared.fresh,
            retry_policy=declared.retry,
        )(failing_at_once(function))

    return define


def op_assets(
    name: str, *declared: Asset, pool: str, says: str | None = None
) -> Callable[[Function], dg.AssetsDefinition]:
    """The assets that one op makes, all of the first one's upstream, cut and retries; `pool` is what the op waits for.

    `says` is the op's own description, where it makes several.
    """
    first, specs = declared[0], {one.spec.key: one.spec for one in declared}
    mappings = first.cut.mappings if first.cut else {}

    def define(function: Function) -> dg.AssetsDefinition:
        op = dg.op(
            name=name,
            pool=pool,
            retry_policy=first.retry,
            description=says or first.says,
            ins={_slot(key): dg.In(dg.Nothing) for key in first.upstream},
            out={_slot(one.key): dg.Out(dg.Nothing, code_version=one.code) for one in declared},
        )(failing_at_once(function))
        made = dg.AssetsDefinition.from_op(
            op,
            keys_by_input_name={_slot(key): key_of(key) for key in first.upstream},
            keys_by_output_name={_slot(one.key): key_of(one.key) for one in declared},
            partitions_def=first.cut.partitions if first.cut else None,
            partition_mappings={_slot(key): mappings[key] for key in first.upstream if key in mappings},
            backfill_policy=first.cut.backfill if first.cut else None,
        )
        return made.map_asset_specs(lambda spec: _told(spec, specs[spec.key]))

    return define


def _told(spec: dg.AssetSpec, declared: dg.AssetSpec) -> dg.AssetSpec:
    """A spec that an op made, with all that the declaration says besides."""
    return spec.replace_attributes(
        description=declared.description,
        group_name=declared.group_name,
        owners=declared.owners,
        kinds=declared.kinds,
        automation_condition=declared.automation_condition,
        freshness_policy=declared.freshness_policy,
    )


def _slot(key: str) -> str:
    """The name of an op's input or output."""
    return key.replace("/", "_")
