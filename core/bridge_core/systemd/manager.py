"""Putting units in place and taking them away: files, then systemctl."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.files import write_atomically
from bridge_core.systemd.units import Unit

UNIT_FOLDER = Path("/etc/systemd/system")
_RUNS = Path("/run/systemd/system")
_CALL_S = 180.0  # a stop waits for the drain

Systemctl = Callable[[Sequence[str]], str]


def systemctl(arguments: Sequence[str]) -> str:
    """Runs systemctl and returns what it prints.

    Raises:
        BridgeError: it is not there, failed, or did not end; its own words.
    """
    try:
        done = subprocess.run(
            ["systemctl", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CALL_S,
            check=False,
        )
    except OSError as fault:
        raise Fatal(f"cannot run systemctl: {fault.strerror}") from fault
    except subprocess.TimeoutExpired as fault:
        raise Unavailable(f"systemctl {arguments[0]} has not ended after {_CALL_S:g} s") from fault
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"it ended with status {done.returncode}"
        raise BridgeError(f"systemctl {' '.join(arguments)}: {said}", hint="systemctl status says more")
    return done.stdout


class ServiceManager:
    """The machine's systemd.

    Args:
        folder: Where units of the administrator's lie.
        running: The folder that is there while systemd runs the machine.
        call: Runs systemctl.
        root: Whether this process may change services.
    """

    def __init__(
        self,
        folder: Path = UNIT_FOLDER,
        *,
        running: Path = _RUNS,
        call: Systemctl = systemctl,
        root: bool | None = None,
    ) -> None:
        self.folder = folder
        self._running = running
        self._call = call
        self._root = os.geteuid() == 0 if root is None else root

    def check(self) -> None:
        """Raises Fatal where services cannot be installed: no systemd, or no right to."""
        if not self._running.is_dir():
            raise Fatal(
                "systemd does not run this machine, so there is nothing to install a service in",
                hint="leave --systemd out and start it as this machine starts programs",
            )
        if not self._root:
            raise Fatal("only root installs services", hint="run the same command with sudo")
        if not os.access(self.folder, os.W_OK):
            raise Fatal(f"{self.folder} cannot be written", hint="is the system mounted read-only?")

    def text(self, name: str) -> str:
        """The unit file of that name; empty where there is none."""
        try:
            return (self.folder / name).read_text("utf-8")
        except OSError:
            return ""

    def install(self, units: Iterable[Unit]) -> list[str]:
        """Writes the units, enables and starts them; what runs already runs on as it was started.

        Returns:
            What was done, a sentence each.

        Raises:
            BridgeError: systemd runs nothing here, a file cannot be written, or a unit does not start.
        """
        self.check()
        units = list(units)
        changed = [unit for unit in units if self.text(unit.name) != unit.text]
        try:
            for unit in changed:
                write_atomically(self.folder / unit.name, unit.text.encode(), mode=0o644)
        except OSError as fault:
            raise Fatal(f"cannot write {self.folder / unit.name}: {fault.strerror}") from fault
        self._call(["daemon-reload"])
        enabled = [unit.name for unit in units if unit.enabled]
        self._call(["enable", "--now", *enabled])
        done = [f"wrote {self.folder / unit.name}" for unit in changed]
        return [*done, f"enabled and started {', '.join(enabled)}"]

    def remove(self, names: Iterable[str]) -> list[str]:
        """Stops and disables the units of these names that are there, and removes their files.

        Returns:
            What was done, a sentence each.

        Raises:
            BridgeError: as `install`.
        """
        present = [name for name in names if (self.folder / name).exists()]
        if not present:
            return []
        self.check()
        self._call(["disable", "--now", *present])
        try:
            for name in present:
                (self.folder / name).unlink(missing_ok=True)
        except OSError as fault:
            raise Fatal(f"cannot remove {fault.filename}: {fault.strerror}") from fault
        self._call(["daemon-reload"])
        return [f"stopped and disabled {', '.join(present)}", f"removed them from {self.folder}"]

    def stop(self, name: str) -> None:
        """Stops a unit and all that its stop takes along. Raises BridgeError."""
        self._call(["stop", name])
