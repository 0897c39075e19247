"""One request and the answer to it, as an application sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from bridge_core.http1.headers import Pair
from bridge_core.http1.request import Request


class Exchange(Protocol):
    """A request and its answer; answer with `respond`, or `start`, `write`…, `finish`.

    All methods are to be called on the loop that serves the connection. After the client has gone
    they do nothing, so that whoever writes need not check first.

    Attributes:
        on_disconnect: Called once when the client goes away before the answer is complete.
        on_writable: Called with False when the client's side is over its high-water mark, with True
            when it drained again.
    """

    on_disconnect: Callable[[], None] | None
    on_writable: Callable[[bool], None] | None

    @property
    def request(self) -> Request:
        """What was asked."""

    @property
    def started(self) -> bool:
        """Whether a head was written."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete or was cut."""

    @property
    def disconnected(self) -> bool:
        """Whether the client went away before the answer was complete."""

    @property
    def status(self) -> int:
        """The status answered; 0 before."""

    @property
    def sent(self) -> int:
        """Bytes of body written."""

    @property
    def write_paused(self) -> bool:
        """Whether the client's side is over its high-water mark."""

    def proven(self, identity: str) -> None:
        """The request itself has proven who sends it: its connection is a stranger's no more."""

    def respond(
        self,
        status: int,
        headers: Iterable[Pair] | bytes = (),
        body: bytes = b"",
        *,
        forwarded: bool = False,
    ) -> None:
        """Answers in one go; see `start`.

        Raises:
            BadHeader: a header would break the message; nothing was written.
            RuntimeError: an answer was started already.
        """

    def start(
        self,
        status: int,
        headers: Iterable[Pair] | bytes = (),
        length: int | None = None,
        *,
        cork: bool = False,
        forwarded: bool = False,
    ) -> None:
        """Writes the head.

        Args:
            status: The status code, 200 or above.
            headers: Fields, names in lower case, framing fields left out; or lines that were checked
                already (`Headers.block`, `lines`).
            length: Bytes of body to come; None for a body of unknown length.
            cork: Hold the head back until the first `write` or `finish`, which must follow at once.
            forwarded: The answer is another server's: it has its own Date.

        Raises:
            BadHeader: a header would break the message; nothing was written.
            RuntimeError: an answer was started already.
        """

    def write(self, data: bytes) -> None:
        """Writes a part of the body.

        Raises:
            RuntimeError: no answer was started, or more was written than `length` promised.
        """

    def flush(self) -> None:
        """Writes a head that `start` held back."""

    def finish(self, data: bytes = b"") -> None:
        """Ends the answer, with a last part of the body where there is one.

        An answer shorter than its announced length is cut instead, so that the client can tell.
        """

    def fail(self, status: int, message: str) -> None:
        """Answers an error in the listener's shape, or cuts the answer where it had begun."""

    def abort(self) -> None:
        """Cuts the answer, so that the client sees that it is not whole."""

    async def drain(self) -> None:
        """Waits until the client's side is below its high-water mark.

        Raises:
            Disconnected: the client went away.
        """


App = Callable[[Exchange], None]
"""What answers requests: called with each one's exchange; must not block."""
