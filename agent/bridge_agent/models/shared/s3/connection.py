"""One connection to a store, on which everything has to be over by a time: also what comes byte by byte."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, cast

from bridge_agent.models.shared.s3.fault import S3Fault
from bridge_agent.models.shared.s3.settings import S3Settings


class _Raw(io.RawIOBase):
    """What is received, for a buffered reader above it."""

    def __init__(self, timed: TimedSocket) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._timed.receive_into(buffer)


class TimedSocket:
    """A socket as `http.client` uses one.

    Attributes:
        until: By when everything has to be over, in monotonic seconds.
    """

    def __init__(self, inner: socket.socket, now: Callable[[], float]) -> None:
        self._inner = inner
        self._now = now
        self.until = 0.0

    def sendall(self, data: bytes) -> None:
        """Sends all of it. Raises TimeoutError, OSError."""
        self._inner.settimeout(self._left())
        self._inner.sendall(data)

    def receive_into(self, buffer: memoryview) -> int:
        """Receives some. Raises TimeoutError, OSError."""
        self._inner.settimeout(self._left())
        return self._inner.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        """As a socket's, for reading."""
        assert mode == "rb"  # noqa: S101 - of http.client
        return io.BufferedReader(_Raw(self), 1 << 16)

    def close(self) -> None:
        """Closes it."""
        self._inner.close()

    def _left(self) -> float:
        left = self.until - self._now()
        if left <= 0.0:
            raise TimeoutError
        return left


class Connection:
    """Asks one store, one request after the other.

    Args:
        settings: Which store.
        until: By when it has to be connected.
        now: Monotonic seconds.

    Raises:
        OSError: it cannot be connected.
    """

    def __init__(self, settings: S3Settings, until: float, now: Callable[[], float] = time.monotonic) -> None:
        host, port = settings.address
        plain = socket.create_connection((host, port), timeout=max(0.001, until - now()))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(max(0.001, until - now()))
            inner = _context(settings.ca).wrap_socket(plain, server_hostname=host) if settings.tls else plain
        except BaseException:
            plain.close()
            raise
        self.settings: Final = settings
        self._socket = TimedSocket(inner, now)
        self._http = http.client.HTTPConnection(host, port)
        self._http.sock = cast("socket.socket", self._socket)
        self._http.auto_open = 0  # it never connects by itself
        self.used = False

    def begin(
        self, method: str, target: str, headers: dict[str, str], body: bytes, until: float
    ) -> http.client.HTTPResponse:
        """Asks; the answer's body is yet to be read. Raises OSError, http.client.HTTPException."""
        self._socket.until = until
        self._http.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            self._http.putheader(name, value)
        self._http.endheaders(body or None)
        return self._http.getresponse()

    def close(self) -> None:
        """Ends it."""
        self._http.close()


def _context(ca: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as fault:
        raise S3Fault(f"the certificates in {ca} cannot be read: {fault}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
