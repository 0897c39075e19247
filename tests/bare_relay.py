"""A relay that decides nothing: what the HTTP stack is tested and measured with, alone."""

from __future__ import annotations

from collections.abc import Iterable

from bridge_agent.gateway.forwarding import forwarded_head, with_body, with_stream
from bridge_core.errors import BridgeError
from bridge_core.http1 import ClientExchange, Exchange, Pair, Pool, ResponseHead, ResponseSink, UpstreamError


class Relay(ResponseSink):
    """One attempt to have a request answered by another server.

    Make one, then `forward`. Override the hooks (`response_head`, `response_data`, `response_end`,
    `failed`, `client_gone`) to watch and to change what passes. An attempt that failed before its
    exchange was `started` leaves the exchange open, so that another attempt can follow.

    What it does by itself: hop-by-hop fields are dropped both ways, the body is framed anew (one read
    from the server is one write to the client), a client that reads slowly pauses the server and a
    server that reads slowly pauses an uploading client, and a client that leaves cancels the request
    at the server at once.

    Attributes:
        exchange: The client's exchange.
        upstream: The request at the server; None before `forward`.
        rewrites: Set it to True where `response_data` or `response_end` change the body's length:
            the answer is then chunked instead of carrying the server's Content-Length.
    """

    __slots__ = ("exchange", "upstream")

    rewrites = False

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.upstream: ClientExchange | None = None

    def forward(
        self,
        pool: Pool,
        *,
        without: frozenset[bytes] = frozenset(),
        extra: bytes = b"",
        body: bytes | None = None,
    ) -> None:
        """Sends the request; nothing is sent, and no hook called, once the client has left.

        Args:
            pool: Where to.
            without: Names of the client's fields that stay here, besides the hop-by-hop ones.
            extra: Header lines to add, checked already (`lines`).
            body: Another body than the client's.

        Raises:
            PoolBusy, PoolClosed: nothing was sent, no hook is called.
            BadHeader: the head cannot be written; nothing was sent.
        """
        exchange = self.exchange
        if exchange.disconnected:
            return
        request = exchange.request
        stream = request.stream
        head = forwarded_head(request, pool.host, without)
        if body is None and stream is not None:
            data, chunked = with_stream(head, extra, request.headers)
            upstream = self.upstream = pool.send(data, self, more=True, chunked=chunked)
            stream.attach(upstream.write, upstream.finish, self._on_upload_failed)
        else:
            body = request.body if body is None else body
            self.upstream = pool.send(with_body(head, extra, body), self)
        exchange.on_disconnect = self._on_disconnect
        exchange.on_writable = self._on_client_writable

    def cancel(self) -> None:
        """Gives the attempt up; no hook is called any more, the exchange stays as it is."""
        if self.upstream is not None:
            self.upstream.cancel()

    # -- hooks

    def response_head(self, head: ResponseHead) -> Iterable[Pair] | bytes | None:
        """The fields to answer with, or None to drop the attempt and leave the exchange open.

        Header lines are quicker than pairs: `head.headers.block() + lines([(name, value)])`.
        """
        return head.headers.block()

    def response_data(self, data: bytes) -> bytes:
        """What to pass on for a part of the body; b"" holds it back."""
        return data

    def response_end(self) -> bytes | None:
        """What to add to a whole answer, or None to leave the answer to the client open."""
        return b""

    def failed(self, error: UpstreamError) -> None:
        """The server's answer will not be whole: by default a 502, or a cut where it had begun."""
        self.exchange.fail(502, error.message)

    def client_gone(self) -> None:
        """The client left and the request at the server was cancelled."""

    # -- ResponseSink

    def on_head(self, head: ResponseHead) -> None:
        """See `ResponseSink`."""
        pairs = self.response_head(head)
        if pairs is None:
            self.cancel()
            return
        length = None if self.rewrites else head.length
        self.exchange.start(head.status, pairs, length, cork=head.more, forwarded=True)

    def on_data(self, data: bytes) -> None:
        """See `ResponseSink`."""
        data = self.response_data(data)
        if data:
            self.exchange.write(data)
        else:
            self.exchange.flush()

    def on_end(self) -> None:
        """See `ResponseSink`."""
        last = self.response_end()
        if last is not None:
            self.exchange.finish(last)

    def on_error(self, error: UpstreamError) -> None:
        """See `ResponseSink`."""
        self.failed(error)

    def on_writable(self, writable: bool) -> None:
        """See `ResponseSink`: the server reads slowly, so the upload waits."""
        stream = self.exchange.request.stream
        if stream is not None:
            if writable:
                stream.resume()
            else:
                stream.pause()

    # -- the client's side

    def _on_client_writable(self, writable: bool) -> None:
        if self.upstream is not None:
            if writable:
                self.upstream.resume()
            else:
                self.upstream.pause()

    def _on_disconnect(self) -> None:
        self.cancel()
        self.client_gone()

    def _on_upload_failed(self, failure: BridgeError) -> None:  # the server's side answers the client
        self.cancel()
