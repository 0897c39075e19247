"""How large anything may be that one member of the mesh tells the others.

A record is refused, by the path of its field, when it is decoded; nothing is cut silently. The bounds
are far above what any engine or mesh has, and low enough that one member's lies cost the others little:
a node's whole share of everybody's memory is a few MiB.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

MAX_INSTANCES: Final = 256  # of one node
MAX_MEMBER_BYTES: Final = 4 * 1024 * 1024  # of the records of all instances of one node
MAX_MODELS: Final = 4096  # of one instance
MAX_LOADING: Final = 64  # models that one instance loads, and is to load next
MAX_BACKENDS: Final = 4096  # that one load report counts
MAX_RING_POINTS: Final = 16_000_000  # of the whole mesh
MAX_ENTRIES: Final = 200_000  # of a snapshot
WORK_DIGITS: Final = 6  # of the number of requests at one instance
OVERHEAD_DIGITS: Final = 10  # of microseconds that an agent added
MAX_PATIENCE_S: Final = 3600  # that anybody may ask for before a request is tried again
MAX_PLACES: Final = 64  # where registries, or store guards, of one mesh are reached
MAX_REASON: Final = 1000  # characters that an agent says why

_DIGITS: Final = 20

_Key: TypeAlias = Annotated[str, Meta(max_length=128)]
_Value: TypeAlias = Annotated[str, Meta(max_length=256)]

Word: TypeAlias = Annotated[str, Meta(max_length=64)]  # one of a few that the code knows
Text: TypeAlias = Annotated[str, Meta(max_length=256)]
Name: TypeAlias = Annotated[str, Meta(max_length=512)]
Prompt: TypeAlias = Annotated[str, Meta(max_length=100_000)]
Names: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=MAX_MODELS)]
Words: TypeAlias = Annotated[tuple[Word, ...], Meta(max_length=64)]
Places: TypeAlias = Annotated[tuple[Text, ...], Meta(max_length=MAX_PLACES)]
Labels: TypeAlias = Annotated[dict[_Key, _Value], Meta(max_length=128)]

Count: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 53)]  # what any program reads exactly
Small: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Slots: TypeAlias = Annotated[int, Meta(ge=0, le=65_536)]
Weight: TypeAlias = Annotated[int, Meta(ge=0, le=1000)]  # 100 is an instance's ordinary one
RingPoints: TypeAlias = Annotated[int, Meta(ge=4, le=4096)]
Share: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Factor: TypeAlias = Annotated[float, Meta(ge=0.0, le=1000.0)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e9)]
Moment: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e11)]  # Unix seconds


def number(value: bytes | None, most: int) -> int | None:
    """The whole number that a header of another program holds; None without one, or beyond `most`."""
    if value and len(value) <= _DIGITS and value.isdigit() and (found := int(value)) <= most:
        return found
    return None
