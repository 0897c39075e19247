"""What an engine is asked for: as the client wrote it, and as its backend gets it."""

from __future__ import annotations

import msgspec

from bridge_agent.gateway.peek import Peek, with_model
from bridge_agent.gateway.stream_filter import Renaming
from bridge_agent.peers.hop import compress, decompress, frame_of
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.resume import renders_only
from bridge_core.errors import BridgeError
from bridge_core.large_json import LARGE, Shortened
from bridge_core.names import canonical


class AskedBody:
    """A request's body, and what was read in it.

    Attributes:
        model: Canonical name of the model that the client asked for.
        body: As it goes to the engine.
        streams: The client wants a stream.
        packed: The body is a zstd frame.
        slotless: It is answered without a slot of the engine.
        renaming: The names to exchange in the answer, where a route changed them.
        shortened: What was read in the place of a large body.
        frame: A large body as it travels to a peer, where it was compressed.

    Args:
        model: See there.
        body: As the client sent it.
        streams: See there.
        packed: See there.
    """

    __slots__ = (
        "_kept",
        "body",
        "frame",
        "model",
        "packed",
        "renaming",
        "shortened",
        "slotless",
        "streams",
    )

    def __init__(self, model: str, body: bytes, streams: bool = True, packed: bool = False) -> None:
        self.model = model
        self.body = body
        self.streams = streams
        self.slotless = False
        self.renaming: Renaming | None = None
        self.packed = packed
        self.shortened: Shortened | None = None
        self.frame: bytes | None = None
        self._kept: tuple[Peek, bytes] | None = None

    def keep(self, peeked: Peek) -> None:
        """Keeps it as the client wrote it: there is another backend to turn to."""
        self._kept = peeked, self.body

    def turn(self, decision: Decision) -> None:
        """Makes it anew for the backend that makes good what the first one failed."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        peeked, self.body = kept
        self.renaming = self.frame = None
        if decision.rewritten is not None:
            self.rewrite(peeked, decision.rewritten)

    def rewrite(self, peeked: Peek, model: str) -> None:
        """Asks the engine for the backend's model; the client gets back the name that it asked for."""
        if canonical(model) == self.model:
            return
        body = with_model(peeked.fields, "model", model)
        if self.shortened is not None:
            body = self.shortened.whole(body)
        self.frame = None
        self.body = frame_of(body) if self.packed else body
        encode = msgspec.json.encode
        self.renaming = Renaming(b'"model":' + encode(model), b'"model":' + encode(peeked.model))

    def for_peer(self) -> bytes | None:
        """As a zstd frame where that is worth its while; a large one only where it was made in a thread."""
        return compress(self.body) if len(self.body) < LARGE else self.frame

    def readable(self, most: int) -> bytes:
        """As the engine reads it.

        Raises:
            BridgeError: it cannot be decompressed into so many bytes.
        """
        return decompress(self.body, most) if self.packed else self.body

    def renders_only(self, most: int) -> bool:
        """Whether it has a prompt rendered, and nothing generated."""
        try:
            return renders_only(self.readable(most))
        except BridgeError:
            return False
