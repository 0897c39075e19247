"""The API keys of a snapshot, by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bridge_agent.authentication.refusal import Refused
from bridge_core.clients import ApiKey, Client
from bridge_core.identity.api_keys import Pepper, damage, id_of, same

_UNKNOWN: Final = "this API key is not known"
_RETRY_S: Final = 5


class Keyring:
    """Whose keys are whose.

    Attributes:
        clients: Theirs, as a snapshot has them.
    """

    __slots__ = ("_keys", "clients")

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self.clients = clients
        self._keys: dict[bytes, tuple[Client, ApiKey, bytes]] = {
            key.id.encode(): (client, key, bytes.fromhex(key.hash))
            for client in clients.values()
            for key in client.keys
        }

    def owner(self, text: bytes, pepper: Pepper | None, now: float) -> tuple[Client, ApiKey]:
        """Whose key this is.

        Whether an id is known is told by neither the answer nor the time that it takes.

        Raises:
            Refused: nobody's, or it has expired, or it cannot be told.
        """
        if pepper is None:
            raise Refused(503, "this node has not been told yet how to check API keys", retry_after=_RETRY_S)
        shown = pepper.hash(text)
        found = self._keys.get(id_of(text))
        if found is None or not same(shown, found[2]):
            wrong = damage(text)
            raise Refused(401, f"this is no whole API key: {wrong}" if wrong else _UNKNOWN)
        client, key, _ = found
        if key.expires and now >= key.expires:
            raise Refused(401, f"this API key of client {client.name} has expired")
        return client, key
