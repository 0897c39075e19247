"""What MPS is told and what its logs mean. Pure.

Facts that shape it (tried on an H200, driver 580; bench/RESULTS.md):
1. Engines under one MPS server are one fault domain: an illegal access in one ends them all.
2. CUDA_MPS_PINNED_DEVICE_MEM_LIMIT holds for each process, and an engine runs one process a loaded
   model; a limit for an engine is therefore divided by the models it may hold.
3. CUDA_MPS_ACTIVE_THREAD_PERCENTAGE is read when a client connects; the control daemon can change
   the default of clients still to come, not of those there are.
4. Client and server meet over the pipe directory and must be of one user; a private /dev/shm or
   IPC namespace around the client does not part them, the server maps device memory only.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec


class MpsShare(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one instance may take of its GPU; None: no limit."""

    thread_percentage: int | None = None
    memory_bytes: int | None = None


class MpsFault(msgspec.Struct, frozen=True):
    """Something that MPS logged and that ended, or will end, engines.

    Attributes:
        kind: "client_fault" (an illegal access: every client of the server is gone), "server_exit"
            or "refused" (a client could not connect).
        pid: The client or server named, 0 where none is.
        text: The log line's own words.
    """

    kind: str
    pid: int
    text: str


def faults(share: MpsShare, device_bytes: int, *, mig: bool) -> tuple[str, ...]:
    """Every reason why a share cannot be given, a sentence each."""
    found = []
    percentage = share.thread_percentage
    if percentage is not None and not 1 <= percentage <= 100:
        found.append(f"active thread percentage is {percentage}: it must be 1 to 100")
    if share.memory_bytes is not None and share.memory_bytes <= 0:
        found.append(f"MPS memory limit is {share.memory_bytes}: it must be more than 0 bytes")
    elif share.memory_bytes is not None and share.memory_bytes > device_bytes:
        found.append(f"MPS memory limit is {share.memory_bytes} bytes, the device has {device_bytes}")
    if mig:
        found.append("MIG is enabled on the device: give the instance a MIG slice's UUID instead of MPS")
    return tuple(found)


def client_environment(pipe: str, log: str, share: MpsShare, models: int) -> dict[str, str]:
    """The environment that makes a program a client of the MPS server behind `pipe`.

    The device is named 0 in the memory limit: a client is pinned to one device, which it counts
    from 0. The limit holds for each process, so the instance's is shared out over its models.
    """
    environment = {"CUDA_MPS_PIPE_DIRECTORY": pipe, "CUDA_MPS_LOG_DIRECTORY": log}
    if share.thread_percentage is not None:
        environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(share.thread_percentage)
    if share.memory_bytes is not None:
        environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={share.memory_bytes // max(1, models) >> 20}M"
    return environment


_LINE: Final = re.compile(r"^\[[^\]]*?(?P<who>Control|Server|Other)[ \t]+(?P<pid>\d+)\]\s*(?P<text>.*)$")
# "client 4711", "Client process 4711", and since driver 555 "Client {PID: 4711, Context ID: 0}".
_CLIENT: Final = re.compile(r"client (?:process )?\{?(?:pid: ?)?(?P<pid>\d+)", re.IGNORECASE)
_FATAL: Final = re.compile(r"\bfatal\b|\bfault(?:s|ed|ing)?\b|sticky error")


def read_log_line(line: str) -> MpsFault | None:
    """The fault that a line of control.log or server.log tells of, or None."""
    match = _LINE.match(line.strip())
    if match is None:
        return None
    text, lower = match["text"], match["text"].lower()
    if lower.startswith("the following client"):  # of a list of all that the fault before will end
        return None
    client = _CLIENT.search(text)
    named = int(client["pid"]) if client else 0
    if _FATAL.search(lower):
        return MpsFault("client_fault", named, text)
    if re.search(r"server \d+ exited", lower) and "status 0" not in lower:
        return MpsFault("server_exit", int(re.findall(r"\d+", text)[0]), text)
    # A client that ends is "assumed to exit" after a receive that failed: that is its goodbye.
    if "failed to" in lower and "client" in lower and "assuming client" not in lower:
        return MpsFault("refused", named, text)
    return None


class Quarantine(msgspec.Struct, frozen=True):
    """Which instances of a fault domain bring its MPS server down again and again.

    MPS names a client with every fault, and not always the right one: of eight that were busy it named
    a neighbour. So an instance is kept out when it was named in `limit` of the last `window` faults.

    Attributes:
        named: Whom the last faults were laid to, the newest last.
        out: Who is kept out.
    """

    named: tuple[str, ...] = ()
    out: frozenset[str] = frozenset()
    limit: int = 3
    window: int = 5

    def blame(self, instance: str) -> Quarantine:
        """After one more fault of `instance`."""
        named = (*self.named, instance)[-self.window :]
        out = self.out | {instance} if named.count(instance) >= self.limit else self.out
        return Quarantine(named, out, self.limit, self.window)

    def quarantined(self, instance: str) -> bool:
        """Whether `instance` may no longer share a server."""
        return instance in self.out
