"""Speaking with a child process that may be gone at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import Process


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
