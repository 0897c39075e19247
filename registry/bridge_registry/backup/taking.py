"""Reading what a backup holds: the `pki` folder of a registry, and the store at one revision."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bridge_core import keyspace
from bridge_core.errors import Fatal, Unavailable
from bridge_core.identity import certificates as x509
from bridge_core.store.api import KeyListing, Store
from bridge_registry.backup.backup_rules import NEEDED, Backup, is_history, is_kept_file
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.enrolment.pki_files import trust_domain_of
from bridge_registry.records import decode_authorities
from bridge_registry.store_memory import identity_of

_TRIES: Final = 3
_MOST_BYTES: Final = 1 << 20


async def take(folder: Path, store: Store, *, version: str, now: float) -> Backup:
    """The control plane as it is.

    Args:
        folder: A registry's `pki`.
        store: The mesh's etcd.
        version: Of this program.
        now: Unix seconds.

    Raises:
        Fatal: files are missing or cannot be read, or the store is another mesh's.
        Unavailable: the CA is being changed at this moment.
        StoreUnavailable, StoreRefused: etcd does not answer, or does not let this registry in.
    """
    for _ in range(_TRIES):
        files = read_pki(folder)
        listing = await store.list(keyspace.ROOT)
        if files == read_pki(folder):
            break
    else:
        raise Unavailable("the CA's files change at this moment", hint="try again in some seconds")
    own = decode_authorities(files["authorities.json"], str(folder / "authorities.json"))
    _check(own, listing)
    records = {item.key: item.value for item in listing.items if not item.lease}
    return Backup(
        made=now,
        version=version,
        trust_domain=trust_domain_of(x509.from_pem(own.issuing.certificate.encode())),
        store=identity_of(listing),
        files=files,
        records={key: raw for key, raw in records.items() if keyspace.is_lasting(key)},
        history={key: raw for key, raw in records.items() if is_history(key)},
    )


def read_pki(folder: Path) -> dict[str, bytes]:
    """Those files of the folder that a backup holds.

    Raises:
        Fatal: one is a link or too large, or cannot be read, or the folder holds no CA.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if is_kept_file(path.name)]
        files = {path.name: _read(path) for path in paths}
    except OSError as fault:
        raise Fatal(
            f"cannot read {fault.filename or folder}: {fault.strerror}",
            hint="run this as root or as the registry's user; --state-dir names another registry",
        ) from fault
    for name in NEEDED:
        if name not in files:
            raise Fatal(f"there is no {folder / name}", hint="--state-dir names the registry's state folder")
    return files


def _read(path: Path) -> bytes:
    if path.is_symlink():
        raise Fatal(f"{path} is a link, and key files are not read through links")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise Fatal(f"{path} is longer than {_MOST_BYTES} bytes, which no file there is")
    return data


def _check(own: Authorities, listing: KeyListing) -> None:
    kept = next((item.value for item in listing.items if item.key == keyspace.AUTHORITIES), None)
    if kept is None or not identity_of(listing).id:
        raise Fatal(
            "this etcd holds no mesh",
            hint="`bridgectl status` says whether it came back empty; --etcd names another one",
        )
    if not decode_authorities(kept).roots.keys() & own.roots.keys():
        raise Fatal("this etcd belongs to a mesh with another CA", hint="--etcd names the mesh's own")
