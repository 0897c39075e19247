"""The agent's own process: what `bridge-agent run` becomes once its options are understood.

Commands need typer, which loads rich and pydantic, and allocate as they like; the agent runs for
months. So `run` replaces itself (same process id, same files) by a process that never loads them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from bridge_agent.config import Listeners, StateDir, load_config
from bridge_core.command.guard import guarded
from bridge_core.form import form
from bridge_core.hardening import keep_memory_private
from bridge_core.key_files import check_key_files

_PROGRAM: Final = "bridge-agent"
# Not for the engines, which get nothing of the agent's environment that is not named (`engine.kinds`).
_ENVIRONMENT: Final = {
    # glibc gives each thread its own heap, up to eight a core: of a dozen threads that hardly allocate.
    "MALLOC_ARENA_MAX": "2",
    # h2corn's takes memory in whole huge pages, of which an idle listener needs next to nothing.
    "MIMALLOC_ARENA_EAGER_COMMIT": "0",
    # gRPC's core writes lines of its own among the JSON of the log; what they say comes as an error, too.
    "GRPC_VERBOSITY": "NONE",
}


class ServeOptions(msgspec.Struct, frozen=True):
    """What `bridge-agent run` was asked for, checked."""

    state_dir: str
    listeners: Listeners
    log_level: str
    keep_engines: bool
    drain_s: float


def become(options: ServeOptions) -> NoReturn:
    """Replaces this process by the agent."""
    sys.stdout.flush()
    environment = {**_ENVIRONMENT, **os.environ}
    said = msgspec.json.encode(options).decode()
    os.execve(sys.executable, [sys.executable, "-P", "-m", __name__, said], environment)  # noqa: S606 - no shell wanted


def main() -> None:
    """Serves with the options in the only argument."""
    gc.disable()  # what is loaded stays, and looking through it again and again is a quarter of loading it
    options = msgspec.json.decode(sys.argv[1], type=ServeOptions)
    sys.argv[0] = _PROGRAM
    keep_memory_private()
    with contextlib.suppress(OSError):  # for ps and top, and for `bridgectl up`, which says who has a port
        Path("/proc/self/comm").write_text(_PROGRAM)
    # structlog loads it where it is there, for tracebacks on terminals.
    sys.modules["rich"] = None  # type: ignore[assignment]  # how an import is made to fail

    def work() -> None:
        from bridge_agent.app import run_agent
        from bridge_agent.telemetry.logs import configure_logs

        gc.enable()
        log = configure_logs(options.log_level)
        form()  # refuses what is compiled in part
        state = StateDir(Path(options.state_dir))
        check_key_files(state.key)
        config = msgspec.structs.replace(load_config(state), listeners=options.listeners)
        if log is not None:
            log.known_as(config.name)
        run_agent(state, config, keep_engines=options.keep_engines, drain_s=options.drain_s, program_log=log)

    guarded(work)


if __name__ == "__main__":
    main()
