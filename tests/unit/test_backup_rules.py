"""The format of a backup: frozen, whole, and nothing else than a backup opens."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.errors import Fatal
from bridge_core.sealing import framing
from bridge_registry.backup import backup_rules as rules
from bridge_registry.backup.backup_rules import Backup
from bridge_registry.membership.store_identity_rules import StoreIdentity

_VECTOR = Path(__file__).parent / "vectors" / "backup.json"
_KEY, _SALT = bytes(range(32)), bytes(range(24))
_BACKUP = Backup(
    made=1_795_000_000.0,
    version="0.1.0",
    trust_domain="bridge.local",
    store=StoreIdentity("0123456789abcdef", 2, 77, 4711),
    files={"authorities.json": b"{}", "keyring": b"ring", "root-0123456789abcdef.key.enc": b"\x00\xff"},
    records={"/bridge/v1/nodes/node1": b'{"name":"node1"}', "/bridge/v1/config": b"packed"},
    history={"/bridge/v1/revisions/00000001": b"first"},
)


def test_a_file_of_the_first_version_is_read_as_it_was_written() -> None:
    vector = json.loads(_VECTOR.read_text())
    content = rules.unseal(bytes.fromhex(vector["file"]), bytes.fromhex(vector["key"]))
    assert rules.digest_of(content) == vector["digest"]
    assert rules.decode(content) == _BACKUP


def test_what_a_later_version_adds_is_passed_over_and_another_format_is_refused() -> None:
    grown = {**msgspec.json.decode(rules.content_of(_BACKUP)), "more": {"of": "it"}}
    assert rules.decode(msgspec.json.encode(grown)) == _BACKUP
    with pytest.raises(Fatal, match="a later format"):
        rules.unseal(b"BRBACK2\n" + bytes(100), _KEY)
    with pytest.raises(Fatal, match="no backup of a mesh"):
        rules.unseal(b"BRSEAL1\n" + bytes(100), _KEY)


def test_another_key_is_named_as_such() -> None:
    sealed = rules.seal(rules.content_of(_BACKUP), _KEY, _SALT)
    with pytest.raises(Fatal, match="sealed with another key"):
        rules.unseal(sealed, bytes(32))


@given(st.data())
def test_no_cut_and_no_changed_byte_opens(data: st.DataObject) -> None:
    sealed = rules.seal(rules.content_of(_BACKUP), _KEY, _SALT)
    at = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(Fatal):
        rules.unseal(sealed[:at], _KEY)
    changed = bytearray(sealed)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Fatal):
        rules.unseal(bytes(changed), _KEY)


def test_a_digest_that_is_not_the_contents_is_refused() -> None:
    text = bytes(32) + zstandard.ZstdCompressor().compress(rules.content_of(_BACKUP))
    with pytest.raises(Fatal, match="digest"):
        rules.unseal(rules.MAGIC + framing.seal(_KEY, _SALT, b"bridge backup v1", text), _KEY)


@pytest.mark.parametrize(
    "text", [b"", bytes(32), bytes(32) + b"no zstd", bytes(32) + zstandard.compress(b"x")[:-1]]
)
def test_content_that_does_not_decompress_is_refused(text: bytes) -> None:
    with pytest.raises(Fatal):
        rules.unseal(rules.MAGIC + framing.seal(_KEY, _SALT, b"bridge backup v1", text), _KEY)


@pytest.mark.parametrize(
    ("field", "name", "says"),
    [
        ("files", "../../etc/passwd", "belongs into no backup"),
        ("files", "root-0123456789abcdef.key.enc\n", "belongs into no backup"),
        ("records", "/registry/pods/x", "belongs into no backup"),
        ("records", "/bridge/v1/leader/1", "belongs into no backup"),
        ("records", "/bridge/v1/store", "belongs into no backup"),
        ("history", "/bridge/v1/nodes/n", "belongs into no backup"),
    ],
)
def test_what_belongs_elsewhere_is_refused_by_name(field: str, name: str, says: str) -> None:
    backup = msgspec.structs.replace(_BACKUP, **{field: {**getattr(_BACKUP, field), name: b""}})
    with pytest.raises(Fatal, match=says):
        rules.decode(rules.content_of(backup))


@pytest.mark.parametrize("name", rules.NEEDED)
def test_one_without_the_ca_or_its_keyring_is_refused(name: str) -> None:
    files = {other: data for other, data in _BACKUP.files.items() if other != name}
    with pytest.raises(Fatal, match=f"the file {name} is missing"):
        rules.decode(rules.content_of(msgspec.structs.replace(_BACKUP, files=files)))


def test_one_of_no_mesh_and_what_is_no_backup_at_all_are_refused() -> None:
    with pytest.raises(Fatal, match="names no mesh"):
        rules.decode(rules.content_of(msgspec.structs.replace(_BACKUP, store=StoreIdentity())))
    for content in (b"", b"[]", b"{}", b"[" * 100_000, b"\xff"):
        with pytest.raises(Fatal, match="does not decode"):
            rules.decode(content)
