"""What the engine reads of bodies that are large, deep, or ask for more than a runner can hold."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.dialects.errors import ApiError
from bridge_engine import bodies, bounds, images, requests
from bridge_engine.options import Options

DEEP = bodies.MOST_DEPTH


def _nested(depth: int, kind: str = "[") -> bytes:
    opening, closing = (b"[", b"]") if kind == "[" else (b'{"a":', b"}")
    return opening * depth + b"1" + closing * depth


@pytest.mark.parametrize("kind", ["[", "{"])
@pytest.mark.parametrize("depth", [DEEP, 900, 5_000, 1_000_000])
def test_a_body_that_is_nested_too_deep_is_refused(kind: str, depth: int) -> None:
    body = b'{"model":"tiny","prompt":"x","stream":false,"format":' + _nested(depth, kind) + b"}"
    with pytest.raises(ApiError, match="exceeded max depth") as refused:
        bodies.read(body, requests.GENERATE)
    assert refused.value.status == 400


def test_a_body_as_deep_as_allowed_is_read() -> None:
    read = bodies.read(b'{"format":' + _nested(DEEP - 1) + b"}", requests.GENERATE)
    assert read["format"]


@pytest.mark.parametrize("text", ["[" * 10_000, '\\"' + "[" * 500, "\\\\", 'a\\\\\\"{' * 300, '"{[' * 99])
def test_brackets_inside_of_strings_do_not_count(text: str) -> None:
    body = json.dumps({"prompt": text, "format": [[["x"] * 200]]}).encode()
    assert bodies.read(body, requests.GENERATE)["prompt"] == text


def test_a_body_of_millions_of_empty_lists_is_refused() -> None:
    body = b'{"context":[' + b"[]," * 600_000 + b"[]]}"
    with pytest.raises(ApiError, match="more than 1048576 values"):
        bodies.read(body, requests.GENERATE)


def test_long_text_full_of_commas_is_read() -> None:
    text = "a, b, [c], {d}, " * 400_000
    assert bodies.read(json.dumps({"prompt": text}).encode(), requests.GENERATE)["prompt"] == text


@pytest.mark.parametrize(
    "body",
    [b'{"keep_alive":' + b"9" * 5000 + b"}", b'{"TOP_LOGPROBS":' + b"9" * 5000 + b"}"],
)
def test_numbers_of_thousands_of_digits_are_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="number") as refused:
        bodies.read(body, requests.GENERATE)
    assert refused.value.status == 400


def _naive(body: bytes) -> tuple[int, int]:
    depth = deepest = values = 0
    inside = escaped = False
    for byte in body.decode("latin-1"):
        if inside:
            if escaped:
                escaped = False
            elif byte == "\\":
                escaped = True
            elif byte == '"':
                inside = False
        elif byte == '"':
            inside = True
        elif byte in "[{":
            depth, values = depth + 1, values + 1
            deepest = max(deepest, depth)
        elif byte in "]}":
            depth -= 1
        elif byte == ",":
            values += 1
    return deepest, values


JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(alphabet='[]{},"\\aé', max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=40,
)


@given(JSON, st.integers(1, 40), st.integers(0, 9), st.integers(0, 40))
def test_the_structure_is_found_as_by_reading_byte_for_byte(
    value: Any, piece: int, most_depth: int, most_values: int
) -> None:
    body = json.dumps(value).encode()
    deepest, values = _naive(body)
    try:
        bodies.check_structure(body, piece, most_depth=most_depth, most_values=most_values)
        assert deepest <= most_depth
        assert values <= most_values
    except ApiError:
        assert deepest > most_depth or values > most_values


@given(st.binary(max_size=200))
def test_no_body_raises_anything_but_a_refusal(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        bodies.check_structure(body, 7)
        bodies.read(body, requests.CHAT)


LONG = st.text(alphabet="Ab9+/=", min_size=0, max_size=60)
LIFTABLE = st.recursive(
    st.one_of(st.none(), st.integers(0, 10**30), LONG, st.text(alphabet='[]{},"\\\n é', max_size=9)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(LONG, inner, max_size=4),
    max_leaves=30,
)


@given(LIFTABLE, st.integers(1, 12))
def test_what_was_lifted_is_put_back(value: Any, step: int) -> None:
    small, lifted = bodies.lift(json.dumps(value).encode(), step)
    assert bodies.put_back(json.loads(small), lifted) == value
    assert all(len(one) >= step for one in lifted.values())


@given(st.text(alphabet='AAAAAA"\\{}[]:,1', max_size=60), st.integers(1, 6))
def test_lifting_makes_json_of_nothing_that_was_none(text: str, step: int) -> None:
    small, lifted = bodies.lift(text.encode(), step)
    try:
        wanted = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
            json.loads(small)
    else:
        assert bodies.put_back(json.loads(small), lifted) == wanted


def test_a_large_image_is_lifted() -> None:
    image = base64.b64encode(bytes(1 << 20)).decode()
    body = json.dumps(
        {"prompt": 'say \\"x', "images": [image, "YQ==", image], "options": {"a": [1]}}
    ).encode()
    small, lifted = bodies.lift(body)
    assert len(small) < 400
    assert list(lifted.values()) == [image, image]
    assert bodies.read(body, requests.GENERATE) == json.loads(body)


# -- images


def _settled(*values: str) -> list[bytes]:
    body: dict[str, Any] = {"images": list(values[:1]), "messages": [{"images": list(values[1:])}]}
    images.settle_images(body)
    return [bytes(one) for one in body["images"] + body["messages"][0]["images"]]


def test_images_become_json_without_their_line_breaks() -> None:
    encoded = base64.encodebytes(bytes(range(256))).decode()
    assert "\n" in encoded
    wanted = json.dumps(encoded.replace("\n", "")).encode()
    assert _settled(encoded, encoded.replace("\n", "\r\n")) == [wanted, wanted]
    assert msgspec.json.encode({"data": [msgspec.Raw(wanted)]}) == b'{"data":[' + wanted + b"]}"


@pytest.mark.parametrize(
    "value",
    [
        "!!!!",
        "abc",
        "ab=c",
        "a===",
        "=",
        "aGVsbG8",
        "_-__",
        "aGVs bG8=",
        "aGVsbG8=aGVs",
        "====",
        "YWJj ",
        "Ä",
        'YW"j',
        "YWJj\\",
    ],
)
def test_what_is_not_base64_is_refused(value: str) -> None:
    with pytest.raises(ApiError, match="illegal base64 data in images"):
        _settled(value)


@given(st.binary(max_size=100))
def test_every_bytes_are_taken_as_base64(data: bytes) -> None:
    encoded = base64.b64encode(data).decode()
    assert _settled(encoded) == [f'"{encoded}"'.encode()]


def test_too_many_images_are_refused() -> None:
    with pytest.raises(ApiError, match="too many images: 300, at most 256"):
        _settled(*["YWJj"] * 300)


def _png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


BOMBS = {
    "png": _png(60_000, 60_000),
    "gif": b"GIF89a" + struct.pack("<HH", 60_000, 60_000),
    "bmp": b"BM" + bytes(16) + struct.pack("<ii", 60_000, -60_000),
    "psd": b"8BPS" + bytes(10) + struct.pack(">II", 30_000, 30_000),
    "pnm": b"P6\n60000 60000\n255\n",
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10" + bytes(14) + b"\xff\xff\xc2\x00\x11\x08" + b"\xea\x60" * 2,
    "webp": b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\xff\xff\0\xff\xff\0",
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_an_image_that_unpacks_to_gigabytes_is_refused(kind: str) -> None:
    with pytest.raises(ApiError, match=r"pixels is too large"):
        _settled(base64.b64encode(BOMBS[kind]).decode())


@pytest.mark.parametrize("kind", BOMBS)
def test_a_header_that_is_cut_off_is_left_to_the_runner(kind: str) -> None:
    for size in range(len(BOMBS[kind]) - 1):
        with contextlib.suppress(ApiError):  # where the size was already there
            _settled(base64.b64encode(BOMBS[kind][:size]).decode())


def test_a_photograph_is_taken() -> None:
    assert images.dimensions(_png(6000, 4000)) == (6000, 4000)
    _settled(base64.b64encode(_png(6000, 4000)).decode())


@given(st.sampled_from(sorted(BOMBS)), st.binary(max_size=60))
def test_no_header_raises_what_is_not_expected(kind: str, rest: bytes) -> None:
    with contextlib.suppress(ApiError):
        images.settle_images({"images": [base64.b64encode(BOMBS[kind][:12] + rest).decode()]})


# -- what a runner is asked for


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_ctx", 1 << 25), ("num_keep", 1 << 31), ("top_k", -(1 << 40)), ("main_gpu", 1 << 31),
        ("seed", 1 << 63), ("temperature", float("inf")), ("top_p", 1e39), ("min_p", float("nan")),
        ("num_gpu", 1 << 62), ("draft_num_predict", 10**30),
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ApiError, match=f'option "{name}" is out of range') as refused:
        bounds.bounded(msgspec.structs.replace(Options(), **{name: value}), 2)
    assert refused.value.status == 400


def test_options_that_would_take_the_machine_are_cut() -> None:
    asked = Options(num_thread=1_000_000, repeat_last_n=(1 << 31) - 1, num_batch=-5, num_ctx=4096)
    found = bounds.bounded(asked, 2)
    assert (found.num_thread, found.repeat_last_n, found.num_batch) == (8, 1 << 20, None)
    assert bounds.bounded(Options(num_thread=3, repeat_last_n=-1), 2) == Options(
        num_thread=3, repeat_last_n=-1
    )


@pytest.mark.parametrize("stop", [("x",) * 257, ("x" * 70_000,)])
def test_too_much_to_stop_at_is_refused(stop: tuple[str, ...]) -> None:
    with pytest.raises(ApiError, match='option "stop" is too long'):
        bounds.bounded(Options(stop=stop), 2)


def test_texts_inputs_and_tokens_are_bounded() -> None:
    bounds.check_text("x" * (4 << 20), 2048)
    bounds.check_text("x" * (5 << 20), 1 << 20)
    with pytest.raises(ApiError, match="shorten it or split it"):
        bounds.check_text("x" * (5 << 20), 2048)
    bounds.check_inputs(["x"] * 4096)
    with pytest.raises(ApiError, match="too many inputs: 4097"):
        bounds.check_inputs(["x"] * 4097)
    bounds.check_tokens([0, 255], 256)
    for token in (-1, 256, 10**12):
        with pytest.raises(ApiError, match="a token that the model does not have"):
            bounds.check_tokens([token], 256)
