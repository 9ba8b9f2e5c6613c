"""The asset check `retention_limit`, one a table: it fails while scheduled retention holds back a drop.

The retention job records it, outside a run of checks. A run of the check by hand evaluates it again and drops
nothing. A failure does not mean wrong candles, so the check is not in `frames.checks`.
"""

from typing import Any

import dagster as dg

from k2_ohlcv.defs.resources import LakeResource
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.operations.retention_report import RetentionReport, TableReport

RETENTION_LIMIT_CHECK = "retention_limit"
TABLES = (TRADES_TABLE, *(timeframe.table for timeframe in TIMEFRAMES))


def build_retention_checks() -> list[dg.AssetChecksDefinition]:
    """The check of every table."""
    return [_build_check(table) for table in TABLES]


def checks_selection() -> dg.AssetSelection:
    """The selection of all retention checks, for jobs that leave them out."""
    return dg.AssetSelection.checks(
        *(dg.AssetCheckKey(dg.AssetKey(t), RETENTION_LIMIT_CHECK) for t in TABLES)
    )


def record_checks(instance: dg.DagsterInstance, report: RetentionReport) -> list[str]:
    """Record what an applied run held back, table by table. Returns the reasons.

    The check of a table passes if nothing of it was held back, so a later drop makes it pass again.
    """
    for table in report.tables:
        if table.table in TABLES:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(**_check_payload(table, report), blocking=False)
            )
    return [table.held_back.reason for table in report.tables if table.held_back]


def _build_check(table: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        name=RETENTION_LIMIT_CHECK,
        asset=table,
        description="Scheduled retention held back no drop. It holds back a drop that is too large for the "
        "time since its last run.",
    )
    def check(lake: LakeResource) -> dg.AssetCheckResult:
        from k2_ohlcv.operations.retention import retention

        # Retention of trades is planned only together with all candle tables.
        timeframes = [timeframe for timeframe in TIMEFRAMES if table in {timeframe.table, TRADES_TABLE}]
        report = retention(lake.lake, lake.settings.retention, timeframes=timeframes)
        for planned in report.tables:
            if planned.table == table:
                return dg.AssetCheckResult(**_check_payload(planned, report))
        return dg.AssetCheckResult(
            passed=True,
            asset_key=table,
            check_name=RETENTION_LIMIT_CHECK,
            description="This table has no retention here.",
        )

    return check


def _check_payload(table: TableReport, report: RetentionReport) -> dict[str, Any]:
    """The fields of a table's report that a check result and an evaluation share."""
    is_held = table.held_back is not None and (not report.applied or not table.partitions)
    metadata: dict[str, Any] = {"partitions_dropped": len(table.partitions) if report.applied else 0}
    if table.held_back is not None and is_held:
        held = table.held_back
        metadata |= {
            "partitions_held": len(held.partitions),
            "rows_held": held.rows,
            "bytes_held": held.bytes,
        }
        metadata |= {"first_held": held.partitions[0], "last_held": held.partitions[-1]}
    if report.newest:
        metadata["newest_trade"] = report.newest.as_text
    return {
        "asset_key": dg.AssetKey(table.table),
        "check_name": RETENTION_LIMIT_CHECK,
        "passed": not is_held,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": table.held_back.reason if table.held_back and is_held else None,
        "metadata": metadata,
    }
