"""What programs of one mesh write for one another, and which versions of it this program reads: pure.

Parts of a mesh are renewed one after the other, so each writes what the version before it reads, and reads
what that one writes. A format's number goes up when that is no longer so: what was added, and what an older
program skips, needs none. Frozen data of earlier versions is in tests/unit/vectors/earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

_MOST: Final = 32
_LONGEST: Final = 32
_HIGHEST: Final = 65_535


class Format(NamedTuple):
    """One format.

    Attributes:
        written: The version that this program writes.
        oldest: The oldest that it reads.
        between: Who reads it of whom.
    """

    written: int
    oldest: int
    between: str


HOP: Final = "hop"
FORMATS: Final[Mapping[str, Format]] = {
    # 2: with a proof of who asks (`X-Bridge-Proof`); without one an owner takes nobody's word for a client.
    HOP: Format(2, 2, "agents, in the requests that they forward"),
    "snapshot": Format(1, 1, "agents, of what registries publish"),
    "member": Format(1, 1, "registries, of what agents keep in etcd"),
    "records": Format(1, 1, "registries, of what they keep in etcd"),
}
WRITTEN: Final[Mapping[str, int]] = {name: one.written for name, one in FORMATS.items()}


def spoken(told: Mapping[str, int], *, proves: bool) -> dict[str, int]:
    """What an agent writes, by what it tells, within bounds.

    Args:
        told: In its reports; nothing by agents of before there was such a thing.
        proves: Such an agent is of a version that proves for whom it forwards.
    """
    if not told:
        return {**dict.fromkeys(FORMATS, 1), HOP: 2 if proves else 1}
    kept = {name: number for name, number in told.items() if 0 < len(name) <= _LONGEST and number <= _HIGHEST}
    return dict(sorted(kept.items())[:_MOST])


class Difference(NamedTuple):
    """A format that somebody writes otherwise than this program.

    Attributes:
        name: The format's.
        theirs: The version that they write.
        readable: Whether this program reads that.
        newer: Whether it is of a version after this program's.
    """

    name: str
    theirs: int
    readable: bool
    newer: bool


def differences(theirs: Mapping[str, int], ours: Mapping[str, Format] = FORMATS) -> list[Difference]:
    """How what somebody writes differs from this program's; formats that are not known are newer."""
    found = []
    for name, number in sorted(theirs.items()):
        known = ours.get(name)
        if known is None:
            found.append(Difference(name, number, readable=False, newer=True))
        elif number != known.written:
            newer = number > known.written
            found.append(Difference(name, number, readable=known.oldest <= number and not newer, newer=newer))
    return found
