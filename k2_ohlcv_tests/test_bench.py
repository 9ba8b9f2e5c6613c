"""The benchmark: its generated trades, its comparison, its lakes, and the exactness of the other engines."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from bench import trades
from bench.__main__ import app
from bench.compare import UnequalCandlesError, assert_equal_candles
from bench.engines import OTHER_ENGINES, create_engine
from bench.engines.spark_merge import merge_statement
from bench.job import Job, Measurement, candle_job
from bench.lake import Dataset, append_trades, open_lake
from bench.prepared_lakes import five_minute_batches, prepare_refresh_lake
from bench.report import Goal, Row, format_markdown
from bench.suites import SUITES
from k2_ohlcv.domain.candle import KEY_COLUMNS, VALUE_COLUMNS, Trade, aggregate
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.frames.candles import CANDLE_TYPES
from k2_ohlcv.lake.watermark import Watermark

ROWS = 3000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(rows=ROWS, days=2, root=tmp_path_factory.mktemp("bench"))


def test_generated_trades_are_always_the_same_and_have_ties() -> None:
    """The rows of a day are sorted by time. Many share a millisecond, and ids grow by a digit."""
    day = trades.generate_day(trades.FIRST_DAY, ROWS)
    assert day.equals(trades.generate_day(trades.FIRST_DAY, ROWS))
    frame = pl.DataFrame(day)
    assert frame.height == ROWS
    assert frame["timestamp"].is_sorted()
    assert frame["timestamp"].dt.date().unique().to_list() == [trades.FIRST_DAY]
    assert frame.n_unique(["symbol", "timestamp"]) < 0.8 * ROWS
    assert frame.n_unique(["symbol", "trade_id"]) == ROWS
    assert set(frame["trade_id"].str.len_chars()) == {9, 10}
    assert frame.select((pl.col("price") > 0).all() & (pl.col("quantity") > 0).all()).item()


def test_the_first_day_is_the_only_one_of_its_month() -> None:
    """The 1d table of that day is therefore rebuilt from its trades only."""
    assert trades.FIRST_DAY.month != (trades.FIRST_DAY + timedelta(days=1)).month


@pytest.mark.parametrize("name", OTHER_ENGINES)
@pytest.mark.parametrize("tables", [("1m",), tuple(t.name for t in TIMEFRAMES)])
def test_the_other_engines_compute_the_reference_candles(
    data: Dataset, tmp_path: Path, name: str, tables: tuple[str, ...]
) -> None:
    """Times are comparable only because each engine computes the same candles as the reference."""
    job = candle_job(data.home, data.files(data.first_day), tables, data.first_day, tmp_path)
    engine = create_engine(name)
    engine.prepare(job)
    engine.run(job)
    rows = trades.generate_day(trades.FIRST_DAY, ROWS).to_pylist()
    for timeframe in job.timeframes:
        expected = aggregate((Trade(**row) for row in rows), timeframe)
        frame = pl.DataFrame(
            [vars(candle) for candle in expected],
            schema={column: CANDLE_TYPES[column] for column in (*KEY_COLUMNS, *VALUE_COLUMNS)},
        )
        assert_equal_candles(frame, pl.read_parquet(job.path(timeframe)), timeframe.name)


def test_the_error_of_unequal_candles_names_column_and_rows() -> None:
    """Unequal values and unequal types are errors. Equal candles are not."""
    values = {name: pl.Series([None], dtype=kind) for name, kind in CANDLE_TYPES.items()}
    left = pl.DataFrame({**values, "symbol": ["A"], "exchange": ["E"], "trade_count": [1]}).cast(
        pl.Schema(CANDLE_TYPES)
    )
    assert_equal_candles(left, left, "the same")
    with pytest.raises(UnequalCandlesError, match="trade_count, 1 rows"):
        assert_equal_candles(left, left.with_columns(trade_count=pl.lit(2, pl.Int64)), "two tables")
    with pytest.raises(UnequalCandlesError, match="types differ"):
        assert_equal_candles(left, left.with_columns(pl.col("trade_count").cast(pl.Int32)), "two tables")


def test_a_job_is_read_back_from_json(data: Dataset) -> None:
    job = candle_job(data.home, ["a", "b"], ["1m"], data.all_days, data.home)
    assert Job.from_json(job.to_json()) == job
    assert job.interval == data.all_days


def test_a_prepared_lake_is_restored_after_each_use(tmp_path: Path) -> None:
    """Each use begins with the same tables, which are up to date. New trades are of one evening."""
    data = Dataset(rows=ROWS, days=2, root=tmp_path)
    heads = []
    for _ in range(2):
        with prepare_refresh_lake(data):
            lake = open_lake(data.home)
            heads.append(lake.trades().metadata.current_snapshot_id)
            marks = {Watermark.from_table(lake.candles(t)) for t in TIMEFRAMES}
            assert {mark.snapshot_id for mark in marks if mark} == {heads[-1]}
            first, second = five_minute_batches(data, 2)
            assert first["timestamp"].to_pylist()[-1] < second["timestamp"].to_pylist()[0]
            assert second["timestamp"].to_pylist()[-1] in data.all_days
            append_trades(lake, first)
            assert lake.trades().metadata.current_snapshot_id != heads[-1]
    assert heads[0] == heads[1] == open_lake(data.home).trades().metadata.current_snapshot_id
    assert lake.trades().scan().count() == data.days * ROWS


def test_a_validation_that_skips_candles_is_an_error(tmp_path: Path) -> None:
    """Only a validation of every candle of tables that are up to date may be measured."""
    data = Dataset(rows=ROWS, days=2, root=tmp_path)
    job = candle_job(data.home, (), tuple(t.name for t in TIMEFRAMES), data.all_days, tmp_path)
    with prepare_refresh_lake(data):
        engine = create_engine("validate")
        engine.prepare(job)
        engine.run(job)
        append_trades(open_lake(data.home), next(five_minute_batches(data, 1)))
        engine.prepare(job)
        with pytest.raises(ValueError, match="examine every candle"):
            engine.run(job)


def test_partitions_are_dropped_with_their_files_each_time(tmp_path: Path) -> None:
    """Each use begins with all days and ends with the last day, also on disk."""
    data = Dataset(rows=100, days=3, root=tmp_path)
    job = candle_job(data.home, (), ("1m",), data.all_days, tmp_path)
    assert data.lake
    engine = create_engine("retention")
    for _ in range(2):
        engine.prepare(job)
        table = open_lake(data.home).candles(TIMEFRAMES[0])
        folder = Path(table.location().removeprefix("file://"))
        assert len(list(folder.rglob("*.parquet"))) == data.days
        engine.run(job)
        assert len(list(folder.rglob("*.parquet"))) == 1


def test_the_merge_statement_has_every_candle_column(data: Dataset) -> None:
    """MERGE inserts all columns. An update keeps the key and `created_at`."""
    text = merge_statement(candle_job(data.home, (), ("1m",), data.first_day, data.home))
    update, insert = text.split("UPDATE SET")[1].split("WHEN NOT MATCHED")
    assert all(f"s.{name}" in insert for name in CANDLE_TYPES)
    assert all(
        (f"t.{name} =" in update) == (name not in (*KEY_COLUMNS, "created_at")) for name in CANDLE_TYPES
    )


def test_the_report_shows_goals_and_ratios() -> None:
    """A missed goal is shown. An engine that did not take part is a dash."""
    measured = {
        "K2": Measurement([2.0, 1.0, 3.0], [2.5], 10**8),
        "DuckDB": Measurement([4.0], [3.0], 1),
        "Polars": Measurement([8.0], [7.0], 1),
    }
    rows = [
        Row("work", 100, measured, [Goal("under 1", "2", is_met=False)]),
        Row("alone", 100, {"K2": measured["K2"]}),
    ]
    text = format_markdown(rows, ["a machine"], "title")
    assert "| 2.00 (1.00 to 3.00) | 4.00 (4.00 to 4.00) |" in text
    assert "| 50 | 0.50 | 2.50 / 3.00 / 7.00 | 100 / 0 / 0 | under 1: 2, MISSED |" in text
    assert "| alone | 100 | 2.00 (1.00 to 3.00) | - | - | 50 | - | 2.50 / - / - | 100 / - / - | - |" in text


def test_the_command_line_lists_its_suites() -> None:
    """Help lists the suites. An unknown name is an error that lists them."""
    runner = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"})
    assert all(name in runner.invoke(app, ["--help"]).output for name in SUITES)
    wrong = runner.invoke(app, ["nonsense"])
    assert wrong.exit_code == 2
    assert all(name in wrong.output for name in SUITES)
