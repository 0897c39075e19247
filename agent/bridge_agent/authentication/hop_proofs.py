"""What one node shows another to prove for whom it forwards.

A node names who asks, and its word is not enough: whoever stole one node's certificate could ask every
other node in anybody's name. So the owner wants to see what only a node can show that was called by them.

| principal | what proves it |
|---|---|
| a user | the token |
| a client with a key | the inner half of the key's HMAC (`Pepper.proof`): it gives the key away to nobody |
| a client or an admin with a certificate | that certificate, which nobody else has seen |
| the forwarding node itself, and programs on it (`local`) | the link |

Rules:
1. A proof is of one kind and for one principal; what does not prove the name that came with it is refused.
2. A credential that ended while its request waited at the entry node counts for `HOP_GRACE_S` more; one
   that was revoked, or whose key or holder the snapshot no longer has, does not.
3. A key that this node has not heard of may be newer than its snapshot: `NotToldYet`.

A node that was taken over can show what it was shown, and no more: docs/adr/tokens-and-guessers.md.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Protocol

from bridge_agent.authentication.keyring import Keyrings
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.authentication.principals import NotToldYet, UnknownPrincipal, principal_of
from bridge_agent.authentication.shown_certificates import MAX_BYTES, ShownCertificates
from bridge_agent.authentication.token_book import HOP_GRACE_S
from bridge_core.identity.principal import LOCAL_TEXT, Principal, is_user
from bridge_core.snapshot import Snapshot

_KEY: Final = b"key "
_CERTIFICATE: Final = b"cert "
_DIGEST: Final = 32  # bytes
_MOST: Final = MAX_BYTES * 4 // 3 + 16


def of_key(id_: bytes, proof: bytes) -> bytes:
    """The proof that a node was shown the key with this id, of which `proof` is `Pepper.proof`."""
    return b"%b%b %b" % (_KEY, id_, proof.hex().encode())


def of_certificate(der: bytes) -> bytes:
    """The proof that a node was called with this certificate."""
    return _CERTIFICATE + base64.b64encode(der)


class ProvesUsers(Protocol):
    """Knows the issuers of tokens that the mesh believes."""

    def proven(self, text: str, proof: bytes, snapshot: Snapshot, now: float) -> Principal:
        """Whom another node forwards for, who has shown it this token.

        Raises:
            UnknownPrincipal: the token does not prove that, whatever the node says.
        """
        ...


class HopProofs:
    """Says whom another node forwards for.

    Args:
        secrets: What the mesh told this node beside the snapshot.
        keyrings: The keys of a snapshot.
        tokens: Proves users.
    """

    def __init__(self, secrets: MeshSecrets, keyrings: Keyrings, tokens: ProvesUsers) -> None:
        self._secrets = secrets
        self._keyrings = keyrings
        self._tokens = tokens
        self._certificates = ShownCertificates()

    def principal(self, text: str, entry: str, proof: bytes, snapshot: Snapshot, now: float) -> Principal:
        """Whom a node forwards for.

        Args:
            text: The principal's, as that node says it.
            entry: That node, by its certificate.
            proof: What it shows.
            snapshot: The mesh.
            now: Unix seconds.

        Raises:
            NotToldYet: it cannot be told at present.
            UnknownPrincipal: nobody who may call, or nobody proven.
        """
        if is_user(text):
            return self._tokens.proven(text, proof, snapshot, now)
        if proof.startswith(_KEY):
            who = self._by_key(text, proof, snapshot, now)
            found = principal_of(text, snapshot, entry, now)
            if (found.kind, found.name) != ("client", who):
                raise UnknownPrincipal(f"{text} is not proven: the key is another client's")
            return found
        found = principal_of(text, snapshot, entry, now)
        if text == LOCAL_TEXT or (found.kind, found.name) == ("node", entry):
            return found
        if not proof.startswith(_CERTIFICATE):
            raise UnknownPrincipal(f"{text} is not proven: what it has shown to {entry} is missing")
        self._certificates.check(text, _der(text, proof), snapshot, now, HOP_GRACE_S)
        return found

    def _by_key(self, text: str, proof: bytes, snapshot: Snapshot, now: float) -> str:
        """The client whose key a proof is of."""
        id_, _, digest = proof[len(_KEY) :].partition(b" ")
        try:
            inner = bytes.fromhex(digest.decode("ascii"))
        except ValueError:
            inner = b""
        if len(inner) != _DIGEST:
            raise UnknownPrincipal(f"{text} is not proven: the proof of its key cannot be read")
        if self._secrets.pepper is None:
            raise NotToldYet("this node has not been told yet how to check API keys")
        ring = self._keyrings.of(snapshot.clients)
        if not ring.has(id_):
            raise NotToldYet(f"{text} is not proven here: this node does not know that API key, or not yet")
        return ring.prover(text, id_, inner, self._secrets.pepper, now - HOP_GRACE_S)


def _der(text: str, proof: bytes) -> bytes:
    encoded = proof[len(_CERTIFICATE) :]
    if len(encoded) > _MOST:
        raise UnknownPrincipal(f"{text} is not proven: no certificate is that long")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as fault:
        raise UnknownPrincipal(f"{text} is not proven: the certificate cannot be read") from fault
