"""The schedules: retention and an audit of the stored candles, both every night.

People can launch both jobs too. The work is in `operations.retention` and `operations.validate`. The
retention job also purges old runs from Dagster's storage, with `run_history`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from k2_ohlcv import logs
from k2_ohlcv.defs import checks, retention_checks
from k2_ohlcv.defs.failures import convert_errors
from k2_ohlcv.defs.resources import LakeResource, SparkResource
from k2_ohlcv.defs.run_history import purge_run_history
from k2_ohlcv.domain.intervals import DAY, EPOCH, Interval, coalesce, day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, parse_day
from k2_ohlcv.engine.totals import TotalsCache
from k2_ohlcv.frames.check_list import CHECKS
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.table_stats import count_rows_per_partition, find_data_blocks

RETENTION_JOB, AUDIT_JOB = "retention", "audit"

#: The audit examines the newest days every night, and every older day once in so many nights.
_NEWEST_DAYS, _NIGHTS = 7 * DAY, 30
#: The most trades in one night's share of older days: some minutes of scanning.
_AUDIT_ROWS = 200_000_000


class RetentionConfig(dg.Config):
    """The run config of the retention job."""

    apply: bool | None = Field(
        default=None,
        description="true: drop everything past retention, as `k2-ohlcv retention --apply`. false: report "
        "what would be dropped. Unset, as in scheduled runs: drop, but hold back the drop of a table that "
        "would lose more than 7 days (1d: one month) while the newest trade advanced further than the wall "
        "clock.",
    )
    as_of: str = Field(default="", description="The day to measure ages from, as YYYY-MM-DD; empty is now.")


def build_scheduled_jobs() -> tuple[list[dg.JobDefinition], list[dg.ScheduleDefinition]]:
    """The jobs and their schedules, on by default. They run at night in UTC, when markets are quietest."""
    jobs = {RETENTION_JOB: _retention_job(), AUDIT_JOB: _audit_job()}
    times = {RETENTION_JOB: "40 2 * * *", AUDIT_JOB: "10 3 * * *"}
    schedules = [
        dg.ScheduleDefinition(
            name=f"{name}_daily",
            job=job,
            cron_schedule=times[name],
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
        for name, job in jobs.items()
    ]
    return list(jobs.values()), schedules


def _retention_job() -> dg.JobDefinition:
    @dg.op(name="apply_retention", description="Drop partitions past retention, in all tables.")
    def apply_retention(context: dg.OpExecutionContext, config: RetentionConfig, lake: LakeResource) -> None:
        from k2_ohlcv.operations.retention import retention

        with convert_errors(context):
            report = retention(
                lake.lake,
                lake.settings.retention,
                apply=config.apply is not False,
                limited=config.apply is None,
                as_of=day_start(parse_day(config.as_of)) if config.as_of else None,
                timeframes=TIMEFRAMES,
                progress=logs.report_progress,
            )
        context.add_output_metadata({"report": dg.MetadataValue.json(report.as_json())})
        for table in report.tables:
            counts = {
                "partitions": len(table.partitions),
                "rows": table.rows,
                "files_removed": table.files_removed,
            }
            text = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())
            fields = {"event": "retention", "table": table.table, "counts": counts}
            context.log.info(f"{table.table}: {text}", extra={logs.FIELDS: fields})
        if report.applied:
            reasons = retention_checks.record_checks(context.instance, report)
            for reason in reasons if config.apply is None else ():
                context.log.warning(f"A drop was held back: {reason}.")

    @dg.job(
        name=RETENTION_JOB,
        description="Drop partitions past retention, remove unreferenced files, and purge old runs.",
    )
    def retention_job() -> None:
        apply_retention()
        purge_runs()

    return retention_job


@dg.op(description="Remove old runs from Dagster's storage (K2_DAGSTER_KEPT). A dry run removes none.")
def purge_runs(context: dg.OpExecutionContext, lake: LakeResource) -> None:
    """Purge Dagster's storage. A failure of the other step does not prevent it, nor the reverse."""
    kept = lake.settings.dagster_retention
    if kept is None or _is_dry_run(context.run.run_config):
        context.log.info("No run is purged: K2_DAGSTER_KEPT is off, or this is a dry run.")
        return
    report = purge_run_history(context.instance, datetime.now(UTC) - kept)
    if report is None:
        context.log.warning("No run is purged: Dagster's storage is neither SQLite nor Postgres.")
        return
    context.add_output_metadata(report.as_metadata())
    context.log.info(
        f"{report.runs:,} runs, {report.events:,} events and {report.checks:,} check evaluations older than "
        f"{kept.days:,} days were removed. {report.runs_kept:,} old runs with the newest results are kept, "
        f"and {report.runs_left:,} are left for the next night."
    )


def _is_dry_run(run_config: Any) -> bool:
    """Whether the config of a retention run has `apply: false`."""
    config = run_config.get("ops", {}).get("apply_retention", {}).get("config") or {}
    return config.get("apply") is False


def _audit_job() -> dg.JobDefinition:
    @dg.op(name="run_audit", description="Validate the newest days, and tonight's share of all older days.")
    def run_audit(context: dg.OpExecutionContext, lake: LakeResource, spark: SparkResource) -> None:
        from k2_ohlcv.operations.validate import validate

        cache, failed = TotalsCache(TIMEFRAMES), []
        for timeframe in TIMEFRAMES:
            days = [
                *audit_scope(lake.lake, timeframe, datetime.now(UTC)),
                *checks.failed_partitions(context.instance, timeframe),
            ]
            findings = validate(
                lake.lake, spark.engine, timeframe, days, cache=cache, progress=logs.report_progress
            )
            for check, finding in zip(CHECKS, findings, strict=True):
                context.instance.report_runless_asset_event(
                    checks.build_evaluation(check, timeframe, finding)
                )
                if check.is_blocking and not finding.is_ok:
                    failed.append(f"{check.name} of {timeframe.table}: {', '.join(finding.partitions)}")
            context.log.info(
                f"{timeframe.table}: {sum(f.is_ok for f in findings)} of {len(findings)} checks passed"
            )
        if failed:
            raise dg.Failure(f"Stored candles are wrong: {'; '.join(failed)}", allow_retries=False)

    @dg.job(
        name=AUDIT_JOB,
        description="Run every check on the last week, and within a month on all days.",
    )
    def audit_job() -> None:
        run_audit()

    return audit_job


def audit_scope(lake: Lake, timeframe: Timeframe, now: datetime, budget: int = _AUDIT_ROWS) -> list[Interval]:
    """The days that the audit of a night examines: the newest, and a share of the older ones.

    Every partition is due once in `_NIGHTS` nights. The newest due partitions are examined first, up to
    `budget` trades, and at least one.
    """
    spans = find_data_blocks(lake, [timeframe])
    if not spans:
        return []
    newest = Interval(max(spans[0].start, spans[-1].end - _NEWEST_DAYS), spans[-1].end)
    night = (now - EPOCH) // DAY % _NIGHTS
    grain = timeframe.grain
    due = [p for p in grain.partitions(spans) if grain.ordinal(p.start) % _NIGHTS == night]
    rows = count_rows_per_partition(lake.trades(), grain)
    return coalesce([newest, *_within_budget(due[::-1], rows, budget, grain.key)])


def _within_budget(due: Sequence[Interval], rows: Any, budget: int, key: Any) -> list[Interval]:
    chosen: list[Interval] = []
    for partition in due:
        budget -= rows.get(key(partition), 0)
        if budget < 0 and chosen:
            break
        chosen.append(partition)
    return chosen
