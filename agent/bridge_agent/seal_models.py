"""What `bridge-agent seal models` does: has a node's blobs lie sealed, and says first what that takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridge_agent.config import AgentConfig, StateDir, save_config
from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.blob_sealing import How, bring_up, stored
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.desk import store_of
from bridge_agent.models.manifest_rules import weights_of
from bridge_agent.models.section import sealing_faults
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import Fatal
from bridge_core.memory_room import available
from bridge_core.model_store.layout import ModelStore
from bridge_core.quantities import say_size


class Found(NamedTuple):
    """A store as it lies there: its blobs by how they lie, and what its largest model will take in memory."""

    sealed: tuple[str, ...]
    plain: tuple[str, ...]
    plain_bytes: int
    largest: str
    largest_bytes: int


def looked(root: Path) -> Found:
    """What a store has. Raises BridgeError."""
    blobs = Blobs(root)
    there = {hex_: blobs.size(hex_) or 0 for hex_ in (stored(root) if (root / "blobs").is_dir() else ())}
    lies_sealed = {hex_: blobs.sealed(hex_) for hex_ in there}
    sealed = tuple(hex_ for hex_, so in lies_sealed.items() if so)
    plain = tuple(hex_ for hex_, so in lies_sealed.items() if not so)
    weights = {
        one.name.short(): sum(layer.size for layer in weights_of(one.manifest))
        for one in (ModelStore(root).all() if there else ())
    }
    largest = max(weights, key=lambda name: weights[name], default="")
    return Found(sealed, plain, sum(there[one] for one in plain), largest, weights.get(largest, 0))


def switch_on(state: StateDir, config: AgentConfig, *, check: bool, now: bool) -> Iterator[str]:
    """Has the node seal its blobs; the sentences to say meanwhile.

    Args:
        state: The node's files.
        config: What is in `agent.json`.
        check: Only say what it would take.
        now: Seal what lies there in the clear here and now, not in the background of the agent.

    Raises:
        Fatal: it cannot be, and why: nothing was changed.
        BridgeError: a blob could not be sealed: those before it are.
    """
    wanted = msgspec.structs.replace(config, models=msgspec.structs.replace(config.models, sealed=True))
    root = store_of(config.engines, state.models)
    if faults := sealing_faults(wanted.models, config.engines):
        raise Fatal("; ".join(faults))
    if root is None:
        raise Fatal("this node has no models of its own to seal")
    keys = BlobKeys(lambda: state.seal_folder(config.seal))
    keys.ring()  # first: without a key nothing is changed
    with _readable(root):
        found = looked(root)
    yield from _takes(found)
    if check:
        return
    if not config.models.sealed:
        try:
            save_config(state, wanted)
        except OSError as fault:
            raise Fatal(f"cannot write {state.settings}: {fault.strerror}") from fault
        yield f'{state.settings} says "models": {{"sealed": true}}, from the next start of the agent on'
    if not now:
        if found.plain:
            yield "what lies there in the clear is sealed in the background then"
        return
    how = How(root, keys, contextlib.nullcontext(), config.models.reserve)
    for hex_ in (*found.plain, *found.sealed):
        if written := bring_up(hex_, how):
            did = "sealed" if hex_ in found.plain else "its key wrapped anew"
            yield f"{hex_[:12]}  {did}, {say_size(written)} written"


def _takes(found: Found) -> Iterator[str]:
    yield f"{len(found.sealed)} blobs are sealed; {len(found.plain)} ({say_size(found.plain_bytes)}) are not"
    if found.largest:
        yield (
            f"a sealed model takes its size in memory while it is loaded: {found.largest} takes "
            f"{say_size(found.largest_bytes)}; {say_size(available())} are available now"
        )


@contextlib.contextmanager
def _readable(root: Path) -> Iterator[None]:
    try:
        yield
    except (ApiError, OSError) as fault:
        raise Fatal(f"the models in {root} cannot be read: {fault}") from fault
