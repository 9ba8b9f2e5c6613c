"""Makes the trades of one market equal to a file, over the file's time span, in one commit.

Use this for a revised archive or a correction. The span is from the file's first to its last trade, both
included. Without a difference nothing is committed. Comparing the file with the table is in
`replacement_plan`. Deleting trades without a file is in `delete_trades`.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pyiceberg.table import Table

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.lake import rejected
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.replace_rows import commit_correction
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.operations.correction_report import CorrectionReport
from k2_ohlcv.operations.delete_trades import (
    COMMAND_KEY,
    record_rejected,
    reject_uncorrectable_trades,
)
from k2_ohlcv.operations.file_reader import FileReader
from k2_ohlcv.operations.file_trades import FileTrades
from k2_ohlcv.operations.ingest import BATCH_ROWS
from k2_ohlcv.operations.replacement_plan import ReplacementPlan
from k2_ohlcv.sources.reader import read_file
from k2_ohlcv.sources.rows import ParsedBatch
from k2_ohlcv.sources.staging.rejected_buffer import RejectedBuffer
from k2_ohlcv.sources.staging.sort_buffer import SortBuffer
from k2_ohlcv.sources.staging.temp_folder import open_temp_folder

#: The default reason in `rejected_trades` for a removed trade.
REPLACED_REASON = "replaced: the file of k2-ohlcv trades replace has other values, or lacks this trade"


def replace_trades(
    lake: Lake,
    path: Path,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    format: str = "auto",  # noqa: A002 - as the option of the command line is called
    landing: Path | None = None,
    workspace: Path,
    reason: str = REPLACED_REASON,
    skip_rejected: bool = False,
    apply: bool,
    batch_rows: int = BATCH_ROWS,
) -> CorrectionReport:
    """Make the trades of one market equal to a file, over the file's span.

    Args:
        lake: the lake.
        path: a file with the trades of one market, of any format that `ingest` accepts.
        exchange: the exchange. It overrides columns and paths.
        symbol: the symbol. It overrides columns and paths.
        format: the format of the file, or `auto`.
        landing: the landing folder, with paths `<EXCHANGE>/<SYMBOL>/…`.
        workspace: a folder for temporary files, about as large as the unpacked file.
        reason: the reason in `rejected_trades` for removed trades.
        skip_rejected: record invalid rows and go on. Otherwise invalid rows raise BadFileError.
        apply: change the table. Otherwise the function only reports the changes.
        batch_rows: the number of rows of the file to compare at a time.

    Raises:
        BadFileError: the file cannot be read as a whole, has no trades, or has invalid rows.
        UsageError: the file has several markets, or the trades are external or before `frozen_before`.
        MissingTradesError: candles exist, but there is no trades table.
        CommitConflictError: other writers won every attempt.
    """
    reject_uncorrectable_trades(lake)
    parse = partial(read_file, exchange=exchange, symbol=symbol, format=format, landing=landing)
    with open_temp_folder(workspace) as folder:
        return _replace(lake, _read_trades(path, parse, folder, batch_rows, skip_rejected), reason, apply)


def _read_trades(
    path: Path,
    parse: Callable[..., Iterable[ParsedBatch]],
    folder: Path,
    batch_rows: int,
    skip_rejected: bool,
) -> FileTrades:
    """Read the file to its end, and reject the file if it has invalid rows."""
    reader = FileReader(SortBuffer(folder), RejectedBuffer(folder), None)
    for batch in parse(path, now=datetime.now(UTC)):
        reader.add_batch(batch, 0, str(path))
    file_trades = FileTrades.read_file(path, reader, batch_rows)
    if file_trades.rejected_count and not skip_rejected:
        raise BadFileError(
            f"{path}: {file_trades.rejected_count:,} rows cannot be trades, or have an earlier row's id. "
            "The stored trades of these rows would be removed. Nothing was changed. Correct the file. If "
            "these rows are no trades, give --skip-rejected"
        )
    return file_trades


def _replace(lake: Lake, file_trades: FileTrades, reason: str, apply: bool) -> CorrectionReport:
    """Compare the file with the table, and commit the difference. Start over after a commit conflict."""
    now = datetime.now(UTC)

    def attempt(table: Table) -> CorrectionReport:
        plan = ReplacementPlan(table, file_trades)
        report = plan.report(apply)
        if apply and (plan.cuts or report.added):
            for rejected_rows in file_trades.rejected.read_batches():
                rejected.append_rejected(lake, rejected_rows, now)
            record_rejected(lake, table, plan.cuts, command="trades replace", reason=reason, now=now)
            after = commit_correction(
                lake, table, plan.cuts, plan.added(now), {COMMAND_KEY: "trades replace"}
            )
            report.snapshot = after.metadata.current_snapshot_id
        return report

    load = lake.writable_trades if apply else lake.trades
    return retry_conflicts(load, attempt, purpose="to correct trades")
