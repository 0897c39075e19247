"""What somebody may have meant by a word that is not known. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

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


def _plain(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
