"""What the HTTP/1.1 sides accept before they refuse, all configurable."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of a server's connections; sizes in bytes, times in seconds.

    Attributes:
        request_line: Longest request target; longer is answered 414.
        head: Longest head, all header lines together; longer is answered 431.
        header_count: Most header lines in a head; more is answered 431.
        body: Largest request body; larger is answered 413.
        bodies: All bodies together that are not whole yet, of all connections; who brings one byte more is
            answered 503. Streamed bodies are exempt.
        head_s: From the first byte of a request (or from accept) to the end of its head, else 408.
        body_idle_s: Longest silence within a request body, else 408.
        body_rate: Bytes a second that a body must average once `body_idle_s` have passed; a slower
            one is a drip and answered 408. 0 switches the check off. Streamed bodies are exempt.
        keep_alive_s: Longest silence between requests; then the connection is closed.
        write_stall_s: How long a client may take none of the bytes that wait for it.
        linger_s: How long a refused connection is drained so that the client can read the answer.
        connections: Most open connections; one more is answered 503 and closed.
        strangers: Most connections of a TLS listener that have shown neither a certificate nor a key, in the
            handshake or after it; one more ends the one that has been there longest.
        strangers_each: The same for those of one address.
        refused_s: How long a client may go on sending a body that was refused before it was read.
    """

    request_line: int = 8 * 1024
    head: int = 64 * 1024
    header_count: int = 128
    body: int = 100 * 1024 * 1024
    bodies: int = 512 * 1024 * 1024
    head_s: float = 10.0
    body_idle_s: float = 60.0
    body_rate: int = 64
    keep_alive_s: float = 75.0
    write_stall_s: float = 120.0
    linger_s: float = 2.0
    connections: int = 16_384
    strangers: int = 1024
    strangers_each: int = 128
    refused_s: float = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of a client pool; sizes in bytes, times in seconds.

    Attributes:
        connections: Most connections, busy and idle together; requests beyond them wait.
        waiting: Most requests that wait; one more is refused with `PoolBusy`.
        idle: Most idle connections kept.
        idle_s: An idle connection older than this is closed. Keep it below the server's keep-alive.
        connect_s: Longest connect, TLS handshake included.
        head: Longest response head.
        header_count: Most header lines in a response head.
        race_s: A reused connection that closes without a byte of answer within this time of the
            request is taken for a keep-alive race, and the request is sent again on a fresh one.
        silence_s: How long the other machine's kernel may give no sign of life while something is
            sent or waited for; then the connection counts as cut. 0 leaves it to this one's kernel,
            which waits a quarter of an hour for a machine that vanished.
    """

    connections: int = 1024
    waiting: int = 4096
    idle: int = 128
    idle_s: float = 60.0
    connect_s: float = 5.0
    head: int = 64 * 1024
    header_count: int = 128
    race_s: float = 1.0
    silence_s: float = 0.0
