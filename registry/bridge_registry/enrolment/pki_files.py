"""The registry's keys and certificates on disk.

Under `<state dir>/pki/` (the state dir of `bridgectl up` for its registry is `<state>/registry`), files
0600, folder 0700:

    authorities.json         the mesh's CAs: certificates, and the keys of the intermediates, which sign
                             certificates of members, sealed with the keyring
    root-<pin>.key.enc       a root's key, sealed with the keyring, where it was made here and not taken away
                             to be offline
    keyring                  the data keys, sealed under the key-encryption key (KEK)
    kek                      the KEK, unless another source of it is named
    ca.pem                   the roots: what tokens name, and whoever comes from outside trusts
    issuers.pem              the intermediates: what members trust
    registry.pem/.key        this registry's server certificate (with its chain and the roots after it)
    guard.pem/.key           the store guard's, which agents reach in etcd's place
    admin.pem/.key           the first admin, `spiffe://<mesh>/admin/admin`
    etcd-ca.pem/.key         etcd's own CA: whoever it signs for may talk to etcd, so it signs for
                             the following three alone
    etcd.pem/.key            etcd's server and peer certificate
    registry-etcd.pem/.key   this registry as etcd's client, user `registry` with the role root
    guard-etcd.pem/.key      the guard as etcd's client, user `guard`

`ensure` makes what is missing and renews what is past half of its life, so it may run at every
start; etcd reads its files anew at every handshake. A second registry gets copies of authorities.json,
keyring, kek (where it is a file of ours) and etcd-ca.* before its own `init`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from cryptography.x509 import Certificate

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.identity import IdentityFault, SpiffeId, renew_at
from bridge_core.identity import certificates as x509
from bridge_core.identity.expiry_rules import Expiry
from bridge_core.identity.host_names import canonical_host
from bridge_core.identity.spiffe import ETCD_SERVER_NAME, GUARD_SERVER_NAME, REGISTRY_SERVER_NAME
from bridge_core.key_files import read_key_file
from bridge_core.sealing import Sealer, open_sealer
from bridge_core.sealing.key_source import KeySource
from bridge_core.sealing.sealer import SealFolder
from bridge_core.store.endpoints import ClientTls
from bridge_registry.enrolment.authority_rules import PAIRS, Authorities, Issuer
from bridge_registry.enrolment.key_sealing import check_version, earlier_version, seal, unseal
from bridge_registry.records import RecordFault, decode_authorities, encode

# All registries of a mesh are one user of etcd: a second one gets in without being admitted first.
REGISTRY_USER: Final = "registry"
GUARD_USER: Final = "guard"
CA_TTL_S: Final = 10 * 365 * 86_400.0
INTERMEDIATE_TTL_S: Final = 5 * 365 * 86_400.0
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
        """The roots' certificates."""
        return self.folder / "ca.pem"

    @property
    def issuers(self) -> Path:
        """The certificates of those who sign for members."""
        return self.folder / "issuers.pem"

    @property
    def authorities(self) -> Path:
        """All of the mesh's CAs."""
        return self.folder / "authorities.json"

    def root_key(self, pin: str) -> Path:
        """A root's sealed key."""
        return self.folder / f"root-{pin[:16]}.key.enc"

    @property
    def earlier_key(self) -> Path:
        """The CA's sealed key of versions that had one CA only."""
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
    """The mesh's CAs, the open one that signs, what seals secrets, and the files that `ensure` wrote."""

    authorities: Authorities
    authority: x509.Authority
    sealer: Sealer
    trust_domain: str
    written: tuple[str, ...]


def ensure(
    pki: Pki, trust_domain: str | None, hosts: Iterable[str], *, now: float, sealer: Sealer | None = None
) -> Ensured:
    """Makes or renews every file; see the module's text.

    Args:
        pki: Where.
        trust_domain: The mesh's name; None: that of the CA there is, else bridge.local.
        hosts: Names and addresses that this registry and its etcd are dialled by.
        now: Unix seconds.
        sealer: What a program that runs has open already; None: opened from the keyring.

    Raises:
        Fatal: the CA cannot be opened or is of another mesh, or a file cannot be written.
    """
    try:
        pki.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authorities, sealer, made = _ensure_authorities(
            pki, trust_domain or "bridge.local", sealer=sealer, now=now
        )
        authority = open_issuer(authorities.issuing, sealer)
        found = trust_domain_of(authority.certificate)
        _write_trusted(pki, authorities)
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
            # Who joins looks for the root that the token names among what the registry shows.
            shown = "".join(authorities.roots.values()).encode() if what == "registry" else b""
            if _ensure_pair(pki, what, signer, identity, names, shown=shown, user=user, now=now):
                written.append(what)
    except OSError as fault:
        raise Fatal(
            f"cannot use {fault.filename or pki.folder}: {fault.strerror or fault}",
            hint="check who owns the state dir and that the disk is not full",
        ) from fault
    return Ensured(authorities, authority, sealer, found, tuple(written))


def open_authority(pki: Pki) -> x509.Authority:
    """The CA that signs for members, opened.

    Raises:
        Fatal: a file is missing, unreadable or damaged.
    """
    authorities = read_authorities(pki)
    return open_issuer(authorities.issuing, open_seal(pki, authorities))


def open_seal(pki: Pki, authorities: Authorities) -> Sealer:
    """What these CAs are sealed with.

    Raises:
        Fatal: the keyring is missing or does not open, or an earlier version sealed them.
    """
    for one in authorities.issuers:
        check_version(one.sealed_key)
    if not pki.seal.keyring.exists():  # a new one would open nothing
        raise Fatal(
            f"{pki.seal.keyring} is missing, and the CA's key is sealed with what is in it",
            hint="restore pki/ from a backup; a second registry gets a copy of the first one's",
        )
    return open_sealer(pki.seal)


def read_authorities(pki: Pki) -> Authorities:
    """The mesh's CAs as they are on disk.

    Raises:
        Fatal: the file is missing, unreadable or damaged.
    """
    try:
        return decode_authorities(pki.authorities.read_bytes(), str(pki.authorities))
    except RecordFault as fault:
        raise Fatal(f"{pki.authorities} is damaged", hint="restore pki/ from a backup") from fault
    except FileNotFoundError as fault:
        if pki.earlier_key.exists():
            raise earlier_version() from fault
        raise _unreadable(fault) from fault
    except OSError as fault:
        raise _unreadable(fault) from fault


def open_issuer(issuer: Issuer, sealer: Sealer) -> x509.Authority:
    """One of the mesh's issuers, opened.

    Raises:
        Fatal: the keyring is another one, or the issuer is damaged.
    """
    opened = _unsealed(issuer.certificate.encode(), issuer.sealed_key, sealer)
    return msgspec.structs.replace(opened, further=issuer.further.encode())


def open_root(pki: Pki, pem: str, sealer: Sealer) -> x509.Authority | None:
    """The root whose certificate is `pem`, opened; None: its key is not here.

    Raises:
        Fatal: its key is here, and cannot be opened.
    """
    path = pki.root_key(x509.pin(x509.from_pem(pem.encode())))
    try:
        sealed = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise _unreadable(fault) from fault
    return _unsealed(pem.encode(), sealed, sealer)


def make_issuer(authority: x509.Authority, root: str, sealer: Sealer, *, now: float) -> Issuer:
    """An issuer as it is kept, its key sealed."""
    return Issuer(
        pin=authority.pin,
        certificate=authority.pem.decode(),
        root=root,
        root_pin=x509.pin(x509.from_pem(root.encode())),
        sealed_key=seal(authority, sealer),
        further=authority.further.decode(),
        since=now,
    )


def keep_root(pki: Pki, root: x509.Authority, sealer: Sealer) -> None:
    """Writes a root's sealed key. Raises OSError."""
    write_atomically(pki.root_key(root.pin), seal(root, sealer))


def take_root_away(pki: Pki, out: Path) -> None:
    """Moves the issuing root's key and certificate, PEM, into the new file `out`.

    Raises:
        Fatal: the key is not here, or `out` is there already or cannot be written.
    """
    authorities = read_authorities(pki)
    root = open_root(pki, authorities.issuing.root, open_seal(pki, authorities))
    if root is None:
        raise Fatal(f"the root's key is not in {pki.folder}: it is offline already, or at another registry")
    try:
        # Never over a file that is there: it may be the one copy of another root's key.
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(x509.key_to_pem(root.key) + root.pem)
            file.flush()
            os.fsync(file.fileno())
        pki.root_key(root.pin).unlink()
    except OSError as fault:
        raise Fatal(f"cannot write {fault.filename or out}: {fault.strerror}") from fault


def keep_authorities(pki: Pki, authorities: Authorities) -> None:
    """Makes the mesh's CAs on disk these, and forgets the roots' keys that are no longer among them.

    Raises:
        OSError: they cannot be written.
    """
    before = read_authorities(pki).roots if pki.authorities.exists() else {}
    write_atomically(pki.authorities, encode(authorities))
    _write_trusted(pki, authorities)
    for gone in before.keys() - authorities.roots.keys():
        pki.root_key(gone).unlink(missing_ok=True)


def trust_domain_of(certificate: Certificate) -> str:
    """The mesh that a CA is of, as its certificate says. Raises Fatal."""
    for uri in x509.uris_of(certificate):
        if uri.startswith("spiffe://"):
            return uri.removeprefix("spiffe://")
    raise Fatal("the CA's certificate names no trust domain", hint="restore pki/ from a backup")


def lives(pki: Pki, authorities: Authorities) -> tuple[Expiry, ...]:
    """When each of this registry's certificates ends; of those that cannot be read nothing is said."""
    found = [("root", pem.encode()) for pem in authorities.roots.values()]
    found += [("intermediate", one.certificate.encode()) for one in authorities.issuers]
    for kind, path in (("etcd-ca", pki.etcd_ca), *((what, pki.pair(what)[0]) for what in PAIRS)):
        try:
            found.append((kind, path.read_bytes()))
        except OSError:
            continue
    result = []
    for kind, pem in found:
        try:
            info = x509.describe(pem)
        except IdentityFault:
            continue
        name = info.serial[:8] if info.identity is None else info.identity.name
        result.append(Expiry(kind, name, info.not_before, info.not_after))
    return tuple(result)


def default_hosts() -> list[str]:
    """How this machine is dialled from itself and, last, by its own name, where it has one."""
    loopback = ["localhost", "::1", "127.0.0.1"]
    try:
        return [*loopback, canonical_host(socket.gethostname())]
    except IdentityFault:
        return loopback


def _ensure_authorities(
    pki: Pki, trust_domain: str, *, sealer: Sealer | None, now: float
) -> tuple[Authorities, Sealer, list[str]]:
    # A CA that ever issued anything is never replaced: every certificate would be worthless. One
    # whose making was interrupted has no authorities.json (written last) and has issued nothing.
    issued = [
        pki.authorities,
        pki.earlier_key,
        *(pki.pair(what)[0] for what in ("registry", "guard", "admin")),
    ]
    if any(path.exists() for path in issued):
        authorities = read_authorities(pki)
        return authorities, sealer or open_seal(pki, authorities), []
    sealer = sealer or open_sealer(pki.seal)
    root = x509.create_root(trust_domain, now=now, ttl_s=CA_TTL_S)
    authority = x509.create_intermediate(root, trust_domain, now=now, ttl_s=INTERMEDIATE_TTL_S)
    keep_root(pki, root, sealer)
    made = Authorities((make_issuer(authority, root.pem.decode(), sealer, now=now),))
    keep_authorities(pki, made)
    return made, sealer, ["ca"]


def _write_trusted(pki: Pki, authorities: Authorities) -> None:
    roots = "".join(authorities.roots.values()).encode()
    issuers = "".join(one.certificate for one in authorities.issuers).encode()
    for path, pem in ((pki.ca, roots), (pki.issuers, issuers)):
        # Others look at when it was written.
        if not path.exists() or path.read_bytes() != pem:
            write_atomically(path, pem, mode=0o644)


def _unsealed(certificate: bytes, sealed: bytes, sealer: Sealer) -> x509.Authority:
    try:
        return unseal(certificate, sealed, sealer)
    except IdentityFault as fault:
        raise Fatal(
            f"a CA in pki/authorities.json is damaged: {fault.message}", hint="restore pki/ from a backup"
        ) from fault


def _unreadable(fault: OSError) -> Fatal:
    return Fatal(
        f"cannot read {fault.filename}: {fault.strerror}",
        hint="run `bridge-registry init` first, as the user that runs the registry",
    )


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
    shown: bytes,
    user: str | None,
    now: float,
) -> bool:
    cert_path, key_path = pki.pair(what)
    there = key_path.exists() and cert_path.exists()
    chain = authority.chain + shown
    if there and _still_good(cert_path, authority, chain, identity, names, now=now):
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
    write_atomically(cert_path, x509.to_pem(leaf) + chain)
    return True


def _read_key(path: Path) -> x509.PrivateKey:
    try:
        return x509.key_from_pem(read_key_file(path, of_service=True))
    except IdentityFault as fault:
        raise Fatal(
            f"{path} is damaged: {fault.message}", hint="restore it, or remove it and run init again"
        ) from fault


def _still_good(
    cert_path: Path,
    authority: x509.Authority,
    chain: bytes,
    identity: SpiffeId,
    names: tuple[list[str], list[str]],
    *,
    now: float,
) -> bool:
    pem = cert_path.read_bytes()
    if not pem.endswith(chain) or not x509.issued_by(pem, authority.certificate):
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
