"""A session on a Spark Connect server: how long a server that is gone or silent is waited for.

PySpark's own client retries for 13 minutes, in the middle of a run and again when the session ends. Here a
call is retried for some seconds, which rides out a broken connection. A server that takes connections and
answers nothing is found by a probe: a small call beside the work, as a long query is silent too.

How a server on this machine is started is in `local_spark`.
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

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: How gRPC looks for a server that is gone: it would soon look every two minutes only, and miss a restart.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # also how long one attempt to connect may take
]
_PAUSE_MILLISECONDS = 500
#: What a server says that has lost our session, or the query: it was started anew, or has closed the session.
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
    """How long a server is waited for, in seconds.

    Attributes:
        retry: a call that fails as the server is not there is tried again for so long.
        probe_every: between two probes.
        probe: within this a probe is answered. The slowest collection of garbage should fit.
        probes: so many probes in a row without an answer mean that the server hangs.
        close: the end of a session waits at most so long for the server.
    """

    retry: float = 20.0
    probe_every: float = 10.0
    probe: float = 15.0
    probes: int = 4
    close: float = 5.0


PATIENCE = Patience()


class ServerConnection:
    """The connection to one server, and whether it is lost.

    Args:
        remote: the server's address, as `sc://host:port`.
        name: the server as people know it.
        remedy: what to do where it is lost.
        token: what the server asks its clients for, if it is not in the address.
    """

    def __init__(self, remote: str, name: str, remedy: str, token: str | None = None) -> None:
        self.lost: str | None = None
        self.patience = PATIENCE
        self.builder = _ChannelBuilder(remote, token)
        self._name, self._remedy = name, remedy
        self._ended = threading.Event()

    def open(self, config: Mapping[str, str]) -> "SparkSession":
        """A new session of the server, with some configuration."""
        # What makes PySpark's functions those of a Connect session.
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
        """End a session. A server that is lost is not asked, and any other not waited for for long."""
        self._ended.set()
        if self.lost:
            self.builder.close()
        # What the client still waits for fails when the channel closes.
        timer = threading.Timer(self.patience.close, self.builder.close)
        timer.daemon = True
        timer.start()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PySpark's of its own logger, where the server is gone
                session.stop()
        finally:
            timer.cancel()
            self.builder.close()

    @property
    def is_over(self) -> bool:
        """Whether nothing is worth waiting for any more."""
        return self.lost is not None or self._ended.is_set()

    def lose(self, reason: str) -> EngineUnavailableError:
        """Note that the server is lost, and why; the first reason stays. Gives the error to raise."""
        self.lost = self.lost or reason
        return EngineUnavailableError(f"{self._name} {self.lost}. {self._remedy}")

    def _probe(self) -> None:
        """Ask the server something small, again and again, until the session ends or the server hangs."""
        stub: Any = SparkConnectServiceStub(self.builder.channel)  # type: ignore[no-untyped-call]
        request = self._small_request()
        unanswered = 0
        while not self._ended.wait(0 if unanswered else self.patience.probe_every):
            try:
                stub.Config(request, timeout=self.patience.probe, metadata=self.builder.metadata())
                unanswered = 0
            except grpc.RpcError as error:
                # Any other error is an answer, or one that the work meets by itself.
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
        # The client's own user, so that no second session is made.
        if user := self.builder.userId or os.environ.get("SPARK_USER", os.environ.get("USER")):
            request.user_context.user_id = user
        return request


class _ChannelBuilder(DefaultChannelBuilder):
    """Builds the channel and keeps it, so that it can be closed under a call that waits."""

    def __init__(self, remote: str, token: str | None) -> None:
        super().__init__(remote, list(_CHANNEL_OPTIONS))
        if self.session_id is None:
            self.set(self.PARAM_SESSION_ID, str(uuid.uuid4()))
        if token is not None:
            self.set(self.PARAM_TOKEN, token)
        self.channel: grpc.Channel | None = None

    def toChannel(self) -> grpc.Channel:  # noqa: N802 - the base's name
        """A new channel to the server."""
        self.channel = super().toChannel()
        return self.channel

    def close(self) -> None:
        """End all calls: each fails at once."""
        if self.channel is not None:
            self.channel.close()


class _RetryPolicy(DefaultPolicy):
    """PySpark's own choice of what to retry, for as long as we have patience."""

    def __init__(self, connection: ServerConnection) -> None:
        super().__init__()
        self.connection = connection

    def can_retry(self, e: BaseException) -> bool:
        """Whether `_RetryState` is to decide: it waits, or raises the error that says what is wrong."""
        if not isinstance(e, Exception):
            return False  # an interrupt
        return self.connection.is_over or _is_forgotten(e) or super().can_retry(e)

    def to_state(self) -> RetryPolicyState:
        """The state of one call."""
        return _RetryState(self)


class _RetryState(RetryPolicyState):
    """How long one call has been tried."""

    def __init__(self, policy: _RetryPolicy) -> None:
        super().__init__(policy)
        self._connection = policy.connection
        self._began: float | None = None

    def next_attempt(self, exception: BaseException | None = None) -> int | None:
        """The milliseconds until the next attempt.

        Raises:
            EngineUnavailableError: there is none, as the server is lost.
        """
        connection = self._connection
        if connection.is_over:
            raise connection.lose("does not answer any more") from None
        if exception is not None and _is_forgotten(exception):
            raise connection.lose(
                "knows nothing of this session any more: it was restarted, or has closed the session"
            ) from None
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        waited = now - self._began
        if waited > connection.patience.retry:
            reason = f"does not answer any more, for {waited:.0f} seconds ({_reason(exception)})"
            raise connection.lose(reason) from None
        return _PAUSE_MILLISECONDS


def _is_forgotten(error: BaseException) -> bool:
    if not isinstance(error, grpc.RpcError | PySparkException):
        return False
    return any(word in str(error) for word in _FORGOTTEN)


def _reason(error: BaseException | None) -> str:
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    return redact_secrets(" ".join(str(details).split())[:_LONGEST_REASON])


@contextmanager
def connected(connection: ServerConnection, config: Mapping[str, str]) -> Iterator["SparkSession"]:
    """A session on a server, ended on exit."""
    session = connection.open(config)
    try:
        yield session
    finally:
        connection.close(session)
