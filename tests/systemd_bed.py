"""A machine with systemd: a Debian in a container of systemd-nspawn, with this project in /opt/bridge.

The Debian is made once, by debootstrap, and reused; what a test changes lies in an overlay above it.
`python -m tests.systemd_bed` makes it and prints where it is.

The variable BRIDGE_TEST_SYSTEMD asks for it: 1, or the folder to keep the Debian in. It needs root, the
packages debootstrap and systemd-container, and, the first time, a mirror of Debian.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bridge_agent
import bridge_cli
import bridge_core
import bridge_engine
import bridge_registry
import bridge_wire
from bridge_agent.limits.cgroup import find_hierarchy
from bridge_agent.limits.cgroup_rules import PRESSURE
from bridge_core.systemd.units import unit_folder

VARIABLE = "BRIDGE_TEST_SYSTEMD"
PREFIX = "/opt/bridge"
DISK = "/srv/disk"
STATE = "/var/lib/bridge/agent"
PKI = "/var/lib/bridge/registry/pki"
ADMIN = f"--registry 127.0.0.1:11400 --ca {PKI}/ca.pem --cert {PKI}/admin.pem --key {PKI}/admin.key"
ASK = json.dumps({"model": "tiny", "prompt": "hello", "stream": False, "options": {"num_predict": 4}})
GENERATE = f"curl -sS --fail --max-time 90 -d {shlex.quote(ASK)} http://127.0.0.1:11434/api/generate"
SEED = f"bridge-engine seed --models {STATE}/models --cache /var/lib/bridge/cache tiny"
TOKEN = f"bridgectl token create {ADMIN} --ttl 1h > /root/token"
_SUITE = "bookworm"
_PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,libgomp1,curl"
_REBOOTED = 133  # systemd-nspawn's exit status, with --keep-unit


def missing() -> str:
    """Why there can be no such machine here; empty when there can."""
    if not os.environ.get(VARIABLE):
        return f"{VARIABLE} is not set: it takes minutes and a mirror of Debian"
    if os.geteuid() != 0:
        return "needs root"
    lacking = [name for name in ("debootstrap", "systemd-nspawn", "nsenter") if shutil.which(name) is None]
    if lacking:
        return f"needs {', '.join(lacking)} (Debian: debootstrap, systemd-container, util-linux)"
    if platform.python_version_tuple()[:2] != ("3", "11"):
        return "its Debian has Python 3.11, whose compiled packages this one's are not"
    return ""


def debian() -> Path:
    """The Debian; made if it is not there yet."""
    given = os.environ.get(VARIABLE, "1")
    kept = Path("/var/tmp/bridge-systemd" if given == "1" else given)
    root = kept / "root"
    if (kept / "complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    kept.mkdir(parents=True, exist_ok=True)
    mirror = [url] if (url := os.environ.get("DEBIAN_MIRROR")) else []  # else debootstrap's own
    run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root), *mirror], 1200)
    run(["chroot", str(root), "python3", "-m", "venv", "--without-pip", PREFIX], 120)
    (kept / "complete").touch()
    return root


def run(argv: list[str], timeout_s: float) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


class Machine:
    """The container. `boot` starts it, `sh` runs a command inside, `reboot` does what that says.

    DISK in it is the folder `disk` of the host: its own disk is an overlay, which has no rates.
    """

    def __init__(self, root: Path, disk: Path, log: Path) -> None:
        self.disk = disk
        self._root = root
        self._log = log
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self) -> None:
        """Starts it, and returns when systemd has started all there is to start."""
        binds = [f"--bind-ro={_site_packages()}:{PREFIX}/lib/python3.11/site-packages"]
        binds += [f"--bind-ro={folder}" for folder in _sources()]
        binds += [f"--bind={self.disk}:{DISK}"]
        command = ["systemd-nspawn", "--quiet", f"--directory={self._root}", "--boot", "--register=no"]
        command += ["--keep-unit", "--private-network", "--machine=bridge-bed", "--console=pipe", *binds]
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._init = self.until(self._first_child, 30)
        self.until(self._settled, 90)

    def sh(self, script: str, timeout_s: float = 120) -> str:
        """Runs a script inside; its output. Raises AssertionError where it fails."""
        return run([*self._enter, "/bin/bash", "-euo", "pipefail", "-c", f"cd /; {script}"], timeout_s)

    def ok(self, script: str, timeout_s: float = 60) -> bool:
        """Whether a script inside succeeds."""
        argv = [*self._enter, "/bin/bash", "-euo", "pipefail", "-c", f"cd /; {script}"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(argv, capture_output=True, timeout=timeout_s, check=False).returncode == 0
        return False

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.sh(f"systemctl show -P {name} {unit}").strip()

    def journal(self, unit: str) -> str:
        """What a unit has said."""
        return self.sh(f"journalctl --no-pager -o cat -u {unit}")

    def reboot(self) -> None:
        """Shuts it down and starts it again, as a machine would."""
        self.ok("systemctl reboot")
        assert self._nspawn is not None
        assert self._nspawn.wait(120) == _REBOOTED, self._log.read_text(errors="replace")[-3000:]
        _remove_groups()
        self.boot()

    def halt(self) -> None:
        """Ends it, whatever runs in it."""
        if self._nspawn is None:
            return
        self._nspawn.send_signal(signal.SIGTERM)  # a clean shutdown
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._nspawn = None
        _remove_groups()

    def until(self, predicate, deadline_s: float):
        """The first true value of `predicate`, which is asked ten times a second."""
        end = time.monotonic() + deadline_s
        while not (value := predicate()):
            said = self._log.read_text(errors="replace")[-3000:]
            assert self._nspawn is None or self._nspawn.poll() is None, f"the machine ended: {said}"
            assert time.monotonic() < end, f"not within {deadline_s} s: {said}"
            time.sleep(0.1)
        return value

    @property
    def _enter(self) -> list[str]:
        path = f"PATH={PREFIX}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # Not --user: that would be refused in one's own user namespace.
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root"]
        return ["nsenter", f"--target={self._init}", *namespaces, "/usr/bin/env", "-i", path, "HOME=/root"]

    def _first_child(self) -> int:
        assert self._nspawn is not None
        pid = self._nspawn.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return next((int(child) for child in found if _comm(child) == "systemd"), 0)

    def _settled(self) -> bool:
        return self.ok("systemctl is-system-running | grep -qE 'running|degraded'", 20)


def joining(name: str) -> str:
    """What makes the machine a node of this name, with the token of TOKEN."""
    return f"tail -n 1 /root/token | bridge-agent join 127.0.0.1:11400 --token - --name {name} --systemd"


def ready(machine: Machine) -> None:
    """Returns once the agent is."""
    machine.until(lambda: machine.ok("curl -sf http://127.0.0.1:11446/readyz"), 120)


def generates(machine: Machine) -> float:
    """Asks for a few tokens; how long that took, in seconds."""
    began = time.monotonic()
    assert json.loads(machine.sh(GENERATE))["done"] is True
    return time.monotonic() - began


def engine(machine: Machine) -> int:
    """Its process."""
    return int(json.loads(machine.sh(f"cat {STATE}/engines/0/process.json"))["pid"])


def alive(machine: Machine, pid: int) -> bool:
    return machine.ok(f"test -d /proc/{pid}")


def _remove_groups() -> None:
    """What the container leaves of its groups on v2: the next could not enter the one it starts in."""
    tree = find_hierarchy().trees.get(PRESSURE)
    for group in ("payload", "supervisor") if tree else ():
        for folder, _, _ in os.walk(f"{tree.own}/{group}", topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _comm(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _site_packages() -> Path:
    import structlog

    return Path(structlog.__file__).parents[1]


def _sources() -> set[Path]:
    """Where our own packages lie when they are not in site-packages: an editable install."""
    packages = (bridge_agent, bridge_cli, bridge_core, bridge_engine, bridge_registry, bridge_wire)
    folders = {Path(path).parent for package in packages for path in package.__path__}
    return {folder for folder in (*folders, unit_folder()) if folder != _site_packages()}


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """A booted machine with the project installed. What it writes lies in `folder`."""
    upper, work, root, disk = (folder / name for name in ("upper", "work", "root", "disk"))
    for one in (upper, work, root, disk):
        one.mkdir()
    layers = f"lowerdir={debian()},upperdir={upper},workdir={work}"
    run(["mount", "-t", "overlay", "bridge-bed", "-o", layers, str(root)], 30)
    it = Machine(root, disk, folder / "console.log")
    try:
        for name in ("bridgectl", "bridge-agent", "bridge-registry", "bridge-engine"):
            text = Path(sys.executable).with_name(name).read_text()
            script = root / PREFIX.lstrip("/") / "bin" / name
            script.write_text(f"#!{PREFIX}/bin/python3\n{text.partition(chr(10))[2]}")
            script.chmod(0o755)
        it.boot()
        yield it
    finally:
        it.halt()
        run(["umount", str(root)], 30)


if __name__ == "__main__":
    os.environ.setdefault(VARIABLE, "1")
    if why := missing():
        sys.exit(why)
    print(debian())
