"""Which registry a command asks, and as whom: from flags, a context, or the mesh on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from bridge_cli.context import load_contexts
from bridge_cli.layout import MeshFile
from bridge_core.command.labels import listed
from bridge_core.errors import Fatal

IDENTITY_HINT: Final = (
    "--ca, --cert and --key name an admin's identity in the registry's mesh; `bridge-registry init` there "
    "makes it, and renews it when due"
)


class Access(msgspec.Struct, frozen=True):
    """Where registries are and who calls them; the first that answers is asked."""

    registries: tuple[str, ...]
    ca: Path
    cert: Path
    key: Path

    @property
    def where(self) -> str:
        """The registries, for a message."""
        return ", ".join(self.registries)


class Flags(msgspec.Struct, frozen=True):
    """What the command line and the environment say; None: nothing."""

    state_dir: Path | None = None
    context: str | None = None
    registry: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


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
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise Fatal(f"cannot read {path}: {fault}", hint="`bridgectl up` writes it anew") from fault


def access_of(mesh: MeshFile) -> Access:
    """How the mesh on this machine is reached."""
    return Access((mesh.registry.grpc,), Path(mesh.ca), Path(mesh.client.cert), Path(mesh.client.key))


def access(flags: Flags) -> Access:
    """From flags, and from what they leave open: a context that is named, the mesh of a state folder that is
    named, the current context, the mesh in the usual state folder; the first of these that there is.

    Raises:
        Fatal: something is missing.
    """
    registries = listed(flags.registry or "")
    if registries and flags.ca and flags.cert and flags.key:
        return Access(registries, flags.ca, flags.cert, flags.key)
    try:
        base = _base(flags)
    except Fatal as fault:
        if not registries:
            raise
        raise Fatal(
            f"--registry {flags.registry} has to come with --ca, --cert and --key: {fault.message}",
            hint="its state folder has them: pki/ca.pem, pki/admin.pem and pki/admin.key",
        ) from fault
    return Access(
        registries or base.registries, flags.ca or base.ca, flags.cert or base.cert, flags.key or base.key
    )


def state_folder(flags: Flags) -> Path:
    """Where this machine keeps the mesh that is asked, if it does: as flags, the context or the default say.

    Raises:
        Fatal: the contexts cannot be read.
    """
    if flags.state_dir is not None:
        return flags.state_dir
    contexts = load_contexts()
    found = contexts.contexts.get(flags.context or contexts.current)
    return Path(found.state) if found is not None and found.state else default_state_dir()


def mesh_here(flags: Flags, to: Access) -> tuple[Path, MeshFile] | None:
    """The mesh that `to` reaches and its state folder, where `up` keeps it on this machine; None: elsewhere.

    Raises:
        Fatal: the contexts or mesh.json cannot be read.
    """
    state = state_folder(flags)
    path = state / "mesh.json"
    mesh = read_mesh(path) if path.exists() else None
    return (state, mesh) if mesh is not None and access_of(mesh) == to else None


def _base(flags: Flags) -> Access:
    if flags.state_dir is not None and not flags.context:
        return access_of(read_mesh(flags.state_dir / "mesh.json"))
    contexts = load_contexts()
    name = flags.context or contexts.current
    if name:
        found = contexts.named(name)
        return Access(found.registries, Path(found.ca), Path(found.cert), Path(found.key))
    mesh = default_state_dir() / "mesh.json"
    if not mesh.exists():
        raise Fatal(
            f"no registry is known: there is no context, and no mesh in {mesh.parent}",
            hint="`bridgectl context set` names the registry of a mesh; `bridgectl up` makes a mesh here",
        )
    return access_of(read_mesh(mesh))
