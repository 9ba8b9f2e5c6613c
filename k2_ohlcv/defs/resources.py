"""The resources of a run: the lake, and the Spark session with the state of the run.

Opening a session is in `engine.session`. The environment is read when a run starts, never when definitions
load.
"""

from contextlib import ExitStack
from functools import cached_property
from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pydantic import Field, PrivateAttr

from k2_ohlcv.defs import dead_runs
from k2_ohlcv.defs.run_liveness import show_liveness
from k2_ohlcv.defs.run_state import RunState, timeframes_of_run
from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings


class _RunLake:
    """The settings of a run and its lake. The lake is opened when first used."""

    def __init__(self) -> None:
        self.settings = Settings.from_environ()

    @cached_property
    def lake(self) -> Lake:
        return Lake.open(self.settings)


class LakeResource(dg.ConfigurableResource[Lake]):
    """The tables of a run. Its set-up records the run's process, and ends runs whose process was killed."""

    _run_lake: _RunLake | None = PrivateAttr(default=None)
    _liveness: ExitStack = PrivateAttr(default_factory=ExitStack)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Record the run's process. Dagster calls this once per run, before any step asks for a pool."""
        self._run_lake = _RunLake()
        if context.run is not None and context.instance is not None:
            liveness = show_liveness(context.instance, context.run.run_id, dead_runs.process_tags())
            self._liveness.enter_context(liveness)
            dead_runs.mark_dead_runs(context.instance, besides=context.run.run_id)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 # Dagster's name
        """Drop the catalog. The next run reads the environment again."""
        self._run_lake = None
        self._liveness.close()

    @property
    def settings(self) -> Settings:
        """The settings of this run."""
        return self._get_run_lake().settings

    @property
    def lake(self) -> Lake:
        """The tables of this run."""
        return self._get_run_lake().lake

    def _get_run_lake(self) -> _RunLake:
        if self._run_lake is None:
            self._run_lake = _RunLake()
        return self._run_lake


class SparkResource(LazyPySparkResource):
    """A Spark session that starts when it is first used and ends with the run.

    `engine` is the session in this project's form, and `spark_session` in that of dagster_pyspark.
    `SPARK_REMOTE` chooses the server.
    """

    spark_config: dict[str, Any] = Field(
        default={}, description="Further Spark configuration of the session, such as spark.sql.* settings."
    )
    _stack: ExitStack = PrivateAttr(default_factory=ExitStack)
    _engine: Engine | None = PrivateAttr(default=None)
    _run_state: RunState | None = PrivateAttr(default=None)

    def _init_session(self) -> None:
        if self._engine is not None and self._engine.is_lost:
            self._close()  # the server may be back: a retried step gets a new session
        if self._engine is None:
            config: dict[str, str] = {key: str(value) for key, value in self.spark_config.items()}
            self._engine = self._stack.enter_context(open_engine(Settings.from_environ(), config))
            self._spark_session = self._engine.spark

    @property
    def engine(self) -> Engine:
        """The engine. It is started when first used, and again if its server was lost."""
        self._init_session()
        assert self._engine is not None
        return self._engine

    def run_state(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> RunState:
        """The state that the steps of this run share."""
        if self._run_state is None:
            self._run_state = RunState.for_timeframes(timeframes_of_run(context))
        return self._run_state

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 # Dagster's name
        """End the session, if one was started, and drop the state of the run."""
        self._run_state = None
        self._close()

    def _close(self) -> None:
        self._engine, self._spark_session = None, None
        self._stack.close()


def build_resources() -> dict[str, object]:
    """The resources of the graph, by the parameter names of assets and ops."""
    return {"lake": LakeResource(), "spark": SparkResource()}
