"""Taking this node out of its mesh for good.

The order is what makes it safe: a registry is found first, so that an agent is not stopped for
nothing; the agent drains and revokes its lease; the registry revokes the certificate and frees the
name; only then is the identity forgotten here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

import structlog

from bridge_agent.config import AgentConfig, StateDir
from bridge_agent.lock import holder_of
from bridge_agent.membership.identity_files import remove_identity
from bridge_agent.membership.registry_client import RegistryClient
from bridge_core.addresses import split_address
from bridge_core.errors import BridgeError, Fatal, Unavailable

log = structlog.get_logger()

_REACH_S = 5.0
_STOP_GRACE_S = 15.0  # beyond the drain, for the engines to stop


async def leave(
    settings: AgentConfig,
    state: StateDir,
    *,
    force: bool,
    drain_s: float,
    stop: Callable[[], None] | None = None,
) -> None:
    """Leaves the mesh.

    Args:
        settings: The node's.
        state: Where its identity lies; models stay.
        force: Forget the identity even when no registry can be told.
        drain_s: How long the running agent is waited for.
        stop: Stops the agent and returns once it has; None: a signal does.

    Raises:
        BridgeError: no registry answers or it refuses (and not `force`), or the agent does not
            stop. The node is then still enrolled.
    """
    if not force:
        await _reach_any(settings.registries)
    if stop is not None:
        await asyncio.to_thread(stop)
    else:
        await _stop_agent(state, drain_s)
    try:
        await _tell_any(settings.registries, state)
    except BridgeError as fault:
        if not force:
            raise
        log.warning("registry_not_told", reason=str(fault))
    try:
        state.settings.unlink(missing_ok=True)
        remove_identity(state.identity)
        state.snapshot.unlink(missing_ok=True)
    except OSError as fault:
        raise Fatal(
            f"cannot remove {fault.filename}: {fault.strerror}",
            hint="the mesh has let the node go; delete it by hand",
        ) from fault


async def _reach_any(registries: Sequence[str]) -> None:
    for address in registries:
        try:
            async with asyncio.timeout(_REACH_S):
                _, writer = await asyncio.open_connection(*split_address(address))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            continue
        return
    raise Unavailable(
        f"no registry answers at {', '.join(registries)}",
        hint="the node stays enrolled and serves on; --force forgets its identity here all the same",
    )


async def _stop_agent(state: StateDir, drain_s: float) -> None:
    """Sends SIGTERM, which drains, and waits for the process to end."""
    pid = holder_of(state.lock)
    if pid is None:
        return
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(process, gone.set)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            async with asyncio.timeout(drain_s + _STOP_GRACE_S):
                await gone.wait()
        except ProcessLookupError:
            return
        except PermissionError as fault:
            raise Fatal(
                f"may not stop the agent (process {pid})", hint="run leave as the agent's user"
            ) from fault
        except TimeoutError:
            raise BridgeError(
                f"the agent (process {pid}) is still finishing requests",
                hint="run leave again, or give it longer with --drain",
            ) from None
        finally:
            loop.remove_reader(process)
    finally:
        os.close(process)


async def _tell_any(registries: Sequence[str], state: StateDir) -> None:
    last: BridgeError | None = None
    for address in registries:
        try:
            await RegistryClient(address, state).leave()
        except Unavailable as fault:
            last = fault
        else:
            return
    raise last or BridgeError("no registry is configured")
