"""K2 OHLCV's ingestion, from landing files to committed trades."""

import shutil
from pathlib import Path

from bench import trades
from bench.job import Job
from bench.lake import open_lake
from k2_ohlcv.operations.ingest import ingest


class IngestionEngine:
    """Ingestion into a separate lake."""

    def prepare(self, job: Job) -> None:
        """Create an empty lake."""
        if not job.again:
            shutil.rmtree(job.home, ignore_errors=True)
        open_lake(Path(job.home)).writable_trades()

    def run(self, job: Job) -> None:
        """Ingest the files."""
        home, market = Path(job.home), trades.MARKETS[0]
        report = ingest(
            open_lake(home),
            [Path(file) for file in job.files],
            exchange=trades.EXCHANGE,
            symbol=market.symbol,
            workspace=home / "work",
        )
        if report.rejected or report.conflicts or (report.duplicates if not job.again else report.added):
            raise ValueError(f"every row should have been {'known' if job.again else 'new'}: {report}")


def create_engine() -> IngestionEngine:  # each engine's module has this function
    """Create the ingestion engine."""
    return IngestionEngine()
