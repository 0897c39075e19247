"""Putting units in place and taking them away: files, then systemctl."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.files import write_atomically
from bridge_core.systemd import placement
from bridge_core.systemd.units import DROP_IN, Service, Unit

UNIT_FOLDER = Path("/etc/systemd/system")
PACKAGED_FOLDER = Path("/usr/lib/systemd/system")
VARIABLES_FOLDER = Path("/etc/bridge")
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
        packaged: Where units of installed packages lie: what is there already is not written once more,
            so that the package's next version takes effect.
        variables: Where files of variables lie.
        commands: The folder that the commands are linked into.
        running: The folder that is there while systemd runs the machine.
        call: Runs systemctl.
        root: Whether this process may change services.
    """

    def __init__(
        self,
        folder: Path = UNIT_FOLDER,
        *,
        packaged: Path = PACKAGED_FOLDER,
        variables: Path = VARIABLES_FOLDER,
        commands: Path = placement.BIN_FOLDER,
        running: Path = _RUNS,
        call: Systemctl = systemctl,
        root: bool | None = None,
    ) -> None:
        self.folder = folder
        self._packaged = packaged
        self.variables = variables
        self._commands = commands
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

    def has(self, name: str) -> bool:
        """Whether the unit of that name is installed; one that a package brought is once it is enabled."""
        return (self.folder / name).exists() or any(self.folder.glob(f"*.wants/{name}"))

    def text(self, name: str) -> str:
        """The file of variables of that name; empty where there is none."""
        return _text(self.variables / name) or ""

    def files(self, service: Service) -> dict[Path, str]:
        """Every file that `install` writes, with its text."""
        texts = {self.variables / name: text for name, text in service.variables.items()}
        for unit in service.units:
            if not self._is_packaged(unit):
                texts[self.folder / unit.name] = unit.text
            if unit.drop_in:
                texts[_drop_in(self.folder / unit.name)] = unit.drop_in
        return texts

    def install(self, service: Service) -> list[str]:
        """Writes the files, enables and starts the units; what runs already runs on as it was started.

        Returns:
            What was done, a sentence each.

        Raises:
            BridgeError: systemd runs nothing here, a file cannot be written, or a unit does not start.
        """
        self.check()
        done = self._remove_units(service.gone)
        done += placement.put_on_path(self._commands)
        wanted = self.files(service)
        before = {path: _text(path) for path in wanted}
        changed = [path for path, text in wanted.items() if before[path] != text]
        stale = [_drop_in(self.folder / unit.name) for unit in service.units if not unit.drop_in]
        stale += [self.folder / unit.name for unit in service.units if self._is_packaged(unit)]
        try:
            for path in changed:
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                write_atomically(path, wanted[path].encode(), mode=0o644)
            for path in stale:
                path.unlink(missing_ok=True)
        except OSError as fault:
            raise Fatal(f"cannot write {fault.filename}: {fault.strerror}") from fault
        self._call(["daemon-reload"])
        enabled = [unit.name for unit in service.units if unit.enabled]
        self._call(["enable", "--now", *enabled])
        done += [f"wrote {path}" for path in changed]
        done.append(f"enabled and started {', '.join(enabled)}")
        if any(before[path] is not None for path in changed):
            done.append(f"what ran already goes on as it was started, until systemctl restart {enabled[-1]}")
        return done

    def remove(self, names: Iterable[str], variables: Iterable[str] = ()) -> list[str]:
        """Stops and disables the units of these names that are there, and removes their files.

        With the last of our units the commands go from PATH.

        Returns:
            What was done, a sentence each.

        Raises:
            BridgeError: as `install`.
        """
        done = self._remove_units(names)
        if not done:
            return []
        try:
            for name in variables:
                (self.variables / name).unlink(missing_ok=True)
            if self.variables.is_dir() and not any(self.variables.iterdir()):
                self.variables.rmdir()
        except OSError as fault:
            raise Fatal(f"cannot remove {fault.filename}: {fault.strerror}") from fault
        if not any(self.folder.glob("bridge-*.service")):
            done += placement.take_off_path(self._commands)
        return done

    def _remove_units(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        if not any(map(self.has, names)):
            return []
        present = [name for name in names if self.has(name) or (self._packaged / name).exists()]
        self.check()
        self._call(["disable", "--now", *present])
        try:
            for name in present:
                (self.folder / name).unlink(missing_ok=True)
                ours = _drop_in(self.folder / name)
                ours.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # the administrator's own may lie beside it
                    ours.parent.rmdir()
        except OSError as fault:
            raise Fatal(f"cannot remove {fault.filename}: {fault.strerror}") from fault
        self._call(["daemon-reload"])
        return [f"stopped and disabled {', '.join(present)}", f"removed them from {self.folder}"]

    def _is_packaged(self, unit: Unit) -> bool:
        return _text(self._packaged / unit.name) == unit.text

    def stop(self, name: str) -> None:
        """Stops a unit and all that its stop takes along. Raises BridgeError."""
        self._call(["stop", name])


def _drop_in(unit: Path) -> Path:
    return unit.with_name(f"{unit.name}.d") / DROP_IN


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
