"""What every table asset has in common: its place in the graph, its columns, its policies, its log line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
from pyiceberg.schema import Schema

from k2_ohlcv import logs
from k2_ohlcv.lake.schemas import NAMESPACE, TableSpec

GROUP_NAME = "market_data"
OWNERS = ("team:market-data",)
#: Long enough for a conflict or an outage of the catalog to pass, short enough to stay fresh.
RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=60)


def table_asset(
    contract: TableSpec,
    *,
    kinds: set[str],
    tags: Mapping[str, str],
    partitions_def: dg.PartitionsDefinition[Any],
    description: str,
    deps: Sequence[dg.AssetDep] = (),
    freshness_policy: dg.FreshnessPolicy | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with what every table has."""
    return dg.asset(
        name=contract.name,
        deps=deps,
        partitions_def=partitions_def,
        description=description,
        group_name=GROUP_NAME,
        owners=OWNERS,
        kinds=kinds,
        tags=tags,
        metadata={
            "dagster/column_schema": column_schema(contract.schema),
            "dagster/table_name": f"{NAMESPACE}.{contract.name}",
        },
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY_POLICY,
        freshness_policy=freshness_policy,
        pool=contract.name,  # one writer per table, across runs
    )


def column_schema(schema: Schema) -> dg.TableSchema:
    """A table's columns as Dagster shows them."""
    columns: Sequence[dg.TableColumn] = [
        dg.TableColumn(
            field.name,
            str(field.field_type),
            constraints=dg.TableColumnConstraints(nullable=not field.required),
        )
        for field in schema.fields
    ]
    return dg.TableSchema(columns=columns)


def log_summary(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    event: str,
    counts: Mapping[str, int],
    snapshot: int | None,
    seconds: float,
) -> None:
    """One line for the run's log: in words for the UI, in fields for the JSON logs."""
    said = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
    fields = {"event": event, "snapshot": snapshot, "seconds": round(seconds, 3), "counts": counts}
    context.log.info(f"{event}: {said or 'nothing to do'}", extra={logs.FIELDS: fields})
