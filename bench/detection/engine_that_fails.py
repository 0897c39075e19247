"""`bridge-engine` behind a proxy that answers 500 to some requests, as many as a file in its home says."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from bench.faulty_engine import Fault, FaultyEngines
from bridge_core import http1
from bridge_core.addresses import split_address

_DIES_WITH_PARENT = 1


def _tied() -> None:
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


class FileFaults(FaultyEngines):
    """Fails by the share that the file says."""

    def __init__(self, file: Path) -> None:
        super().__init__(os.getpid())
        self._file = file

    async def answer(self, exchange: http1.Exchange, engine: http1.Pool) -> None:
        try:
            share = float(self._file.read_text() or 0.0)
        except OSError:
            share = 0.0
        self.faults = {one: Fault(errors=share) for one in ("tiny", "tiny:latest")}
        await super().answer(exchange, engine)


async def _serve(host: str, port: int, inner: int) -> None:
    faults, engine = FileFaults(Path(os.environ["HOME"]) / "failures"), http1.Pool((host, inner))
    async with asyncio.TaskGroup() as group:

        async def handle(exchange: http1.Exchange) -> None:
            await faults.answer(exchange, engine)

        await http1.serve(http1.coroutine_app(handle, group), name="faulty", host=host, port=port)
        await asyncio.Event().wait()


def main() -> None:
    """Runs both until the engine ends."""
    words = sys.argv[1:]
    at = words.index("--listen") + 1
    host, port = split_address(words[at])
    inner = port - 6000
    words[at] = f"{host}:{inner}"
    real = str(Path(sys.executable).with_name("bridge-engine"))
    command = [real] if Path(real).exists() else [sys.executable, "-m", "bridge_engine.cli"]
    engine = subprocess.Popen([*command, *words], preexec_fn=_tied)  # noqa: PLW1509 - before any thread
    signal.signal(signal.SIGTERM, lambda *_: engine.terminate())

    async def both() -> None:
        serving = asyncio.ensure_future(_serve(host, port, inner))
        await asyncio.to_thread(engine.wait)
        serving.cancel()

    asyncio.run(both())
    os._exit(engine.returncode or 0)


if __name__ == "__main__":
    main()
