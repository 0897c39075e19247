"""The command `bridge-engine`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

import bridge_core.lean_logging  # noqa: F401 - before whatever loads structlog
from bridge_core.command.guard import guarded
from bridge_core.command.program import program
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.gpu_visibility import VISIBLE_DEVICES
from bridge_engine.modelgen.command import generate_model
from bridge_engine.requests import FOREVER, duration
from bridge_engine.runner.spec import KvType

if TYPE_CHECKING:
    from bridge_engine.runner.scheduler import SchedulerOptions

app = program("Ollama's HTTP API over llama.cpp, on Ollama's models directory.")
app.command("generate-model")(generate_model)


@app.command()
def serve(
    *,
    models: Annotated[Path, typer.Option(help="Ollama's models directory; made where it is missing.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 picks a free one.")] = "127.0.0.1:11434",
    ready_file: Annotated[Path | None, typer.Option(help="Gets {host, port, pid} once it listens.")] = None,
    ready_fd: Annotated[int | None, typer.Option(help="The same, written to this descriptor.")] = None,
    num_parallel: Annotated[int, typer.Option(min=1, help="Requests a model answers at a time.")] = 1,
    keep_alive: Annotated[str, typer.Option(help="How long an idle model stays; negative: for ever.")] = "5m",
    context_length: Annotated[int, typer.Option(min=4, help="Where nobody asks for another.")] = 4096,
    max_loaded: Annotated[int, typer.Option(min=1, help="Models loaded at a time.")] = 3,
    kv_cache_type: Annotated[KvType, typer.Option(help="Precision of the KV cache.")] = KvType.F16,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: few beside a GPU, else all.")] = 0,
    batch: Annotated[int, typer.Option(min=0, help="Prompt tokens read at a time; 0: 512.")] = 0,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait for a load.")] = 512,
    load_timeout: Annotated[str, typer.Option(help="How long a loading model may be silent.")] = "5m",
    hang_timeout: Annotated[str, typer.Option(help="How long a busy runner may be silent.")] = "10s",
    llama_server: Annotated[
        Path | None, typer.Option(help="A llama-server to run instead of the wheel's (GPU back ends).")
    ] = None,
) -> None:
    """Serve the models of a directory."""
    from bridge_engine.runner.scheduler import SchedulerOptions

    host, port = _address(listen)
    settings = SchedulerOptions(
        parallel=num_parallel,
        keep_alive_s=_seconds("--keep-alive", keep_alive),
        context_length=context_length,
        max_loaded=max_loaded,
        kv_cache_type=kv_cache_type.value,
        threads=threads or default_threads(llama_server),
        batch=batch,
        max_queue=max_queue,
        load_stall_s=_seconds("--load-timeout", load_timeout),
        hang_s=_seconds("--hang-timeout", hang_timeout),
        llama_server=_binary(llama_server),
    )
    from bridge_core.logs.setup import log_of_program

    guarded(lambda: log_of_program("bridge-engine"))
    uvloop.run(_serve(models, settings, host, port, lambda record: _report(record, ready_file, ready_fd)))


@app.command()
def seed(
    models: Annotated[Path, typer.Option(help="Ollama's models directory; made where it is missing.")],
    cache: Annotated[Path, typer.Option(help="Where models are kept to link from.")],
    names: Annotated[list[str] | None, typer.Argument(help="Which models; all where none is named.")] = None,
) -> None:
    """Put the trial models into a models directory."""
    from bridge_engine import seed as seeding  # without what serves: a node is seeded at each `bridgectl up`

    try:
        added = seeding.seed(models, names or seeding.NAMES, cache)
    except OSError as fault:
        raise Fatal(f"cannot write the models to {models}: {fault.strerror}") from fault
    typer.echo(f"added {', '.join(added)}" if added else "nothing to add")


async def _serve(
    models: Path, settings: SchedulerOptions, host: str, port: int, report: Callable[[bytes], None]
) -> None:
    from bridge_engine.app import ready_record, run_engine

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await run_engine(
            models,
            settings,
            host=host,
            port=port,
            ready=lambda where, bound: report(ready_record(where, bound, os.getpid())),
            stop=stop,
        )
    except OSError as fault:
        raise Fatal(
            f"cannot use the models directory {models}: {fault.strerror}", hint="choose another with --models"
        ) from fault


def _report(record: bytes, file: Path | None, descriptor: int | None) -> None:
    if file is not None:
        write_atomically(file, record)
    if descriptor is not None:
        with os.fdopen(descriptor, "wb") as out, contextlib.suppress(BrokenPipeError):
            out.write(record + b"\n")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise Fatal(f"--listen {text}: not HOST:PORT", hint="for example 127.0.0.1:11434")
    return host.strip("[]"), int(port)


def _seconds(flag: str, text: str) -> float:
    try:
        seconds = float(text) if text.lstrip("-").replace(".", "", 1).isdigit() else duration(text)
    except ApiError as fault:
        raise Fatal(f"{flag} {text}: {fault.message}", hint="for example 5m, 1h30m or -1") from fault
    return FOREVER if seconds < 0 else seconds


def default_threads(llama_server: Path | None) -> int:
    """CPU threads where none are asked for; 0 leaves it to llama.cpp, which takes every core.

    Beside a GPU those only wait for it, and take turns with those of the other engines: eight engines
    on one GPU gave 498 tokens/s so and 1,371 with two threads each.
    """
    pinned = any(os.environ.get(name) for name in VISIBLE_DEVICES.values())
    return max(1, len(os.sched_getaffinity(0)) // 8) if llama_server is not None and pinned else 0


def _binary(path: Path | None) -> str:
    if path is None:
        return ""
    found = shutil.which(str(path))
    if found is None:
        raise Fatal(f"--llama-server {path}: no such program")
    return str(Path(found).absolute())


def run() -> None:
    """Entry point of the console script."""
    guarded(app)


if __name__ == "__main__":
    run()
