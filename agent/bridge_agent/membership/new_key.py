"""A new key with the request to certify it, made in a process of its own.

What makes keys and requests keeps 8 MiB in the process that loads it, and a running agent needs it
once a day. The key comes back through a pipe and is on no disk until its certificate is, too.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from bridge_agent.membership.advertise import SubjectNames
from bridge_core.child import converse_with
from bridge_core.errors import BridgeError
from bridge_core.identity.spiffe import SpiffeId

_PATIENCE_S: Final = 30.0


class OldKey(msgspec.Struct, frozen=True):
    """The certificate to renew and its key, both PEM, and what the registry wants to have signed with it."""

    certificate_pem: bytes
    key_pem: bytes
    nonce: bytes


class Wanted(msgspec.Struct, frozen=True):
    """Whom the request is for, the host names and addresses that it asks for, and what proves it."""

    identity: SpiffeId
    names: SubjectNames
    old: OldKey | None = None


class NewKey(msgspec.Struct, frozen=True):
    """A private key and a PKCS#10 request for it, both PEM, and the old key's signature where asked."""

    key_pem: bytes
    csr_pem: bytes
    signature: bytes = b""


async def new_key(node: SpiffeId, names: SubjectNames, old: OldKey | None = None) -> NewKey:
    """A new key of `node`, and a request for these names and addresses, which `old` signs.

    Raises:
        BridgeError: no process could be started, or it failed or hung.
    """
    wanted = msgspec.json.encode(Wanted(node, names, old))
    otherwise = "a key was not made"
    made = await converse_with(__name__, wanted, within_s=_PATIENCE_S, otherwise=otherwise)
    try:
        return msgspec.json.decode(made, type=NewKey)
    except (ValueError, RecursionError) as fault:
        raise BridgeError(f"{otherwise}: its process wrote what is none") from fault


def main() -> None:
    """The process: `Wanted` comes in, `NewKey` goes out."""
    from bridge_core.identity.certificates import (
        create_csr,
        generate_key,
        key_from_pem,
        key_to_pem,
        possession,
        sign,
    )

    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
    key = generate_key()
    csr = create_csr(key, wanted.identity, dns_names=wanted.names.dns_names, addresses=wanted.names.addresses)
    signature, old = b"", wanted.old
    if old is not None:
        signature = sign(key_from_pem(old.key_pem), possession(old.nonce, csr, old.certificate_pem))
    sys.stdout.buffer.write(msgspec.json.encode(NewKey(key_to_pem(key), csr, signature)))


if __name__ == "__main__":
    main()
