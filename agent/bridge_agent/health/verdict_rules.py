"""When something that was seen becomes something that is said, and when it is no longer. Pure.

One look proves nothing: a figure may be over its mark for a second and under it in the next. So of each
thing, by its aspect and code, the last looks are kept:

1. It is said at a level once `RAISE` of the last `OF` looks were that bad or worse; what is `sudden` (a GPU
   that is gone) at the first.
2. It is said to be better only after `CLEAR` looks in a row were better, at the worst level of those. So
   whatever swings around a mark is said once and stays.
3. The sentence is that of the look that changed the level, so that what is said does not change by the
   second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from bridge_core.verdicts import LEVELS, Aspect, Level, Reason, ordered, worst

RAISE: Final = 5
OF: Final = 9
CLEAR: Final = 20

Key: TypeAlias = tuple[Aspect, str]

_BADNESS: Final = {level: place for place, level in enumerate(LEVELS)}


class Finding(msgspec.Struct, frozen=True):
    """What one look found; what is not found is well."""

    aspect: Aspect
    code: str
    level: Level
    text: str
    sudden: bool = False


class Track(msgspec.Struct, frozen=True):
    """What is known of one thing: the levels of the last looks, newest last, and what is said."""

    looks: tuple[Level, ...] = ()
    level: Level = "ok"
    text: str = ""
    since: float = 0.0


def look(tracks: Mapping[Key, Track], findings: Iterable[Finding], now: float) -> dict[Key, Track]:
    """The tracks after one look more, at Unix time `now`; what is long well is dropped."""
    found: dict[Key, Finding] = {}
    for one in findings:
        key = (one.aspect, one.code)
        if key not in found or _BADNESS[one.level] > _BADNESS[found[key].level]:
            found[key] = one
    after = {}
    for key in tracks.keys() | found.keys():
        track = _step(tracks.get(key, Track()), found.get(key), now)
        if any(level != "ok" for level in track.looks):  # as long as it is said, one of them is
            after[key] = track
    return after


def reasons(tracks: Mapping[Key, Track]) -> tuple[Reason, ...]:
    """What is said."""
    return ordered(
        Reason(aspect, code, track.level, track.text, track.since)
        for (aspect, code), track in tracks.items()
        if track.level != "ok"
    )


def _step(track: Track, finding: Finding | None, now: float) -> Track:
    seen: Level = "ok" if finding is None else finding.level
    looks = (*track.looks, seen)[-CLEAR:]
    raised = seen if finding is not None and finding.sudden else _raised(looks)
    if _BADNESS[raised] > _BADNESS[track.level]:
        text = finding.text if finding is not None else track.text
        since = track.since if track.level != "ok" else now
        return Track(looks, raised, text, since)
    lowered = worst(looks) if len(looks) == CLEAR else track.level
    if _BADNESS[lowered] < _BADNESS[track.level]:
        text = finding.text if finding is not None else track.text
        return Track(looks) if lowered == "ok" else Track(looks, lowered, text, track.since)
    return msgspec.structs.replace(track, looks=looks)


def _raised(looks: tuple[Level, ...]) -> Level:
    """The worst level that enough of the newest looks reach."""
    newest = sorted((_BADNESS[level] for level in looks[-OF:]), reverse=True)
    return LEVELS[newest[RAISE - 1]] if len(newest) >= RAISE else "ok"
