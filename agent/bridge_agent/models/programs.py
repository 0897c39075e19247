"""The files of the engines' own programs, learnt from those that run, kept over restarts (`program_rules`).

Blocks: run it in threads. An engine may be hostile: what it has mapped costs the page cache no more than the
budget of warming, and no file is followed that is not a plain one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import structlog

from bridge_agent.models import page_cache
from bridge_agent.models.program_rules import MOST_FILES, MOST_PATH, code_of, together
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.files import write_atomically
from bridge_core.model_store.layout import read_bounded
from bridge_core.proc import family

log = structlog.get_logger()

_PROC: Final = Path("/proc")
_MOST_MAPS: Final = 4 << 20
_MOST_KEPT: Final = 4 << 20
_MOST_PROCESSES: Final = 64

_Path = Annotated[str, msgspec.Meta(min_length=2, max_length=MOST_PATH, pattern="^/")]
Processes = Callable[[], Iterable[tuple[int, int]]]


class ProgramsUnsaved(BridgeError):
    """The disk refuses the file."""


class _Kept(msgspec.Struct, frozen=True):
    files: Annotated[tuple[_Path, ...], msgspec.Meta(max_length=MOST_FILES)]
    version: Literal[1] = 1


class ProgramFiles:
    """See the module.

    Args:
        kept: The file in which the list outlives the agent; None: it does not.
        root: The models folder: what lies in it is no program.
    """

    def __init__(self, kept: Path | None, root: Path) -> None:
        self._kept = kept
        self._root = root
        self.files: tuple[str, ...] = ()

    def remember(self) -> None:
        """Reads what an earlier agent learnt; nothing where there is nothing that can be used."""
        if self._kept is None:
            return
        try:
            self.files = decode_json(read_bounded(self._kept, _MOST_KEPT), _Kept, most=_MOST_KEPT).files
        except FileNotFoundError:
            return
        except (OSError, ValueError, Undecodable) as fault:
            log.warning("programs_not_read", path=str(self._kept), reason=str(fault))

    def learn(self, engines: Iterable[tuple[int, int]]) -> bool:
        """Looks at engines that have a model loaded, by pid and start time; whether files are new.

        Raises:
            ProgramsUnsaved: the list cannot be kept.
        """
        seen: list[str] = []
        for pid, start_time in engines:
            for process in family(pid, start_time)[:_MOST_PROCESSES]:
                seen += code_of(_maps(process.pid))
        files = together(self.files, (path for path in seen if not Path(path).is_relative_to(self._root)))
        if set(files) == set(self.files):
            return False
        self.files = files
        self._save()
        return True

    def _save(self) -> None:
        if self._kept is None:
            return
        try:
            write_atomically(self._kept, msgspec.json.encode(_Kept(self.files)))
        except OSError as fault:
            raise ProgramsUnsaved(f"{self._kept} cannot be written: {fault.strerror}") from fault

    def cold(self, room: int) -> list[tuple[str, int]]:
        """The files, with their bytes, that are not wholly in the page cache, as far as `room` bytes go.

        Where the kernel does not say of a file whether it is, it counts as one that is not.
        """
        found = []
        for path in self.files:
            with _opened(path) as (handle, size):
                if handle < 0 or size > room:
                    continue
                room -= size
                if (page_cache.resident(handle) or 0.0) < 1.0:
                    found.append((path, size))
        return found

    def total(self) -> int:
        """Bytes of all the files."""
        total = 0
        for path in self.files:
            with _opened(path) as (_, size):
                total += size
        return total

    @staticmethod
    def bring_in(files: Sequence[tuple[str, int]], goes_on: Callable[[int], bool]) -> bool:
        """Reads them; False: it was stopped. `goes_on` is asked as in `page_cache.bring_in`."""
        before = 0
        for path, size in files:
            with _opened(path) as (handle, now):
                if handle >= 0 and not page_cache.bring_in(handle, now, goes_on, before):
                    return False
            before += size
        return True


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    """A plain file's handle and bytes; -1 and none where there is none that can be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        yield -1, 0
        return
    try:
        status = os.fstat(handle)
        yield (handle, status.st_size) if stat.S_ISREG(status.st_mode) else (-1, 0)
    finally:
        os.close(handle)


def _maps(pid: int) -> str:
    try:
        with (_PROC / str(pid) / "maps").open("rb") as file:
            return file.read(_MOST_MAPS).decode("utf-8", "replace")
    except OSError:  # ended, or another user's
        return ""
