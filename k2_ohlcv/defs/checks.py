"""Asset checks: what `validate` finds in what is stored, told to Dagster.

After a materialization a check looks at the partitions that the run reconciled; alone, at the newest days.
A check's colour must not lie: Dagster shows the latest evaluation, so each also looks again at the partitions
that failed in the one before, and stays red until they pass. A table that can't be read raises: an outage is
never a failed check.
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
from k2_ohlcv.frames.checks import CHECKS, Check, Finding, merge_findings
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.table_stats import find_data_blocks
from k2_ohlcv.operations.reports import RefusedWindowsError

#: A check that is run by itself, without partitions, looks so far back from the newest data.
_LOOKBACK_DAYS = 7 * DAY
#: Where an evaluation keeps the keys of the partitions that failed.
_MAX_PARTITIONS = "partitions"
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
        can_subset=True,  # else the UI offers no check by itself
    )
    def check(
        context: dg.AssetCheckExecutionContext, lake: LakeResource, spark: SparkResource
    ) -> Iterator[dg.AssetCheckResult]:
        findings = _validate(context, lake.lake, spark.engine, spark.run_state(context), timeframe)
        wanted = {key.name for key in context.selected_asset_check_keys}
        for one in CHECKS:
            if one.name in wanted:
                yield dg.AssetCheckResult(**_check_payload(one, timeframe, findings[one.name]))

    return check


def _validate(
    context: dg.AssetCheckExecutionContext, lake: Lake, engine: Engine, state: RunState, timeframe: Timeframe
) -> dict[str, Finding]:
    from k2_ohlcv.operations.validate import validate

    reconciled = state.reconciled.get(timeframe.name)
    chosen = _newest_partitions(context, lake, timeframe) if reconciled is None else reconciled.intervals
    parts = [validate(lake, engine, timeframe, chosen, reconciled=reconciled, cache=state.totals)]
    again = failed_partitions(context.instance, timeframe)
    if again:
        told = timeframe.grain.partitions(chosen)
        parts.append(validate(lake, engine, timeframe, again, earlier_findings=told, cache=state.totals))
    return {
        check.name: merge_findings([part[i] for part in (parts[:1] if check.whole else parts)])
        for i, check in enumerate(CHECKS)
    }


def has_checks(context: dg.AssetExecutionContext, timeframe: Timeframe, names: Iterable[str]) -> bool:
    """Whether a run of a candle table runs all of some of its checks as well."""
    keys = {dg.AssetCheckKey(dg.AssetKey(timeframe.table), name) for name in names}
    chosen = context.run.asset_check_selection
    known = context.job_def.asset_layer.asset_graph.asset_check_keys if chosen is None else chosen
    return keys <= set(known)


def _newest_partitions(
    context: dg.AssetCheckExecutionContext, lake: Lake, timeframe: Timeframe
) -> list[Interval]:
    """What a run's tags name, else the newest days.

    Partitioned checks, which would know their partitions, are a preview that loses range runs.
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
    """The keys of the partitions that the last evaluation of a check names."""
    key = dg.AssetCheckKey(dg.AssetKey(timeframe.table), check.name)
    records = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status=_ENDED_STATUSES
    )
    for record in records:
        if record.evaluation is not None and _MAX_PARTITIONS in record.evaluation.metadata:
            return str(record.evaluation.metadata[_MAX_PARTITIONS].value).split(", ")
    return []


def build_evaluation(check: Check, timeframe: Timeframe, finding: Finding) -> dg.AssetCheckEvaluation:
    """A finding as an evaluation to record outside a run of the checks."""
    return dg.AssetCheckEvaluation(**_check_payload(check, timeframe, finding), blocking=check.is_blocking)


def _check_payload(check: Check, timeframe: Timeframe, finding: Finding) -> dict[str, Any]:
    """What a result and an evaluation say of a finding."""
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
        metadata[_MAX_PARTITIONS] = ", ".join(finding.partitions)
    if finding.rows is not None and finding.rows.height:
        metadata["rows"] = dg.MarkdownMetadataValue(_markdown_table(finding.rows.to_dicts()))
    return metadata


@contextmanager
def record_refused_checks(context: dg.AssetExecutionContext, timeframe: Timeframe) -> Iterator[None]:
    """Record the failed checks of candles that the gate refuses: nothing of them is stored to look at.

    Partitions that a check named before are named again: they have not been looked at since.
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
