"""`--mesh-config DIR`: the folder is the config. A bad edit keeps the last good revision.

The folder is looked at once a second: that works on every file system, network and overlay ones
included, and a few stat calls cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from bridge_core.config import decoded
from bridge_core.config.yaml_lines import MAX_FILE_CHARS
from bridge_core.errors import BridgeError
from bridge_registry.traffic.config_desk import ConfigDesk

log = structlog.get_logger()

_LOOK_EVERY_S: Final = 1.0
_SUFFIXES: Final = frozenset({".yaml", ".yml"})

Stamp = tuple[tuple[str, int, int], ...]


class DirectoryWatch:
    """Applies the folder whenever it changed and the store takes it.

    Args:
        folder: YAML files; other files and folders in it are ignored.
        desk: Where it is applied; what is no longer in the folder is removed.
        leads: Whether this registry leads: others do not apply.

    Attributes:
        faults: What is wrong with the folder as it is now; empty when it is in force.
    """

    def __init__(self, folder: Path, desk: ConfigDesk, leads: Callable[[], bool]) -> None:
        self._folder = folder
        self._desk = desk
        self._leads = leads
        self._seen: Stamp | None = None
        self._found: tuple[str, ...] = ()  # wrong with the folder as it was seen last
        self.faults: tuple[str, ...] = ()

    async def run(self) -> None:
        """Looks and applies until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # the task's root: a folder that breaks us ends nothing, and says so
                log.exception("mesh_config_look_failed", folder=str(self._folder))
                self.faults = ("internal error: see the registry's log",)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Applies the folder if it changed since it was last applied or refused."""
        if not self._leads():
            self._seen = None  # whoever leads next begins from the folder again
            return
        try:
            stamp, files = await asyncio.to_thread(self._read)
        except OSError as fault:
            self._refused((f"{self._folder}: {fault}",))
            return
        if stamp == self._seen:
            self.faults = self._found  # what kept it from being read meanwhile is over
            return
        if not files:
            # An unmounted folder looks like this: it is not a wish to remove everything.
            self._refused((f"{self._folder}: there is no YAML file",))
            return
        try:
            applied = await self._desk.apply(files, prune=True, author=f"folder {self._folder}")
        except BridgeError as fault:
            self._refused((str(fault),))  # tried again at the next look
            return
        self._seen, self._found = stamp, tuple(map(str, applied.faults))
        if self._found:
            self._refused(self._found)
        else:
            self.faults = ()

    def _refused(self, faults: tuple[str, ...]) -> None:
        if faults != self.faults:
            log.error(
                "mesh_config_refused", folder=str(self._folder), faults=faults, kept="last good revision"
            )
        self.faults = faults

    def _read(self) -> tuple[Stamp, list[tuple[str, str]]]:
        paths = sorted(path for path in self._folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
        stats = [(path, path.stat()) for path in paths]
        stamp = tuple((path.name, stat.st_mtime_ns, stat.st_size) for path, stat in stats)
        if stamp == self._seen:
            return stamp, []
        return stamp, [(_printable(path), decoded(_start_of(path))) for path in paths]


def _start_of(path: Path) -> bytes:
    # As much as shows that it is too large; a log that was put here by mistake need not fit into memory.
    with path.open("rb") as file:
        return file.read(4 * MAX_FILE_CHARS + 4)


def _printable(path: Path) -> str:
    # A file's name need not be UTF-8, and what faults are told in has to be.
    return str(path).encode("utf-8", "replace").decode()
