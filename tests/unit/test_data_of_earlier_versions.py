"""This version reads what earlier ones wrote, and refuses by name what later ones may write."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest

from bridge_agent.config import StateDir, load_config
from bridge_core import keyspace, snapshot_file
from bridge_core.config import load
from bridge_core.errors import BridgeError, Fatal
from bridge_core.formats import FORMATS, HOP, WRITTEN, Format, differences, spoken
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.sealing import SealBroken, files, keyring
from bridge_core.snapshot import Instance
from bridge_core.store.api import KeyValue
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.membership.store_identity_rules import StoreIdentity
from bridge_registry.records import (
    AdminRecord,
    Candidate,
    ClientRecord,
    ConfigRecord,
    KeySetRecord,
    NodeRecord,
    RecordFault,
    RevisionRecord,
    SerialRecord,
    TokenRecord,
    decode,
    decode_authorities,
    unpack,
)

EARLIER = Path(__file__).parent / "vectors" / "earlier"
VERSIONS = sorted(path for path in EARLIER.iterdir() if path.is_dir())
PACKED = {keyspace.CONFIG: ConfigRecord, keyspace.REVISIONS: RevisionRecord}
KINDS = {
    keyspace.MEMBERS: Instance,
    keyspace.NODES: NodeRecord,
    keyspace.TOKENS: TokenRecord,
    keyspace.SERIALS: SerialRecord,
    keyspace.REVOKED: SerialRecord,
    keyspace.CLIENTS: ClientRecord,
    keyspace.ADMINS: AdminRecord,
    keyspace.KEY_SETS: KeySetRecord,
    keyspace.LEADER: Candidate,
    keyspace.STORE: StoreIdentity,
}


def store_of(version: Path) -> dict[str, bytes]:
    return {
        key: base64.b64decode(value)
        for key, value in json.loads((version / "store.json").read_text()).items()
    }


def read(key: str, raw: bytes) -> msgspec.Struct | None:
    """The record as this version's registry reads it; None: it is sealed."""
    item = KeyValue(key, raw, 0, 0)
    if key == keyspace.AUTHORITIES:
        return decode_authorities(raw)
    if key.startswith(keyspace.SECRETS):
        assert files.key_id(raw) is not None
        return None
    for prefix, kind in PACKED.items():
        if key.startswith(prefix):
            return unpack(item, kind)
    return decode(item, next(kind for prefix, kind in KINDS.items() if key.startswith(prefix)))


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def version(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_every_record_of_an_earlier_store_is_read(version: Path) -> None:
    store = store_of(version)
    found = {key: read(key, raw) for key, raw in store.items()}
    assert {type(one) for one in found.values()} >= {
        Authorities, NodeRecord, ConfigRecord, RevisionRecord,
        TokenRecord, SerialRecord, ClientRecord, Instance,
    }  # fmt: skip
    node = found[keyspace.NODES + "node2"]
    assert isinstance(node, NodeRecord)
    assert (node.state, node.peer, node.version) == ("revoked", "127.0.0.1:11445", "test")
    client = found[keyspace.CLIENTS + "anna"]
    assert isinstance(client, ClientRecord)
    assert client.client.groups == ("staff",)
    member = found[keyspace.MEMBERS + "node1/0"]
    assert isinstance(member, Instance)
    assert (member.node, member.slots) == ("node1", 2)
    store_identity = found[keyspace.STORE]
    assert isinstance(store_identity, StoreIdentity)
    assert store_identity.id


def test_what_was_applied_then_has_no_fault_now(version: Path) -> None:
    config = read(keyspace.CONFIG, store_of(version)[keyspace.CONFIG])
    assert isinstance(config, ConfigRecord)
    loaded = load(((key, one.text) for key, one in config.documents.items()), alone=True)
    assert not loaded.faults
    assert {one.key for one in loaded.documents} == config.documents.keys()


def test_an_agent_goes_on_from_the_snapshot_that_the_version_before_left(version: Path) -> None:
    snapshot = snapshot_file.decode((version / "snapshot.json").read_bytes())
    assert snapshot.mesh.store_id
    assert snapshot.nodes["node2"].state == "revoked"
    assert snapshot.instances["node1/0"].slots == 2
    assert snapshot.clients["anna"].groups == ("staff",)
    assert snapshot.node_classes
    assert snapshot.policies is not None
    assert snapshot.routes is not None


def test_an_agents_configuration_means_what_it_meant(version: Path, tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.settings.write_bytes((version / "agent.json").read_bytes())
    config = load_config(state)
    assert (config.name, config.registries) == ("node1", ("192.0.2.10:11400",))
    assert list(config.instances) == ["node1/0", "node1/1"]
    assert config.labels == {"gpu": "h100"}
    assert config.listeners.http == "127.0.0.1:11434"
    node = SpiffeId.make("bridge.local", "node", "node1")
    assert config.own_id(node) == node


# What a later version may have written.


def test_a_key_of_a_later_agent_json_is_named(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    known = json.loads((VERSIONS[0] / "agent.json").read_text())
    state.settings.write_text(json.dumps({**known, "warpDrive": {"on": True}}))
    with pytest.raises(Fatal, match="warpDrive"):
        load_config(state)


def test_a_document_of_a_later_kind_is_named() -> None:
    text = "apiVersion: bridge/v1\nkind: WarpPolicy\nmetadata: {name: x}\nspec: {}\n"
    loaded = load([("WarpPolicy/x", text)], alone=True)
    assert any("WarpPolicy" in fault.message for fault in loaded.faults)


def test_files_sealed_by_a_later_version_are_told_from_damaged_ones() -> None:
    ring = keyring.Keyring((keyring.DataKey(b"k" * keyring.ID_BYTES, b"s" * 32, 0.0),))
    sealed = files.seal_bytes(ring, "snapshot", b"n" * 24, b"text")
    assert files.open_bytes(ring, "snapshot", sealed) == b"text"
    with pytest.raises(SealBroken, match="later version"):
        files.open_bytes(ring, "snapshot", b"BRSEAL2\n" + sealed[8:])
    with pytest.raises(SealBroken, match="its head is another one"):
        files.open_bytes(ring, "snapshot", b"BRXEAL1\n" + sealed[8:])
    with pytest.raises(SealBroken, match="keyring of a later version"):
        keyring.decode(b"BRRING2\n", b"k" * 32)
    with pytest.raises(SealBroken, match="no keyring"):
        keyring.decode(b"something", b"k" * 32)


def test_a_record_that_does_not_decode_is_named_with_its_kind() -> None:
    with pytest.raises(RecordFault, match=r"nodes/n1 in etcd does not decode as NodeRecord"):
        decode(KeyValue(keyspace.NODES + "n1", b'{"name": {"of": "later"}}', 0, 0), NodeRecord)
    assert issubclass(RecordFault, BridgeError)


# What programs tell one another of their formats.


def test_a_program_reads_what_it_writes_itself() -> None:
    assert not differences(WRITTEN)
    assert all(1 <= one.oldest <= one.written for one in FORMATS.values())


@pytest.mark.parametrize(
    ("theirs", "readable", "newer"), [(1, False, False), (2, True, False), (4, False, True)]
)
def test_an_older_format_is_read_down_to_the_oldest(theirs: int, readable: bool, newer: bool) -> None:
    (found,) = differences({"a": theirs}, {"a": Format(3, 2, "somebody")})
    assert (found.theirs, found.readable, found.newer) == (theirs, readable, newer)


def test_a_format_that_is_not_known_is_of_a_later_version() -> None:
    (found,) = differences({"warp": 1, "snapshot": FORMATS["snapshot"].written})
    assert (found.name, found.readable, found.newer) == ("warp", False, True)


def test_agents_of_before_formats_were_told_are_known_by_their_proofs() -> None:
    assert spoken({}, proves=False)[HOP] == 1
    assert not differences(spoken({}, proves=True))


def test_what_an_agent_makes_up_is_bounded() -> None:
    told = {"hop": 2, "": 1, "x" * 33: 1, "big": 70_000, **{f"f{n}": 1 for n in range(100)}}
    found = spoken(told, proves=False)
    assert len(found) <= 32
    assert not {"", "x" * 33, "big"} & found.keys()
