"""The usual refresh: Spark SQL's MERGE of a lookback into the 1m table, on Apache Spark in its JVM.

The lookback is a whole aligned day, so that the written candles are right. The target is pruned to that day.
MERGE does not find trades that are later than its lookback.
"""

from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq

from bench.job import Job
from bench.lake import append_trades, open_lake
from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.frames.candles import CANDLE_TYPES
from k2_ohlcv.lake.catalog import CATALOG, catalog_properties
from k2_ohlcv.lake.embedded_catalog import embedded_properties
from k2_ohlcv.lake.schemas import CANDLE_SPECS, NAMESPACE, TRADES_SPEC
from k2_ohlcv.settings import Settings

_MINUTE = find_timeframe("1m")
_ORDER = "struct(timestamp, length(trade_id), trade_id)"
_CANDLES = """
SELECT *, timestamp_micros(unix_micros(window_start) + {micros}) AS window_end,
       to_date(window_start) AS window_date, CAST(round(notional / volume, 8) AS DECIMAL(18, 8)) AS vwap,
       current_timestamp() AS created_at, current_timestamp() AS updated_at
FROM (
  SELECT symbol, exchange, timestamp_micros(unix_micros(timestamp) - unix_micros(timestamp) % {micros})
         AS window_start, min_by(price, {order}) AS open_price, max(price) AS high_price,
         min(price) AS low_price, max_by(price, {order}) AS close_price,
         CAST(sum(quantity) AS DECIMAL(29, 8)) AS volume, count(*) AS trade_count,
         sum(price * quantity) AS notional
  FROM {trades} WHERE timestamp >= timestamp_micros({start}) AND timestamp < timestamp_micros({end})
  GROUP BY ALL
)
"""
_MERGE = """
MERGE INTO {target} t USING ({candles}) s
ON {same} AND t.window_start >= timestamp_micros({start}) AND t.window_start < timestamp_micros({end})
WHEN MATCHED THEN UPDATE SET {updates}
WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})
"""


def merge_statement(job: Job) -> str:
    """The MERGE of the job's interval."""
    columns = [c for c in CANDLE_TYPES if c not in (*KEY_COLUMNS, "created_at")]
    span = {"start": job.start, "end": job.end}
    source = _CANDLES.format(
        micros=_MINUTE.micros, order=_ORDER, trades=f"{CATALOG}.{NAMESPACE}.{TRADES_SPEC.name}", **span
    )
    return _MERGE.format(
        target=f"{CATALOG}.{NAMESPACE}.{CANDLE_SPECS[_MINUTE.name].name}",
        candles=source,
        same=" AND ".join(f"t.{c} = s.{c}" for c in KEY_COLUMNS),
        updates=", ".join(f"t.{c} = s.{c}" for c in columns),
        columns=", ".join(CANDLE_TYPES),
        values=", ".join(f"s.{c}" for c in CANDLE_TYPES),
        **span,
    )


class SparkMergeEngine:
    """One session on a separate Spark Connect server, with two threads."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._engine: Engine | None = None

    def prepare(self, job: Job) -> None:
        """Open the session, and add the job's new trades."""
        settings = Settings.from_environ({"K2_HOME": job.home, "SPARK_REMOTE": "local[2]"})
        if catalog_properties(settings) != embedded_properties(settings):
            raise ValueError(
                "the catalog k2 is configured for other tables than those of the benchmark: unset it"
            )
        if self._engine is None:
            config = {"spark.sql.shuffle.partitions": "2"}
            self._engine = self._stack.enter_context(open_engine(settings, config))
        for file in job.files:
            append_trades(open_lake(Path(job.home)), pq.read_table(file))

    def run(self, job: Job) -> None:
        """Run the MERGE."""
        assert self._engine is not None
        self._engine.spark.sql(merge_statement(job)).collect()


def create_engine() -> SparkMergeEngine:  # each engine's module has this function
    """Create the MERGE engine."""
    return SparkMergeEngine()
