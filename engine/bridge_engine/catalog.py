"""Finding models by the name a request gives, in the words each route has for a missing one."""

from __future__ import annotations

from bridge_core.dialects.errors import ApiError
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import InvalidName, ModelName
from bridge_engine.pools import Pool
from bridge_engine.store.model import Models, OpenedModel


class Catalog:
    """The models of one store, looked up in threads: a disk may be slow, and a store may be large."""

    def __init__(self, store: ModelStore, disk: Pool) -> None:
        self.store = store
        self.models = Models(store)
        self._disk = disk

    async def find(self, asked: str, *, missing: str) -> OpenedModel:
        """Opens the model that a request names.

        Args:
            asked: The name as the request spells it.
            missing: What the error says where there is no such model.

        Raises:
            ApiError: 404 where it is missing, 400 where that is no name, 500 where it is damaged.
        """
        if not asked:
            raise ApiError(404, missing)
        try:
            name = ModelName.parse(asked)
        except InvalidName as fault:
            raise ApiError(400, "invalid model name") from fault
        found = await self._disk.run(self._open, name)
        if found is None:
            raise ApiError(404, missing)
        return found

    def _open(self, name: ModelName) -> OpenedModel | None:
        stored = self.store.find(name)
        return None if stored is None else self.models.open(stored)

    def all(self) -> list[OpenedModel]:
        """Every model that can be opened; damaged ones are set aside. Blocks on the disk."""
        found = []
        for stored in self.store.all():
            try:
                found.append(self.models.open(stored))
            except ApiError as fault:
                self.store.set_aside(stored.name, fault)
        return found


def in_full(model: OpenedModel) -> str:
    """A model's name as some of Ollama's messages have it: with registry and namespace."""
    return str(model.name)
