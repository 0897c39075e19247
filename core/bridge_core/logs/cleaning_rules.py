"""What of a text may stand in a line of a log: pure.

Rules:
1. No control, format or private character stands raw in a line: a name from outside can neither forge a line
   nor move a cursor.
2. What has the shape of a secret (API key, join token, JWT, private key, credential of a header) is masked,
   wherever it comes from. This is a net below the code, which logs none.
3. Of an exception that is not ours the message is somebody else's text and may quote what a client sent: what
   stands in quotes is left out unless it reads like a name of code. Ours (`BridgeError`) and the system's
   (`OSError`) say what they were written to say.
"""

from __future__ import annotations

import re
from typing import Final

from bridge_core.command.plain_text import one_line
from bridge_core.errors import BridgeError

MOST: Final = 1000
"""Characters of a field."""

LEFT_OUT: Final = "'…'"
MASK: Final = "[secret]"

_SECRETS: Final = re.compile(
    r"brk_[0-9A-Za-z]{4,}_[0-9A-Za-z]+"
    r"|br[jk]1\.[0-9A-Za-z._-]{8,}"
    r"|eyJ[\w-]{4,}\.[\w-]*\.?[\w-]*"
    r"|(?i:\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}"
    r"|(?i:\b(?:authorization|x-api-key)\b['\"]?\s*[:=]\s*)(?!\[secret\])\S+",
)
_KEYS: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
# Most texts have none of this, and one look each is all that they cost.
_HINTS: Final = re.compile(r"brk_|br[jk]1\.|eyJ|-----BEGIN|(?i:bearer|basic|authorization|x-api-key)")
_NAME: Final = re.compile(r"[A-Za-z_][\w.\[\]-]{0,63}")
# A quote that is not closed takes all that follows.
_QUOTED: Final = re.compile(r"""'((?:[^'\\]|\\.)*)(?:'|\Z)|"((?:[^"\\]|\\.)*)(?:"|\Z)""", re.DOTALL)
# They quote what they were given, and that is seldom a name of code.
_QUOTING: Final = (LookupError, ValueError)


def masked(text: str) -> str:
    """The text without what has the shape of a secret."""
    if _HINTS.search(text) is None:
        return text
    return _SECRETS.sub(MASK, _KEYS.sub(MASK, text))


def cleaned(text: str, most: int = MOST) -> str:
    """A text as it may stand in a field: masked, on one line, no longer than `most`."""
    # Cut first, generously: nobody waits for a search through megabytes. Masked before it is cut to
    # size: half a key has no shape any more.
    return one_line(masked(text[: 4 * most + 200]), most)


def message_of(fault: BaseException) -> str:
    """What an exception says, by the rules above; one whose text cannot be had says so."""
    try:
        text = str(fault)[: 4 * MOST]
    except Exception:  # noqa: BLE001 - whatever its class does wrong, it is told of all the same
        return "(it has no text)"
    if not isinstance(fault, (BridgeError, OSError)):
        text = _unquoted(text, names=not isinstance(fault, _QUOTING))
    return cleaned(text)


def _unquoted(text: str, *, names: bool) -> str:
    def kept(found: re.Match[str]) -> str:
        said = found.group(1) if found.group(1) is not None else found.group(2) or ""
        return found.group(0) if names and _NAME.fullmatch(said) else LEFT_OUT

    return _QUOTED.sub(kept, text)
