"""The production shape at work: trades that land, tables that follow, and requests of a person in the UI."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.lake.metadata.table_stats import trades_status
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.compose import DOCKER, read_env_file
from k2_ohlcv_tests.support.dagster_ui import ENDED, DagsterUI, wait_until
from k2_ohlcv_tests.support.native import Native, native_services
from k2_ohlcv_tests.support.rest_catalog import require_rest, rest_server, s3_properties
from k2_ohlcv_tests.support.servers import free_port
from k2_ohlcv_tests.support.trades import make_trade

MARKET = ("E", "S")
#: A month whose trades are five minutes apart.
MONTH = datetime(2024, 2, 1, tzinfo=UTC)
DAYS = 29
TRADES = [
    make_trade(i, MONTH + timedelta(minutes=5 * i), i * 37 % 101 + 100, f"0.{i % 9 + 1}", market=MARKET)
    for i in range(288 * DAYS)
]
MONTH_DAYS = [f"{MONTH + day * DAY:%Y-%m-%d}" for day in range(DAYS)]
#: Sensors look every ten seconds, and tables are refreshed within a minute.
FAST = {"K2_SENSOR_SECONDS": "10", "K2_REFRESH_SECONDS": "60", "K2_SNAPSHOT_DAYS": "0"}
WORKERS = ("spark-worker#1", "spark-worker#2")
_SPARK = {
    "SPARK_REMOTE": "sc://spark-connect:15002",
    "SPARK_WORKER_CORES": "1",
    "SPARK_WORKER_MEMORY": "1g",
    "SPARK_EXECUTOR_MEMORY": "1g",
    "SPARK_CONNECT_MEMORY": "1g",
}
#: Seconds within which all tables follow the files that landed. An idle machine takes two minutes.
FOLLOW_SECONDS = 900.0


@dataclass
class Production:
    """The running services, the lake that they share, and the trades that have landed.

    Attributes:
        native: the services.
        ui: the webserver.
        lake: the lake, opened by this process with the settings of the code server.
        landed: all trades that have landed.
    """

    native: Native
    ui: DagsterUI
    lake: Lake
    landed: list[Trade] = field(default_factory=list)

    def land(self, name: str, trades: list[Trade]) -> None:
        """Write a file of trades into the landing folder."""
        folder = self.native.folder.joinpath("volumes", "landing", *MARKET)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [f"{t.timestamp.isoformat()},{t.price},{t.quantity},{t.trade_id}\n" for t in trades]
        partial = folder / f".{name}"
        partial.write_text("".join(["timestamp,price,quantity,trade_id\n", *rows]))
        partial.rename(folder / name)
        self.landed += trades

    def follow(self, seconds: float = FOLLOW_SECONDS) -> None:
        """Wait until all tables are up to date with the landed trades, and compare with the reference."""
        wait_until(self._is_current, seconds, self.explain)
        lakes.assert_equal_to_trades(self.lake, self.landed)

    def _is_current(self) -> bool:
        if trades_status(self.lake).rows < len(self.landed):
            return False
        return not any(TableLag.measure(self.lake, timeframe).is_stale for timeframe in TIMEFRAMES)

    def finish_runs(self, seconds: float = FOLLOW_SECONDS) -> None:
        """Wait until no run is queued or at work."""
        wait_until(lambda: all(run["status"] in ENDED for run in self.ui.runs()), seconds, self.explain)

    def empty_and_backfill(self, timeframe: Timeframe) -> str:
        """Empty a table behind Dagster's back, and launch a backfill of the month. Returns its id."""
        self.finish_runs()
        self.lake.candles(timeframe).delete()
        return self.ui.backfill([timeframe.table], MONTH_DAYS)

    def wait_for_backfill(self, backfill: str, seconds: float = FOLLOW_SECONDS) -> str:
        """Wait until a backfill has ended. Returns its status."""
        ended = ("COMPLETED", "FAILED", "CANCELED")
        wait_until(lambda: self.ui.backfill_status(backfill).startswith(ended), seconds, self.explain)
        return self.ui.backfill_status(backfill)

    def explain(self) -> str:
        """What is known where something did not happen: runs, sensors and the output of the code server."""
        runs = "\n".join(f"{run['jobName']} {run['status']}" for run in self.ui.runs())
        return f"{runs}\n{self.ui.sensors()}\n{self.native.log('code')}"


def production_variables(**overrides: str) -> dict[str, str]:
    """The settings file as `make up` makes it: the example with random secrets."""
    template = (DOCKER / "example.env").read_text().splitlines()
    names = [line.partition("=")[0] for line in template if line.endswith("=change-me")]
    return read_env_file(
        DOCKER / "example.env", {**{name: secrets.token_hex(12) for name in names}, **overrides}
    )


@contextmanager
def _rest_catalog(native: Native, variables: Mapping[str, str], port: int) -> Iterator[None]:
    """A REST catalog, which keeps its tables' addresses in the Postgres database of the catalog."""
    behind = {
        "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        "uri": f"jdbc:postgresql://{native.addresses['postgres']}:5432/iceberg",
        "jdbc.user": "iceberg",
        "jdbc.password": variables["ICEBERG_PASSWORD"],
        "jdbc.schema-version": "V1",
        "warehouse": variables["PYICEBERG_CATALOG__K2__WAREHOUSE"],
    }
    endpoint = f"http://{native.addresses['s3']}:7070"
    store = s3_properties(endpoint, variables["S3_ACCESS_KEY"], variables["S3_SECRET_KEY"])
    with rest_server({**behind, **store}, port):
        yield


@contextmanager
def production(*, spark: bool = False, rest: bool = False, **overrides: str) -> Iterator[Production]:
    """All services up, in the order of the file, and this process' environment set to the same lake.

    Args:
        spark: whether Spark computes, and not Sail.
        rest: whether the catalog is a REST catalog, and not the Postgres database itself.
        overrides: variables of the settings file.
    """
    port = free_port()
    if rest:
        require_rest()
        overrides |= {
            "PYICEBERG_CATALOG__K2__TYPE": "rest",
            "PYICEBERG_CATALOG__K2__URI": f"http://127.0.0.1:{port}",
        }
    variables = production_variables(**FAST, **(_SPARK if spark else {}), **overrides)
    with native_services(variables) as native, ExitStack() as stack:
        before = dict(os.environ)
        try:
            for name in ("postgres", "s3"):
                native.start(name)
            if rest:
                stack.enter_context(_rest_catalog(native, variables, port))
            native.finish("prepare")
            for name in ("spark-master", *WORKERS, "spark-connect") if spark else ():
                native.start(name)
            for name in ("code", "webserver", "daemon"):
                native.start(name)
            environment = native.environment("code")
            os.environ.update({k: v for k, v in environment.items() if k.startswith("PYICEBERG_CATALOG__")})
            lake = Lake.open(Settings.from_environ({"K2_HOME": str(native.folder / "home")}))
            yield Production(native, DagsterUI(f"http://{native.addresses['webserver']}:3000"), lake)
        finally:
            os.environ.clear()
            os.environ.update(before)


def stray_files(native: Native) -> list[Path]:
    """The files that services wrote outside of their volumes, where a container is read-only."""
    roots = native.folder / "roots"
    return [path for path in roots.rglob("*") if path.is_file() and path.name != "prepared"]
