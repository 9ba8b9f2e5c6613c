"""The project's engine, opened once for all runs of a process. The opening is not measured."""

from contextlib import ExitStack
from pathlib import Path

from bench.job import Job
from bench.lake import bench_settings
from k2_ohlcv.engine.session import Engine, open_engine


class EngineSession:
    """An engine that is opened by the first job."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._engine: Engine | None = None

    @property
    def is_open(self) -> bool:
        """Whether the engine is open."""
        return self._engine is not None

    def engine(self, job: Job) -> Engine:
        """The engine, opened for this job if it is the first."""
        if self._engine is None:
            self._engine = self._stack.enter_context(open_engine(bench_settings(Path(job.home))))
        return self._engine
