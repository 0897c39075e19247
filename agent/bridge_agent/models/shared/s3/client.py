"""Asks an S3-compatible store. Blocks, for no longer than a question may take.

Rules:
1. Only the endpoint that the operator's file names is asked. Redirects are not followed, and neither the
   environment's proxies nor anything that the store answers say where to go.
2. Everything of an answer is bounded: its time as a whole, its headers, its body.
3. What failed on the way, or is refused for the moment (500, 502, 503, 504), is asked again, `_TRIES` times
   in all and within the time, unless it must not be done twice.
4. Bytes of a blob come by ranges of the object that was opened, known by its ETag: one that was replaced
   meanwhile gives no byte more. A range that breaks off is asked for from there on.
"""

from __future__ import annotations

import collections
import datetime as dt
import hashlib
import http.client
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from bridge_agent.models.shared.s3.connection import Connection
from bridge_agent.models.shared.s3.fault import Cut, S3Fault
from bridge_agent.models.shared.s3.settings import S3Settings, SettingsFile
from bridge_agent.models.shared.s3.signature_rules import EMPTY, authorization, target

_T = TypeVar("_T")

MOST_IDLE: Final = 8
_TRIES: Final = 4
_REST_S: Final = 0.1
_MOST_ERROR: Final = 64 << 10
_CHUNK: Final = 1 << 18
_AGAIN: Final = (500, 502, 503, 504)
_CODE: Final = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>")
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_HINTS: Final = {
    "SignatureDoesNotMatch": "the secret key, or the region, is another",
    "InvalidAccessKeyId": "the store does not know the access key",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "the key may not do that here; it needs to list the bucket and to read its objects",
}


class Answer(msgspec.Struct, frozen=True):
    """What was answered.

    Attributes:
        status: 2xx.
        etag: Of the object.
        length: Of a HEAD, the object's bytes.
        body: The body.
    """

    status: int
    etag: str
    length: int
    body: bytes


class _Asked(msgspec.Struct, frozen=True):
    """A question; `span` is where the range of `most` bytes begins that it wants, and the whole's bytes."""

    method: str
    key: str
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    most: int
    body: bytes = b""
    again: bool = True
    span: tuple[int, int] | None = None


class S3Client:
    """Asks.

    Args:
        file: Says which store.
        timeout_s: How long one question may take.
        now: Monotonic seconds.
        wall: Unix seconds.
        sleep: Waits.
    """

    def __init__(
        self,
        file: SettingsFile,
        timeout_s: float,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.file: Final = file
        self.timeout_s: Final = timeout_s
        self._now = now
        self._wall = wall
        self._sleep = sleep
        self._lock = threading.Lock()
        self._idle: collections.deque[Connection] = collections.deque()
        weakref.finalize(self, _close_all, self._idle)  # no client is ever closed

    def ask(
        self,
        method: str,
        key: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        most: int = 0,
        again: bool = True,
        within_s: float = 0.0,
    ) -> Answer:
        """Asks about an object, or about the bucket where `key` is empty.

        Args:
            method: Of the request.
            key: Below the prefix.
            query: Parameters.
            headers: More of them; conditions.
            body: What is sent.
            most: Bytes that the answer's body may have.
            again: It may be asked twice.
            within_s: Another time than the usual one.

        Raises:
            S3Fault: what became of it.
        """
        until = self._now() + (within_s or self.timeout_s)

        asked = _Asked(method, key, query, headers or {}, most, body, again)

        def once(settings: S3Settings) -> Answer:
            sink = bytearray()
            answer = self._exchange(settings, asked, until, sink)
            return msgspec.structs.replace(answer, body=bytes(sink))

        return self._tried(once, until, again=again)

    def read(self, key: str, etag: str, size: int, offset: int, length: int) -> bytes:
        """The bytes of an object of that ETag and size (rule 4). Raises S3Fault."""
        until = self._now() + self.timeout_s
        sink = bytearray()

        def rest(settings: S3Settings) -> bytes:
            begin = offset + len(sink)
            wanted = {"range": f"bytes={begin}-{offset + length - 1}", "if-match": etag}
            most = offset + length - begin
            asked = _Asked("GET", key, (), wanted, most, span=(begin, size))
            if most:
                self._exchange(settings, asked, until, sink)
            return bytes(sink)

        return self._tried(rest, until, again=True) if length else b""

    def _tried(self, work: Callable[[S3Settings], _T], until: float, *, again: bool) -> _T:
        for left in range(_TRIES - 1, -1, -1):
            try:
                return work(self.file.read())
            except S3Fault as fault:
                soon = _REST_S * 2.0 ** (_TRIES - 1 - left)
                passing = isinstance(fault, Cut) or fault.status in _AGAIN
                if not (again and left and passing and self._now() + soon < until):
                    raise
                self._sleep(soon)
        raise AssertionError

    def _exchange(self, settings: S3Settings, asked: _Asked, until: float, sink: bytearray) -> Answer:
        """One question and its answer, whose body goes into `sink` as it comes. Raises S3Fault."""
        connection: Connection | None = None
        try:
            connection = self._idle_one(settings) if asked.again else None
            connection = connection or Connection(settings, until, self._now)
            where = target(settings.path(asked.key), asked.query)
            response = connection.begin(asked.method, where, self._signed(settings, asked), asked.body, until)
            answer = _judged(asked, response)
            _take(response, sink, asked.most)
        except BaseException as fault:
            if connection is not None:
                connection.close()
            if isinstance(fault, S3Fault):
                raise
            if connection is not None and connection.used:
                self._forget_idle()  # the store closed them all
            if isinstance(fault, TimeoutError):
                raise S3Fault("it did not answer in time") from None
            if isinstance(fault, (OSError, http.client.HTTPException, ValueError)):
                raise Cut(f"the connection to {settings.host} failed: {_plain(fault)}") from None
            raise
        if response.will_close:
            connection.close()
        else:
            response.close()
            self._keep(connection)
        return answer

    def _signed(self, settings: S3Settings, asked: _Asked) -> dict[str, str]:
        at = dt.datetime.fromtimestamp(self._wall(), dt.UTC)
        signed = {
            "host": settings.host,
            **asked.headers,
            "x-amz-date": at.strftime("%Y%m%dT%H%M%SZ"),
            "x-amz-content-sha256": hashlib.sha256(asked.body).hexdigest() if asked.body else EMPTY,
        }
        if settings.session_token:
            signed["x-amz-security-token"] = settings.session_token
        path = settings.path(asked.key)
        said = authorization(settings.signer, asked.method, path, asked.query, signed)
        length = {"content-length": str(len(asked.body))} if asked.method in ("PUT", "POST") else {}
        return {**signed, **length, "authorization": said}

    def _idle_one(self, settings: S3Settings) -> Connection | None:
        with self._lock:
            while self._idle:
                found = self._idle.pop()
                if found.settings == settings:
                    found.used = True
                    return found
                found.close()
        return None

    def _forget_idle(self) -> None:
        with self._lock:
            _close_all(self._idle)

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            if len(self._idle) == MOST_IDLE:
                self._idle.popleft().close()
            self._idle.append(connection)


def _close_all(connections: collections.deque[Connection]) -> None:
    while connections:
        connections.pop().close()


def _judged(asked: _Asked, response: http.client.HTTPResponse) -> Answer:
    """What an answer's head says, where it is one to what was asked. Raises S3Fault: it is none."""
    status = response.status
    if not 200 <= status < 300:
        raise _refusal(asked.method, response)
    etag, length = response.headers.get("etag", ""), response.headers.get("content-length", "")
    if len(etag) > 256 or not etag.isprintable() or not etag.isascii():
        raise S3Fault("its ETag is none")
    if asked.span is not None:
        (begin, size), most = asked.span, asked.most
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if status != 206 or found is None:
            raise S3Fault("it does not serve ranges of objects")
        if tuple(map(int, found.groups())) != (begin, begin + most - 1, size) or length != str(most):
            raise S3Fault("it sent another range than was asked for")
    known = length.isascii() and length.isdecimal() and len(length) < 20
    return Answer(status, etag, int(length) if known else -1, b"")


def _refusal(method: str, response: http.client.HTTPResponse) -> S3Fault:
    status = response.status
    if 300 <= status < 400 and status != 304:
        return S3Fault(
            f"it answered {status}, and redirects are not followed: name the endpoint and the region of the "
            "bucket itself",
            status=status,
        )
    body = bytearray()
    if method != "HEAD":
        _take(response, body, _MOST_ERROR)
    found = _CODE.search(body)
    code = found[1].decode() if found else ""
    hint = _HINTS.get(code, "")
    said = f"{status} {code}".strip()
    return S3Fault(f"it answered {said}{f': {hint}' if hint else ''}", status=status, code=code)


def _take(response: http.client.HTTPResponse, sink: bytearray, most: int) -> None:
    """Reads a body of `most` bytes at most. Raises S3Fault: it has more; Cut: it ended early."""
    left = most
    while data := response.read1(min(_CHUNK, left + 1)):
        if len(data) > left:
            raise S3Fault(f"it sent more than the {most} bytes that were to come")
        sink += data
        left -= len(data)
    if response.length:  # which counts down
        raise Cut(f"its answer ended {response.length} bytes before its end")


def _plain(fault: Exception) -> str:
    """What failed, without anything that the other end wrote."""
    if isinstance(fault, http.client.HTTPException):
        return type(fault).__name__
    if isinstance(fault, OSError):
        return fault.strerror or type(fault).__name__
    return type(fault).__name__
