"""Bytes for a client that waits long for its first one, so that nobody on the way takes it for dead.

Rules:
1. Only streams get them, in the form that their protocol's clients pass over: comments in OpenAI's
   event streams (which say how far a load is, where one is waited for), `ping` events in Anthropic's, and
   in Ollama's lines a space before the first record (an empty line would break clients that decode each
   line).
2. With the first of them the answer is a 200: what would have been an error status is told in the
   stream, in the protocol's shape. Until a record was delivered a failed attempt is still made again
   elsewhere, as if nothing had been sent.
3. Whole answers get none: an error after them could not be told from a success by its status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec

from bridge_agent.gateway.routes import Framing
from bridge_agent.gateway.shapes import stream_error
from bridge_agent.peers.hop import LOADING
from bridge_core.http1 import Exchange, Pair

_COMMENT: Final = b": keep-alive\n\n"
_BYTES: Final = {
    Framing.NDJSON: b" ",
    Framing.CHAT_SSE: _COMMENT,
    Framing.RESPONSES_SSE: _COMMENT,
    Framing.MESSAGES_SSE: b'event: ping\ndata: {"type": "ping"}\n\n',
}
_ERROR_MOST: Final = 64 << 10


class LoadingTold(Protocol):
    """How the load goes that a client waits for."""

    def value(self) -> bytes:
        """The field's, for the early head."""

    def comment(self) -> bytes:
        """The same as a comment of an event stream; empty once it is over."""


class KeptAliveExchange:
    """An `Exchange` that looks unanswered while keep-alive bytes go to its client.

    Args:
        inner: The client's exchange.
        framing: Of the stream that is to come.
        every_s: Seconds between bytes.
        pairs: Fields of the early head, besides the content type.
        request_id: For errors.
        loading: Says how the load goes that it waits for; None: it waits for something else.
    """

    __slots__ = (
        "_early",
        "_error",
        "_every_s",
        "_framing",
        "_inner",
        "_loading",
        "_pairs",
        "_request_id",
        "_timer",
        "request",
        "started",
        "status",
    )

    def __init__(
        self,
        inner: Exchange,
        framing: Framing,
        every_s: float,
        pairs: Iterable[Pair],
        request_id: str,
        *,
        loading: LoadingTold | None = None,
    ) -> None:
        self.request = inner.request
        self.started = False
        self.status = 0
        self._inner = inner
        self._framing = framing
        self._every_s = every_s
        self._pairs = tuple(pairs)
        self._request_id = request_id
        self._loading = loading
        self._early = False
        self._error: bytes | None = None  # the body of an error answer, once its status is known
        self._timer: asyncio.TimerHandle | None = None
        if framing in _BYTES:
            self._timer = asyncio.get_running_loop().call_later(every_s, self._tick)

    def _tick(self) -> None:
        inner = self._inner
        if self.started or inner.finished or inner.disconnected:
            return
        if not self._early:
            self._early = True
            kind = b"application/x-ndjson" if self._framing is Framing.NDJSON else b"text/event-stream"
            told = () if self._loading is None else ((LOADING, self._loading.value()),)
            inner.start(200, [(b"content-type", kind), *self._pairs, *told])
        kept = _BYTES[self._framing]
        if kept is _COMMENT and self._loading is not None:
            kept = self._loading.comment() or kept
        inner.write(kept)
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._tick)

    # -- as an exchange

    def respond(
        self,
        status: int,
        headers: Iterable[Pair] | bytes = (),
        body: bytes = b"",
        *,
        forwarded: bool = False,
    ) -> None:
        """See `Exchange`."""
        self.start(status, headers, len(body), cork=True, forwarded=forwarded)
        self.write(body)
        self.finish()

    def proven(self, identity: str) -> None:
        """See `Exchange`."""
        self._inner.proven(identity)

    def start(
        self,
        status: int,
        headers: Iterable[Pair] | bytes = (),
        length: int | None = None,
        *,
        cork: bool = False,
        forwarded: bool = False,
    ) -> None:
        """See `Exchange`: after an early head only the status is of use."""
        if self.started:
            raise RuntimeError("the answer was started already")
        if self._timer is not None:
            self._timer.cancel()
        if not self._early:
            self._inner.start(status, headers, length, cork=cork, forwarded=forwarded)
        elif status != 200:
            self._error = b""
        self.started, self.status = True, status

    def write(self, data: bytes) -> None:
        """See `Exchange`."""
        if self._error is None:
            self._inner.write(data)
        else:
            self._error = (self._error + data)[:_ERROR_MOST]

    def flush(self) -> None:
        """See `Exchange`."""
        self._inner.flush()

    def finish(self, data: bytes = b"") -> None:
        """See `Exchange`."""
        if self._error is not None:
            data = self._in_stream(self.status, _message(self._error + data))
        self._inner.finish(data)

    def fail(self, status: int, message: str) -> None:
        """See `Exchange`."""
        if self._early and not self.started:
            self.start(status)
            self._inner.finish(self._in_stream(status, message))
        else:
            self._inner.fail(status, message)

    def abort(self) -> None:
        """See `Exchange`."""
        self._inner.abort()

    async def drain(self) -> None:
        """See `Exchange`."""
        await self._inner.drain()

    def _in_stream(self, status: int, message: str) -> bytes:
        return stream_error(self._framing, status, message, self._request_id)

    @property
    def write_paused(self) -> bool:
        """See `Exchange`."""
        return self._inner.write_paused

    @property
    def finished(self) -> bool:
        """See `Exchange`."""
        return self._inner.finished

    @property
    def disconnected(self) -> bool:
        """See `Exchange`."""
        return self._inner.disconnected

    @property
    def sent(self) -> int:
        """See `Exchange`."""
        return self._inner.sent

    @property
    def on_disconnect(self) -> Callable[[], None] | None:
        """See `Exchange`."""
        return self._inner.on_disconnect

    @on_disconnect.setter
    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._inner.on_disconnect = callback

    @property
    def on_writable(self) -> Callable[[bool], None] | None:
        """See `Exchange`."""
        return self._inner.on_writable

    @on_writable.setter
    def on_writable(self, callback: Callable[[bool], None] | None) -> None:
        self._inner.on_writable = callback


def _message(body: bytes) -> str:
    """What an error answer in any of the protocols' shapes says."""
    try:
        said: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "the answer failed"
    fault = said.get("error") if isinstance(said, dict) else None
    message = fault.get("message") if isinstance(fault, dict) else fault
    return message if isinstance(message, str) else "the answer failed"
