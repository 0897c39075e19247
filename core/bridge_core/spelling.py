"""What somebody may have meant by a word that is not known. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, get_args

import msgspec

_LONGEST: Final = 100  # of a word that is compared: what is longer is no slip of a finger
_ALIKE: Final = 0.6


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like `word`; empty where none is like it.

    Case, `_` and `-` are not regarded, so that `memory_max` is `memoryMax`.
    """
    if len(word) > _LONGEST:
        return ""
    import difflib  # for what is wrong alone

    plain = {_plain(one): one for one in known}
    found = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=_ALIKE)
    return plain[found[0]] if found else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`: did you mean backends?` to put behind a complaint, or nothing."""
    found = nearest(word, known)
    return f": did you mean {found}?" if found else ""


def shortened(text: str, most: int = _LONGEST) -> str:
    """What somebody wrote, fit to be quoted in a message."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def unknown_keys(data: object, kind: Any, at: str = "") -> Iterator[str]:
    """Every key of decoded JSON that the struct `kind` has no field for, a sentence each.

    Args:
        data: What was decoded.
        kind: A struct, or what holds one: `tuple[Engine, ...]`, `Engine | None`.
        at: Where `data` stands in what it is a part of.
    """
    struct = _struct(kind)
    if struct is None:
        return
    if isinstance(data, list):
        for index, item in enumerate(data):
            if isinstance(item, dict):
                yield from unknown_keys(item, struct, f"{at}[{index}]")
    elif isinstance(data, dict):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
        for key, value in data.items():
            path = f"{at}.{key}" if at else key
            if key in fields:
                yield from unknown_keys(value, fields[key], path)
            else:
                yield f"{shortened(path)} is not a known key{did_you_mean(key, fields)}"


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for part in get_args(kind) if (found := _struct(part)) is not None), None)


def _plain(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
