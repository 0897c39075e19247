"""Reading a request's body: bounded in depth, and off the event loop where it is large."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from bridge_core import dialects
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import MOST_DEPTH, Struct, decode
from bridge_core.http1 import Request
from bridge_core.large_json import LARGE, PIECE, STEP, plain_strings

MOST_VALUES: Final = 1 << 20
"""Lists, objects and their members in a body: each takes fifty times the memory of its two bytes."""

OUT_OF_RANGE: Final = "a number in the request is out of range"

_MOST_UNCOMPRESSED: Final = 20 << 20
_QUOTE, _BACKSLASH, _OPENS, _CLOSES, _COMMA = range(1, 6)
_KINDS: Final = np.zeros(256, dtype=np.int8)
for _bytes, _kind in (
    (b'"', _QUOTE),
    (b"\\", _BACKSLASH),
    (b"[{", _OPENS),
    (b"]}", _CLOSES),
    (b",", _COMMA),
):
    _KINDS[list(_bytes)] = _kind


def read(body: bytes, shape: Struct) -> dict[str, Any]:
    """A body of the native API.

    Raises:
        ApiError: 400; it is nested too deep, is not JSON, or not what `shape` says.
    """
    check_depth(body)
    with _refusals():
        if len(body) < LARGE:
            return decode(body, shape)
        small, lifted = lift(body)
        found: dict[str, Any] = put_back(decode(small, shape), lifted)
        return found


def lift(body: bytes, step: int = STEP) -> tuple[bytes, dict[str, str]]:
    """Takes long strings without escapes out of a body: a decoder lets no other thread run meanwhile.

    A body that is not JSON is none without them either.

    Args:
        body: Any bytes.
        step: Strings of twice as many bytes are found, shorter ones perhaps.

    Returns:
        The body with words in their places that nobody can foresee, and the strings by these.
    """
    kept: list[bytes] = []
    lifted: dict[str, str] = {}
    word = f"lifted-{secrets.token_hex(16)}-"
    done = 0
    for begin, end in plain_strings(body, step):
        name = f"{word}{len(lifted)}"
        lifted[name] = str(memoryview(body)[begin:end], "utf-8")
        kept += [body[done:begin], name.encode()]
        done = end
    if not lifted:
        return body, lifted
    return b"".join([*kept, body[done:]]), lifted


def put_back(value: Any, lifted: dict[str, str]) -> Any:
    """A decoded value with the strings in it that `lift` took out."""
    if not lifted:
        return value
    if isinstance(value, str):
        return lifted.get(value, value)
    if isinstance(value, list):
        return [put_back(item, lifted) for item in value]
    if isinstance(value, dict):
        return {lifted.get(key, key): put_back(item, lifted) for key, item in value.items()}
    return value


def translated(request: Request, stamp: dialects.Stamp) -> dialects.Translation:
    """A request to one of the compatible APIs.

    Raises:
        ApiError: 400 or 413; as `read`, or it cannot be translated.
    """
    body = _uncompressed(request)
    check_depth(body)
    with _refusals():
        return dialects.translate(request.path, body, stamp)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except RecursionError as fault:
        raise _too_deep() from fault
    except (ValueError, OverflowError) as fault:  # a number of thousands of digits
        raise ApiError(400, OUT_OF_RANGE) from fault


def check_depth(body: bytes) -> None:
    """Refuses what is nested deeper than MOST_DEPTH or has more than MOST_VALUES, without decoding it.

    Raises:
        ApiError: 400.
    """
    opens = commas = 0
    # In pieces, here and below: between them other threads get their turn.
    for start in range(0, len(body), PIECE):
        end = start + PIECE
        opens += body.count(b"[", start, end) + body.count(b"{", start, end)
        commas += body.count(b",", start, end)
    if opens > MOST_DEPTH or opens + commas > MOST_VALUES:
        check_structure(body)


def check_structure(
    body: bytes, piece_size: int = PIECE, *, most_depth: int = MOST_DEPTH, most_values: int = MOST_VALUES
) -> None:
    """The same by what stands outside of strings alone.

    Raises:
        ApiError: 400.
    """
    depth = values = backslashes = quotes = 0
    for start in range(0, len(body), piece_size):
        piece = np.frombuffer(body, np.uint8, min(piece_size, len(body) - start), start)
        kinds = _KINDS[piece]
        at = np.flatnonzero(kinds)
        kind = kinds[at]
        preceding, backslashes = _backslashes_before(at, kind, len(piece), backslashes)
        if not at.size:
            continue
        counted = np.cumsum((kind == _QUOTE) & (preceding % 2 == 0)) + quotes
        outside = counted % 2 == 0
        opens = outside & (kind == _OPENS)
        levels = np.cumsum(opens.astype(np.int64) - (outside & (kind == _CLOSES))) + depth
        values += int(np.count_nonzero(opens | (outside & (kind == _COMMA))))
        if int(levels.max()) > most_depth:
            raise _too_deep()
        if values > most_values:
            raise ApiError(400, f"the request body has more than {most_values} values")
        depth, quotes = int(levels[-1]), int(counted[-1]) % 2


def _backslashes_before(
    at: npt.NDArray[np.intp], kind: npt.NDArray[np.int8], size: int, before: int
) -> tuple[npt.NDArray[np.intp], int]:
    """How many backslashes stand right before each byte that matters: an odd number escapes it.

    Args:
        at: Where those bytes are in a piece of a body.
        kind: Which they are.
        size: Of the piece.
        before: Backslashes right before the piece.

    Returns:
        The numbers, and how many backslashes the piece ends with.
    """
    backslash = kind == _BACKSLASH
    if not backslash.any():
        preceding = np.zeros(len(at), dtype=np.intp)
        preceding[:1] = before * (at[:1] == 0)
        return preceding, 0
    number = np.arange(len(at))
    follows = np.empty(len(at), dtype=bool)  # right after a backslash
    follows[0] = before > 0 and at[0] == 0
    follows[1:] = backslash[:-1] & (np.diff(at) == 1)
    begin = np.maximum.accumulate(np.where(backslash & follows, -before, number))
    run = number - begin + 1
    preceding = np.where(follows, np.concatenate(([before], run[:-1])), 0)
    at_end = backslash[-1] and at[-1] == size - 1
    return preceding, int(run[-1]) if at_end else 0


def _too_deep() -> ApiError:
    return ApiError(400, f"the request body is nested deeper than {MOST_DEPTH} levels: exceeded max depth")


def _uncompressed(request: Request) -> bytes:
    body = request.body
    if (request.headers.get(b"content-encoding") or b"").lower() == b"zstd":
        if request.path != "/v1/responses":
            raise ApiError(400, "zstd request bodies are accepted on /v1/responses only")
        try:
            with zstandard.ZstdDecompressor().stream_reader(body) as reader:
                body = reader.read(_MOST_UNCOMPRESSED + 1)
        except zstandard.ZstdError as fault:
            raise ApiError(400, "the body is not zstd") from fault
        if len(body) > _MOST_UNCOMPRESSED:
            raise ApiError(413, "the uncompressed body is too large")
    return bytes(body)
