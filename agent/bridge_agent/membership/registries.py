"""Where the mesh's registries are: those that the node was told, and those that the snapshot names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import overload

import structlog

from bridge_agent.membership.registry_api import RegistryApi
from bridge_core.addresses import can_be_dialled
from bridge_core.snapshot import MeshConfig

log = structlog.get_logger()


def known_registries(configured: Iterable[str], mesh: MeshConfig) -> tuple[str, ...]:
    """Every address to ask a registry at, each once: the node's own first, as those of a mesh that
    tells wrong ones are tried all the same.
    """
    return _merged(configured, mesh.registries)


def known_guards(configured: Iterable[str], mesh: MeshConfig) -> tuple[str, ...]:
    """The same of the store's guards, as URLs."""
    return _merged(configured, (one for one in mesh.guards if one.startswith("https://")))


def _merged(configured: Iterable[str], told: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*configured, *filter(can_be_dialled, told))))


class Registries(Sequence[RegistryApi]):
    """The registries to ask now; whoever holds this sees it change. Never empty.

    Args:
        configured: Their addresses in agent.json.
        client: Makes what asks the one at an address.
    """

    def __init__(self, configured: Sequence[str], client: Callable[[str], RegistryApi]) -> None:
        self._configured = tuple(configured)
        self._client = client
        self._known = tuple(map(client, configured))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Their addresses."""
        return tuple(one.address for one in self._known)

    def learn(self, mesh: MeshConfig) -> None:
        """Takes in what a new snapshot says."""
        wanted = known_registries(self._configured, mesh)
        if wanted == self.addresses:
            return
        log.info("registries_known", registries=wanted)
        have = {one.address: one for one in self._known}
        self._known = tuple(have.get(address) or self._client(address) for address in wanted)

    def __len__(self) -> int:
        """How many."""
        return len(self._known)

    @overload
    def __getitem__(self, at: int) -> RegistryApi: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[RegistryApi, ...]: ...
    def __getitem__(self, at: int | slice) -> RegistryApi | tuple[RegistryApi, ...]:
        """One of them, or some."""
        return self._known[at]
