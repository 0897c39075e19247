"""gRPC messages that are written by hand are those that protobuf writes and reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.gateway.grpc_adapter.streamed_answer import LINE_MOST
from bridge_agent.gateway.grpc_adapter.streaming import Records
from bridge_agent.gateway.grpc_adapter.translate import PLAIN, Call, answer_metadata
from bridge_agent.gateway.grpc_adapter.wire import framed, response
from bridge_core.http1 import ResponseTooLarge
from bridge_wire.v1.inference_pb2 import InferenceResponse

_CALL = Call(b"/api/generate", b"{}", PLAIN, streams=True, zstd=False)
_WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(st.binary(max_size=40_000), st.dictionaries(_WORDS, _WORDS, max_size=4), st.booleans())
def test_a_response_reads_as_what_it_was_made_of(output: bytes, metadata: dict[str, str], done: bool) -> None:
    read = InferenceResponse.FromString(response(output, metadata, done=done))
    assert (read.output_data, dict(read.metadata), read.done) == (output, metadata, done)


@pytest.mark.parametrize("size", [0, 1, 0x7F, 0x80, 0x3FFF, 0x4000, 0x1FFFFF, 0x200000])
def test_lengths_at_the_ends_of_their_octets(size: int) -> None:
    expected = InferenceResponse(output_data=b"x" * size, done=True).SerializeToString()
    assert response(b"x" * size, {}, done=True) == expected


@pytest.mark.parametrize("size", [0x78, 0x79, 0x7A, 0x7B, 0x7C, 0x80])
def test_metadata_at_the_end_of_an_octet(size: int) -> None:
    metadata = {"k": "v" * size}
    assert response(b"", metadata, done=False) == InferenceResponse(metadata=metadata).SerializeToString()


def test_the_bytes_on_the_wire_stay_what_they_are() -> None:
    assert framed(response(b"hi", {"x-bridge-node": "n1"}, done=True)) == bytes.fromhex(
        "000000001b0a02686912130a0d782d6272696467652d6e6f646512026e311801"
    )


def test_what_of_an_answers_lines_is_told() -> None:
    lines = (
        b"content-type: application/json\r\nx-request-id: r-1\r\nx-bridge-node:n1\r\n"
        b"y-x-bridge-node: other\r\nx-bridge-attempts:  2 \r\nx-bridge-overhead-us: 7\r\n"
        b"set: x-request-id: no\r\n"
    )
    told = {
        "x-request-id": "r-1",
        "x-bridge-node": "n1",
        "x-bridge-attempts": "2",
        "x-bridge-overhead-us": "7",
    }
    assert answer_metadata(lines) == told
    assert answer_metadata([(name.encode().title(), value.encode()) for name, value in told.items()]) == told
    assert answer_metadata(b"") == {}


_LINES = [
    b'{"response":"a"}',
    b"",
    b'{"response":"\xc3\xa9","done":false}',
    b"  ",
    b'{"done":true}',
    b'{"x":1}',
]


@given(st.lists(st.integers(1, 80), max_size=20))
def test_records_are_the_same_wherever_the_answer_is_cut(cuts: list[int]) -> None:
    whole, records, frames = b"\n".join(_LINES), Records(_CALL, {"x-bridge-node": "n1"}), b""
    at = 0
    for cut in [*cuts, len(whole)]:
        if whole[at : at + cut]:
            frames += records.frames(whole[at : at + cut])
        at += cut
    frames += records.frames(b"")
    expected = [
        response(_LINES[0], {"x-bridge-node": "n1"}, done=False),
        response(_LINES[2], {}, done=False),
        response(_LINES[4], {}, done=True),
    ]
    assert frames == b"".join(map(framed, expected))
    assert records.done
    assert records.fault is None


def test_a_record_that_says_a_fault_comes_after_those_before_it() -> None:
    records = Records(_CALL, {})
    frames = records.frames(b'{"response":"a"}\n{"error":"the runner died"}\n{"response":"b"}\n')
    assert frames == framed(response(b'{"response":"a"}', {}, done=False))
    assert records.fault is not None
    assert records.fault.message == "the runner died"
    assert not records.frames(b'{"response":"c"}\n')


def test_an_answer_that_ends_in_the_middle_of_a_record_says_so() -> None:
    records = Records(_CALL, {})
    assert not records.frames(b'{"respon')
    assert not records.frames(b"")
    assert records.fault is not None


def test_a_record_without_an_end_is_given_up() -> None:
    records = Records(_CALL, {})
    assert not records.frames(b"x" * 10)
    with pytest.raises(ResponseTooLarge):
        records.frames(b"x" * (LINE_MOST - 9))
