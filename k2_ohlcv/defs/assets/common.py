"""What all table assets share: group, owners, columns, policies, pool and the summary log line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
from pyiceberg.schema import Schema

from k2_ohlcv import logs
from k2_ohlcv.lake.schemas import NAMESPACE, TableSpec

GROUP_NAME = "market_data"
OWNERS = ("team:market-data",)
#: A conflict or an outage of the catalog is mostly over after a minute, and tables stay fresh meanwhile.
RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=60)


def table_asset(
    spec: TableSpec,
    *,
    kinds: set[str],
    tags: Mapping[str, str],
    partitions_def: dg.PartitionsDefinition[Any],
    description: str,
    deps: Sequence[dg.AssetDep] = (),
    freshness_policy: dg.FreshnessPolicy | None = None,
    backfill_policy: dg.BackfillPolicy,
    priority: int = 0,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with the options that every table shares. A higher priority runs first in a run."""
    return dg.asset(
        name=spec.name,
        deps=deps,
        partitions_def=partitions_def,
        description=description,
        group_name=GROUP_NAME,
        owners=OWNERS,
        kinds=kinds,
        tags=tags,
        metadata={
            "dagster/column_schema": column_schema(spec.schema),
            "dagster/table_name": f"{NAMESPACE}.{spec.name}",
        },
        backfill_policy=backfill_policy,
        retry_policy=RETRY_POLICY,
        freshness_policy=freshness_policy,
        pool=spec.name,  # one run at a time writes the table
        op_tags={"dagster/priority": str(priority)},
    )


def column_schema(schema: Schema) -> dg.TableSchema:
    """The columns of a table, in Dagster's form."""
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
    """Write one summary line to the run's log: text for the UI, fields for the JSON logs."""
    text = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
    fields = {"event": event, "snapshot": snapshot, "seconds": round(seconds, 3), "counts": counts}
    context.log.info(f"{event}: {text or 'nothing to do'}", extra={logs.FIELDS: fields})
