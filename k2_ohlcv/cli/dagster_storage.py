"""Dagster's own SQLite storage, with connections that stay open while a command runs.

Dagster opens a database anew for every statement, about six times an event, and reads all its migrations for
each run. Here each database is opened once, and events that come in a batch are one transaction. Files,
tables and events are Dagster's own, so the UI and the daemon read them as usual. Only the command line uses
this storage. Opening the instance is in `dagster_instance`.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sql
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Engine

if TYPE_CHECKING:
    from dagster._core.events.log import EventLogEntry

#: Alembic's table, with the migration that a database has.
_VERSIONS = sql.Table(
    "alembic_version", sql.MetaData(), sql.Column("version_num", sql.String(32), primary_key=True)
)


def open_database(address: str) -> Engine:
    """A pool of open connections to one of Dagster's databases.

    The databases are in WAL mode. There `synchronous=NORMAL` survives the death of a process. After a power
    failure the last events may be missing, but the file is whole. Candles are not in these databases.
    """
    engine = sql.create_engine(address, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})

    @sql.event.listens_for(engine, "connect")
    def set_synchronous(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


class OpenRunStorage(SqliteRunStorage):
    """Dagster's runs, in a database that stays open."""

    _engine: Engine | None = None

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection with a transaction."""
        if self._engine is None:
            self._engine = open_database(self._conn_string)
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close the database."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        super().dispose()


class OpenEventLogStorage(SqliteEventLogStorage):
    """Dagster's events, in databases that stay open: one for each run, and the index of all runs."""

    def __init__(self, base_dir: str, **options: Any) -> None:
        super().__init__(base_dir, **options)
        self._db_lock = threading.RLock()  # type: ignore[assignment] # a batch holds the lock of its events
        self._engines: dict[str, Engine] = {}
        self._batch: ExitStack | None = None
        self._batch_connections: dict[str, Connection] = {}
        self._has_column: dict[str, bool] = {}
        self._version: str | None = None  # of the newest migration

    def store_event_batch(self, events: Sequence["EventLogEntry"]) -> None:
        """Store events in one transaction a database."""
        with self._db_lock, ExitStack() as stack:
            self._batch = stack
            try:
                super().store_event_batch(events)
            finally:
                self._batch = None
                self._batch_connections = {}

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            if self._batch is None:
                with self._open_engine(shard).begin() as connection:
                    yield connection
                return
            if shard not in self._batch_connections:
                opened = self._batch.enter_context(self._open_engine(shard).begin())
                self._batch_connections[shard] = opened
            yield self._batch_connections[shard]

    def _open_engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            engine = open_database(self.conn_string_for_shard(shard))
            if not sql.inspect(engine).has_table(_VERSIONS.name):
                self._create_tables(engine, is_index=shard == INDEX_SHARD_NAME)
            self._engines[shard] = engine
        return self._engines[shard]

    def _create_tables(self, engine: Engine, *, is_index: bool) -> None:
        """Create Dagster's tables in a new database. Only the first one reads all migrations."""
        if is_index or self._version is None:
            self._initdb(engine, for_index_shard=is_index)
            with engine.connect() as connection:
                version = connection.execute(sql.select(_VERSIONS.c.version_num)).scalar_one()
            self._version = None if is_index else str(version)
            return
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sql.text("PRAGMA journal_mode=WAL"))
        SqlEventLogStorageMetadata.create_all(engine)
        with engine.begin() as connection:
            _VERSIONS.create(connection)
            connection.execute(_VERSIONS.insert().values(version_num=self._version))

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        if column_name not in self._has_column:
            self._has_column[column_name] = super()._has_asset_key_col_on_connection(conn, column_name)
        return self._has_column[column_name]

    def dispose(self) -> None:
        """Close the databases."""
        with self._db_lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines = {}
        super().dispose()


class OpenSqliteStorage(DagsterSqliteStorage):
    """Dagster's storage of one folder, with databases that stay open.

    Dagster prepares databases that are new. The others need no look at all the migrations.
    """

    def __init__(self, base_dir: str, inst_data: Any = None) -> None:
        history, schedules = Path(base_dir) / "history", Path(base_dir) / "schedules"
        if not all(path.exists() for path in (history / "runs.db", schedules / "schedules.db")):
            super().__init__(base_dir, inst_data)
        self.base_dir = base_dir
        self._inst_data = inst_data
        self._run_storage = OpenRunStorage(create_db_conn_string(str(history), "runs"))
        self._event_log_storage = OpenEventLogStorage(str(history / "runs"))
        self._schedule_storage = SqliteScheduleStorage(create_db_conn_string(str(schedules), "schedules"))
        super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> "OpenSqliteStorage":
        """The storage that Dagster's configuration describes."""
        return cls(config_value["base_dir"], inst_data)
