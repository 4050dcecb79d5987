"""The declaration of assets and checks: `Asset` and `Check`, of which `@asset(...)` and `check(...)` make Dagster's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import dagster as dg
import dataframely as dy

from assets.framework.display import displayed
from assets.framework.links import check_url
from assets.framework.partitions import Partitioning, key_of
from assets.framework.retries import no_retry_on_permanent_errors
from assets.framework.settings import RunOverrides
from assets.framework.store import AssetStore, StoreParam

OWNERS = {
    "inputs": "team:data",
    "trajectories": "team:data",
    "curation": "team:curation",
    "checkpoints": "team:training",
    "benchmarks": "team:evaluation",
    "reports": "team:evaluation",
}
"""The owner of assets by their stage, the first part of their keys."""

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
    freshness_policy: dg.FreshnessPolicy | None = None
    group: str | None = None
    """None: the first part of its key."""

    @property
    def spec(self) -> dg.AssetSpec:
        stage = self.key.partition("/")[0]
        mappings = self.partitions.mappings if self.partitions else {}
        return dg.AssetSpec(
            key_of(self.key),
            deps=[dg.AssetDep(key_of(key), partition_mapping=mappings.get(key)) for key in self.deps],
            description=self.description,
            group_name=self.group or stage,
            owners=[OWNERS[stage]],
            kinds=set(self.kinds),
            code_version=self.code_version,
            partitions_def=self.partitions.definition if self.partitions else None,
            freshness_policy=self.freshness_policy,
        )


class CheckOutcome(NamedTuple):
    """Whether a check passed, what it saw, and the metadata of its result."""

    passed: bool
    description: str
    metadata: Mapping[str, Any]
    severity: dg.AssetCheckSeverity | None = None
    """The severity, where it is not the check's."""


@dataclass(frozen=True)
class Check:
    """A check of assets: a function of the store, the asset's key and, where it has some, names of its partitions."""

    function: Callable[..., CheckOutcome]
    name: str
    description: str
    remedy: str
    """The way to mend a failure, whose description ends with it."""
    blocking: bool
    severity: dg.AssetCheckSeverity

    def of(
        self, key: str, partitions: dg.PartitionsDefinition | None = None, deps: Sequence[str] = (), **arguments: Any
    ) -> dg.AssetChecksDefinition:
        """The check of one asset, whose function gets these arguments, too; `deps` are other assets that it reads.

        A partitioned asset has one result about all its `partitions` that were made, whichever of them a run makes: so
        it can be executed by itself, and the failure of one is not hidden by the next run of another. (Dagster's checks
        by partition show as skipped after a run of several, and cannot be executed by themselves.)
        """

        @dg.asset_check(
            asset=key_of(key),
            name=self.name,
            description=f"{self.description} If it fails: {self.remedy}.",
            blocking=self.blocking,
            additional_deps=[key_of(dep) for dep in deps],
        )
        def asset_check(context: dg.AssetCheckExecutionContext, store: StoreParam) -> dg.AssetCheckResult:
            evaluate = partial(self.function, store, key, **arguments)
            outcome = evaluate() if partitions is None else _outcome(context, store, key, partitions, evaluate)
            return dg.AssetCheckResult(
                passed=outcome.passed,
                description=outcome.description if outcome.passed else f"{outcome.description}: {self.remedy}",
                metadata=displayed(outcome.metadata) | {"docs": dg.MetadataValue.url(check_url(self.name))},
                severity=outcome.severity or self.severity,
            )

        return asset_check


def _outcome(
    context: dg.AssetCheckExecutionContext,
    store: AssetStore,
    key: str,
    partitions: dg.PartitionsDefinition,
    evaluate: Callable[[Sequence[str]], CheckOutcome],
) -> CheckOutcome:
    """The outcome for all partitions that were made; a warning where those of the run pass, so that only they block it.

    Raises Failure where none was made.
    """
    names, made = partitions.get_partition_keys(dynamic_partitions_store=context.instance), set(store.partitions(key))
    if not made.intersection(names):
        raise dg.Failure(f"no partition of {key} is materialised: materialise some first", allow_retries=False)
    outcome = evaluate([name for name in names if name in made])
    if outcome.passed or not context.op_execution_context.has_partitions:
        return outcome
    run = context.partition_key_range
    of_run = evaluate(names[names.index(run.start) : names.index(run.end) + 1])
    return outcome._replace(severity=dg.AssetCheckSeverity.WARN if of_run.passed else of_run.severity)


def check(
    description: str,
    remedy: str,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> Callable[[Callable[..., CheckOutcome]], Check]:
    """Makes a check of a function, by whose name it is called."""
    return lambda function: Check(function, function.__name__, description, remedy, blocking, severity)


def asset(
    *declared: Asset,
    pool: str | None = None,
    name: str | None = None,
    description: str | None = None,
    config: RunOverrides | None = None,
) -> Callable[[Function], dg.AssetsDefinition]:
    """The assets that a function makes in one op.

    Partitions and retries are those of the first asset, and so are the op's name and description where no other is
    given; `pool` limits how many of these ops run at a time. `config`: the defaults of the function's argument of that
    name, which the Launchpad shows.
    """
    first = declared[0]
    partitions = first.partitions

    def define(function: Function) -> dg.AssetsDefinition:
        if config is not None:
            function.__annotations__["config"] = config.as_defaults()
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
