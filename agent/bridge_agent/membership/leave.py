"""Taking this node out of its mesh for good. Its keyring stays, for what of its records is sealed with it.

The order is what makes it safe: a registry is found first that answers and knows the node, so that an
agent is not stopped for nothing; the agent drains and revokes its lease; the registry revokes the
certificate and frees the name; only then is the identity forgotten here. A registry that does not know
the node any more, revoked or gone by an earlier try whose answer was lost, has let it go already.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from bridge_agent.config import AgentConfig, StateDir
from bridge_agent.lock import holder_of
from bridge_agent.membership.identity_files import remove_identity
from bridge_agent.membership.registries import known_registries
from bridge_agent.membership.registry_api import NotAMember
from bridge_agent.membership.registry_client import RegistryClient
from bridge_agent.membership.standing_rules import way_back
from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.sealing import open_sealer
from bridge_core.snapshot import EMPTY, Snapshot
from bridge_core.snapshot_file import SnapshotFile

log = structlog.get_logger()

_STOP_GRACE_S = 15.0  # beyond the drain, for the engines to stop


async def leave(
    settings: AgentConfig,
    state: StateDir,
    *,
    force: bool,
    drain_s: float,
    stop: Callable[[], None] | None = None,
) -> str:
    """Leaves the mesh.

    Args:
        settings: The node's.
        state: Where its identity lies; models stay.
        force: Forget the identity even when no registry can be told.
        drain_s: How long the running agent is waited for.
        stop: Stops the agent and returns once it has; None: a signal does.

    Returns:
        What an operator should know besides; mostly nothing.

    Raises:
        BridgeError: no registry answers or it refuses (and not `force`), or the agent does not
            stop. The node is then still enrolled; the message says what can be done.
    """
    told = _last_snapshot(settings, state).mesh
    settings = msgspec.structs.replace(settings, registries=known_registries(settings.registries, told))
    registries = [RegistryClient(address, state) for address in settings.registries]
    note = "" if force else await _asked(registries, RegistryClient.check, settings, "it serves on")
    if stop is not None:
        await asyncio.to_thread(stop)
    else:
        await _stop_agent(state, drain_s)
    try:
        note = await _asked(
            registries, RegistryClient.leave, settings, "it is stopped; bridge-agent run starts it again"
        )
    except BridgeError as fault:
        if not force:
            raise
        log.warning("registry_not_told", reason=str(fault))
        note = (
            f"no registry was told: {settings.name} stays in the mesh's list until an admin says "
            f"`bridgectl revoke {settings.name}`"
        )
    try:
        state.settings.unlink(missing_ok=True)
        remove_identity(state.identity)
        state.snapshot.unlink(missing_ok=True)
        state.secrets.unlink(missing_ok=True)
    except OSError as fault:
        raise Fatal(
            f"cannot remove {fault.filename}: {fault.strerror}",
            hint="the mesh has let the node go; delete it by hand",
        ) from fault
    return note


def _last_snapshot(settings: AgentConfig, state: StateDir) -> Snapshot:
    """What the node last knew; nothing where its keyring does not open: that keeps nobody from leaving."""
    try:
        sealer = open_sealer(state.seal_folder(settings.seal))
    except BridgeError as fault:
        log.warning("snapshot_unreadable", path=str(state.snapshot), reason=str(fault))
        return EMPTY
    return SnapshotFile(state.snapshot, sealer, now=time.time).load()


async def _asked(
    registries: Sequence[RegistryClient],
    call: Callable[[RegistryClient], Awaitable[None]],
    settings: AgentConfig,
    meanwhile: str,
) -> str:
    """Asks one registry after the other; what there is to say of the one that answered.

    Raises:
        BridgeError: none answered, or one refused; the node stays enrolled, and `meanwhile`.
    """
    last: BridgeError = Unavailable("no registry is configured")
    for registry in registries:
        try:
            await call(registry)
        except NotAMember as fault:
            return f"{fault.message.rstrip('.')}: the mesh had let the node go already"
        except Unavailable as fault:
            last = fault
        except BridgeError as fault:
            raise _stays(fault, settings, meanwhile) from fault
        else:
            return ""
    raise _stays(last, settings, meanwhile) from last


def _stays(fault: BridgeError, settings: AgentConfig, meanwhile: str) -> BridgeError:
    back = way_back(settings.name, settings.registries)
    return BridgeError(
        f"{fault.message}; {settings.name} stays enrolled, and {meanwhile}",
        hint="try again once a registry answers; or forget the identity here with "
        f"`bridge-agent leave --force`; or, where the certificate is the trouble, keep the node: {back}",
        reaction=fault.reaction,
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
