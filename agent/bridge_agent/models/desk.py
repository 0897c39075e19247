"""The models of one node, put together: what the gateway and other nodes ask of them."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.view import LocalInstance
from bridge_agent.models.admin_pages import AdminPages
from bridge_agent.models.admin_replies import Recorded
from bridge_agent.models.blob_files import tidy
from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.fetcher import BlobFetcher
from bridge_agent.models.finding import GIVE_UP_S, Finding
from bridge_agent.models.key_socket import KeySocket
from bridge_agent.models.origin import Origin, OriginPort
from bridge_agent.models.pace_rules import Pace
from bridge_agent.models.peer_client import PeerClient
from bridge_agent.models.peer_pages import PeerPages
from bridge_agent.models.programs import Processes, ProgramFiles
from bridge_agent.models.pulling import ModelPulls
from bridge_agent.models.receiving import Receiver
from bridge_agent.models.removing import Removals
from bridge_agent.models.sealing import Sealing
from bridge_agent.models.section import ModelsSection
from bridge_agent.models.shared.hold import PublishRegistry
from bridge_agent.models.shared.patience import aside
from bridge_agent.models.shared.publishing import Publishing
from bridge_agent.models.shared.section import shared_faults
from bridge_agent.models.shared.tier import SharedTier
from bridge_agent.models.shared.unpublishing import Unpublishing
from bridge_agent.models.shelf import Shelf
from bridge_agent.models.warming import Warming
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView
from bridge_agent.signing.gate import SignatureGate
from bridge_agent.signing.pages import SigningPages
from bridge_core.errors import BridgeError, Fatal
from bridge_core.http1 import App
from bridge_core.model_answers import SharedSaid
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import ModelName

log = structlog.get_logger()

_TIDY_S: Final = 3600.0
_OLD_S: Final = 7 * 86_400.0
_SHARED_LOOK_S: Final = 30.0


def store_of(engines: tuple[EngineConfig, ...], default: Path) -> Path | None:
    """The models folder that this node's engines read; None where only engines of somebody else's do."""
    own = [one for one in engines if one.attach is None]
    if not own:
        return None
    return Path(own[0].models_dir) if own[0].models_dir else default


class ModelDesk:
    """The models of this node.

    Args:
        root: The models folder.
        section: How blobs travel.
        view: The mesh.
        upstreams: The links to other nodes.
        group: Where pulls and transfers run.
        busy: Whether requests run at this node.
        changed: Called when the store has another model.
        running: How many requests for a model of a canonical name run here.
        recorded: Puts what an admin did to a model on record.
        instances: Those of this node that read this store.
        loading: Whether an engine here loads a model; asked in a thread.
        warmed: Told when other models are in the page cache, or lie sealed, than before.
        give_up_s: How long a transfer may gain nothing.
        habits: The file of what is asked for at which time of day; None: that is not kept.
        programs: The file of what the engines' programs are made of; None: that is not kept.
        processes: The engines that have a model loaded, by pid and start time.
        keys: What sealed blobs open with, and what comes is sealed with where `section` says so.
        registries: Give leases to publish models into the shared storage.

    Raises:
        Fatal: the shared storage is the models folder itself, or lies in it.

    Attributes:
        root: The models folder.
        blobs: What lies in it.
        store: Gives the models in it; asked on the loop.
        pulls: Pulls models.
        fetcher: Gets blobs.
        shelf: Reads what the mesh has.
        warming: Keeps models in the page cache.
        sealing: Sees to it that blobs lie sealed; None where they lie in the clear.
        removals: Removes models.
        receiver: Takes what is pushed here.
        signatures: Says which models have to be signed, and are.
        shared: The shared storage; None: there is none.
    """

    def __init__(
        self,
        root: Path,
        section: ModelsSection,
        *,
        view: MeshView,
        upstreams: Upstreams,
        group: asyncio.TaskGroup,
        busy: Callable[[], bool],
        changed: Callable[[], None],
        running: Callable[[str], int],
        recorded: Recorded,
        instances: Callable[[], Sequence[LocalInstance]] = tuple,
        loading: Callable[[], bool] = lambda: False,
        warmed: Callable[[], None] = lambda: None,
        give_up_s: float = GIVE_UP_S,
        keys: BlobKeys | None = None,
        habits: Path | None = None,
        programs: Path | None = None,
        processes: Processes = tuple,
        registries: Sequence[PublishRegistry] = (),
    ) -> None:
        self.root = root
        if faults := shared_faults(section.shared, (str(root),)):
            raise Fatal("; ".join(faults), hint="correct agent.json")
        self.shared = None if section.shared is None else SharedTier(section.shared)
        self._group = group
        rng = random.Random()  # noqa: S311 - which of equally good pieces
        peers = PeerClient(view, upstreams)

        @functools.cache  # one for all: its lock is its own; not before it is asked for, it makes folders
        def store() -> ModelStore:
            return ModelStore(root)

        self.store = store
        blobs = self.blobs = Blobs(root, keys, sealing=section.sealed)
        self.signatures = SignatureGate(view, (blobs, store), instances, changed=warmed)
        self.shelf = Shelf(blobs, store, view, peers)
        finding = Finding(peers, time.monotonic, give_up_s=give_up_s)

        def pace() -> Pace:
            return Pace(section.bandwidth, section.bandwidth_busy)

        self.fetcher = BlobFetcher(
            blobs,
            peers,
            finding,
            group,
            pace=pace(),
            busy=busy,
            reserve=section.reserve,
            draw=lambda: rng.getrandbits(30),
            now=time.monotonic,
        )
        self.removals = Removals(
            root,
            store,
            view,
            peers,
            budget=section.disk_budget,
            running=running,
            changed=changed,
        )
        self.pulls = ModelPulls(
            blobs,
            store,
            view,
            peers=peers,
            fetcher=self.fetcher,
            origin=_origin,
            group=group,
            changed=changed,
            room=self.removals.make_room,
            check=self.signatures.check,
            shared=self.shared,
        )
        self.receiver = Receiver(
            blobs,
            store,
            reserve=section.reserve,
            room=self.removals.make_room,
            changed=changed,
            check=self.signatures.check,
        )
        self.pages = PeerPages(blobs, store, self.fetcher, finding, pace=pace(), busy=busy)
        self.warming = Warming(
            root,
            store,
            view,
            configured=section.page_cache,
            instances=instances,
            loading=loading,
            changed=warmed,
            habits=habits,
            programs=ProgramFiles(programs, root),
            processes=processes,
        )
        self._key_socket = None if keys is None else KeySocket(root, keys, sealing=section.sealed)
        self.sealing: Sealing | None = None
        if keys is not None and section.sealed:
            self.sealing = Sealing(
                blobs, store, keys, reserve=section.reserve, loading=loading, changed=warmed
            )
        self._instances = instances
        self._admin = AdminPages(
            blobs,
            store,
            view,
            self.pulls,
            warm=self.warming.order,
            removals=self.removals,
            recorded=recorded,
            signed=self.signatures.verdict,
            shared=self.shared,
            publishing=None
            if self.shared is None
            else Publishing(self.shared, blobs, store, registries, lambda: view.index.node),
            unpublishing=None
            if self.shared is None
            else Unpublishing(self.shared, registries, lambda: view.index.node),
        )
        self._signing = SigningPages(blobs, store, view, changed=changed, recorded=recorded)

    def node_pages(self) -> dict[str, App]:
        """What other nodes may ask, by path."""
        return self.pages.apps(self._group)

    def admin_pages(self) -> dict[str, App]:
        """What admins may ask, by path."""
        return {**self._admin.apps(self._group), **self._signing.apps(self._group)}

    @property
    def tasks(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What is to run beside the serving, by name."""
        found = {"models": self.run, "warming": self.warming.run}
        if self._key_socket is not None:
            found["blob-keys"] = self._key_socket.run
        if self.sealing is not None:
            found["sealing"] = self.sealing.run
        if self.shared is not None:
            found["shared-storage"] = functools.partial(_watch, self.shared)
        return found

    def shown(self, instances: Sequence[LocalInstance]) -> tuple[LocalInstance, ...]:
        """These, with what is warm and what lies sealed of their models, where these are in this store."""
        found = self.warming.shown(instances)
        if self.sealing is None:
            return found
        return self.sealing.shown(found, frozenset(one.id for one in self._instances()))

    def concerns(self) -> list[str]:
        """What an admin should know about the models of this node."""
        return [
            *(() if self.sealing is None else self.sealing.concerns()),
            *(() if self.shared is None else self.shared.concerns()),
        ]

    def shared_said(self) -> SharedSaid | None:
        """How the shared storage stands; None: there is none."""
        return None if self.shared is None else self.shared.said()

    def asked(self, model: str) -> None:
        """A request for the model of this canonical name was served here."""
        self.warming.asked(model)
        self.removals.asked(model)

    async def run(self) -> None:
        """Removes what nobody went on with, and what is beyond the disk budget; run it as a task."""
        while True:
            await asyncio.sleep(_TIDY_S)
            try:
                gone = await asyncio.to_thread(tidy, self.root, time.time() - _OLD_S)
                if gone:
                    log.info("partial_blobs_removed", count=len(gone))
                await self.receiver.tidy()
                await self.removals.make_room(0)
            except BridgeError as fault:
                log.warning("models_not_tidied", reason=str(fault))


def _origin(name: ModelName, insecure: bool) -> OriginPort:
    return Origin(name, insecure=insecure)


async def _watch(shared: SharedTier) -> None:
    """Looks at the shared storage until cancelled, in none of the common threads: it may hang a while."""
    while True:
        await aside(shared.look)
        await asyncio.sleep(_SHARED_LOOK_S)
