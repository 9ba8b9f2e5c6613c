"""Resources: what a run holds. The Spark session is `engine.resource`; here is the lake, and the wiring.

The environment is read when a run starts, never when definitions load.
"""

from contextlib import ExitStack
from functools import cached_property

import dagster as dg
from pydantic import PrivateAttr

from k2_ohlcv.defs import runs
from k2_ohlcv.defs.signs_of_life import signs_of_life
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings


class _Opened:
    """The settings of a run, and the lake that they name, opened when first used."""

    def __init__(self) -> None:
        self.settings = Settings.read()

    @cached_property
    def lake(self) -> Lake:
        return Lake.open(self.settings)


class LakeResource(dg.ConfigurableResource[Lake]):
    """The tables. Also where a run says which process works on it, and ends those whose process is gone."""

    _opened: _Opened | None = PrivateAttr(default=None)
    _signs: ExitStack = PrivateAttr(default_factory=ExitStack)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Runs once per run, before any step asks for a pool."""
        self._opened = _Opened()
        if context.run is not None and context.instance is not None:
            signs = signs_of_life(context.instance, context.run.run_id, runs.process_tags())
            self._signs.enter_context(signs)
            runs.reap(context.instance, besides=context.run.run_id)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 # Dagster's name
        """Forget the catalog: the next run reads the environment anew."""
        self._opened = None
        self._signs.close()

    @property
    def settings(self) -> Settings:
        """The settings of this run."""
        return self._held().settings

    @property
    def lake(self) -> Lake:
        """The tables of this run."""
        return self._held().lake

    def _held(self) -> _Opened:
        if self._opened is None:
            self._opened = _Opened()
        return self._opened


def resources() -> dict[str, object]:
    """The resources of the graph, by the names that assets ask for."""
    # Importing PySpark's client takes a second, which nothing but the graph needs to pay.
    from k2_ohlcv.engine.resource import SparkResource

    return {"lake": LakeResource(), "spark": SparkResource(spark_config={})}
