"""An engine's private network: whether it has one, and sockets that are opened inside it."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

DOOR = Path(__file__).with_name("door.py")
CLONE_NEWNET = 0x40000000


def private_network(pid: int) -> bool:
    """Whether a process has a network namespace of its own. False also where that is not told."""
    try:
        there = Path(f"/proc/{pid}/ns/net").stat()
        here = Path("/proc/self/ns/net").stat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


def connect_inside(pid: int, address: tuple[str, int], timeout: float) -> socket.socket:
    """A TCP connection made inside the network namespace of process `pid`; blocking.

    A socket belongs to the namespace it was made in for as long as it lives, so the agent keeps
    using it from outside. Root changes the namespace of a thread of its own. Anybody else has to
    enter the engine's user namespace first, which a process with threads may not: a helper does,
    and hands the socket over.

    Raises:
        OSError: the process is gone, nothing listens there, or the namespace may not be entered.
    """
    if os.geteuid() == 0:
        connection = _connect_in_thread(pid, address, timeout)
    else:
        connection = _connect_by_helper(pid, address, timeout)
    connection.setblocking(False)
    return connection


def _connect_in_thread(pid: int, address: tuple[str, int], timeout: float) -> socket.socket:
    result: list[socket.socket | OSError] = []

    def inside() -> None:
        try:
            with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
                if not private_network(pid):
                    # The number was given out again: what listens out here is not the engine.
                    raise ConnectionRefusedError(errno.ECONNREFUSED, "the engine is gone")
                _enter_network(namespace.fileno())
            result.append(socket.create_connection(address, timeout))
        except OSError as fault:
            result.append(fault)

    thread = threading.Thread(target=inside, name=f"netns-{pid}", daemon=True)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def _connect_by_helper(pid: int, address: tuple[str, int], timeout: float) -> socket.socket:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            helper = subprocess.Popen(
                (sys.executable, "-I", "-S", str(DOOR), str(theirs.fileno()), str(pid), *map(str, address)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            )
        try:
            ours.settimeout(timeout)
            said, handles, _, _ = socket.recv_fds(ours, 4096, 1)
        finally:
            helper.kill()
            helper.wait()
    if not handles:
        raise OSError(errno.ECONNREFUSED, said.decode(errors="replace") or "the helper ended without a word")
    return socket.socket(fileno=handles[0])


def _enter_network(namespace: int) -> None:
    """Moves the calling thread; os.setns exists from Python 3.12 on only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
