"""Jobs for engines and their measurements, as values that processes exchange as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, Self

from k2_ohlcv.domain.intervals import Interval, from_micros, to_micros
from k2_ohlcv.domain.timeframe import Timeframe, find_timeframe


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        home: the lake's `K2_HOME`.
        files: the input: data files of the trades table, or a landing file.
        tables: names of the candle tables to compute.
        start: the start of the interval, in microseconds since the epoch.
        end: the end of the interval, in microseconds since the epoch.
        again: keep earlier results. Otherwise they are removed first, which is not measured.
        out: the folder for results that are not in the lake.
        check: run the checks of the tables too.
    """

    home: str
    files: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    start: int = 0
    end: int = 0
    again: bool = False
    out: str = ""
    check: bool = False

    @property
    def timeframes(self) -> list[Timeframe]:
        """The candle tables, from the shortest windows to the longest."""
        return [find_timeframe(name) for name in self.tables]

    @property
    def interval(self) -> Interval:
        """The interval of the trades."""
        return Interval(from_micros(self.start), from_micros(self.end))

    def path(self, table: Timeframe) -> Path:
        """The file of a table, for an engine without a lake."""
        return Path(self.out) / f"{table.name}.parquet"

    def to_json(self) -> str:
        """The job as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The job of one line of JSON."""
        values = json.loads(line)
        return cls(**{**values, "files": tuple(values["files"]), "tables": tuple(values["tables"])})


def candle_job(home: Path, files: Sequence[str], tables: Sequence[str], interval: Interval, out: Path) -> Job:
    """The job of computing candle tables of an interval."""
    start, end = to_micros(interval.start), to_micros(interval.end)
    return Job(str(home), tuple(files), tuple(tables), start, end, out=str(out))


class BenchEngine(Protocol):
    """An engine that stays open for many jobs in a separate process."""

    def prepare(self, job: Job) -> None:
        """Prepare the job. This is not measured."""

    def run(self, job: Job) -> None:
        """Run the job. This is measured."""


@dataclass(frozen=True)
class Run:
    """One run: seconds by the clock, seconds of processor time, and peak memory of the process in bytes."""

    seconds: float
    cpu: float
    peak: int


@dataclass
class Measurement:
    """The measurements of one engine's runs of one job.

    Attributes:
        seconds: seconds by the clock of each warm run.
        cpu: seconds of processor time of each warm run, over all threads. Other work disturbs these less.
        peak: peak memory in bytes of a new process, up to the end of its first run.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

    def add(self, run: "Run", *, first: bool) -> None:
        """Add a run: the memory of the first run, the times of all others."""
        if first:
            self.peak = run.peak
        else:
            self.seconds.append(run.seconds)
            self.cpu.append(run.cpu)
