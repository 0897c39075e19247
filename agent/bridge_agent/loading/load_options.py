"""What of a request's body decides how its model is loaded: another value would load it anew. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

_MOST: Final = 1 << 53


class _Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ollama's runner options; what else a body says does not matter to a load."""

    num_ctx: int | float | None = None
    num_batch: int | float | None = None
    num_gpu: int | float | None = None
    main_gpu: int | float | None = None
    use_mmap: bool | None = None
    num_thread: int | float | None = None
    draft_num_predict: int | float | None = None


class _Body(msgspec.Struct, frozen=True):
    options: _Options | None = None
    shift: bool | None = None


class LoadOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a request for an empty prompt that makes it the same load as that of the request itself."""

    options: _Options | None = None
    shift: bool | None = None

    def encoded(self) -> bytes:
        """As JSON, the same bytes for the same load."""
        return msgspec.json.encode(self, order="sorted")


def load_options(body: bytes) -> LoadOptions | None:
    """Those of a body; None where it cannot be read: its engine will say what is wrong with it."""
    try:
        read = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    options = read.options or _Options()
    numbers = (getattr(options, name) for name in options.__struct_fields__)
    if any(number is not None and not -_MOST <= number <= _MOST for number in numbers):
        return None
    return LoadOptions(None if options == _Options() else options, read.shift)
