"""The metadata of a materialisation: an artifact's counts, files, figures and provenance, and its main table."""

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from assets.framework.define import Asset
from assets.framework.display import displayed
from assets.framework.links import COMPARISON_URL
from assets.framework.partitions import key_of
from assets.framework.store import AssetStore
from evaluation.reports.edges import inputs_in_words
from evaluation.reports.run_reports import command
from training.storage.artifacts import Artifact
from training.storage.hashing import digest
from training.storage.parquet import scan_parquet

COMPARISON, PAGE = "reports/comparison", "report.html"
"""The artifact whose page shows lineages, and its file."""
_BOUNDS = (("min", "≥ {}"), ("max", "≤ {}"), ("min_length", "length ≥ {}"), ("max_length", "length ≤ {}"),
           ("regex", "`{}`"), ("is_in", "one of {}"))  # fmt: skip


def metadata_of(store: AssetStore, asset: Asset, artifact: Artifact) -> dict[str, Any]:
    """An artifact's metadata: previews, counts, files, provenance, lineage, and its main table's rows and columns.

    Markdown has the name of its file's stem, a figure `{stem}_figure`, since its stem is the name of the counts that it
    shows.
    """
    provenance, files = artifact.provenance, artifact.manifest["files"]
    metadata: dict[str, Any] = {}
    for name in (name for name in asset.previews if name in files):
        content = artifact.file(name).read_bytes()
        if name.endswith(".png"):
            picture = f"![{name}](data:image/png;base64,{base64.b64encode(content).decode()})"
            metadata[f"{name.removesuffix('.png')}_figure"] = dg.MetadataValue.md(picture)
        else:
            metadata[name.removesuffix(".md")] = dg.MetadataValue.md(content.decode())
    metadata |= {
        **displayed(provenance["counts"]),
        "seconds": provenance["seconds"],
        "folder": artifact.path,
        **{name: path for name, file in asset.links.items() if (path := artifact.path / file).exists()},
        "version": artifact.version,
        "provenance": {name: provenance[name] for name in ("inputs", "config", "code")},
        "made_from": inputs_in_words(artifact.manifest["name"], provenance["inputs"]),
        "lineage": command(artifact.version),
        "comparison_page": dg.MetadataValue.url(COMPARISON_URL),
    }
    if asset.table is not None:
        path = artifact.file(asset.table)
        metadata["dagster/column_schema"] = table_schema(asset.columns, scan_parquet(path).collect_schema())
        metadata["table"] = path
        metadata["dagster/row_count"] = scan_parquet(path).select(pl.len()).collect().item()
        metadata["dagster/uri"] = str(path)
    return metadata


def result_of(store: AssetStore, asset: Asset, artifact: Artifact) -> dg.MaterializeResult[None]:
    """The result of an asset of one artifact: its version as the data version, and its metadata."""
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artifact.version), metadata=metadata_of(store, asset, artifact)
    )


def batch_result(
    context: dg.AssetExecutionContext,
    store: AssetStore,
    asset: Asset,
    artifacts: Mapping[str, Artifact],
    shared: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult[None]:
    """The result of an asset that made several partitions in one run.

    Each partition has its metadata, after what they share. Dagster has one data version for all partitions of a run:
    the hash of theirs, or the version of the only one.
    """
    key = key_of(asset.key)
    versions = {partition: artifact.version for partition, artifact in artifacts.items()}
    for partition, artifact in artifacts.items():
        metadata = {**(shared or {}), **metadata_of(store, asset, artifact)}
        context.add_asset_metadata(metadata, asset_key=key, partition_key=partition)
    version = digest(versions) if len(versions) > 1 else next(iter(versions.values()))
    return dg.MaterializeResult(asset_key=key, data_version=dg.DataVersion(version))


def table_schema(schemas: tuple[type[dy.Schema], ...], columns: Mapping[str, pl.DataType]) -> dg.TableSchema:
    """Dagster's schema of a table's columns, with the descriptions and constraints of the dataframely schemas.

    Raises KeyError for a column that no schema has.
    """
    described = {column.name: column for schema in schemas for column in schema.columns().values()}
    return dg.TableSchema(
        [
            dg.TableColumn(
                name,
                str(dtype),
                described[name].description,
                dg.TableColumnConstraints(nullable=described[name].nullable, other=constraints(described[name])),
            )
            for name, dtype in columns.items()
        ]
    )


def constraints(column: dy.Column) -> list[str]:
    """The constraints on a column's values in words, except for null."""
    words = ["key"] if column.primary_key else []
    words += [text.format(bound) for name, text in _BOUNDS if (bound := getattr(column, name, None)) is not None]
    if isinstance(column, dy.List) and (inner := constraints_and_null(column.inner)):
        words.append(f"each {inner}")
    return words + (["checked in code"] if column.check is not None else [])


def constraints_and_null(column: dy.Column) -> str:
    """All constraints on one line."""
    return ", ".join([*constraints(column), *(["null allowed"] if column.nullable else [])])
