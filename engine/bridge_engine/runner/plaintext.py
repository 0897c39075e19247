"""What lies sealed on the disk, in the clear in memory for one runner, and nowhere else.

Rules:
1. The memory is a file without a name (`memfd_create`): who has no descriptor of it cannot open it. The
   engine has one until its runner has started, the runner until the model is unloaded; then it is free again.
2. How much it takes is known, and refused, before the first byte of it is.
3. Once it is whole nobody can change it any more, the runner included.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.memory_room import available
from bridge_core.model_store.open_blob import OpenBlob, Unseal, is_sealed
from bridge_core.quantities import say_size
from bridge_engine.runner.spec import RunnerSpec, in_memory

SPARE: Final = 256 << 20
"""Bytes of memory that stay free beside the weights: for what else a model needs, and others."""

_PIECE: Final = 1 << 20  # a segment: what is opened at once needs no copy
_NAME: Final = "sha256-"
_WHOLE: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class _Stopped(Exception):
    """Nobody waits for it any more."""


@contextlib.asynccontextmanager
async def opened(
    spec: RunnerSpec, unseal: Unseal | None, room: Callable[[], int] = available
) -> AsyncIterator[RunnerSpec]:
    """What a runner is started with, inside: those of its files that lie sealed are descriptors then.

    Args:
        spec: With the files as they lie on the disk.
        unseal: Gives their keys.
        room: Bytes of memory that are free, or can be made so.

    Raises:
        ApiError: 500; one does not open, or there is no room in memory for them.
    """
    texts = _Texts()
    work = asyncio.ensure_future(asyncio.to_thread(texts.open, spec, unseal, room))
    try:
        yield await asyncio.shield(work)
    finally:
        texts.stopped.set()
        if work.done():
            texts.close_behind(work)
        else:  # it still writes to what is to be closed, and who waits for it here may be cancelled again
            work.add_done_callback(texts.close_behind)
            await asyncio.wait([work])


class _Texts:
    """The texts of one runner's files."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._descriptors: list[int] = []

    def open(self, spec: RunnerSpec, unseal: Unseal | None, room: Callable[[], int]) -> RunnerSpec:
        """Opens what is sealed of a runner's files into memory. Blocks. Raises ApiError."""
        try:
            with contextlib.ExitStack() as stack:
                files = filter(_is_sealed, (spec.model, *spec.projectors, *spec.adapters))
                sealed = {path: stack.enter_context(_blob(Path(path), unseal)) for path in files}
                if not sealed:
                    return spec
                _check_room(sum(blob.size for blob in sealed.values()), room())
                given = {path: in_memory(self._text(blob)) for path, blob in sealed.items()}
        except ApiError:
            raise
        except BridgeError as fault:
            raise ApiError(500, f"sealed weights do not open: {fault}", late=True) from fault
        except OSError as fault:
            raise ApiError(500, f"sealed weights cannot be read: {fault}", late=True) from fault
        return msgspec.structs.replace(
            spec,
            model=given.get(spec.model, spec.model),
            projectors=tuple(given.get(path, path) for path in spec.projectors),
            adapters=tuple(given.get(path, path) for path in spec.adapters),
        )

    def _text(self, blob: OpenBlob) -> int:
        """A descriptor of memory with the text of a blob."""
        descriptor = os.memfd_create("sealed-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._descriptors.append(descriptor)
        for at in range(0, blob.size, _PIECE):
            if self.stopped.is_set():
                raise _Stopped
            view = memoryview(blob.read(at, _PIECE))
            while view:
                view = view[os.write(descriptor, view) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _WHOLE)
        return descriptor

    def close_behind(self, work: asyncio.Future[RunnerSpec]) -> None:
        """Lets go of them once `work` is over: what the runner has open stays."""
        if not work.cancelled():
            work.exception()  # seen: whoever would hear of it has left
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _is_sealed(path: str) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # the runner says what is wrong with it
        return False
    try:
        return is_sealed(handle)
    finally:
        os.close(handle)


def _blob(path: Path, unseal: Unseal | None) -> OpenBlob:
    return OpenBlob.at(path, path.name.removeprefix(_NAME), unseal)


def _check_room(wanted: int, free: int) -> None:
    if wanted + SPARE > free:
        raise ApiError(
            500,
            "model requires more system memory: its weights lie sealed and open into memory alone, which "
            f"takes {say_size(wanted)} beside {say_size(SPARE)} that stay free, and {say_size(free)} are "
            "available; unload another model, or give the engine more memory",
            late=True,
        )
