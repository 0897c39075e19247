"""The part of `agent.json` that says how models travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from bridge_agent.engines.config import EngineConfig
from bridge_agent.models.shared.section import SharedSection

_Rate = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class ModelsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How blobs travel to and from this node.

    Attributes:
        bandwidth: Bytes a second in each direction, at most; 0: as fast as it goes.
        bandwidth_busy: The same while requests run at this node.
        reserve: Bytes of the disk that a pull leaves free.
        disk_budget: Bytes that models may take: for what is pulled beyond it those unused for longest are
            removed, of which other nodes have copies; None: no bound, and nothing is removed.
        page_cache: Bytes of memory that models may fill before they are asked for; None: half of what is
            free; 0: none.
        pull_by_engine: Pulls are the engine's own, and nothing comes from other nodes.
        sealed: Blobs lie sealed on the disk, and open into memory alone.
        shared: Storage that several nodes share, below this node's disk; None: there is none.
    """

    bandwidth: _Rate = 0
    bandwidth_busy: _Rate = 256 << 20
    reserve: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 256 << 20
    disk_budget: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)] | None = None
    page_cache: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] | None = None
    pull_by_engine: bool = False
    sealed: bool = False
    shared: SharedSection | None = None


def sealing_faults(section: ModelsSection, engines: Sequence[EngineConfig]) -> list[str]:
    """Why the blobs of a node with these engines cannot lie sealed, where `section` says so."""
    if not section.sealed:
        return []
    faults = []
    if section.pull_by_engine:
        faults.append("models.sealed and models.pull_by_engine: an engine that pulls by itself seals nothing")
    for engine in engines:
        if engine.attach is not None:
            faults.append(
                f"models.sealed and the attached engine {engine.index} ({engine.attach}): sealing does not "
                "cover it, its store is its own and lies in the clear; attach it to a node that seals nothing"
            )
        elif engine.kind != "llamacpp":
            faults.append(
                f"models.sealed and the engine {engine.index} of kind {engine.kind}: it reads its store "
                "itself, in the clear; only llamacpp opens sealed models"
            )
    if len({engine.models_dir for engine in engines}) > 1:
        faults.append("models.sealed and engines with different models_dir: one store of a node is sealed")
    return faults
