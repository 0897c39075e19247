"""Server-sent events: every open page is told what changed, and none of them slows anybody down.

Rules:
1. The id of an event is "<life>-<picture>-<event>": a page that comes back says the last one that it had, and
   is told what it missed; where that is not known any more, or was another life's, it gets all of it.
2. A reader that takes nothing is written nothing: what it missed it gets when it reads again, or, where
   that was too much, a whole picture. So one page costs a connection and a number, whatever it does.
3. A page hears something every `PING_S`: where it does not, it knows that nobody is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bridge_core.http1 import Exchange
from bridge_registry.console.feed import Feed

PING_S: Final = 5.0
MOST: Final = 64
_HEAD: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class _Stream:
    """One page: the picture and the event that it was last told of, and when."""

    __slots__ = ("event", "exchange", "number", "told_at")

    def __init__(self, exchange: Exchange, number: int, event: int) -> None:
        self.exchange = exchange
        self.number = number
        self.event = event
        self.told_at = float("-inf")


class Streams:
    """See the module. The feed's task calls `tell` after every look.

    Args:
        feed: What is told.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._open: dict[Exchange, _Stream] = {}
        self._life = secrets.token_hex(4)

    @property
    def open(self) -> int:
        """How many pages listen."""
        return len(self._open)

    def app(self, exchange: Exchange) -> None:
        """Opens a stream."""
        if len(self._open) >= MOST:
            exchange.respond(503, [(b"retry-after", b"5")], b"too many pages are open\n")
            return
        stream = _Stream(exchange, *self._resumed(exchange))
        exchange.on_disconnect = lambda: self._closed(exchange)
        exchange.start(200, _HEAD)
        exchange.write(b"retry: 2000\n\n")
        self._open[exchange] = stream
        self._tell(stream, 0.0)

    def tell(self, now: float) -> None:
        """Tells every page what it does not know yet, at monotonic `now`."""
        for stream in list(self._open.values()):
            self._tell(stream, now)

    def close(self) -> None:
        """Ends them all; pages ask again."""
        for exchange in list(self._open):
            self._closed(exchange)
            exchange.finish()

    def _closed(self, exchange: Exchange) -> None:
        self._open.pop(exchange, None)

    def _resumed(self, exchange: Exchange) -> tuple[int, int]:
        """What the page had: picture and event; -1 and 0 where that is not known."""
        said = (exchange.request.headers.get(b"last-event-id") or b"").decode("latin-1")
        life, _, rest = said.partition("-")
        number, _, event = rest.partition("-")
        if life != self._life or not (number.isdecimal() and event.isdecimal()) or len(rest) > 40:
            return -1, 0
        return int(number), int(event)

    def _tell(self, stream: _Stream, now: float) -> None:
        exchange, feed = stream.exchange, self._feed
        if exchange.write_paused:
            return
        events = feed.events_after(stream.event)
        if stream.number == feed.number and not events:
            if now - stream.told_at >= PING_S:
                exchange.write(b"event: ping\ndata: {}\n\n")
                stream.told_at = now
            return
        changed = feed.since(stream.number) if stream.number >= 0 else None
        if events:
            stream.event = events[-1].id
        stream.number, stream.told_at = feed.number, now
        id_ = f"{self._life}-{stream.number}-{stream.event}"
        if changed is None:
            exchange.write(_event("whole", id_, feed.parts, (), events))
        else:
            parts = {key: feed.parts[key] for key in changed if key in feed.parts}
            exchange.write(_event("change", id_, parts, changed - parts.keys(), events))


def _event(
    kind: str, id_: str, parts: Mapping[str, bytes], removed: Iterable[str], events: Iterable[object]
) -> bytes:
    """One event. JSON has no raw line ends, so it is one line of data."""
    data = msgspec.json.encode(
        {
            "parts": {key: msgspec.Raw(value) for key, value in parts.items()},
            "removed": sorted(removed),
            "events": list(events),
        }
    )
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (id_.encode(), kind.encode(), data)
