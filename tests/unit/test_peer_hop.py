"""What agents tell one another with a forwarded request, as bytes."""

from __future__ import annotations

import msgspec
import pytest
import zstandard

from bridge_agent.peers.hop import (
    COMPRESS_FROM,
    BadHop,
    Hop,
    compress,
    decompress,
    headers_of,
    lines_of,
    read_hop,
)
from bridge_agent.routing.admission_rules import Priority
from bridge_core.addresses import split_address
from bridge_core.http1 import BadHeader, Headers

HOPS = [
    Hop("node1", "local", "id-1"),
    Hop("node1", "spiffe://m/client/ann", "id-2", remaining_s=1.5),
    Hop("n", "Ünïcode", "id-3", compressed=True),
    Hop("n", "p", "id-4", instance="n/1", priority=Priority.HIGH, route="team/chat:v2"),
]


@pytest.mark.parametrize("hop", HOPS)
def test_a_hop_reads_as_it_was_written(hop: Hop) -> None:
    memo: dict[object, object] = {}
    assert read_hop(Headers(headers_of(hop)), memo) == hop
    again = msgspec.structs.replace(hop, request_id="another", remaining_s=7.0)
    assert read_hop(Headers(headers_of(again)), memo) == again


@pytest.mark.parametrize("hop", HOPS)
def test_its_lines_say_what_its_pairs_say(hop: Hop) -> None:
    for _ in range(2):  # the second from what is kept of the first
        pairs = [tuple(line.split(b": ", 1)) for line in lines_of(hop).split(b"\r\n") if line]
        assert sorted(pairs) == sorted(headers_of(hop))


@pytest.mark.parametrize("ending", ["\r\nx-bridge-principal: admin", "\r", "\n", "\0"])
def test_a_hop_that_would_break_the_message_is_not_written(ending: str) -> None:
    for hop in (Hop("n", "p" + ending, "id"), Hop("n", "p", "id" + ending), Hop("n" + ending, "p", "id")):
        with pytest.raises(BadHeader):
            lines_of(hop)


def test_the_wire_form_is_frozen() -> None:
    assert headers_of(Hop("node1", "local", "id", remaining_s=0.25, compressed=True)) == [
        (b"x-bridge-hop", b"node1"),
        (b"x-bridge-principal", b"local"),
        (b"x-request-id", b"id"),
        (b"x-bridge-deadline-ms", b"250"),
        (b"x-bridge-body", b"zstd"),
    ]


def test_a_request_that_was_not_forwarded_has_no_hop() -> None:
    assert read_hop(Headers([(b"host", b"x")]), {}) is None


@pytest.mark.parametrize(
    "pair",
    [
        (b"x-bridge-deadline-ms", b"-1"),
        (b"x-bridge-deadline-ms", b"soon"),
        (b"x-bridge-deadline-ms", b"9" * 13),
        (b"x-bridge-body", b"gzip"),
    ],
)
def test_a_malformed_hop_is_refused(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(BadHop):
        read_hop(Headers([(b"x-bridge-hop", b"a"), pair]), {})


def test_time_left_is_never_written_as_none_left() -> None:
    assert (b"x-bridge-deadline-ms", b"1") in headers_of(Hop("a", "p", "i", remaining_s=0.0001))


def test_bodies_are_compressed_where_it_shrinks_them() -> None:
    text = b"word " * COMPRESS_FROM
    frame = compress(text)
    assert frame is not None
    assert decompress(frame, len(text)) == text
    assert compress(b"short") is None
    noise = bytes((n * n * 31 + n // 7) % 251 ^ (n * 7919 >> 5) & 0xFF for n in range(COMPRESS_FROM))
    packed = compress(noise)
    assert packed is None or len(packed) < len(noise)


def test_a_frame_larger_than_allowed_is_refused_whatever_it_claims() -> None:
    bomb = zstandard.ZstdCompressor().compress(b"\0" * 10_000_000)
    with pytest.raises(BadHop, match="larger"):
        decompress(bomb, 1_000_000)
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 10_000_000)
    with pytest.raises(BadHop, match="within 1000000 bytes"):
        decompress(hidden, 1_000_000)
    small = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 10_000)
    assert decompress(small, 1_000_000) == b"\0" * 10_000


@pytest.mark.parametrize("frame", [b"", b"not zstd", zstandard.compress(b"x" * 9000)[:-4]])
def test_what_is_no_whole_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(BadHop):
        decompress(frame, 1000_000)


@pytest.mark.parametrize(
    ("address", "expected"), [("h:1", ("h", 1)), ("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:9", ("::1", 9))]
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected
