"""What a program can reach, tried by the program itself: run inside walls, and outside for comparison."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bridge_agent.engines.logfile import LogFile
from bridge_agent.engines.process import EngineProcess, LaunchSpec
from bridge_agent.limits.launcher import IsolatedLauncher
from tests.support import eventually

# Standard library only: it runs in a bare interpreter. Its argument is what to try, its answer goes
# to the file "answer" of the folder HOME; then it stays, as an engine does.
PROGRAM = r"""
import ctypes, errno, fcntl, json, os, signal, socket, struct, sys

asked = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)

def attempt(call, *arguments):
    try:
        return call(*arguments) or "ok"
    except OSError as fault:
        return errno.errorcode.get(fault.errno, str(fault))

def system(name, *arguments):
    return "ok" if getattr(libc, name)(*arguments) != -1 else errno.errorcode[ctypes.get_errno()]

def read(path):
    if os.path.isdir(path):
        return ",".join(sorted(os.listdir(path)))
    return open(path, "rb").read(200).decode(errors="replace")

def write(path):  # opened, never written to: some of these would stop the machine
    os.close(os.open(path, os.O_WRONLY))

def connect(family, address):
    with socket.socket(family) as one:
        one.settimeout(5)
        one.connect(address)

def fill(path, most):
    with open(path, "wb", buffering=0) as file:
        for _ in range(most >> 20):
            file.write(bytes(1 << 20))

def litter(path, most):
    for number in range(most):
        os.close(os.open(path + str(number), os.O_CREAT | os.O_WRONLY))

def leave(path):  # the project of its file system
    one = os.open(path, os.O_RDONLY)
    attributes = list(struct.unpack("=5I8x", fcntl.ioctl(one, 0x801C581F, bytes(28))))
    attributes[3] = 0
    fcntl.ioctl(one, 0x401C5820, struct.pack("=5I8x", *attributes))

# Room for the answer, which has to be told also from a home that is full by then.
part = os.path.join(os.environ["HOME"], "answer.part")
with open(part, "wb") as file:
    file.write(bytes(1 << 16))

status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
answer = {
    "uid": os.getuid(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "read": {path: attempt(read, path) for path in asked.get("read", [])},
    "write": {path: attempt(write, path) for path in asked.get("write", [])},
    "tcp": {str(to): attempt(connect, socket.AF_INET, ("127.0.0.1", to)) for to in asked.get("tcp", [])},
    "unix": {name: attempt(connect, socket.AF_UNIX, name) for name in asked.get("unix", [])},
    "pids": len([name for name in os.listdir("/proc") if name.isdecimal()]),
    "signal": {str(pid): attempt(os.kill, pid, 0) for pid in asked.get("signal", [])},
    "ptrace": {str(pid): system("ptrace", 16, pid, 0, 0) for pid in asked.get("ptrace", [])},
    "mount": {at: system("mount", b"x", at.encode(), b"tmpfs", 0, None) for at in asked.get("mount", [])},
    "hostname": socket.gethostname(),
    "no_new_privs": status["NoNewPrivs"].strip(),
    "capabilities": status["CapEff"].strip() + status["CapBnd"].strip(),
    "fill": {path: attempt(fill, path, most) for path, most in asked.get("fill", {}).items()},
    "litter": {path: attempt(litter, path, most) for path, most in asked.get("litter", {}).items()},
    "leave": {path: attempt(leave, path) for path in asked.get("leave", [])},
    "make": {path: attempt(os.mkdir, path) for path in asked.get("make", [])},
}
server = socket.create_server(("127.0.0.1", 0))
answer["port"] = server.getsockname()[1]
with open(part, "r+") as file:
    json.dump(answer, file)
    file.truncate()
os.rename(part, part[:-5])
signal.pause()
"""


def command(asked: dict[str, Any], python: str = sys.executable) -> tuple[str, ...]:
    """The program as a command line; HOME says where it answers.

    What it is to ptrace is stopped, and what it is to mount is covered, where that is allowed: ask
    it of nothing that matters, and never without walls.
    """
    return (python, "-I", "-S", "-c", PROGRAM, json.dumps(asked))


async def answer(home: Path, deadline_s: float = 60.0) -> dict[str, Any]:
    """What it found."""
    file = home / "answer"
    await eventually(file.exists, deadline_s)
    return json.loads(file.read_text())


@contextlib.asynccontextmanager
async def stand_in(
    it: IsolatedLauncher,
    folder: Path,
    instance: str,
    argv: tuple[str, ...],
    environment: Mapping[str, str] = MappingProxyType({}),
    *,
    writable: tuple[Path, ...] = (),
) -> AsyncIterator[EngineProcess]:
    """Runs a program in an engine's place until the end of the block; its files are in `folder`."""
    (folder / "home").mkdir(mode=0o700, parents=True, exist_ok=True)
    spec = LaunchSpec(argv, environment, folder, LogFile(folder / "log"), instance, writable=writable)
    process = await it.launch(spec)
    try:
        yield process
    finally:
        await asyncio.shield(process.end(0.0))
        await it.ended(instance)
        process.close()


@contextlib.asynccontextmanager
async def inside(
    it: IsolatedLauncher,
    state: Path,
    asked: dict[str, Any],
    *,
    models: Path,
    number: int = 0,
    python: str = sys.executable,
) -> AsyncIterator[tuple[EngineProcess, dict[str, Any]]]:
    """Runs the program as instance n1/<number> of a launcher; gives its process and what it found."""
    folder = state / "engines" / str(number)
    home = folder / "home"
    models.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "answer").unlink(missing_ok=True)
    argv = command(asked, python)
    async with stand_in(it, folder, f"n1/{number}", argv, {"HOME": str(home)}, writable=(models,)) as process:
        try:
            found = await answer(home)
        except AssertionError as fault:
            raise AssertionError(f"no answer: {LogFile(folder / 'log').tail()}") from fault
        yield process, found
