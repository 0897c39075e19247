"""The edge of isolation: starts a program behind walls, and finds out which ones this machine allows."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bridge_agent.limits import disk, walls
from bridge_core.errors import BridgeError, Reaction

SHIM = Path(__file__).with_name("shim.py")
START_TIMEOUT_S = 30.0  # a machine may be very busy; the shim itself takes milliseconds


class WallRefused(BridgeError):
    """A wall that could not be put up; the engine was not started."""

    reaction = Reaction.STOP

    def __init__(self, wall: str, reason: str) -> None:
        super().__init__(
            f"the wall {wall!r} could not be put up: {reason}",
            hint="leave it out of the NodeClass's walls, or give the agent the right it lacks",
        )
        self.wall = wall
        self.reason = reason


class Mounts(msgspec.Struct, frozen=True):
    """What an isolated engine sees of the disk: the system read-only, with a /tmp of its own.

    A path counts before those above it: what is readable may lie in a hidden folder, and something
    hidden in that.

    Attributes:
        readable: Kept visible although they lie in a hidden folder or in /tmp.
        writable: Kept visible and writable.
        hidden: Folders that look empty from inside.
        masked: Files that look empty from inside.
        devices: What it sees of /dev.
        tmp_bytes: Size of each private tmpfs; what is in it counts as the engine's memory.
    """

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    tmp_bytes: int = 256 << 20


class WallSpec(msgspec.Struct, frozen=True):
    """What the shim is told; see shim.py."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    hostname: str
    walls: tuple[str, ...]
    cgroups: tuple[str, ...] = ()
    mount: Mounts = Mounts()
    uid: int | None = None
    gid: int | None = None
    drop_capabilities: bool = False
    no_new_privs: bool = False
    rlimits: Mapping[str, int] = {}


class Started(msgspec.Struct, frozen=True):
    """A program that runs behind its walls. `pid` is the host's; it may be no child of ours."""

    pid: int


async def start(spec: WallSpec, *, output: int) -> Started:
    """Starts a program behind walls, its output into a descriptor, and returns once it has exec'ed.

    Without the wall "pid" the program is a child of this process, to be reaped by its pid; with it
    the shim between the two has ended and been reaped: wait for it with a pidfd.

    Raises:
        WallRefused: a wall failed, or the program could not be executed; nothing runs.
    """
    return await asyncio.to_thread(_start, spec, output)


def _with_system(spec: WallSpec) -> WallSpec:
    """The spec with what every engine sees, and does not see, of this machine."""
    own = spec.mount
    readable = [*own.readable, *disk.with_libraries(Path(path) for path in own.readable)]
    readable += disk.software(spec.argv)
    if "net" not in spec.walls:
        readable += disk.resolver()
    hidden = tuple(dict.fromkeys((*disk.hidden(), *own.hidden)))
    covered = (*hidden, "/tmp", "/dev")  # noqa: S108 - it gets its own
    mount = msgspec.structs.replace(
        own,
        readable=tuple(
            dict.fromkeys(path for path in readable if path not in own.writable and disk.below(path, covered))
        ),
        hidden=hidden,
        masked=tuple(dict.fromkeys((*disk.masked(), *own.masked))),
        devices=tuple(dict.fromkeys((*disk.devices(), *own.devices))),
    )
    return msgspec.structs.replace(spec, mount=mount)


def _start(spec: WallSpec, output: int) -> Started:
    if "mount" in spec.walls:
        spec = _with_system(spec)
    # A plain Popen: the loop's own would reap the engine, or kill it when the agent goes away.
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            try:
                shim = subprocess.Popen(
                    (sys.executable, "-I", "-S", str(SHIM), str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                )
            except OSError as fault:
                raise WallRefused("exec", f"{sys.executable}: {fault.strerror}") from fault
        try:
            ours.settimeout(START_TIMEOUT_S)
            ours.sendall(msgspec.json.encode(spec) + b"\n")
            answer = _read_all(ours)
        except OSError as fault:
            shim.kill()
            shim.wait()
            reason = f"no answer from the shim in {START_TIMEOUT_S:.0f} s"
            if not isinstance(fault, TimeoutError):
                reason = f"the shim broke off: {fault.strerror}"
            raise WallRefused("exec", reason) from None
    merged: dict[str, object] = {}
    for line in answer.splitlines():
        merged |= msgspec.json.decode(line)
    pid = int(str(merged.get("pid", 0)))
    if "fault" in merged or not pid:
        shim.wait()
        raise WallRefused(
            str(merged.get("wall", "exec")), str(merged.get("fault", "the shim ended without a word"))
        )
    if pid != shim.pid:
        shim.wait()
    shim.returncode = 0  # whoever asked reaps the program by its number; Popen would warn of it
    return Started(pid)


def _read_all(channel: socket.socket) -> bytes:
    parts = []
    while part := channel.recv(65536):
        parts.append(part)
    return b"".join(parts)


async def probe() -> dict[str, str]:
    """Wall to why this machine does not allow it, found by putting each one up around /bin/true."""
    impossible: dict[str, str] = {}
    base = () if os.geteuid() == 0 else ("user",)
    for wall in walls.NAMESPACES:
        names = tuple(dict.fromkeys((*base, wall)))
        try:
            started = await start(
                WallSpec(("/bin/true",), {}, "/", "probe", names), output=subprocess.DEVNULL
            )
        except WallRefused as fault:
            impossible[wall] = fault.reason
            continue
        if wall != "pid":
            await asyncio.to_thread(os.waitpid, started.pid, 0)
    return impossible
