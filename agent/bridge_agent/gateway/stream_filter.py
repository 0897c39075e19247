"""What happens to the bytes of an answer on their way to the client.

Rules:
1. A stream passes in whole lines: a half one is held until its end comes, and were it the last, it never
   reaches the client.
2. The name that a route put into the request is given back as the client asked for it.
3. The terminal record is watched for: a stream that ends without it is a failure, whatever its status says.
4. In a stream that may be continued the engine's own error is held back, and with it what follows.
5. Nothing is held without bound: a line longer than LINE_MOST fails the stream, of a held error the first
   ERROR_MOST bytes are kept, and of an answer that is no stream only what may be half a name.
"""

from __future__ import annotations

from typing import Final

from bridge_agent.gateway.routes import Framing
from bridge_agent.gateway.watch import StreamVerdict, StreamWatch, error_at, verdict_of
from bridge_agent.quotas.answer_rules import AnswerTokens
from bridge_agent.routing.resume import Tracker
from bridge_core.errors import BridgeError

LINE_MOST: Final = 16 << 20
"""Bytes of a stream's line; a final record holds the whole context of a generate."""
ERROR_MOST: Final = 1 << 20
"""Bytes kept of an engine's own error and what follows it."""
# A key, or a value that is nothing else: inside a text its quotes are escaped.
_ERROR: Final = b'"error"'


class EndlessLine(BridgeError):
    """A line of the stream is longer than any record is."""


class Renaming:
    """Puts the name that the client asked for in place of the engine's, wherever the reads end.

    Args:
        engines: The engine's, as its answers spell it.
        clients: The client's, spelled alike.
    """

    __slots__ = ("_clients", "_engines", "_held")

    def __init__(self, engines: bytes, clients: bytes) -> None:
        self._engines = engines
        self._clients = clients
        self._held = b""

    def whole(self, data: bytes) -> bytes:
        """Renames in bytes that no name goes beyond."""
        return data.replace(self._engines, self._clients)

    def take(self, data: bytes) -> bytes:
        """Renames in the next bytes; what may be half a name is held."""
        *named, last = (self._held + data).split(self._engines)
        cut = max(0, len(last) - len(self._engines) + 1)
        self._held = last[cut:]
        named.append(last[:cut])
        return self._clients.join(named)

    def rest(self) -> bytes:
        """What was held, once no more comes."""
        held, self._held = self._held, b""
        return held


class StreamFilter:
    """One stream on its way to the client, from the first engine that sends it to the last.

    Attributes:
        answer: What is told of its records, where somebody counts them; else None.
        framing: How its records are told apart.
        told_at: When it was last told that it goes on.
        tracker: What the client has of it, where it may be continued; else None.

    Args:
        framing: See there.
        renaming: The names to exchange, where a route changed them.
        tracker: See there.
    """

    __slots__ = ("_error", "_renaming", "_torn", "_watch", "answer", "framing", "told_at", "tracker")

    def __init__(self, framing: Framing, renaming: Renaming | None, tracker: Tracker | None) -> None:
        self.framing = framing
        self.answer: AnswerTokens | None = None
        self.told_at = 0.0
        self.tracker = tracker
        self._renaming = renaming
        self._watch = StreamWatch(framing)
        self._torn = bytearray()
        self._error = b""

    def take(self, data: bytes) -> bytes:
        """What goes to the client of the next bytes.

        Raises:
            EndlessLine: nothing of the line goes to the client.
        """
        if self._torn or data[-1:] != b"\n":
            data = self._whole_lines(data)
        if not data:
            return data
        self._watch.feed(data)
        if self.answer is not None:
            self.answer.records(data)
        if self._renaming is not None:
            data = self._renaming.whole(data)
        tracker = self.tracker
        if tracker is not None:
            if self._error or _ERROR in data:
                data = self._before_error(data)
            tracker.feed(data)
        return data

    def carry(self, data: bytes) -> None:
        """Whole records of the rest go to the client, as they are."""
        self._watch.feed(data)
        if self.answer is not None:
            self.answer.records(data)

    def renamed(self, data: bytes) -> bytes:
        """Whole records with the name that the client asked for."""
        return data if self._renaming is None else self._renaming.whole(data)

    def ended(self) -> StreamVerdict:
        """How it ended, should nothing more come."""
        torn = bytes(self._torn)
        if not torn.strip():
            return self._watch.verdict
        verdict = verdict_of(self.framing, torn)
        if verdict is not StreamVerdict.TRUNCATED:
            self._watch.feed(torn)  # a last record need not end its line
            if self.answer is not None:
                self.answer.records(torn)
        return verdict

    def rest(self) -> bytes:
        """What was held of a stream that ended: the engine's own error, and a last line without its end."""
        torn = bytes(self._torn)
        self.drop_torn()
        return self._error + self.renamed(torn)

    def drop_torn(self) -> None:
        """The half line will not be whole: what comes next begins one."""
        self._torn.clear()

    @property
    def told_error(self) -> bool:
        """The engine told of its failure, and the client does not know it yet."""
        return bool(self._error)

    @property
    def tokens(self) -> int:
        """Tokens generated, where the last record says."""
        return self._watch.tokens

    @property
    def next_sequence(self) -> int:
        """The number of the next event in a framing that numbers them."""
        return self._watch.next_sequence

    @property
    def held(self) -> int:
        """Bytes that are held back."""
        return len(self._torn) + len(self._error)

    def _whole_lines(self, data: bytes) -> bytes:
        first, end = data.find(b"\n") + 1, data.rfind(b"\n") + 1
        if len(self._torn) + (first or len(data)) > LINE_MOST or len(data) - end > LINE_MOST:
            self._torn.clear()
            raise EndlessLine(f"a line of the answer is longer than {LINE_MOST >> 20} MiB")
        if not end:
            self._torn += data
            return b""
        whole = bytes(self._torn + data[:end]) if self._torn else data[:end]
        self._torn.clear()
        self._torn += data[end:]
        return whole

    def _before_error(self, data: bytes) -> bytes:
        """Holds back the engine's own error: the stream may be continued elsewhere."""
        start = 0 if self._error else error_at(self.framing, data)
        if start < 0:
            return data
        if len(self._error) < ERROR_MOST:
            self._error += data[start:]
        return data[:start]
