"""What a test of an engine works with: an emptied lake, the engine, and the state of a run."""

from dataclasses import dataclass
from pathlib import Path

from k2_ohlcv.defs.run_state import RunState
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support import lakes


@dataclass(frozen=True)
class EngineLake:
    """A lake with empty tables, an engine that reads them, and the state of a run over all tables."""

    lake: Lake
    engine: Engine
    home: Path
    run: RunState


def empty_bench(home: Path, engine: Engine) -> EngineLake:
    """An engine over a lake that is emptied. Tests share the session of the engine, and nothing else."""
    lake = lakes.open_lake(home)
    lakes.drop_tables(lake)
    return EngineLake(lake, engine, home, RunState.for_timeframes(TIMEFRAMES))
