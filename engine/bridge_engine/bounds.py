"""How much a request may ask of a runner: numbers, stop sequences, texts. Pure.

A runner takes what it is given: a window of two thousand million tokens for the repeat penalty is as
many zeros in its memory, and a thread is started for each that is asked for.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from bridge_core.dialects.errors import ApiError
from bridge_engine.options import Options

MOST_INPUTS: Final = 4096
_INT32: Final = (1 << 31) - 1
_INT64: Final = (1 << 63) - 1
_FLOAT32: Final = 3.4028234663852886e38
_MOST_CONTEXT: Final = 1 << 24
_MOST_STOPS: Final = 256
_MOST_STOP_CHARACTERS: Final = 64 * 1024  # of all together
_MOST_REPEAT_WINDOW: Final = 1 << 20
_THREADS_PER_CORE: Final = 4
_LEAST_TEXT: Final = 4 << 20
_BYTES_PER_TOKEN: Final = 16  # far more than any text has


def bounded(options: Options, cores: int) -> Options:
    """Options as a runner can take them.

    Args:
        options: What request and model file ask for.
        cores: Of this machine: more threads than a few for each only wait for one another.

    Raises:
        ApiError: 400; a number is out of range, or there are too many stop sequences.
    """
    for name in Options.__struct_fields__:
        value = getattr(options, name)
        if isinstance(value, int) and abs(value) > (_INT64 if name == "seed" else _INT32):
            raise _out_of_range(name)
        if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= _FLOAT32):
            raise _out_of_range(name)
    if options.num_ctx is not None and options.num_ctx > _MOST_CONTEXT:
        raise _out_of_range("num_ctx")
    if len(options.stop) > _MOST_STOPS or sum(map(len, options.stop)) > _MOST_STOP_CHARACTERS:
        raise ApiError(400, f'option "stop" is too long: at most {_MOST_STOPS} sequences, 64 KiB of text')
    return msgspec.structs.replace(
        options,
        num_batch=options.num_batch if options.num_batch is None or options.num_batch > 0 else None,
        num_thread=min(max(options.num_thread, 0), _THREADS_PER_CORE * cores),
        repeat_last_n=min(options.repeat_last_n, _MOST_REPEAT_WINDOW),
    )


def _out_of_range(name: str) -> ApiError:
    return ApiError(400, f'option "{name}" is out of range')


def check_text(text: str, num_ctx: int) -> None:
    """Refuses a text that is too long to be worth the time of tokenising it.

    Raises:
        ApiError: 400.
    """
    most = max(_LEAST_TEXT, _BYTES_PER_TOKEN * num_ctx)
    if len(text) > most:
        raise ApiError(
            400,
            f"the text is too long: {len(text)} characters, where a context of {num_ctx} tokens takes at "
            f"most {most}; shorten it or split it",
        )


def check_inputs(texts: list[str]) -> None:
    """Refuses more texts than one request may have embedded.

    Raises:
        ApiError: 400.
    """
    if len(texts) > MOST_INPUTS:
        raise ApiError(400, f"too many inputs: {len(texts)}, at most {MOST_INPUTS} in one request")


def check_tokens(tokens: list[int], vocabulary: int) -> None:
    """Refuses tokens that the model does not have: a runner may end over one.

    Raises:
        ApiError: 400.
    """
    if any(not 0 <= token < vocabulary for token in tokens):
        raise ApiError(400, "context has a token that the model does not have")
