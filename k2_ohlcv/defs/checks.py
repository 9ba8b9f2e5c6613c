"""Asset checks of the candle tables. The rules are in `frames.checks`, the work in `operations.validate`.

After a materialization a check examines the partitions that the run reconciled. Run alone, it examines the
newest days. Dagster shows only the latest evaluation. Each run therefore re-checks partitions that failed
last time, and the check stays failed until they pass. A table that cannot be read raises an error, as an
outage is no failed check.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from k2_ohlcv.defs.resources import LakeResource, SparkResource
from k2_ohlcv.defs.run_state import RunState
from k2_ohlcv.domain.errors import InvariantError
from k2_ohlcv.domain.intervals import DAY, Interval, day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.frames.check_list import CHECKS, Check
from k2_ohlcv.frames.checks import Finding, merge_findings
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.table_stats import find_data_blocks
from k2_ohlcv.operations.reports import RefusedWindowsError

#: A check that is run without partitions examines so many days up to the newest data.
_LOOKBACK_DAYS = 7 * DAY
#: The metadata entry of an evaluation with the keys of the partitions that failed.
_FAILED_PARTITIONS_KEY = "partitions"
_ENDED_STATUSES = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def build_checks() -> list[dg.AssetChecksDefinition]:
    """The checks of every candle table."""
    return [_build_table_checks(timeframe) for timeframe in TIMEFRAMES]


def _build_table_checks(timeframe: Timeframe) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"check_{timeframe.table}",
        specs=[
            dg.AssetCheckSpec(
                check.name, asset=timeframe.table, description=check.rule, blocking=check.is_blocking
            )
            for check in CHECKS
        ],
        can_subset=True,  # else the UI cannot run a single check
    )
    def check(
        context: dg.AssetCheckExecutionContext, lake: LakeResource, spark: SparkResource
    ) -> Iterator[dg.AssetCheckResult]:
        findings = _validate(context, lake.lake, spark.engine, spark.run_state(context), timeframe)
        selected = {key.name for key in context.selected_asset_check_keys}
        for rule in CHECKS:
            if rule.name in selected:
                yield dg.AssetCheckResult(**_check_payload(rule, timeframe, findings[rule.name]))

    return check


def _validate(
    context: dg.AssetCheckExecutionContext, lake: Lake, engine: Engine, state: RunState, timeframe: Timeframe
) -> dict[str, Finding]:
    from k2_ohlcv.operations.validate import validate

    reconciled = state.reconciled.get(timeframe.name)
    chosen = _newest_partitions(context, lake, timeframe) if reconciled is None else reconciled.intervals
    findings = [validate(lake, engine, timeframe, chosen, reconciled=reconciled, cache=state.totals)]
    failed = failed_partitions(context.instance, timeframe)
    if failed:
        done = timeframe.grain.partitions(chosen)
        findings.append(validate(lake, engine, timeframe, failed, earlier_findings=done, cache=state.totals))
    return {
        check.name: merge_findings([part[i] for part in (findings[:1] if check.whole else findings)])
        for i, check in enumerate(CHECKS)
    }


def has_checks(context: dg.AssetExecutionContext, timeframe: Timeframe, names: Iterable[str]) -> bool:
    """Whether a run of a candle table includes all of the named checks."""
    keys = {dg.AssetCheckKey(dg.AssetKey(timeframe.table), name) for name in names}
    selected = context.run.asset_check_selection
    checks = context.job_def.asset_layer.asset_graph.asset_check_keys if selected is None else selected
    return keys <= set(checks)


def _newest_partitions(
    context: dg.AssetCheckExecutionContext, lake: Lake, timeframe: Timeframe
) -> list[Interval]:
    """The partitions that the run's tags name, else the newest days.

    Dagster's partitioned checks would know their partitions, but they are a preview that ignores range runs.
    """
    tags = context.run.tags
    first = tags.get("dagster/asset_partition_range_start") or tags.get("dagster/partition")
    last = tags.get("dagster/asset_partition_range_end") or first
    if first and last:
        first_partition, last_partition = (_partition_interval(timeframe, key) for key in (first, last))
        return [Interval(first_partition.start, last_partition.end)]
    spans = find_data_blocks(lake, [timeframe])
    return [Interval(max(spans[0].start, spans[-1].end - _LOOKBACK_DAYS), spans[-1].end)] if spans else []


def _partition_interval(timeframe: Timeframe, key: str) -> Interval:
    return timeframe.grain.partition(day_start(date.fromisoformat(key)))


def failed_partitions(instance: dg.DagsterInstance, timeframe: Timeframe) -> list[Interval]:
    """The partitions that failed in the last evaluation of any blocking check."""
    keys = {key for check in CHECKS if check.is_blocking for key in _failed_keys(instance, timeframe, check)}
    return [_partition_interval(timeframe, key) for key in sorted(keys)]


def _failed_keys(instance: dg.DagsterInstance, timeframe: Timeframe, check: Check) -> list[str]:
    """The keys of the partitions that failed in the last evaluation of a check."""
    key = dg.AssetCheckKey(dg.AssetKey(timeframe.table), check.name)
    records = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status=_ENDED_STATUSES
    )
    for record in records:
        if record.evaluation is not None and _FAILED_PARTITIONS_KEY in record.evaluation.metadata:
            return str(record.evaluation.metadata[_FAILED_PARTITIONS_KEY].value).split(", ")
    return []


def build_evaluation(check: Check, timeframe: Timeframe, finding: Finding) -> dg.AssetCheckEvaluation:
    """A finding as an evaluation, to be recorded outside a run of the checks."""
    return dg.AssetCheckEvaluation(**_check_payload(check, timeframe, finding), blocking=check.is_blocking)


def _check_payload(check: Check, timeframe: Timeframe, finding: Finding) -> dict[str, Any]:
    """The fields of a finding that a check result and an evaluation share."""
    return {
        "asset_key": dg.AssetKey(timeframe.table),
        "check_name": check.name,
        "passed": finding.is_ok,
        "severity": dg.AssetCheckSeverity.ERROR if check.is_blocking else dg.AssetCheckSeverity.WARN,
        "description": _summary_text(finding),
        "metadata": _metadata(finding),
    }


def _summary_text(finding: Finding) -> str | None:
    of = f" of {finding.examined:,}" if finding.examined else ""
    failed = f"{finding.failures:,}{of} fail" if finding.failures else ""
    return "; ".join(part for part in (failed, finding.note) if part) or None


def _metadata(finding: Finding) -> dict[str, Any]:
    metadata: dict[str, Any] = {"windows_examined": finding.examined, "failures": finding.failures}
    metadata |= {name.replace(" ", "_"): number for name, number in finding.numbers}
    if finding.partitions:
        metadata[_FAILED_PARTITIONS_KEY] = ", ".join(finding.partitions)
    if finding.rows is not None and finding.rows.height:
        metadata["rows"] = dg.MarkdownMetadataValue(_markdown_table(finding.rows.to_dicts()))
    return metadata


@contextmanager
def record_refused_checks(context: dg.AssetExecutionContext, timeframe: Timeframe) -> Iterator[None]:
    """Record the failed checks of refused windows. Their candles are not stored, so no check can read them.

    Partitions that failed in the last evaluation stay in the new one, as no run has checked them since.
    """
    try:
        yield
    except InvariantError as error:
        for check in CHECKS:
            if check.name in error.checks:
                note = f"refused before the commit: nothing of it is stored. {error}"
                keys = {
                    *_failed_keys(context.instance, timeframe, check),
                    *_refused_partitions(error, timeframe, check),
                }
                named = tuple(sorted(keys))
                refused = Finding(check.name, timeframe.name, 0, error.checks[check.name], named, note=note)
                context.instance.report_runless_asset_event(build_evaluation(check, timeframe, refused))
        raise


def _refused_partitions(error: InvariantError, timeframe: Timeframe, check: Check) -> list[str]:
    """The partitions of the windows that were refused by a check."""
    if not isinstance(error, RefusedWindowsError):
        return []
    windows = [r.window for r in error.report.refused if r.check == check.name]
    return [timeframe.grain.key(partition) for partition in timeframe.grain.partitions(windows)]


def _markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
