"""The API keys of a snapshot, by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from bridge_agent.authentication.principals import UnknownPrincipal
from bridge_agent.authentication.refusal import Refused
from bridge_core.clients import ApiKey, Client
from bridge_core.identity.api_keys import Pepper, damage, id_of, same

_UNKNOWN: Final = "this API key is not known"
_RETRY_S: Final = 5


class Owned(NamedTuple):
    """Whose key was shown, which of theirs, and what proves that it was (`Pepper.proof`)."""

    client: Client
    key: ApiKey
    proof: bytes


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

    def owner(self, text: bytes, pepper: Pepper | None, now: float) -> Owned:
        """Whose key this is.

        Whether an id is known is told by neither the answer nor the time that it takes.

        Raises:
            Refused: nobody's, or it has expired, or it cannot be told.
        """
        if pepper is None:
            raise Refused(503, "this node has not been told yet how to check API keys", retry_after=_RETRY_S)
        proof = pepper.proof(text)
        shown = pepper.seal(proof)
        found = self._keys.get(id_of(text))
        if found is None or not same(shown, found[2]):
            wrong = damage(text)
            raise Refused(401, f"this is no whole API key: {wrong}" if wrong else _UNKNOWN)
        client, key, _ = found
        if key.expires and now >= key.expires:
            raise Refused(401, f"this API key of client {client.name} has expired")
        return Owned(client, key, proof)

    def has(self, id_: bytes) -> bool:
        """Whether a key with this id is there."""
        return id_ in self._keys

    def prover(self, text: str, id_: bytes, proof: bytes, pepper: Pepper, now: float) -> str:
        """The name of the client whose key another node was shown.

        Args:
            text: Whom that node names, for what is said.
            id_: Of a key that is there.
            proof: `Pepper.proof` of the key.
            pepper: The mesh's.
            now: Unix seconds.

        Raises:
            UnknownPrincipal: it was not, or the key has expired.
        """
        client, key, kept = self._keys[id_]
        if not same(pepper.seal(proof), kept):
            raise UnknownPrincipal(f"{text} is not proven: the proof is of no key of this mesh")
        if key.expires and now >= key.expires:
            raise UnknownPrincipal(f"{text} is not proven: the API key has expired")
        return client.name


class Keyrings:
    """The keyring of the newest clients that were asked about: a snapshot takes over what has not changed."""

    __slots__ = ("_ring",)

    def __init__(self) -> None:
        self._ring = Keyring({})

    def of(self, clients: Mapping[str, Client]) -> Keyring:
        """That of these clients."""
        if clients is not self._ring.clients:
            if clients == self._ring.clients:  # soon seen, where they are the same ones
                self._ring.clients = clients
            else:
                self._ring = Keyring(clients)
        return self._ring
