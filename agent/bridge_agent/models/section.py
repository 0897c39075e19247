"""The part of `agent.json` that says how models travel."""

from __future__ import annotations

from typing import Annotated

import msgspec

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
    """

    bandwidth: _Rate = 0
    bandwidth_busy: _Rate = 256 << 20
    reserve: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 256 << 20
    disk_budget: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)] | None = None
    page_cache: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] | None = None
    pull_by_engine: bool = False
