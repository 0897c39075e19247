"""Follows the mesh's snapshot: from disk at start, then from whichever registry answers.

Without any registry the last snapshot stays, whatever its age; nothing in the request path waits
for this module.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

import structlog

from bridge_agent.membership.follow_rules import MAX_REJECTIONS, judge
from bridge_agent.membership.link_status import LinkStatus
from bridge_agent.membership.registry_api import RegistryApi, SnapshotStream
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.snapshot import EMPTY, Snapshot
from bridge_core.snapshot_file import SnapshotFile

log = structlog.get_logger()

_QUIET_S = 1.0


class SnapshotSubscription:
    """Holds the agent's snapshot; `run` keeps it current.

    Args:
        registries: Tried in turn; more may come and some go.
        file: Where the snapshot is kept.
        on_snapshot: Called with every new snapshot, in the loop's thread.
        on_secrets: Called with what the mesh tells its agents beside a snapshot, when it does.
        on_confirmed: Called with the snapshot whenever a registry has said, if only by having nothing
            newer, that it is the mesh's present one.
        now: The wall clock in seconds, for `status`.
        rng: For the back-off's jitter and for where in `registries` to begin.
    """

    def __init__(
        self,
        registries: Sequence[RegistryApi],
        file: SnapshotFile,
        *,
        on_snapshot: Callable[[Snapshot], None],
        on_secrets: Callable[[Mapping[str, bytes]], None] | None = None,
        on_confirmed: Callable[[Snapshot], None] | None = None,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._registries = registries
        self._file = file
        self._on_snapshot = on_snapshot
        self._on_secrets = on_secrets
        self._on_confirmed = on_confirmed
        self._backoff = Backoff(rng, first_s=0.2, most_s=5.0)
        # A thousand agents spread over the registries instead of all beginning at the first.
        self._next = rng.randrange(len(self._registries))
        self._unsaved = asyncio.Event()
        self._saving: asyncio.Future[None] | None = None
        self.snapshot = file.load()
        self.status = LinkStatus("registry", now)

    async def run(self) -> None:
        """Follows until cancelled; a snapshot not saved by then is saved last."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_any(), name="snapshot")
                group.create_task(self._save(), name="snapshot-file")
        finally:
            if self._saving is not None:
                # A thread goes on when its task is cancelled, and must not overwrite what comes after.
                await asyncio.wait([self._saving])
            if self._unsaved.is_set():
                self._file.save(self.snapshot)

    async def _save(self) -> None:
        """Saves the latest: a slow disk delays neither a change of traffic nor the next update."""
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            self._saving = asyncio.ensure_future(asyncio.to_thread(self._file.save, self.snapshot))
            await asyncio.shield(self._saving)

    async def _follow_any(self) -> None:
        while True:
            registry = self._registries[self._next % len(self._registries)]
            try:
                async with registry.watch() as stream:
                    await self._follow(registry.address, stream)
            except BridgeError as fault:
                if self.status.failed(fault, because=fault):
                    log.warning("snapshot_watch_failed", registry=registry.address, reason=str(fault))
            self._next += 1
            await asyncio.sleep(self._backoff.next_s())

    async def _follow(self, address: str, stream: SnapshotStream) -> None:
        have = None if self.snapshot is EMPTY else self.snapshot.version
        await stream.send(have)
        # A registry that has nothing new says nothing; one that refuses says so at once.
        quiet = asyncio.get_running_loop().call_later(_QUIET_S, self._quiet, address)
        try:
            await self._receive(address, stream)
        finally:
            quiet.cancel()

    def _quiet(self, address: str) -> None:
        self._works(address)
        if self.snapshot is not EMPTY:
            self._confirmed()

    def _confirmed(self) -> None:
        if self._on_confirmed is not None:
            self._on_confirmed(self.snapshot)

    def _works(self, address: str) -> None:
        if self.status.works():
            log.info("snapshot_watch_works", registry=address)

    async def _receive(self, address: str, stream: SnapshotStream) -> None:
        rejections = 0
        while True:
            update = await stream.receive()
            self._works(address)
            # Before the snapshot that may need them, and whatever becomes of it.
            if update.secrets and self._on_secrets is not None:
                self._on_secrets(update.secrets)
            judged = judge(self.snapshot, update)
            if judged.rejected:
                rejections += 1
                log.warning("snapshot_rejected", registry=address, reason=judged.rejected)
                await stream.send(self.snapshot.version, judged.rejected)
                if rejections >= MAX_REJECTIONS:
                    raise Unavailable(
                        f"registry {address} sends snapshots that are rejected: {judged.rejected}"
                    )
                continue
            rejections = 0
            self._backoff.reset()
            self._take(judged.snapshot)
            await stream.send(judged.snapshot.version)

    def _take(self, snapshot: Snapshot) -> None:
        if snapshot.version != self.snapshot.version:
            log.info("snapshot_taken", version=_dotted(snapshot), entries=len(snapshot.entries))
        self.snapshot = snapshot
        self._on_snapshot(snapshot)
        self._confirmed()
        self._unsaved.set()


def _dotted(snapshot: Snapshot) -> str:
    return f"{snapshot.version.epoch}.{snapshot.version.revision}"
