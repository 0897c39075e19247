"""The log files of a mesh that `up` runs on this machine: their last lines, and what is added to them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge_core.errors import BridgeError, Fatal

_POLL_S: Final = 0.25
_TAIL: Final = 256 * 1024  # bytes of a file's end that are looked at for its last lines
_MOST: Final = 1 << 20  # of what is read at once, and of a line without an end
# Fields of the Elastic Common Schema that every line has, or that say again what another one says.
_SAME_IN_ALL: Final = frozenset(
    {
        "ecs.version",
        "event.action",
        "event.dataset",
        "event.kind",
        "event.duration",
        "event.outcome",
        "event.reason",
        "host.name",
        "process.pid",
        "service.name",
        "service.version",
        "span.id",
        "trace.id",
    }
)
_NAMES: Final = {"http.request.id": "request", "user.name": "by"}


class LogLine(msgspec.Struct, frozen=True):
    """A line of a part's log: as it is written, for people, and its time.

    One that says no time (a traceback's, an engine's) has that of the line before it, to which it belongs.
    """

    part: str
    raw: str
    text: str
    at: str


def log_files(folder: Path, part: str | None = None) -> dict[str, Path]:
    """The log of each part, or of one.

    Raises:
        Fatal: there are none.
        BridgeError: there is none of that part; those there are are named.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if not found:
        raise Fatal(f"there is no log in {folder}", hint="`bridgectl up` starts what writes them")
    if part is None:
        return found
    if part not in found:
        raise BridgeError(f"there is no log of {part!r}", hint=f"there are those of {', '.join(found)}")
    return {part: found[part]}


def follow_files(files: dict[str, Path], *, last: int, follow: bool) -> Iterator[LogLine]:
    """The last lines of each file, by their time; with `follow` what comes, without end.

    A file that is begun anew (rotated, or of a new process) is read from its beginning.
    """
    tails = {part: _Tail(part, path) for part, path in files.items()}
    past = [line for tail in tails.values() for line in (tail.past()[-last:] if last else tail.past() and [])]
    yield from sorted(past, key=_at)
    while follow:
        told = [line for tail in tails.values() for line in tail.more()]
        yield from sorted(told, key=_at)
        if not told:
            time.sleep(_POLL_S)


class _Tail:
    """One file, and how far it was read."""

    def __init__(self, part: str, path: Path) -> None:
        self._part = part
        self._path = path
        self._at = 0
        self._inode = 0
        self._rest = b""
        self._last = ""

    def past(self) -> list[LogLine]:
        """What the file's end says."""
        try:
            found = self._path.stat()
        except OSError:
            return []
        self._inode, self._at = found.st_ino, max(0, found.st_size - _TAIL)
        cut = self._at > 0
        lines = self.more()
        return lines[1:] if cut else lines

    def more(self) -> list[LogLine]:
        """The whole lines that were added since."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._at:
                    self._inode, self._at, self._rest = found.st_ino, 0, b""
                file.seek(self._at)
                data = file.read(_MOST)
        except OSError:
            return []
        self._at += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MOST:
            whole, self._rest = [*whole, self._rest], b""
        return [self._line(one.decode("utf-8", "replace")) for one in whole if one]

    def _line(self, raw: str) -> LogLine:
        at, text = _readable(raw)
        self._last = at or self._last
        return LogLine(self._part, raw, text, self._last)


def _readable(raw: str) -> tuple[str, str]:
    """The time of a JSON line, to the second, and the line as `time level event key=value …`.

    Anything else is as it is, and has no time.
    """
    try:
        fields = msgspec.json.decode(raw.encode())
    except (msgspec.DecodeError, RecursionError):
        return "", raw
    if not isinstance(fields, dict):
        return "", raw
    rest: dict[str, Any] = dict(fields)
    at = str(rest.pop("@timestamp", "") or rest.pop("timestamp", "") or rest.pop("ts", ""))
    level = str(rest.pop("log.level", "") or rest.pop("level", ""))
    what = str(rest.pop("message", "") or rest.pop("event", "") or rest.pop("msg", ""))
    trace = str(rest.pop("error.stack_trace", ""))
    told = " ".join(f"{_short(key)}={value}" for key, value in rest.items() if key not in _SAME_IN_ALL)
    line = f"{at[11:19]} {level:<7} {what} {told}".rstrip()
    return at[:19], f"{line}\n{trace}" if trace else line


def _short(key: str) -> str:
    """A field's name without what only tells fields of many programs apart."""
    return _NAMES.get(key) or key.removeprefix("labels.").removeprefix("bridge.")


def _at(line: LogLine) -> str:
    return line.at
