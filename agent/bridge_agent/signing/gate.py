"""What stands between a node's models and whoever asks for them, where policies want signatures.

Rules:
1. What the agent itself lists (a pull, a push, a copy) is judged before it is listed, by the bytes that are
   written then.
2. What else is on the disk is judged by the engine's list of it, each time that its digest or the policies
   change; until then it is withheld (`signature_rules`).
3. What an engine makes by itself under a name that has to be signed is refused beforehand: it has no
   signature, and nobody could look at it before it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from bridge_agent.engines.view import LocalInstance
from bridge_agent.models.blobs import Blobs
from bridge_agent.routing.view import Index, MeshView
from bridge_agent.signing import store_signatures
from bridge_agent.signing.judging_rules import Judged, NotSigned
from bridge_agent.signing.signature_rules import sort_out
from bridge_core.errors import BridgeError
from bridge_core.model_signing.policies import ModelSignaturePolicy, SignatureBook
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import InvalidName, ModelName, canonical_or_same, display_or_same

log = structlog.get_logger()

_AGAIN_S: Final = 1.0
# Of a model, whose judgement is kept: one that is replaced is served until the next is listed.
_VERSIONS: Final = 4
_MOST_SAID: Final = 4
_MOST_KNOWN: Final = 4096  # names, also of what was judged and then never listed


class SignatureGate:
    """See the module. Its methods belong to the event loop.

    Args:
        view: The mesh.
        store: The blobs and the store of this node; None: its engines' stores are somebody else's.
        instances: Those of this node that read this store.
        changed: Told when other models are withheld than before.
    """

    def __init__(
        self,
        view: MeshView,
        store: tuple[Blobs, Callable[[], ModelStore]] | None,
        instances: Callable[[], Sequence[LocalInstance]],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._instances = instances
        self._changed = changed
        self._snapshot_policies = view.current.signature_policies
        self._book = SignatureBook(self._snapshot_policies)
        self._known: dict[str, dict[str, Judged]] = {}
        self._present: frozenset[str] = frozenset()
        self._unknown: frozenset[str] = frozenset()
        self._refused: dict[str, str] = {}
        self._listed: dict[str, str] = {}
        self._wake = asyncio.Event()
        view.subscribe(self._follow)

    def _follow(self, index: Index) -> None:
        policies = index.snapshot.signature_policies
        if policies == self._snapshot_policies:
            return
        self._snapshot_policies = policies
        self._book = SignatureBook(policies)
        self._known.clear()
        # Not here: whoever publishes this index is in the middle of it.
        asyncio.get_running_loop().call_soon(self._changed)

    def enforced(self, name: str) -> bool:
        """Whether the model of this canonical name has to be signed."""
        return self._book.enforced(name)

    def refuses(self, name: str) -> bool:
        """Whether that model has to be signed, and was not found to be."""
        known = self._known.get(name, {}).values()
        return self._book.enforced(name) and all(one.refused for one in known)

    def shown(self, instances: Sequence[LocalInstance]) -> tuple[LocalInstance, ...]:
        """These, without what is not to be served."""
        own = frozenset(one.id for one in self._instances()) if self._store is not None else frozenset()
        self._forget(frozenset(canonical_or_same(model.name) for one in instances for model in one.models))
        found = sort_out(instances, own, self._book, self._known)
        self._unknown = found.unknown
        if found.unknown:
            self._wake.set()
        self._refused = {model.name: model.why for one in found.instances for model in one.withheld}
        models = (model for one in found.instances for model in one.models)
        self._listed = {canonical_or_same(model.name): model.digest for model in models}
        return found.instances

    def _forget(self, present: frozenset[str]) -> None:
        """Forgets the judgements of models that were listed and no longer are."""
        for name in self._present - present:
            self._known.pop(name, None)
        self._present = present

    def concerns(self) -> list[str]:
        """What an admin should know."""
        said = [f"{name} is not served: {why}" for name, why in sorted(self._refused.items())]
        shadowed = sorted(
            f"{display_or_same(name)} would not be served: {shadowed}"
            for name in self._listed
            if (shadowed := self._shadowed(name))
        )
        found = [*said, *shadowed]
        rest = len(found) - _MOST_SAID
        return [*found[:_MOST_SAID], *([f"and {rest} models more without a signature"] if rest > 0 else [])]

    def _shadowed(self, name: str) -> str:
        found = self._known.get(name, {}).get(self._listed[name].removeprefix("sha256:"))
        return "" if found is None else found.shadowed

    async def check(self, name: ModelName, data: bytes) -> None:
        """Returns when a model may be listed by this name: its signatures are in the store already.

        Raises:
            NotSigned: a policy in force refuses it.
        """
        key = canonical_or_same(str(name))
        book = self._book
        policies = book.about(key)
        if not policies:
            return
        found = await self._judged(data, policies)
        if found.refused:
            raise NotSigned(f"{name.short()} is refused: {found.refused}", hint=_hint(name))
        if book is self._book:
            self._keep(key, store_signatures.Placed.of(data).digest, found)

    def _keep(self, key: str, digest: str, found: Judged) -> None:
        versions = {other: one for other, one in self._known.pop(key, {}).items() if other != digest}
        while len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]  # at worst it is judged again
        kept = list(versions.items())[1 - _VERSIONS :]
        self._known[key] = {**dict(kept), digest: found}

    async def _judged(self, data: bytes, policies: Sequence[ModelSignaturePolicy]) -> Judged:
        if self._store is None:
            raise NotSigned("this node has no store of its own in which a signature could be checked")
        return await asyncio.to_thread(store_signatures.judged, self._store[0], data, policies)

    async def copy(self, source: ModelName, destination: ModelName) -> bool:
        """Lists a model by another name, where that one may have it; False: there is no such model.

        Raises:
            NotSigned: a policy in force refuses it.
            BridgeError: the disk refuses.
        """
        if self._store is None:
            raise NotSigned("this node has no store of its own in which a signature could be checked")
        blobs, store = self._store[0], self._store[1]()
        there = await asyncio.to_thread(store_signatures.placed, store, source)
        if there is None:
            return False
        await self.check(destination, there.data)
        return await asyncio.to_thread(store_signatures.write_copy, blobs, store, destination, there.data)

    async def verdict(self, name: ModelName, data: bytes) -> Judged | None:
        """What the policies say of a model as it lies here now; None: none is about it."""
        policies = self._book.about(canonical_or_same(str(name)))
        return await self._judged(data, policies) if policies else None

    async def run(self) -> None:
        """Looks at what is withheld because nobody looked yet; run it as a task."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._look()
            if self._unknown:  # an engine lists what is no longer, or not yet, there
                await asyncio.sleep(_AGAIN_S)

    async def _look(self) -> None:
        """Judges what is unknown."""
        if self._store is None:
            return
        book, store = self._book, self._store[1]()
        for name in sorted(self._unknown):
            try:
                there = await asyncio.to_thread(store_signatures.placed, store, ModelName.parse(name))
                if there is None:
                    continue
                judged = await self._judged(there.data, book.about(name))
            except InvalidName:
                continue
            except BridgeError as fault:
                log.warning("signature_not_checked", model=name, reason=str(fault))
                continue
            if book is not self._book:
                break  # other policies: they say themselves what is unknown
            self._keep(name, there.digest, judged)
            if judged.refused:
                log.warning("model_withheld", model=name, reason=judged.refused)
        self._changed()


def _hint(name: ModelName) -> str:
    return (
        "pull one that is signed, or bring it under a name that needs no signature, `bridgectl models sign` "
        f"it there, and copy it to {name.short()}"
    )
