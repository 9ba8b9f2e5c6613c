"""Opens a session on a Spark Connect server, with timeouts for a server that is dead or hangs.

PySpark's client retries for 13 minutes, during a run and again at the end of the session. Here a call is
retried for some seconds, so a broken connection can recover. A long query is silent, and so is a hanging
server. A probe therefore sends small calls during the work. Starting a local server is in `local_spark`.
"""

import os
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc
from pyspark.errors import PySparkException
from pyspark.sql.connect.client import DefaultChannelBuilder
from pyspark.sql.connect.client.retries import DefaultPolicy, RetryPolicyState
from pyspark.sql.connect.proto import base_pb2
from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub
from pyspark.sql.connect.session import SparkSession as ConnectSession

from k2_ohlcv.domain.addresses import redact_secrets
from k2_ohlcv.domain.errors import EngineUnavailableError
from k2_ohlcv.engine.session_end import stop_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: The reconnect intervals of gRPC. Its default soon grows to two minutes, and would miss a restarted server.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # also the timeout of one attempt to connect
]
_PAUSE_MILLISECONDS = 500
#: Errors of a server that no longer has the session or the query: it was restarted, or closed the session.
_FORGOTTEN = (
    "INVALID_HANDLE.SESSION_CHANGED",
    "INVALID_HANDLE.SESSION_NOT_FOUND",
    "INVALID_HANDLE.SESSION_CLOSED",
    "INVALID_HANDLE.OPERATION_NOT_FOUND",
    "RESPONSE_ALREADY_RECEIVED",
)
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Patience:
    """Timeouts of a server, in seconds.

    Attributes:
        retry: how long a call is retried while the server cannot be reached.
        probe_every: the interval of probes.
        probe: the timeout of a probe. It must be longer than the slowest garbage collection.
        probes: the number of consecutive unanswered probes after which the server counts as hanging.
        close: the timeout of ending a session.
    """

    retry: float = 20.0
    probe_every: float = 10.0
    probe: float = 15.0
    probes: int = 4
    close: float = 5.0


PATIENCE = Patience()


class ServerConnection:
    """The connection to a server, and the reason if it is lost.

    Args:
        remote: the server's address, as `sc://host:port`.
        name: the name of the server in messages.
        remedy: what the user can do if the server is lost.
        token: the token for the server, if it is not in the address.
    """

    def __init__(self, remote: str, name: str, remedy: str, token: str | None = None) -> None:
        self.lost: str | None = None
        self.patience = PATIENCE
        self.builder = _ChannelBuilder(remote, token)
        self._name, self._remedy = name, remedy
        self._ended = threading.Event()

    def open(self, config: Mapping[str, str]) -> "SparkSession":
        """Open a session on the server, with a configuration."""
        # With this variable, PySpark's functions build Connect expressions.
        os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"
        session = ConnectSession.builder.channelBuilder(self.builder).create()
        session.client.set_retry_policies([_RetryPolicy(self)])
        threading.Thread(target=self._probe, name="spark-connect-probe", daemon=True).start()
        try:
            for key, value in config.items():
                session.conf.set(key, value)
        except BaseException:
            self.close(cast("SparkSession", session))
            raise
        return cast("SparkSession", session)

    def close(self, session: "SparkSession") -> None:
        """End a session. A lost server gets no request. For others, pending calls fail at the timeout."""
        self._ended.set()
        if self.lost:
            self.builder.close()
        timer = threading.Timer(self.patience.close, self.builder.close)
        timer.daemon = True
        timer.start()
        try:
            with warnings.catch_warnings(action="ignore"):  # PySpark warns if the server is dead
                stop_session(session)
        finally:
            timer.cancel()
            self.builder.close()

    @property
    def is_over(self) -> bool:
        """Whether the server is lost, or the session has ended."""
        return self.lost is not None or self._ended.is_set()

    def lose(self, reason: str) -> EngineUnavailableError:
        """Mark the server as lost, and return the error to raise. The first reason stays."""
        self.lost = self.lost or reason
        return EngineUnavailableError(f"{self._name} {self.lost}. {self._remedy}")

    def _probe(self) -> None:
        """Send a small request periodically, until the session ends or the server hangs."""
        stub: Any = SparkConnectServiceStub(self.builder.channel)  # type: ignore[no-untyped-call]
        request = self._small_request()
        unanswered = 0
        while not self._ended.wait(0 if unanswered else self.patience.probe_every):
            try:
                stub.Config(request, timeout=self.patience.probe, metadata=self.builder.metadata())
                unanswered = 0
            except grpc.RpcError as error:
                # Any other error is an answer, or the work gets the same error.
                is_unanswered = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                unanswered = unanswered + 1 if is_unanswered else 0
                if not is_unanswered and error.code() is grpc.StatusCode.CANCELLED:
                    return
            except ValueError:
                return  # the channel is closed
            if unanswered >= self.patience.probes:
                seconds = self.patience.probe * self.patience.probes
                self.lose(f"takes connections and has answered nothing for {seconds:.0f} seconds: it hangs")
                self.builder.close()
                return

    def _small_request(self) -> base_pb2.ConfigRequest:
        get = base_pb2.ConfigRequest.GetOption(keys=["spark.sql.session.timeZone"])
        request = base_pb2.ConfigRequest(
            session_id=self.builder.session_id or "",
            operation=base_pb2.ConfigRequest.Operation(get_option=get),
        )
        # The same user as the client, so that the server creates no second session.
        if user := self.builder.userId or os.environ.get("SPARK_USER", os.environ.get("USER")):
            request.user_context.user_id = user
        return request


class _ChannelBuilder(DefaultChannelBuilder):
    """Builds the channel and stores it, so that it can be closed during a call."""

    def __init__(self, remote: str, token: str | None) -> None:
        super().__init__(remote, list(_CHANNEL_OPTIONS))
        if self.session_id is None:
            self.set(self.PARAM_SESSION_ID, str(uuid.uuid4()))
        if token is not None:
            self.set(self.PARAM_TOKEN, token)
        self.channel: grpc.Channel | None = None

    def toChannel(self) -> grpc.Channel:  # noqa: N802 - the name in the base class
        """Make a channel to the server."""
        self.channel = super().toChannel()
        return self.channel

    def close(self) -> None:
        """Close the channel. All calls fail immediately."""
        if self.channel is not None:
            self.channel.close()


class _RetryPolicy(DefaultPolicy):
    """Retries the errors that PySpark retries, until the timeout of the connection."""

    def __init__(self, connection: ServerConnection) -> None:
        super().__init__()
        self.connection = connection

    def can_retry(self, e: BaseException) -> bool:
        """Whether `_RetryState` decides about the error: it waits, or raises an error with the reason."""
        if not isinstance(e, Exception):
            return False  # an interrupt
        return self.connection.is_over or _is_forgotten(e) or super().can_retry(e)

    def to_state(self) -> RetryPolicyState:
        """Make the state of a call."""
        return _RetryState(self)


class _RetryState(RetryPolicyState):
    """Measures how long a call has been retried."""

    def __init__(self, policy: _RetryPolicy) -> None:
        super().__init__(policy)
        self._connection = policy.connection
        self._began: float | None = None

    def next_attempt(self, exception: BaseException | None = None) -> int | None:
        """Return the milliseconds until the next attempt.

        Raises:
            EngineUnavailableError: the server is lost, so there is no next attempt.
        """
        connection = self._connection
        if connection.is_over:
            raise connection.lose("does not answer any more") from None
        if exception is not None and _is_forgotten(exception):
            raise connection.lose("no longer knows this session: it was restarted, or closed it") from None
        self._began = self._began or time.monotonic()
        waited = time.monotonic() - self._began
        if waited > connection.patience.retry:
            reason = f"does not answer any more, for {waited:.0f} seconds ({_reason(exception)})"
            raise connection.lose(reason) from None
        return _PAUSE_MILLISECONDS


def _is_forgotten(error: BaseException) -> bool:
    is_server_error = isinstance(error, grpc.RpcError | PySparkException)
    return is_server_error and any(code in str(error) for code in _FORGOTTEN)


def _reason(error: BaseException | None) -> str:
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    return redact_secrets(" ".join(str(details).split())[:_LONGEST_REASON])


@contextmanager
def connected(connection: ServerConnection, config: Mapping[str, str]) -> Iterator["SparkSession"]:
    """Open a session on a server, and end it on exit."""
    session = connection.open(config)
    try:
        yield session
    finally:
        connection.close(session)
