"""What one agent tells another with a request it forwards.

Rules:
1. A request that carries `x-bridge-hop` was forwarded once and is never forwarded again.
2. These headers count on the peer listener only, where the caller is a proven node of the mesh;
   every other listener drops what a client says in them.
3. A deadline travels as the time that is left, so that clocks need not agree.
4. An answer with `x-bridge-refused` says that the request was not begun, and may go elsewhere.
5. An answer's `x-bridge-load` is all the work of the instance that the request was sent to.
6. The route that a request came by travels by its name: the owner's queue is as long and as patient
   as that route says, by the owner's own snapshot.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import msgspec
import zstandard

from bridge_agent.routing.admission_rules import PRIORITIES, Priority
from bridge_core.errors import BridgeError, Reaction
from bridge_core.http1.headers import Headers, Pair
from bridge_core.http1.heads import BadHeader, lines
from bridge_core.large_json import LARGE

HOP: Final = b"x-bridge-hop"
PRINCIPAL: Final = b"x-bridge-principal"
REQUEST_ID: Final = b"x-request-id"
DEADLINE: Final = b"x-bridge-deadline-ms"
BODY: Final = b"x-bridge-body"
REFUSED: Final = b"x-bridge-refused"
OVERHEAD: Final = b"x-bridge-overhead-us"
INSTANCE: Final = b"x-bridge-instance"
PRIORITY: Final = b"x-bridge-priority"
ROUTE: Final = b"x-bridge-route"
BACKEND: Final = b"x-bridge-backend"
LOAD: Final = b"x-bridge-load"
LOADING: Final = b"x-bridge-loading"
PROOF: Final = b"x-bridge-proof"
# What agents tell one another; no client's and no engine's word counts for it.
OURS: Final = frozenset(
    {HOP, PRINCIPAL, DEADLINE, BODY, REFUSED, OVERHEAD, INSTANCE, PRIORITY, ROUTE, BACKEND, LOAD, PROOF}
)
# What differs in each request over a link, and in each answer.
VARYING: Final = frozenset({REQUEST_ID, DEADLINE})
VARYING_BACK: Final = frozenset({OVERHEAD, LOAD})

COMPRESS_FROM: Final = 32 * 1024
_BREAKS: Final = re.compile(rb"[\r\n\0]")
_compressor: Final = zstandard.ZstdCompressor(level=1)
_decompressor: Final = zstandard.ZstdDecompressor()


class BadHop(BridgeError):
    """A forwarded request that cannot be understood."""

    reaction = Reaction.REFUSE


class Hop(msgspec.Struct, frozen=True):
    """What came with a forwarded request.

    Attributes:
        entry: The node that the client called.
        principal: Whom that node authenticated.
        request_id: The id that both hops log.
        remaining_s: Time left; None without a deadline.
        compressed: The body is a zstd frame.
        instance: Which of the node's instances is meant; empty: any.
        priority: How urgent it is.
        route: Name of the route that it came by; empty without one.
        proof: What proves that the principal has called there; empty: the link alone.
    """

    entry: str
    principal: str
    request_id: str
    remaining_s: float | None = None
    compressed: bool = False
    instance: str = ""
    priority: Priority = Priority.NORMAL
    route: str = ""
    proof: bytes = b""


def headers_of(hop: Hop) -> list[Pair]:
    """The headers that carry `hop`."""
    pairs = [
        (HOP, hop.entry.encode()),
        (PRINCIPAL, hop.principal.encode("utf-8", "replace")),
        (REQUEST_ID, hop.request_id.encode()),
    ]
    if hop.remaining_s is not None:
        pairs.append((DEADLINE, b"%d" % max(1, int(hop.remaining_s * 1000))))
    if hop.compressed:
        pairs.append((BODY, b"zstd"))
    if hop.instance:
        pairs.append((INSTANCE, hop.instance.encode()))
    if hop.priority is not Priority.NORMAL:
        pairs.append((PRIORITY, hop.priority.name.lower().encode()))
    if hop.route:
        pairs.append((ROUTE, hop.route.encode()))
    if hop.proof:
        pairs.append((PROOF, hop.proof))
    return pairs


def lines_of(hop: Hop) -> bytes:
    """The header lines that carry `hop`.

    Raises:
        BadHeader: something in it would break the message.
    """
    fixed = _fixed_lines(
        hop.entry,
        hop.principal,
        hop.instance,
        hop.priority,
        hop.route,
        proof=hop.proof,
        compressed=hop.compressed,
    )
    request_id = hop.request_id.encode()
    if _BREAKS.search(request_id) is not None:
        raise BadHeader("a request id holds a line break or NUL")
    if hop.remaining_s is None:
        return b"%b%b: %b\r\n" % (fixed, REQUEST_ID, request_id)
    left_ms = max(1, int(hop.remaining_s * 1000))
    return b"%b%b: %b\r\n%b: %d\r\n" % (fixed, REQUEST_ID, request_id, DEADLINE, left_ms)


@lru_cache(maxsize=1024)
def _fixed_lines(
    entry: str,
    principal: str,
    instance: str,
    priority: Priority,
    route: str,
    *,
    proof: bytes,
    compressed: bool,
) -> bytes:
    """What all of a principal's requests to an instance have in common."""
    common = Hop(entry, principal, "", None, compressed, instance, priority, route, proof)
    return lines(pair for pair in headers_of(common) if pair[0] != REQUEST_ID)


def read_hop(headers: Headers, memo: dict[Any, Any]) -> Hop | None:
    """The hop that a request on the peer listener carries; None without one.

    Args:
        headers: The request's.
        memo: The request's, too: what all of a principal's requests have in common is read once.

    Raises:
        BadHop: a header is malformed.
    """
    same: Hop | None = memo.get(Hop)
    if same is None:
        entry = headers.get(HOP)
        if entry is None:
            return None
        same = memo[Hop] = _read_fixed(entry, headers)
    left = headers.get(DEADLINE)
    if left is not None and (not left.isdigit() or len(left) > 12):
        raise BadHop("malformed deadline of a forwarded request")
    return Hop(
        same.entry,
        same.principal,
        headers.get(REQUEST_ID, b"").decode("latin-1"),  # type: ignore[union-attr]  # has a default
        None if left is None else int(left) / 1000,
        same.compressed,
        same.instance,
        same.priority,
        same.route,
        same.proof,
    )


def _read_fixed(entry: bytes, headers: Headers) -> Hop:
    coding = headers.get(BODY)
    if coding not in (None, b"zstd"):
        raise BadHop("unknown coding of a forwarded body")
    return Hop(
        entry.decode("latin-1"),
        headers.get(PRINCIPAL, b"").decode("utf-8", "replace"),  # type: ignore[union-attr]  # has a default
        "",
        None,
        coding is not None,
        headers.get(INSTANCE, b"").decode("latin-1"),  # type: ignore[union-attr]  # has a default
        PRIORITIES.get(headers.get(PRIORITY, b""), Priority.NORMAL),  # type: ignore[arg-type]  # likewise
        headers.get(ROUTE, b"").decode("latin-1"),  # type: ignore[union-attr]  # likewise
        headers.get(PROOF, b""),  # type: ignore[arg-type]  # likewise
    )


def compress(body: bytes) -> bytes | None:
    """The body as a zstd frame when that is worth its while, else None."""
    if len(body) < COMPRESS_FROM:
        return None
    # One that is shared is for the loop's thread alone; large bodies come from others.
    compressor = _compressor if len(body) < LARGE else zstandard.ZstdCompressor(level=1)
    frame = compressor.compress(body)
    return frame if len(frame) < len(body) * 9 // 10 else None


def frame_of(body: bytes) -> bytes:
    """The body as a zstd frame, whatever its size."""
    return _compressor.compress(body)


def unpacked_size(frame: bytes) -> int:
    """How large the body in a zstd frame says that it is; 0 where it does not say."""
    try:
        return max(0, zstandard.frame_content_size(frame))
    except zstandard.ZstdError:
        return 0


def decompress(frame: bytes, limit: int) -> bytes:
    """The body in a zstd frame.

    Raises:
        BadHop: it is no whole frame, or the body is larger than `limit` bytes.
    """
    try:
        size = zstandard.frame_content_size(frame)
        if size > limit:
            raise BadHop(f"a compressed body is larger than the {limit} bytes that this node accepts")
        # A frame that does not say its size, or lies about it, fails at the bound; a cut one, too.
        shared = max(size, len(frame)) < LARGE
        decompressor = _decompressor if shared else zstandard.ZstdDecompressor()
        return decompressor.decompress(frame, max_output_size=limit)
    except zstandard.ZstdError as fault:
        raise BadHop(f"a compressed body does not decompress within {limit} bytes: {fault}") from fault
