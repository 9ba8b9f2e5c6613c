"""The PySpark resource of the graph: dagster_pyspark's, with our engine behind it and a teardown.

How a session is opened is in `session`.
"""

from contextlib import ExitStack

from dagster import InitResourceContext
from dagster_pyspark import LazyPySparkResource
from pydantic import PrivateAttr

from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.settings import Settings


class SparkResource(LazyPySparkResource):
    """A Spark session that starts when it is first used and ends with the run.

    `spark_session` is what dagster_pyspark promises; `engine` is the same session with what this project
    knows of it. `SPARK_REMOTE` chooses the server, `spark_config` adds to its configuration.
    """

    _stack: ExitStack = PrivateAttr(default_factory=ExitStack)
    _engine: Engine | None = PrivateAttr(default=None)
    _lost: Engine | None = PrivateAttr(default=None)

    def _init_session(self) -> None:
        if self._engine is not None and self._engine.is_lost:
            self._lost = self._engine
            self._close()  # a step that is tried again needs a new session: the server may be back
        if self._engine is None:
            config: dict[str, str] = {key: str(value) for key, value in self.spark_config.items()}
            self._engine = self._stack.enter_context(open_engine(Settings.read(), config))
            self._spark_session = self._engine.spark
            if self._lost is not None:
                self._engine.take_over(self._lost)
                self._lost = None

    @property
    def engine(self) -> Engine:
        """The engine, started if it is not yet, and anew if its server was lost."""
        self._init_session()
        assert self._engine is not None
        return self._engine

    def teardown_after_execution(self, context: InitResourceContext) -> None:  # noqa: ARG002 - the base's signature
        """End the session, if one was started."""
        self._lost = None
        self._close()

    def _close(self) -> None:
        self._engine, self._spark_session = None, None
        self._stack.close()
