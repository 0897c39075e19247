r"""The format of a backup: pure.

"BRBACK1\n" || a message of `bridge_core.sealing.framing`, for the purpose "bridge backup v1", of
    SHA-256 of the content (32 bytes) || the content, compressed by zstd
The content is a `Backup` as JSON, bytes as base64. A later version may add fields, which are skipped here;
one that cannot be read by these rules has another first line, and is refused by it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec
import zstandard

from bridge_core import keyspace
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import Fatal
from bridge_core.sealing import SealBroken, framing
from bridge_registry.enrolment.authority_rules import PAIRS
from bridge_registry.membership.store_identity_rules import StoreIdentity

MAGIC: Final = b"BRBACK1\n"
MAX_CONTENT_BYTES: Final = 512 * 1024 * 1024
# A backup of twice what is read at most would not open: the base64 of the records and the sealing add a half.
MAX_FILE_BYTES: Final = MAX_CONTENT_BYTES
_FAMILY: Final = b"BRBACK"
_PURPOSE: Final = b"bridge backup v1"
_DIGEST_BYTES: Final = 32
_HISTORY: Final = (keyspace.REVISIONS, keyspace.USAGE)
# Without these a registry would make a CA of its own, or could not open the one that it has.
NEEDED: Final = ("authorities.json", "keyring")
_NAMES: Final = frozenset(
    [*NEEDED, "kek", "ca.pem", "issuers.pem", "etcd-ca.pem", "etcd-ca.key"]
    + [f"{pair}.{kind}" for pair in PAIRS for kind in ("pem", "key")]
)
_ROOT_KEY: Final = re.compile(r"root-[0-9a-f]{16}\.key\.enc")


class Backup(msgspec.Struct, frozen=True):
    """A mesh's control plane at a moment.

    Attributes:
        made: Unix seconds.
        version: Of the program that made it.
        trust_domain: The mesh.
        store: Which store that was, at which revision.
        files: Of the registry's `pki` folder, by name.
        records: Of the store, by key: all that registries keep a copy of as well (`keyspace.is_lasting`).
        history: The rest that is under nobody's lease: applied revisions and usage.
    """

    made: float
    version: str
    trust_domain: str
    store: StoreIdentity
    files: dict[str, bytes]
    records: dict[str, bytes]
    history: dict[str, bytes] = {}


def is_kept_file(name: str) -> bool:
    """Whether a file of this name in a `pki` folder belongs into a backup."""
    return name in _NAMES or _ROOT_KEY.fullmatch(name) is not None


def is_history(key: str) -> bool:
    """Whether a record is put back beside those that a registry keeps a copy of."""
    return key.startswith(_HISTORY)


def digest_of(content: bytes) -> str:
    """What a backup is told by: the same in two files only where the same mesh at the same moment is."""
    return hashlib.sha256(content).hexdigest()


def content_of(backup: Backup) -> bytes:
    """What is sealed.

    Raises:
        Fatal: it is more than can be read back.
    """
    content = msgspec.json.encode(backup, order="deterministic")
    if len(content) > MAX_CONTENT_BYTES:
        raise Fatal(
            f"the mesh's records are {len(content)} bytes, {MAX_CONTENT_BYTES} at most go into a backup",
            hint="take etcd's own snapshot: docs/operations/backup-and-restore.md",
        )
    return content


def seal(content: bytes, key: bytes, salt: bytes) -> bytes:
    """The file; 32 bytes as `key`, 24 fresh random ones as `salt`."""
    text = hashlib.sha256(content).digest() + zstandard.ZstdCompressor().compress(content)
    return MAGIC + framing.seal(key, salt, _PURPOSE, text)


def unseal(file: bytes, key: bytes) -> bytes:
    """The content that `seal` was given.

    Raises:
        Fatal: it is no backup, one of a later format, sealed with another key, or damaged.
    """
    if not file.startswith(MAGIC):
        later = file.startswith(_FAMILY)
        raise Fatal(
            "it is a backup of a later format than this program reads"
            if later
            else "it is no backup of a mesh",
            hint="restore it with the version that made it" if later else "",
        )
    try:
        text = framing.open_sealed(key, _PURPOSE, file[len(MAGIC) :])
    except framing.WrongKey as fault:
        raise Fatal(
            "it was sealed with another key", hint="--backup-key names the one that it was made with"
        ) from fault
    except SealBroken as fault:
        raise Fatal(f"it is damaged: {fault.message}", hint="take another copy of it") from fault
    content = _decompressed(text[_DIGEST_BYTES:])
    if hashlib.sha256(content).digest() != text[:_DIGEST_BYTES]:
        raise Fatal("its content is not what its digest says", hint="it was made that way: take another one")
    return content


def decode(content: bytes) -> Backup:
    """The backup in what was sealed, whole and of nothing else than what belongs there.

    Raises:
        Fatal: something is missing in it, or should not be there.
    """
    try:
        backup = decode_json(content, Backup, most=MAX_CONTENT_BYTES)
    except Undecodable as fault:
        raise Fatal(f"its content does not decode: {fault.message}") from fault
    for name in NEEDED:
        if name not in backup.files:
            raise Fatal(f"the file {name} is missing in it", hint="take another backup")
    strange = [name for name in backup.files if not is_kept_file(name)]
    strange += [key for key in backup.records if not keyspace.is_lasting(key)]
    strange += [key for key in backup.history if not is_history(key)]
    if strange:
        raise Fatal(
            f"it has {min(strange)!r}, which belongs into no backup", hint="a newer version may have made it"
        )
    if not backup.store.id:
        raise Fatal("it names no mesh: it was taken before there was one", hint="take another backup")
    return backup


def _decompressed(data: bytes) -> bytes:
    try:
        if not 0 <= zstandard.frame_content_size(data) <= MAX_CONTENT_BYTES:
            raise Fatal("its content says no size, or one that is too large")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_CONTENT_BYTES)
    except zstandard.ZstdError as fault:
        raise Fatal(f"its content does not decompress: {fault}") from fault
