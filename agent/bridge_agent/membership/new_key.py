"""A new key with the request to certify it, made in a process of its own.

What makes keys and requests keeps 8 MiB in the process that loads it, and a running agent needs it
once a day. The key comes back through a pipe and is on no disk until its certificate is, too.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import msgspec

from bridge_agent.membership.advertise import SubjectNames
from bridge_core.child import converse
from bridge_core.errors import BridgeError
from bridge_core.identity.spiffe import SpiffeId

_PATIENCE_S: Final = 30.0


class Wanted(msgspec.Struct, frozen=True):
    """Whom the request is for, and the host names and addresses that it asks for."""

    identity: SpiffeId
    names: SubjectNames


class NewKey(msgspec.Struct, frozen=True):
    """A private key and a PKCS#10 request for it, both PEM."""

    key_pem: bytes
    csr_pem: bytes


async def new_key(node: SpiffeId, names: SubjectNames) -> NewKey:
    """A new key of `node`, and a request for these names and addresses.

    Raises:
        BridgeError: no process could be started, or it failed or hung.
    """
    wanted = msgspec.json.encode(Wanted(node, names))
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", __name__, stdin=pipe, stdout=pipe, stderr=pipe
        )
    except OSError as fault:
        raise BridgeError(f"no process to make a key in: {fault.strerror}") from fault
    try:
        async with asyncio.timeout(_PATIENCE_S):
            made, said = await converse(process, wanted)
    except TimeoutError as fault:
        raise BridgeError(f"a key was not made within {_PATIENCE_S:g} s") from fault
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return msgspec.json.decode(made, type=NewKey)
    except msgspec.DecodeError as fault:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise BridgeError(f"a key was not made: {last or f'status {process.returncode}'}") from fault


def main() -> None:
    """The process: `Wanted` comes in, `NewKey` goes out."""
    from bridge_core.identity.certificates import create_csr, generate_key, key_to_pem

    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
    key = generate_key()
    csr = create_csr(key, wanted.identity, dns_names=wanted.names.dns_names, addresses=wanted.names.addresses)
    sys.stdout.buffer.write(msgspec.json.encode(NewKey(key_to_pem(key), csr)))


if __name__ == "__main__":
    main()
