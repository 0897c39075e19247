"""A large body at the gateway: it reaches the engine as it is, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.gateway.peek import Shape, peek
from bridge_agent.routing.affinity import BEGINNING, affinity_key
from bridge_core.large_json import LARGE, Shortened
from bridge_core.snapshot import Backend, Route
from tests.contract.gateway_bed import mesh
from tests.fakes.recorded_engine import RecordedEngine

MODEL = "smollm2:135m"
MiB = 1 << 20
SHAPE = Shape("ChatRequest", frozenset({"model", "stream", "messages"}), ("model",), True)


class CountingEngine(RecordedEngine):
    """Answers what it is asked without looking into it: a fake must not stop the loop either."""

    async def _infer(self, exchange, path, body):  # type: ignore[no-untyped-def]
        exchange.respond(200, [(b"content-type", b"application/json")], b'{"done":true}')


def chat(image: int, model: str = MODEL, question: str = "what is it?") -> bytes:
    """A chat with an image of so many bytes of base64."""
    message = {"role": "user", "content": question, "images": ["QUJD" * (image // 4)]}
    return json.dumps({"model": model, "stream": False, "messages": [message]}).encode()


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_small_requests_are_answered_while_a_large_body_is_taken(tmp_path: Path, entry: str) -> None:
    engines = {"a": RecordedEngine(("other",)), "b": CountingEngine((MODEL,))}
    async with mesh(tmp_path, engines) as bed:
        body = chat(60 * MiB)
        large = asyncio.create_task(bed[entry].ask("POST", "/api/chat", body))
        answered = 0
        while not large.done():
            assert (await bed["a"].ask("GET", "/api/version")).status == 200
            answered += 1
        assert (await large).status == 200
        assert answered >= 20
        asked = [one for one in bed["b"].engine.asked if one.target == b"/api/chat"]
        assert [len(one.body) for one in asked] == [len(body)]
        assert asked[0].body == body


@pytest.mark.parametrize("size", [LARGE, 2 * MiB])
async def test_a_large_body_goes_by_a_route_with_its_images_whole(tmp_path: Path, size: int) -> None:
    engines = {"a": RecordedEngine(("other",)), "b": CountingEngine((MODEL,))}
    async with mesh(tmp_path, engines) as bed:
        bed.publish(route__seeing=Route("seeing", (Backend(MODEL),)))
        for entry in ("a", "b"):
            assert (await bed[entry].ask("POST", "/api/chat", chat(size, "seeing"))).status == 200
            assert json.loads(bed["b"].engine.asked[-1].body) == json.loads(chat(size))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"x" * LARGE, 400),
        (chat(LARGE)[:-1], 400),
        (chat(LARGE).replace(b"{", b'{"Model":"other",', 1), 400),
        (chat(LARGE, "nobody-has-it"), 404),
        (b'{"model":"' + b"A" * LARGE + b'"}', 400),
    ],
    ids=["no JSON", "cut", "ambiguous", "unknown", "a name of nothing else"],
)
async def test_a_large_body_is_refused_as_a_small_one(tmp_path: Path, body: bytes, status: int) -> None:
    async with mesh(tmp_path, {"a": CountingEngine((MODEL,))}) as bed:
        answer = await bed["a"].ask("POST", "/api/chat", body)
        assert answer.status == status
        assert "error" in answer.json()
        assert (await bed["a"].infer()).status == 200


async def test_a_client_that_leaves_while_its_large_body_is_read_is_let_go(tmp_path: Path) -> None:
    async with mesh(tmp_path, {"a": CountingEngine((MODEL,))}) as bed:
        task = asyncio.create_task(bed["a"].ask("POST", "/api/chat", chat(4 * MiB)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert (await bed["a"].infer()).status == 200
        assert bed["a"].gateway.in_flight == 0


def test_what_is_cut_short_keeps_a_conversation_where_it_is() -> None:
    keys = set()
    for question in ("hi", "x" * 70_000, "a line\n" * 50_000, 'é"\\' * 100_000, "é" * 200_000):
        for image in (0, LARGE, 2 * LARGE):
            text = chat(image, question=question)
            short = Shortened(text, 2 * BEGINNING).text
            assert image == 0 or len(short) < len(text)
            for body in (text, short, Shortened(text, 2 * BEGINNING).text):
                fields = peek(body, SHAPE).fields
                keys.add(affinity_key(MODEL, fields, session=None, client=b"c"))
    assert len(keys) == 5
    part = {"type": "image_url", "image_url": {"url": "QUJD" * LARGE}}
    text = json.dumps({"model": "m", "messages": [{"role": "user", "content": [part, "hi"]}]}).encode()
    ours = {
        affinity_key(MODEL, peek(body, SHAPE).fields, session=None, client=b"c")
        for body in (text, Shortened(text, 2 * BEGINNING).text)
    }
    assert len(ours) == 1


words = st.text('ABCabc019+/="\\ ,:{}[]é', max_size=8)


@given(st.lists(st.tuples(words, st.integers(0, 300)), max_size=6), st.integers(0, 64))
def test_what_was_cut_short_is_made_whole(parts: list[tuple[str, int]], keep: int) -> None:
    value = {f"{number}": [word * 3, "QUJD" * (times * 1000)] for number, (word, times) in enumerate(parts)}
    body = json.dumps(value).encode()
    short = Shortened(body, keep)
    assert short.whole(short.text) == body
    assert len(short.text) <= len(body)
    json.loads(short.text)


TEXTS = st.text('ab/\n\t"\\é𝄞 {}[],:0', min_size=1, max_size=6)


def as_text(body: bytes) -> object:
    """What a decoder reads in it; None where it is no JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@given(
    st.lists(st.tuples(TEXTS, st.integers(1, 80_000), st.lists(st.integers(0, 9))), max_size=5),
    st.booleans(),
    st.integers(0, 64),
    st.one_of(st.none(), st.tuples(st.integers(0, 1 << 20), st.binary(max_size=2))),
)
@settings(max_examples=150)
def test_a_body_with_long_texts_reads_the_same_when_it_is_short(
    values: list[tuple[str, int, list[int]]], escaped: bool, keep: int, harm: tuple[int, bytes] | None
) -> None:
    """Harmed by some bytes put into it or taken from it, too: what is no JSON is none when it is short."""
    value = [{"n": numbers, word: word * times} for word, times, numbers in values]
    body = json.dumps(value, ensure_ascii=escaped).encode()
    if harm is not None:
        at, put = harm[0] % len(body), harm[1]
        body = body[:at] + put + body[at + (not put) :]
    short = Shortened(body, keep)
    assert short.whole(short.text) == body
    whole, read = as_text(body), as_text(short.text)
    assert (whole is None) == (read is None)
    if harm is None:
        for one, other in zip(value, read, strict=True):  # type: ignore[call-overload]  # the same shape
            for key, text in one.items():
                beginning = re.sub("-[0-9a-f]{32}-[0-9]+-.*", "", str(other[key]), flags=re.DOTALL)
                assert text == other[key] or str(text).startswith(beginning)


def test_numbers_between_two_strings_are_no_text() -> None:
    body = b'{"a":"x","n":[' + b"1," * LARGE + b'1],"b":"y"}'
    assert Shortened(body, 0).text == body


@pytest.mark.parametrize(
    "text", ["x" * LARGE, "a line of it\n" * LARGE, "é" * LARGE, 'a "word" \n' * 8 + "x" * LARGE]
)
def test_long_texts_are_cut_and_not_only_base64(text: str) -> None:
    body = json.dumps({"model": "m", "prompt": text}, ensure_ascii=False).encode()
    assert len(Shortened(body, 100).text) < 1000


@pytest.mark.parametrize("bad", [b"\xff", b"\x00", b"\\x", b"\\u12", b"\xc3", b"\n"])
def test_what_is_no_text_is_left_to_the_decoder(bad: bytes) -> None:
    body = b'{"model":"m","prompt":"' + b"x" * LARGE + bad + b"x" * LARGE + b'"}'
    assert Shortened(body, 100).text == body


def form(*fields: tuple[str, bytes], file: bytes = b"") -> bytes:
    parts = [
        b'--xx\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in fields
    ]
    head = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return b"".join([*parts[:1], head, file, b"\r\n", *parts[1:], b"--xx--\r\n"])


AUDIO = {"Content-Type": "multipart/form-data; boundary=xx"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form(("language", b"en"), ("model", MODEL.encode()), file=b"\0\r\n-" * (8 * MiB)), 200),
        (form(("model", MODEL.encode()), ("models", b"other"), file=b"x" * MiB), 200),
        (form(("model", MODEL.encode()), ("model", b"other"), file=b"x" * MiB), 400),
        (form(("model", b"\xff"), file=b"x" * MiB), 400),
        (form(("model", MODEL.encode()), file=b"\r\n--" * MiB), 400),
        (form(file=b"x" * MiB), 400),
    ],
    ids=["after a file", "and another field", "twice", "no UTF-8", "parts without end", "none"],
)
async def test_the_model_of_a_form_with_a_large_file_decides(
    tmp_path: Path, body: bytes, status: int
) -> None:
    async with mesh(tmp_path, {"a": CountingEngine((MODEL,))}) as bed:
        large = asyncio.create_task(bed["a"].ask("POST", "/v1/audio/transcriptions", body, AUDIO))
        while not large.done():
            assert (await bed["a"].ask("GET", "/api/version")).status == 200
        assert (await large).status == status
