"""What others wrote, decoded where it comes in: every way to fail is one error.

A decoder says that input is bad in many voices: not JSON, not the right shape, not UTF-8, nested past
the interpreter's stack. Whoever catches only some of them is ended by the rest, so everything that
another program, another version or a disk may have written is decoded here. Numbers, lengths and counts
are bounded by the types (`bridge_core.bounds`), nesting by the types too, and what no type names, which
is skipped, by msgspec's guard of the stack.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from bridge_core.errors import BridgeError

T = TypeVar("T")

MAX_RECORD_BYTES: Final = 2 * 1024 * 1024  # etcd takes 1.5 MiB a request


class Undecodable(BridgeError):
    """Not what it has to be; the message says what is wrong with it."""


def decode_json(data: bytes, kind: type[T], *, most: int = MAX_RECORD_BYTES) -> T:
    """The value of `kind` that the JSON in `data` is.

    Raises:
        Undecodable: it is none, for whatever reason, or longer than `most` bytes.
    """
    if len(data) > most:
        raise Undecodable(f"it has {len(data)} bytes, {most} at most are taken")
    try:
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError as fault:
        raise Undecodable("it is not UTF-8") from fault
    except RecursionError as fault:
        raise Undecodable("it is nested too deeply") from fault
    except (ValueError, OverflowError) as fault:  # msgspec.DecodeError is a ValueError
        raise Undecodable(str(fault)) from fault
