"""What a registry is told at its start."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.addresses import join_address
from bridge_core.sealing.key_source import KeySource
from bridge_registry.enrolment import pki_files
from bridge_registry.enrolment.pki_files import Ensured, Pki
from bridge_registry.enrolment.pod_rules import KubernetesApi

GUARD_PORT: Final = 11404  # where a store guard listens unless told otherwise


class RegistryOptions(msgspec.Struct, frozen=True):
    """How one registry runs.

    Attributes:
        state_dir: Its own: `pki/` (see `enrolment.pki_files`) and `snapshot.sealed`.
        name: In its identity and in the election.
        grpc: (host, port) of the gRPC listener; port 0: any.
        admin: (host, port) of the admin listener; port 0: any.
        etcd: Endpoints.
        guards: Store guards, as joining nodes are told; empty: one at the first of `hosts`.
        etcd_rbac: Turn on etcd's access control and keep the store guards to what they forward. Only
            for an etcd of the Bridge's own: other users of a shared one would be locked out.
        trust_domain: The mesh; None: that of the CA.
        seal_key: Where the key that opens the keyring comes from; None: a file beside it.
        hosts: Further names and addresses that registry and etcd are dialled by.
        mesh_config: Folder whose YAML is the applied config; None: what admins apply.
        kubernetes: Whose pods join by their service account; None: nobody's.
        ready_file: Written when it serves: `{"pid", "grpc", "admin"}`.
    """

    state_dir: Path
    name: str
    grpc: tuple[str, int]
    admin: tuple[str, int]
    etcd: tuple[str, ...]
    guards: tuple[str, ...] = ()
    etcd_rbac: bool = False
    trust_domain: str | None = None
    seal_key: KeySource | None = None
    hosts: tuple[str, ...] = ()
    mesh_config: Path | None = None
    kubernetes: KubernetesApi | None = None
    ready_file: Path | None = None

    @property
    def pki(self) -> Pki:
        """Its keys and certificates."""
        return Pki(self.state_dir / "pki", self.name, self.seal_key)

    @property
    def snapshot_file(self) -> Path:
        """The last published snapshot."""
        return self.state_dir / "snapshot.sealed"

    @property
    def store_file(self) -> Path:
        """What it last knew of the store."""
        return self.state_dir / "store.json"

    @property
    def all_hosts(self) -> list[str]:
        """Every name and address that registry and etcd are dialled by."""
        return [*pki_files.default_hosts(), *filter(_one, self.grpc[:1]), *self.hosts]

    @property
    def advertised(self) -> str:
        """host:port that agents and other registries are told."""
        return join_address(dialled_host(self.hosts, self.grpc[0]), self.grpc[1])

    @property
    def advertised_guards(self) -> tuple[str, ...]:
        """Where joining nodes are told that the store is."""
        return self.guards or (f"https://{join_address(dialled_host(self.hosts, self.grpc[0]), GUARD_PORT)}",)

    def ensure_pki(self) -> Ensured:
        """The CA and the registry's own certificates, made or renewed where due.

        Raises:
            Fatal: they cannot be.
        """
        return pki_files.ensure(self.pki, self.trust_domain, self.all_hosts, now=time.time())


def dialled_host(hosts: Iterable[str], listening: str) -> str:
    """What others dial: the first of `hosts`, else where it listens, else this machine's own name.

    All interfaces are no address to dial.
    """
    return next(host for host in (*hosts, listening, pki_files.default_hosts()[-1]) if _one(host))


def _one(host: str) -> bool:
    """Whether it is one address, not all interfaces."""
    return host not in {"", "0.0.0.0", "::"}
