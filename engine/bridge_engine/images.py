"""The images of a request: base64 as Go reads it, and no more pixels than a runner can hold.

Pure, but long for large images: call it in a thread. It works in pieces, so that other threads get
their turn.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from bridge_core.dialects.errors import ApiError
from bridge_engine.native import Json

MOST_IMAGES: Final = 256
MOST_PIXELS: Final = 100_000_000
"""Of one image: a few hundred bytes can say that they are gigabytes of it."""

_PIECE: Final = 1 << 20
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HEADER: Final = 256 * 1024  # of an image; its size is said before that much
_JPEG_SIZES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE: Final = frozenset([0x01, *range(0xD0, 0xD9)])


def size_of_images(body: Json) -> int:
    """Characters of all images of a request."""
    return sum(map(len, _all(body)))


def settle_images(body: Json) -> None:
    """Puts in place of each image what the runner gets: a JSON string of base64 without line breaks.

    As ready JSON nobody copies it once more to look for what needs an escape.

    Raises:
        ApiError: 400; one is not base64, there are too many, or one is too large to be unpacked.
    """
    count = len(_all(body))
    if count > MOST_IMAGES:
        raise ApiError(400, f"too many images: {count}, at most {MOST_IMAGES} in one request")
    for one in (body, *(body.get("messages") or ())):
        if one.get("images"):
            one["images"] = [_checked(value) for value in one["images"]]


def _all(body: Json) -> list[str]:
    return [image for one in (body, *(body.get("messages") or ())) for image in one.get("images") or ()]


def _checked(value: str) -> Any:
    try:
        data = value.encode("ascii")
    except UnicodeEncodeError as fault:
        raise _illegal() from fault
    if "\n" in value or "\r" in value:  # Go's decoder reads over them
        data = data.translate(None, b"\r\n")
    bare = data.rstrip(b"=")
    if len(data) % 4 or len(data) - len(bare) > 2 or any(_foreign(bare)):
        raise _illegal()
    _check_size(bare[: _HEADER // 3 * 4])
    return msgspec.Raw(b'"' + data + b'"')


def _foreign(data: bytes) -> Iterable[bytes]:
    return (data[start : start + _PIECE].translate(None, _ALPHABET) for start in range(0, len(data), _PIECE))


def _illegal() -> ApiError:
    return ApiError(400, "illegal base64 data in images")


def _check_size(encoded: bytes) -> None:
    try:
        width, height = dimensions(base64.b64decode(encoded + b"=" * (-len(encoded) % 4)))
    except (ValueError, struct.error, IndexError):
        return  # cut off: the runner says so
    if width * height > MOST_PIXELS:
        raise ApiError(
            400, f"an image of {width} x {height} pixels is too large: at most {MOST_PIXELS} pixels are read"
        )


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height that the header of an image announces; 0 and 0 where it is no known kind.

    Raises:
        struct.error, IndexError: it ends early.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pair(">II", data, 16)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _pair("<HH", data, 6)
    if data.startswith(b"BM"):
        width, height = _pair("<ii", data, 18)
        return abs(width), abs(height)
    if data.startswith(b"8BPS"):
        height, width = _pair(">II", data, 14)
        return width, height
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] in (b"P5", b"P6"):
        first, second = data[2:80].split()[:2]
        return int(first), int(second)
    return 0, 0


def _pair(form: str, data: bytes, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, at)
    return first, second


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        if data[at] != 0xFF:
            at += 1
            continue
        marker = data[at + 1]
        if marker in _JPEG_SIZES:
            height, width = _pair(">HH", data, at + 5)
            return width, height
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        else:
            at += 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = _pair("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
