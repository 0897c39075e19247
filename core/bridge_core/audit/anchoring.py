"""Having a log's heads stamped by a time-stamp authority: beside the work, never in its way."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import structlog

from bridge_core.audit import anchor_rules, stamps
from bridge_core.audit.anchor_rules import Anchored
from bridge_core.audit.notes import BadNote, open_checkpoint
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.stamps import BadStamp
from bridge_core.audit.tiles import CHECKPOINT
from bridge_core.files import write_atomically
from bridge_core.security_settings import AuditSettings

log = structlog.get_logger()

_LOOK_S: Final = 10.0
_TIMEOUT_S: Final = 10.0
_WITHIN_S: Final = 30.0

Ask = Callable[[str, bytes], bytes]


def ask_over_http(url: str, body: bytes, *, within_s: float = _WITHIN_S) -> bytes:
    """What the authority at `url` answers (RFC 3161, 3.4). Blocks for at most some seconds.

    Raises:
        BadStamp: the answer is no HTTP, or too slow, or no time stamp by its type, or the address is none.
        OSError: it is not reached, or answers with an error or another address.
    """
    with _Deadline(within_s) as deadline:
        try:
            found = _answer(url, body, deadline)
        except (OSError, ValueError, http.client.HTTPException) as fault:
            deadline.check()
            if isinstance(fault, OSError):
                raise
            raise BadStamp(f"it cannot be asked, or answers no HTTP: {str(fault)[:150]!r}") from fault
        deadline.check()  # what was cut off may look like an end
    return found


def _answer(url: str, body: bytes, deadline: _Deadline) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise BadStamp("the address of a time-stamp authority begins with http:// or https://")
    fields = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    asked = urllib.request.Request(url, body, fields, method="POST")  # noqa: S310 - checked above
    opener = urllib.request.build_opener(_NoRedirects, _Watching(deadline))
    with opener.open(asked, timeout=_TIMEOUT_S) as answer:
        if answer.headers.get_content_type() != "application/timestamp-reply":
            raise BadStamp(f"it answered with {answer.headers.get_content_type()[:80]!r}")
        found: bytes = answer.read(stamps.MAX_ANSWER + 1)
    return found


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """An admin named one address: nobody else sends nodes elsewhere."""


class _Deadline:
    """Ends the connections of one question when its time is up.

    A timeout of a socket begins anew with every byte: who sends one now and then would hold a thread for
    ever, while the handshake lasts or in the middle of a header.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._over = False
        self._twins: list[socket.socket] = []
        self._timer = threading.Timer(within_s, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for twin in self._twins:
            twin.close()

    def watch(self, connected: socket.socket) -> None:
        """Ends this one too. TLS takes the socket's descriptor over: a second one stays here."""
        self._twins.append(connected.dup())
        if self._over:
            self._end()

    def check(self) -> None:
        """Raises BadStamp if the time was up."""
        if self._over:
            raise BadStamp(f"it has not answered within {self._within_s:g} s")

    def _end(self) -> None:
        self._over = True
        for twin in self._twins:
            with contextlib.suppress(OSError):
                twin.shutdown(socket.SHUT_RDWR)


class _Watched(http.client.HTTPConnection):
    deadline: _Deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)


class _WatchedTls(http.client.HTTPSConnection, _Watched):
    """Its `connect` goes through that of `_Watched` before the handshake."""


class _Watching(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._watched, _Watched), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._watched, _WatchedTls), req)

    def _watched(self, kind: type[_Watched], host: str, /, **more: Any) -> _Watched:
        made = kind(host, **more)
        made.deadline = self._deadline
        return made


class Anchoring:
    """Has heads stamped as long as it runs.

    Args:
        audit: The log.
        settings: Say which authority, now.
        ask: Gets its answer, in a thread.
        now: Unix seconds.
        jitter: From 0 to 1.

    Attributes:
        state: How far the log is stamped.
    """

    def __init__(
        self,
        audit: AuditLog,
        settings: Callable[[], AuditSettings],
        *,
        ask: Ask = ask_over_http,
        now: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._audit = audit
        self._settings = settings
        self._ask = ask
        self._now = now
        self._jitter = jitter
        self.state = Anchored()

    async def run(self) -> None:
        """Looks every few seconds until cancelled."""
        self.state = await asyncio.to_thread(_taken_up, self._audit.folder)
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    def concerns(self) -> list[str]:
        """What an operator should know of, a sentence each."""
        url, now = self._settings().timestamp_authority, self._now()
        if not url or not anchor_rules.is_late(self.state, now):
            return []
        why = f": {self.state.reason}" if self.state.reason else ""
        return [f"the audit log of {self._audit.origin} has no time stamp of {url} for hours{why}"]

    async def look(self) -> None:
        """Has the newest head stamped if it is time."""
        settings, head, now = self._settings(), self._audit.head, self._now()
        if not settings.timestamp_authority or head is None:
            return
        self.state = anchor_rules.seen(self.state, head.size, now)
        if not anchor_rules.is_due(self.state, now):
            return
        url = settings.timestamp_authority
        try:
            size = await asyncio.to_thread(self._stamp, url, now - settings.retention_s)
        except (OSError, BadStamp, BadNote) as fault:
            reason = str(fault)[:200]
            if reason != self.state.reason:
                log.warning("audit_not_stamped", authority=url, reason=reason)
            self.state = anchor_rules.failed(self.state, reason, now, self._jitter())
        else:
            log.info("audit_stamped", authority=url, size=size)
            self.state = anchor_rules.stamped(self.state, size, now, self._jitter())

    def _stamp(self, url: str, forget_before: float) -> int:
        """Gets and keeps a stamp of the newest head; of how many records it is. Runs in a thread."""
        signer = self._audit.signer
        if signer is None:
            raise BadNote("there is no audit log yet")
        head = self._audit.stored().read(CHECKPOINT)
        size = open_checkpoint(head, signer.public)[0].size
        asked, nonce = stamps.request(head)
        answer = self._ask(url, asked)
        stamps.read(answer, head, nonce)
        folder = self._audit.folder / stamps.FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        for path, data in zip(stamps.paths(size), (head, answer), strict=True):
            write_atomically(self._audit.folder / path, data)
        _forget(self._audit.folder, forget_before)
        return size


def _taken_up(folder: Path) -> Anchored:
    """How far a log was stamped when its program ended."""
    with contextlib.suppress(OSError):
        for size in stamps.sizes(folder)[-1:]:
            at = (folder / stamps.paths(size)[1]).stat().st_mtime
            return Anchored(size, at, at + anchor_rules.EVERY_S)
    return Anchored()


def _forget(folder: Path, before: float) -> None:
    for size in stamps.sizes(folder)[:-1]:
        head, answer = (folder / path for path in stamps.paths(size))
        if answer.stat().st_mtime >= before:
            return
        answer.unlink(missing_ok=True)
        head.unlink(missing_ok=True)
