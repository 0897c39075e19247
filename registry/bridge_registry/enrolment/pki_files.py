"""The registry's keys and certificates on disk.

Under `<state dir>/pki/` (the state dir of `bridgectl up` for its registry is `<state>/registry`), files
0600, folder 0700:

    ca.pem                   the mesh's CA certificate: what everybody trusts
    ca.key.enc               its key, sealed with the keyring
    keyring                  the data keys, sealed under the key-encryption key (KEK)
    kek                      the KEK, unless another source of it is named
    registry.pem/.key        this registry's server certificate (with the CA after it)
    guard.pem/.key           the store guard's, which agents reach in etcd's place
    admin.pem/.key           the first admin, `spiffe://<mesh>/admin/admin`
    etcd-ca.pem/.key         etcd's own CA: whoever it signs for may talk to etcd, so it signs for
                             the following three alone
    etcd.pem/.key            etcd's server and peer certificate
    registry-etcd.pem/.key   this registry as etcd's client, user `registry` with the role root
    guard-etcd.pem/.key      the guard as etcd's client, user `guard`

`ensure` makes what is missing and renews what is past half of its life, so it may run at every
start; etcd reads its files anew at every handshake. A second registry gets copies of ca.pem,
ca.key.enc, keyring, kek and etcd-ca.* before its own `init`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.identity import IdentityFault, SpiffeId, renew_at
from bridge_core.identity import certificates as x509
from bridge_core.identity.host_names import canonical_host
from bridge_core.identity.spiffe import ETCD_SERVER_NAME, GUARD_SERVER_NAME, REGISTRY_SERVER_NAME
from bridge_core.key_files import read_key_file
from bridge_core.sealing import Sealer, open_sealer
from bridge_core.sealing.key_source import KeySource
from bridge_core.sealing.sealer import SealFolder
from bridge_core.store.endpoints import ClientTls
from bridge_registry.enrolment.key_sealing import check_version, seal, unseal

# All registries of a mesh are one user of etcd: a second one gets in without being admitted first.
REGISTRY_USER: Final = "registry"
GUARD_USER: Final = "guard"
CA_TTL_S: Final = 10 * 365 * 86_400.0
INFRASTRUCTURE_TTL_S: Final = 90 * 86_400.0
# Renewed by whoever starts the registry, so a start after a long pause still finds valid ones.
_ADMIN_NAME: Final = "admin"


class Pki(msgspec.Struct, frozen=True):
    """Where the files of one registry are.

    Attributes:
        folder: `<state dir>/pki`.
        name: This registry's name in its identity.
        seal_key: Where the KEK comes from; None: `kek` in the folder.
    """

    folder: Path
    name: str
    seal_key: KeySource | None = None

    @property
    def ca(self) -> Path:
        """The CA's certificate."""
        return self.folder / "ca.pem"

    @property
    def sealed_key(self) -> Path:
        """The CA's sealed key."""
        return self.folder / "ca.key.enc"

    @property
    def seal(self) -> SealFolder:
        """The keyring and what opens it."""
        return SealFolder(self.folder, self.seal_key)

    @property
    def etcd_ca(self) -> Path:
        """The certificate of etcd's CA."""
        return self.folder / "etcd-ca.pem"

    @property
    def etcd_ca_key(self) -> Path:
        """Its key, not encrypted."""
        return self.folder / "etcd-ca.key"

    def etcd_client(self, who: str) -> ClientTls:
        """How "registry" or "guard" shows itself to etcd."""
        cert, key = self.pair(f"{who}-etcd")
        return ClientTls(cert, key, self.etcd_ca)

    def pair(self, what: str) -> tuple[Path, Path]:
        """Certificate and key of "registry", "guard", "admin", "etcd", "registry-etcd", "guard-etcd"."""
        return self.folder / f"{what}.pem", self.folder / f"{what}.key"


class Ensured(msgspec.Struct, frozen=True):
    """The open CA, what seals the registry's secrets, and the files that `ensure` wrote."""

    authority: x509.Authority
    sealer: Sealer
    trust_domain: str
    written: tuple[str, ...]


def ensure(pki: Pki, trust_domain: str | None, hosts: Iterable[str], *, now: float) -> Ensured:
    """Makes or renews every file; see the module's text.

    Args:
        pki: Where.
        trust_domain: The mesh's name; None: that of the CA there is, else bridge.local.
        hosts: Names and addresses that this registry and its etcd are dialled by.
        now: Unix seconds.

    Raises:
        Fatal: the CA cannot be opened or is of another mesh, or a file cannot be written.
    """
    try:
        pki.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority, sealer, made = _ensure_authority(pki, trust_domain or "bridge.local", now=now)
        found = trust_domain_of(authority)
        if trust_domain not in {None, found}:
            raise Fatal(
                f"the CA in {pki.folder} is of the mesh {found}, not {trust_domain}",
                hint="leave out --trust-domain, or choose another --state-dir",
            )
        etcd_authority, etcd_made = _ensure_etcd_authority(pki, found, now=now)
        written = [*made, *etcd_made]
        dns_names, addresses = _split(hosts)
        registry, guard = (SpiffeId.make(found, kind, pki.name) for kind in ("registry", "guard"))
        etcd, admin = SpiffeId.make(found, "etcd", pki.name), SpiffeId.make(found, "admin", _ADMIN_NAME)
        for what, signer, identity, server_name, user in (
            ("registry", authority, registry, REGISTRY_SERVER_NAME, None),
            ("guard", authority, guard, GUARD_SERVER_NAME, None),
            ("admin", authority, admin, None, None),
            ("etcd", etcd_authority, etcd, ETCD_SERVER_NAME, None),
            ("registry-etcd", etcd_authority, registry, None, REGISTRY_USER),
            ("guard-etcd", etcd_authority, guard, None, GUARD_USER),
        ):
            names = ([server_name, *dns_names], addresses) if server_name else ([], [])
            if _ensure_pair(pki, what, signer, identity, names, user=user, now=now):
                written.append(what)
    except OSError as fault:
        raise Fatal(
            f"cannot use {fault.filename or pki.folder}: {fault.strerror or fault}",
            hint="check who owns the state dir and that the disk is not full",
        ) from fault
    return Ensured(authority, sealer, found, tuple(written))


def open_authority(pki: Pki) -> tuple[x509.Authority, Sealer]:
    """The CA, opened, and what opened it.

    Raises:
        Fatal: a file is missing, unreadable or damaged.
    """
    try:
        sealed = pki.sealed_key.read_bytes()
        check_version(sealed)
        if not pki.seal.keyring.exists():  # a new one would open nothing
            raise Fatal(
                f"{pki.seal.keyring} is missing, and the CA's key is sealed with what is in it",
                hint="restore pki/ from a backup; a second registry gets a copy of the first one's",
            )
        sealer = open_sealer(pki.seal)
        return unseal(pki.ca.read_bytes(), sealed, sealer), sealer
    except IdentityFault as fault:
        raise Fatal(f"{pki.ca} is damaged: {fault.message}", hint="restore pki/ from a backup") from fault
    except OSError as fault:
        raise Fatal(
            f"cannot read {fault.filename}: {fault.strerror}",
            hint="run `bridge-registry init` first, as the user that runs the registry",
        ) from fault


def trust_domain_of(authority: x509.Authority) -> str:
    """The mesh that the CA is of, as its certificate says."""
    for uri in x509.uris_of(authority.certificate):
        if uri.startswith("spiffe://"):
            return uri.removeprefix("spiffe://")
    raise Fatal("the CA's certificate names no trust domain", hint="restore pki/ca.pem from a backup")


def default_hosts() -> list[str]:
    """How this machine is dialled from itself and, last, by its own name, where it has one."""
    loopback = ["localhost", "::1", "127.0.0.1"]
    try:
        return [*loopback, canonical_host(socket.gethostname())]
    except IdentityFault:
        return loopback


def _ensure_authority(pki: Pki, trust_domain: str, *, now: float) -> tuple[x509.Authority, Sealer, list[str]]:
    # A CA that ever issued anything is never replaced: every certificate would be worthless. One
    # whose making was interrupted has no ca.pem (written last) and has issued nothing.
    issued = [pki.ca, *(pki.pair(what)[0] for what in ("registry", "guard", "admin"))]
    if any(path.exists() for path in issued):
        return *open_authority(pki), []
    sealer = open_sealer(pki.seal)
    authority = x509.create_authority(trust_domain, now=now, ttl_s=CA_TTL_S)
    write_atomically(pki.sealed_key, seal(authority, sealer))
    write_atomically(pki.ca, authority.pem, mode=0o644)
    return authority, sealer, ["ca"]


def _ensure_etcd_authority(pki: Pki, trust_domain: str, *, now: float) -> tuple[x509.Authority, list[str]]:
    # Unlike the mesh's CA this one may be lost: all that it signed lies beside it and is made again.
    try:
        certificate = x509.from_pem(pki.etcd_ca.read_bytes())
        return x509.Authority(certificate, _read_key(pki.etcd_ca_key)), []
    except FileNotFoundError:
        pass
    except IdentityFault as fault:
        raise Fatal(
            f"{pki.etcd_ca} is damaged: {fault.message}",
            hint="restore it, or remove etcd-ca.*, run init again and restart etcd",
        ) from fault
    authority = x509.create_authority(trust_domain, now=now, ttl_s=CA_TTL_S, name="Bridge etcd CA")
    write_atomically(pki.etcd_ca_key, x509.key_to_pem(authority.key))
    write_atomically(pki.etcd_ca, authority.pem)
    return authority, ["etcd-ca"]


def _ensure_pair(
    pki: Pki,
    what: str,
    authority: x509.Authority,
    identity: SpiffeId,
    names: tuple[list[str], list[str]],
    *,
    user: str | None,
    now: float,
) -> bool:
    cert_path, key_path = pki.pair(what)
    there = key_path.exists() and cert_path.exists()
    if there and _still_good(cert_path, authority, identity, names, now=now):
        _read_key(key_path)
        return False
    # A renewal keeps the key: certificate and key are two files, and a reader between the two
    # writes would find a pair that does not match.
    key = _read_key(key_path) if key_path.exists() else x509.generate_key()
    leaf = x509.issue(
        authority,
        key.public_key(),
        identity,
        now=now,
        ttl_s=INFRASTRUCTURE_TTL_S,
        dns_names=names[0],
        addresses=names[1],
        common_name=user,
    )
    write_atomically(key_path, x509.key_to_pem(key))
    write_atomically(cert_path, x509.to_pem(leaf) + authority.pem)
    return True


def _read_key(path: Path) -> x509.PrivateKey:
    try:
        return x509.key_from_pem(read_key_file(path))
    except IdentityFault as fault:
        raise Fatal(
            f"{path} is damaged: {fault.message}", hint="restore it, or remove it and run init again"
        ) from fault


def _still_good(
    cert_path: Path,
    authority: x509.Authority,
    identity: SpiffeId,
    names: tuple[list[str], list[str]],
    *,
    now: float,
) -> bool:
    pem = cert_path.read_bytes()
    if not x509.issued_by(pem, authority):
        return False
    try:
        info = x509.describe(pem)
    except IdentityFault:
        return False
    covered = set(names[0]) <= set(info.dns_names) and set(names[1]) <= set(info.addresses)
    return covered and info.identity == identity and now < renew_at(info.not_before, info.not_after, 0.5)


def _host_name(host: str) -> str:
    try:
        return canonical_host(host)
    except IdentityFault as fault:
        raise Fatal(fault.message, hint="--host takes a host name or an address") from fault


def _split(hosts: Iterable[str]) -> tuple[list[str], list[str]]:
    dns_names, addresses = [], []
    for host in hosts:
        try:
            addresses.append(str(ipaddress.ip_address(host)))
        except ValueError:
            dns_names.append(_host_name(host))
    return dns_names, addresses
