"""Whether a stream ended as it must, from any pieces its bytes come in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.gateway.routes import BY_PATH, Framing
from bridge_agent.gateway.watch import StreamVerdict, StreamWatch
from bridge_core.route_rules import match
from tests.fakes.recorded_engine import recording


def verdict(framing: Framing, *chunks: bytes) -> StreamVerdict:
    watch = StreamWatch(framing)
    for chunk in chunks:
        watch.feed(chunk)
    return watch.verdict


def _streams() -> list[Any]:
    found = []
    for file in ("generate", "chat", "openai", "anthropic", "faults", "store"):
        for entry in recording(file):
            kind = (entry.get("headers") or {}).get("Content-Type", "")
            if kind not in ("application/x-ndjson", "text/event-stream"):
                continue
            request = entry["request"]
            route, _ = match(BY_PATH, request["method"], request["path"])
            chunks = [chunk.encode() for chunk in entry["chunks"] if not chunk.startswith("... ")]
            found.append(pytest.param(route.framing, chunks, file, id=f"{file}: {entry['case']}"))
    return found


STREAMS = _streams()


def expected(chunks: list[bytes], file: str) -> StreamVerdict:
    if chunks[-1].startswith(b'{"error"'):
        return StreamVerdict.ENGINE_ERROR
    return StreamVerdict.TRUNCATED if file == "faults" else StreamVerdict.COMPLETE


@pytest.mark.parametrize(("framing", "chunks", "file"), STREAMS)
def test_recorded_streams(framing: Framing, chunks: list[bytes], file: str) -> None:
    assert verdict(framing, *chunks) is expected(chunks, file)
    assert verdict(framing, *chunks[:-1]) is StreamVerdict.TRUNCATED


@settings(max_examples=150)
@given(st.data())
def test_pieces_do_not_matter(data: st.DataObject) -> None:
    framing, chunks, file = data.draw(st.sampled_from([param.values for param in STREAMS]))
    body = b"".join(chunks)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert verdict(framing, *pieces) is expected(chunks, file)


TEXTS = [
    (Framing.NDJSON, b'{"message":{"content":"\\"done\\":true"},"done":false}\n'),
    (Framing.NDJSON, b'{"message":{"tool_calls":[{"function":{"arguments":{"done":true}}}]},"done":false}\n'),
    (Framing.CHAT_SSE, b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n'),
    (Framing.MESSAGES_SSE, b'data: {"type":"content_block_delta","delta":{"text":"message_stop"}}\n\n'),
    (Framing.RESPONSES_SSE, b'data: {"type":"response.output_text.delta","delta":"response.completed"}\n\n'),
    (Framing.PROGRESS, b'{"status":"pulling success"}\n'),
    (Framing.NDJSON, b""),
    (Framing.NDJSON, b"\n\n"),
    (Framing.NDJSON, b'{"done":true'),
    (Framing.NDJSON, b"[" * 5000),
    (Framing.NDJSON, b"\xff\xfe\n"),
]


@pytest.mark.parametrize(("framing", "body"), TEXTS)
def test_what_only_looks_like_an_end_is_none(framing: Framing, body: bytes) -> None:
    assert verdict(framing, body) is StreamVerdict.TRUNCATED


def test_an_end_without_its_line_end_is_one() -> None:
    assert verdict(Framing.NDJSON, b'{"done":true}') is StreamVerdict.COMPLETE
    assert verdict(Framing.CHAT_SSE, b"data: [DONE]") is StreamVerdict.COMPLETE


def test_a_very_long_line_is_bounded() -> None:
    watch = StreamWatch(Framing.NDJSON)
    for _ in range(40):
        watch.feed(b"x" * (1 << 20))
    assert watch.verdict is StreamVerdict.TRUNCATED
    assert len(watch._tail) <= 17 << 20
