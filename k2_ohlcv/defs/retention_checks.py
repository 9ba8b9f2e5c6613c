"""The asset check that shows what scheduled retention holds back: one on each table that it looks after.

The retention job records it, outside a run of checks. Run by hand, the check looks again and drops nothing.
Nothing is wrong with the candles where it fails, so it is none of `frames.checks`.
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
    """All of them, for jobs that leave them out."""
    return dg.AssetSelection.checks(
        *(dg.AssetCheckKey(dg.AssetKey(t), RETENTION_LIMIT_CHECK) for t in TABLES)
    )


def record_checks(instance: dg.DagsterInstance, report: RetentionReport) -> list[str]:
    """Record what an applied run held back, table by table; gives the reasons.

    A table of which nothing was held passes: the check is green again after the run that dropped.
    """
    for one in report.tables:
        if one.table in TABLES:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(**_check_payload(one, report), blocking=False)
            )
    return [one.held_back.reason for one in report.tables if one.held_back]


def _build_check(table: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        name=RETENTION_LIMIT_CHECK,
        asset=table,
        description="scheduled retention drops what is past its time, and does not hold back a drop that is "
        "too large for how far the data's clock moved",
    )
    def check(lake: LakeResource) -> dg.AssetCheckResult:
        from k2_ohlcv.operations.retention import retention

        # Those of trades come with all candle tables only.
        some = [timeframe for timeframe in TIMEFRAMES if table in {timeframe.table, TRADES_TABLE}]
        report = retention(lake.lake, lake.settings.retention, timeframes=some)
        for one in report.tables:
            if one.table == table:
                return dg.AssetCheckResult(**_check_payload(one, report))
        return dg.AssetCheckResult(
            passed=True,
            asset_key=table,
            check_name=RETENTION_LIMIT_CHECK,
            description="not under our retention",
        )

    return check


def _check_payload(one: TableReport, report: RetentionReport) -> dict[str, Any]:
    """What a result and an evaluation say of a table."""
    is_held = one.held_back is not None and (not report.applied or not one.partitions)
    metadata: dict[str, Any] = {"partitions_dropped": len(one.partitions) if report.applied else 0}
    if one.held_back is not None and is_held:
        held = one.held_back
        metadata |= {
            "partitions_held": len(held.partitions),
            "rows_held": held.rows,
            "bytes_held": held.bytes,
        }
        metadata |= {"first_held": held.partitions[0], "last_held": held.partitions[-1]}
    if report.newest:
        metadata["newest_trade"] = report.newest.as_text
    return {
        "asset_key": dg.AssetKey(one.table),
        "check_name": RETENTION_LIMIT_CHECK,
        "passed": not is_held,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": one.held_back.reason if one.held_back and is_held else None,
        "metadata": metadata,
    }
