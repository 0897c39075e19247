"""Calling a registry as an admin."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from bridge_cli.layout import MeshFile
from bridge_core.addresses import split_address
from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.registry_channel import CertificateRefused, WrongAuthority, open_channel
from bridge_core.tls import TlsFault, check_files
from bridge_wire.v1 import registry_pb2_grpc as wire_grpc

_IDENTITY_HINT: Final = (
    "--ca, --cert and --key name an admin's identity in the registry's mesh; `bridge-registry init` there "
    "makes it, and renews it when due"
)


class Access(msgspec.Struct, frozen=True):
    """Where the registry is and who calls it."""

    registry: str
    ca: Path
    cert: Path
    key: Path


def default_state_dir() -> Path:
    """Where `bridgectl` keeps its mesh unless told otherwise."""
    given = os.environ.get("BRIDGE_STATE_DIR")
    return Path(given) if given else Path.home() / ".local/state/bridge"


def read_mesh(path: Path) -> MeshFile:
    """mesh.json.

    Raises:
        Fatal: there is none, or it does not decode.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=MeshFile)
    except FileNotFoundError:
        raise Fatal(
            f"no mesh in {path.parent}",
            hint="`bridgectl up` makes one; --state-dir (or BRIDGE_STATE_DIR) names another place",
        ) from None
    except (OSError, msgspec.DecodeError) as fault:
        raise Fatal(f"cannot read {path}: {fault}", hint="`bridgectl up` writes it anew") from fault


def access(state: Path, registry: str | None, ca: Path | None, cert: Path | None, key: Path | None) -> Access:
    """From flags, and from mesh.json what the flags leave open.

    Raises:
        Fatal: something is missing.
    """
    if registry and ca and cert and key:
        return Access(registry, ca, cert, key)
    try:
        mesh = read_mesh(state / "mesh.json")
    except Fatal as fault:
        if registry is None:
            raise
        raise Fatal(
            f"--registry {registry} has to come with --ca, --cert and --key: {fault.message}",
            hint="its state folder has them: pki/ca.pem, pki/admin.pem and pki/admin.key",
        ) from fault
    return Access(
        registry or mesh.registry.grpc,
        ca or Path(mesh.ca),
        cert or Path(mesh.client.cert),
        key or Path(mesh.client.key),
    )


@contextlib.asynccontextmanager
async def admin(to: Access) -> AsyncIterator[Any]:
    """The Admin service's stub; gRPC errors inside become BridgeErrors.

    Raises:
        Unavailable: no registry answers.
        BridgeError: it refused; its own words.
        Fatal: the address is none, or a file of the identity cannot be used.
    """
    split_address(to.registry)
    try:
        check_files(to.cert, to.key, to.ca)
    except TlsFault as fault:
        raise Fatal(fault.message, hint=_IDENTITY_HINT) from fault
    try:
        async with open_channel(
            to.registry, to.ca.read_bytes(), cert_pem=to.cert.read_bytes(), key_pem=to.key.read_bytes()
        ) as channel:
            yield wire_grpc.AdminStub(channel)  # type: ignore[no-untyped-call]  # generated
    except grpc.aio.AioRpcError as error:
        raise _translate(error, to) from error
    except WrongAuthority as fault:
        raise Fatal(f"{fault.message}; it has to be of the mesh of {to.ca}", hint=_IDENTITY_HINT) from fault
    except CertificateRefused as fault:
        raise Unavailable(f"{fault.message} ({to.cert})", hint=_IDENTITY_HINT) from fault


def _translate(error: grpc.aio.AioRpcError, to: Access) -> BridgeError:
    code, details, registry = error.code(), (error.details() or "").rstrip("."), to.registry
    if code is grpc.StatusCode.UNAVAILABLE and "connect" in details:
        return Unavailable(f"the connection to the registry at {registry} was lost", hint="try again")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"the registry at {registry} did not answer in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return BridgeError(f"the registry at {registry} does not know this command", hint="is it older?")
    return BridgeError(details or f"the registry at {registry} answers {code.name}")
