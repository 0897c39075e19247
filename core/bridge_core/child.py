"""Speaking with a child process that may be gone at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process

from bridge_core.errors import BridgeError


async def converse_with(module: str, said: bytes, *, within_s: float, otherwise: str) -> bytes:
    """What a module of ours, run as a process of its own, writes when it is told `said`.

    Args:
        module: Its name; what is run is its `main`.
        said: Its input.
        within_s: How long it may take; then it is killed.
        otherwise: What to say where nothing comes of it: "a key was not made".

    Raises:
        BridgeError: it could not be started, hung, failed, or wrote nothing; the message says which.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", module, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
    except OSError as fault:
        raise BridgeError(f"{otherwise}: no process could be started ({fault.strerror})") from fault
    try:
        async with asyncio.timeout(within_s):
            answer, errors = await converse(process, said)
    except TimeoutError as fault:
        raise BridgeError(f"{otherwise} within {within_s:g} s") from fault
    except (OSError, RuntimeError) as fault:  # it ended before it had read what is wanted
        raise BridgeError(f"{otherwise}: its process ended at once ({fault})") from fault
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not answer:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise BridgeError(f"{otherwise}: {last or f'status {process.returncode}'}")
    return answer


async def converse(process: Process, said: bytes) -> tuple[bytes, bytes]:
    """Gives a child its input, and returns what it wrote to its output and to its errors once it has ended.

    In place of `Process.communicate`, which under uvloop raises RuntimeError where the child is gone
    before it was told anything: a machine that was suspended wakes up to that. A child that does not
    listen is no fault here: what it wrote, and its status, say why.
    """
    _, output, errors = await asyncio.gather(
        _tell(process.stdin, said), _all_of(process.stdout), _all_of(process.stderr)
    )
    await process.wait()
    return output, errors


async def _tell(pipe: asyncio.StreamWriter | None, said: bytes) -> None:
    if pipe is None:
        return
    with contextlib.suppress(OSError, RuntimeError):
        pipe.write(said)
        await pipe.drain()
    with contextlib.suppress(OSError, RuntimeError):
        pipe.close()


async def _all_of(pipe: asyncio.StreamReader | None) -> bytes:
    return b"" if pipe is None else await pipe.read()
