"""Which certificates a snapshot refuses, and whose open connections it cuts."""

from __future__ import annotations

from typing import Any

from bridge_agent.membership.revocation import Revocations
from bridge_core.clients import Admin, Client
from bridge_core.snapshot import MESH_KEY, MeshConfig, Node, Snapshot, Version, encode_entry

ALICE = "spiffe://bridge.local/client/alice"
NODE2 = "spiffe://bridge.local/node/node2"


class Connection:
    """What `ssl` says of the other end."""

    def __init__(self, identity: str, serial: str) -> None:
        self._certificate = {"subjectAltName": (("URI", identity),), "serialNumber": serial.upper()}

    def getpeercert(self, binary_form: bool = False) -> Any:
        return b"der" if binary_form else self._certificate


def snapshot(*serials: str, revoked_node: str = "") -> Snapshot:
    entries = {MESH_KEY: encode_entry(MeshConfig(revoked_serials=serials))}
    if revoked_node:
        entries[f"node/{revoked_node}"] = encode_entry(Node(name=revoked_node, state="revoked"))
    return Snapshot(Version(1, 1), entries)


def test_a_revoked_serial_is_refused_and_its_connections_are_cut_once() -> None:
    revocations = Revocations()
    assert revocations.identify(Connection(ALICE, "ab")) == ALICE
    assert revocations.update(snapshot("ab", "cd")) == {ALICE}
    assert revocations.identify(Connection(ALICE, "ab")) is None
    assert not revocations.admits(ALICE, "ab")
    assert revocations.update(snapshot("ab", "cd")) == frozenset()


def test_a_new_certificate_of_the_same_holder_is_taken() -> None:
    revocations = Revocations(snapshot("ab"))
    assert revocations.identify(Connection(ALICE, "ef")) == ALICE
    assert revocations.update(snapshot("ab")) == frozenset()


def test_a_revoked_node_is_refused_whatever_its_certificate() -> None:
    revocations = Revocations()
    assert revocations.identify(Connection(NODE2, "1")) == NODE2
    assert revocations.identify(Connection(ALICE, "2")) == ALICE
    assert revocations.update(snapshot(revoked_node="node2")) == {NODE2}
    assert revocations.identify(Connection(NODE2, "3")) is None
    assert revocations.identify(Connection(ALICE, "2")) == ALICE


def test_a_client_that_is_blocked_or_gone_and_an_admin_that_is_gone_are_cut_once() -> None:
    def mesh(*entries: Client | Admin) -> Snapshot:
        made = {f"{type(one).__name__.lower()}/{one.name}": encode_entry(one) for one in entries}
        return Snapshot(Version(1, 1), {MESH_KEY: encode_entry(MeshConfig()), **made})

    def identities(*names: str) -> frozenset[str]:
        return frozenset(f"spiffe://bridge.local/{name}" for name in names)

    revocations = Revocations(mesh(Client("a"), Client("b"), Client("c", blocked=True), Admin("root")))
    assert revocations.update(mesh(Client("a", ("new",)), Client("b", blocked=True))) == identities(
        "client/b", "admin/root"
    )
    assert revocations.update(mesh(Client("a"), Client("b", blocked=True))) == frozenset()
    assert revocations.update(mesh(Client("b"))) == identities("client/a")
    assert revocations.update(mesh()) == identities("client/b")


def test_a_peer_without_an_identity_is_nobody() -> None:
    assert Revocations().identify(Connection("https://example.org", "1")) is None
