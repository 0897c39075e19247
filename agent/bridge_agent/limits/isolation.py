"""The edge of isolation: starts a program behind walls, finds out which ones this machine allows,
and opens sockets into an engine's private network.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bridge_agent.limits import walls
from bridge_core.errors import BridgeError, Reaction

SHIM = Path(__file__).with_name("shim.py")
START_TIMEOUT_S = 10.0
CLONE_NEWNET = 0x40000000


class WallRefused(BridgeError):
    """A wall that could not be put up; the engine was not started."""

    reaction = Reaction.STOP

    def __init__(self, wall: str, reason: str) -> None:
        super().__init__(
            f"the wall {wall!r} could not be put up: {reason}",
            hint="leave it out of the NodeClass's walls, or give the agent the right it lacks",
        )
        self.wall = wall


class Mounts(msgspec.Struct, frozen=True):
    """What an isolated engine sees of the disk: all of it read-only, with a /tmp of its own.

    Attributes:
        readable: Kept visible although they lie in a hidden folder or in /tmp.
        writable: Kept visible and writable.
        hidden: Folders that look empty from inside.
        tmp_bytes: Size of each private tmpfs; what is in it counts as the engine's memory.
    """

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    tmp_bytes: int = 256 << 20


class Spec(msgspec.Struct, frozen=True):
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


async def start(spec: Spec, *, stdout: int, stderr: int) -> Started:
    """Starts a program behind walls and returns once it has exec'ed.

    With the wall "pid" the program is not a child of this process (the shim between them has
    ended): wait for it with a pidfd.

    Raises:
        WallRefused: a wall failed, or the program could not be executed; nothing runs.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            shim = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(SHIM), str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env={},
            )
        reader, writer = await asyncio.open_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
    try:
        writer.write(msgspec.json.encode(spec) + b"\n")
        async with asyncio.timeout(START_TIMEOUT_S):
            answer = await reader.read()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            shim.kill()
        raise WallRefused("exec", f"no answer from the shim in {START_TIMEOUT_S:.0f} s") from None
    finally:
        writer.close()
    messages = [msgspec.json.decode(line) for line in answer.splitlines()]
    merged: dict[str, object] = {key: value for message in messages for key, value in message.items()}
    if "fault" in merged or "pid" not in merged:
        await shim.wait()
        raise WallRefused(
            str(merged.get("wall", "exec")), str(merged.get("fault", "the shim ended without a word"))
        )
    return Started(int(str(merged["pid"])))


async def probe() -> dict[str, str]:
    """Wall to why this machine does not allow it, found by putting each one up around /bin/true."""
    impossible: dict[str, str] = {}
    base = () if os.geteuid() == 0 else ("user",)
    for wall in walls.NAMESPACES:
        names = tuple(dict.fromkeys((*base, wall)))
        spec = Spec(("/bin/true",), {}, "/", "probe", names)
        try:
            await start(spec, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
        except WallRefused as fault:
            impossible[wall] = fault.message
    return impossible


def connect_inside(pid: int, address: tuple[str, int], timeout: float) -> socket.socket:
    """A TCP connection made inside the network namespace of process `pid`; blocking.

    A socket belongs to the namespace it was made in for as long as it lives, so the agent keeps
    using it from outside. The namespace of a thread of its own is changed, never the caller's.

    Raises:
        OSError: the process is gone, nothing listens there, or the namespace may not be entered.
    """
    result: list[socket.socket | OSError] = []

    def inside() -> None:
        try:
            with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
                _enter_network(namespace.fileno())
            result.append(socket.create_connection(address, timeout))
        except OSError as fault:
            result.append(fault)

    thread = threading.Thread(target=inside, name=f"netns-{pid}", daemon=True)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    result[0].setblocking(False)
    return result[0]


def _enter_network(namespace: int) -> None:
    """Moves the calling thread; os.setns exists from Python 3.12 on only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
