"""A TCP proxy before a server, which makes its network fail in ways that tests choose."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
#: A request head is smaller, and the upload of a data file is larger.
_CUT_BYTES = 4000
_SLOW_SECONDS = 0.3


class CutError(Exception):
    """The connection is to be closed at both ends."""


class Proxy:
    """Forwards connections of the loopback to a server.

    Attributes:
        address: where it listens.
        fault: what it does instead. "error" answers each request with status 500. "slow" holds up every
            answer. "cut" closes connections in the middle of an upload. "down" closes them at once. The
            empty text is none.
        before_commit: is called once, before the next SQL commit of a table is forwarded.
        after_commit: is called once, when the server has answered the next SQL commit of a table. The client
            does not get the answer.
        hits: how often a fault has struck.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.fault = ""
        self.before_commit: Callable[[], None] | None = None
        self.after_commit: Callable[[], None] | None = None
        self.hits = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.fault == "down":
            self.hits += 1
            client.close()
            return
        try:
            server = socket.create_connection(self._server)
        except OSError:
            client.close()
            return
        connection = _Connection(self, client, server)
        threading.Thread(target=connection.answers, daemon=True).start()
        connection.requests()


class _Connection:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.sent = 0
        self.changes_table = False
        self.loses_answer = False

    def requests(self) -> None:
        with suppress(OSError, CutError):
            while data := self.client.recv(65536):
                self._apply_http_fault(data)
                self._apply_sql_fault(data)
                self.server.sendall(data)
        self._close()

    def answers(self) -> None:
        with suppress(OSError):
            while data := self.server.recv(65536):
                if self.loses_answer:
                    self.proxy.hits += 1
                    self._call_after_commit()
                    break
                if self.proxy.fault == "slow":
                    self.proxy.hits += 1
                    time.sleep(_SLOW_SECONDS)
                self.client.sendall(data)
        self._close()

    def _apply_http_fault(self, data: bytes) -> None:
        self.sent += len(data)
        if self.proxy.fault == "error":
            self.proxy.hits += 1
            self.client.sendall(_ERROR)
            raise CutError
        if self.proxy.fault == "cut" and self.sent > _CUT_BYTES:
            self.proxy.hits += 1
            raise CutError

    def _apply_sql_fault(self, data: bytes) -> None:
        self.changes_table |= b"UPDATE iceberg_tables" in data
        if not (self.changes_table and b"COMMIT" in data):
            return
        self.changes_table = False
        if callback := self.proxy.before_commit:
            self.proxy.before_commit = None
            self.proxy.hits += 1
            callback()
        self.loses_answer = self.proxy.after_commit is not None

    def _call_after_commit(self) -> None:
        if callback := self.proxy.after_commit:
            self.proxy.after_commit = None
            callback()

    def _close(self) -> None:
        for each in (self.client, self.server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def proxy_before(server: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy before a server, closed on exit."""
    proxy = Proxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
