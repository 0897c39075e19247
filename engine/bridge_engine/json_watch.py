"""Whether a text that comes in parts is still JSON, as far as letters tell. Pure.

A runner that fails on a grammar, at once or in the middle of a text, goes on without it and says nothing
in its answer. What it then writes has characters that JSON has inside strings alone.
"""

from __future__ import annotations

import re
from typing import Final

_OUTSIDE: Final = re.compile(r"[ \t\n\r{}\[\],:+\-.0-9Eaeflnrstu]*")  # numbers, true, false, null
_INSIDE: Final = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)


class JsonWatch:
    """Follows one text."""

    def __init__(self) -> None:
        self._in_string = False
        self._rest = ""  # a backslash whose character has not come yet

    def feed(self, text: str) -> bool:
        """Takes the next part; False once the text is no JSON."""
        text = self._rest + text
        at, self._rest = 0, ""
        while at < len(text):
            found = (_INSIDE if self._in_string else _OUTSIDE).match(text, at)
            at = found.end() if found is not None else at
            if at == len(text):
                break
            if text[at] == "\\" and self._in_string:
                self._rest = text[at:]
                break
            if text[at] != '"':
                return False
            self._in_string = not self._in_string
            at += 1
        return True
