"""Taking the mesh over through its store: what a certificate of the mesh's CA must not get.

Each attack goes through the guard, with nothing of a registry running, and leaves every key as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from bridge_core import keyspace
from bridge_core.etcd_server import Version, trusted_alone
from bridge_core.identity import certificates as x509
from bridge_core.store.api import Delete, Put, StoreRefused, StoreUnavailable
from bridge_core.store.endpoints import ClientTls
from bridge_registry.store_guard.app import GuardProcess
from bridge_registry.store_guard.guard_rules import Reason
from bridge_wire.etcd import rpc_pb2 as pb
from bridge_wire.etcd.rpc_pb2_grpc import AuthStub, ClusterStub, KVStub, LeaseStub, MaintenanceStub, WatchStub
from tests.guard_bed import GuardBed, Holder, registered
from tests.support import eventually

pytestmark = pytest.mark.etcd

TOKEN = b"/bridge/v1/tokens/evil"
Attack = Callable[[grpc.aio.Channel, int, int], Awaitable[Any]]


def put(key: bytes = TOKEN, lease: int = 0) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=b"{}", lease=lease))


def txn(*ops: pb.RequestOp, **more: Any) -> pb.TxnRequest:
    return pb.TxnRequest(success=ops, **more)


def nested(depth: int, op: pb.RequestOp) -> pb.RequestOp:
    for _ in range(depth):
        op = pb.RequestOp(request_txn=txn(op))
    return op


def kv(method: str, request: Any) -> Attack:
    return lambda channel, own, others: getattr(KVStub(channel), method)(request, timeout=30)


def write(*ops: pb.RequestOp, **more: Any) -> Attack:
    return kv("Txn", txn(*ops, **more))


async def keep_alive(channel: grpc.aio.Channel, lease: int) -> pb.LeaseKeepAliveResponse:
    stream = LeaseStub(channel).LeaseKeepAlive(timeout=5)
    await stream.write(pb.LeaseKeepAliveRequest(ID=lease))
    answer = await stream.read()
    assert answer is not grpc.aio.EOF
    return answer


async def watch(channel: grpc.aio.Channel, own: int, others: int) -> Any:
    stream = WatchStub(channel).Watch(timeout=5)
    await stream.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"\0", range_end=b"\0")))
    return await stream.read()


MEMBER = b"/bridge/v1/members/one/0"
READ = pb.RequestOp(request_range=pb.RangeRequest(key=b"\0", range_end=b"\0"))
WIPE = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"\0", range_end=b"\0"))


def deep(levels: int) -> bytes:
    """A transaction as bytes, deeper than protobuf's own messages can be made."""
    inner = put().SerializeToString()
    for _ in range(levels):
        inner = b"\x12" + varint(len(inner)) + inner  # TxnRequest.success
        inner = b"\x22" + varint(len(inner)) + inner  # RequestOp.request_txn
    return b"\x12" + varint(len(inner)) + inner


def varint(number: int) -> bytes:
    return number.to_bytes(1) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


DEEP = deep(5_000)

ATTACKS: dict[str, Attack] = {
    "nested put": write(nested(1, put())),
    "nested twice": write(nested(2, put())),
    "nested read": write(nested(1, READ)),
    "nested wipe": write(nested(1, WIPE)),
    "nested beside an own put": lambda c, own, _: write(put(MEMBER, own), nested(1, put()))(c, own, 0),
    "nested in the failure branch": write(
        put(MEMBER),
        failure=[nested(1, put())],
        compare=[pb.Compare(key=MEMBER, target=pb.Compare.VERSION, version=99)],
    ),
    "nested deep": write(nested(20, put())),
    "nested without end": lambda c, *_: c.unary_unary("/etcdserverpb.KV/Txn")(DEEP, timeout=30),
    "put in a transaction": write(put()),
    "put under an own lease": lambda c, own, _: write(put(TOKEN, own))(c, own, 0),
    "put": kv("Put", pb.PutRequest(key=TOKEN, value=b"{}")),
    "put as another node": lambda c, own, _: write(put(b"/bridge/v1/members/two/0", own))(c, own, 0),
    "put under another's lease": lambda c, _, others: write(put(MEMBER, others))(c, 0, others),
    "put without a lease": write(put(MEMBER)),
    "put that is not UTF-8": lambda c, own, _: write(put(b"/bridge/v1/members/one/\xff", own))(c, own, 0),
    "claim another's lease": lambda c, own, others: write(
        pb.RequestOp(
            request_put=pb.PutRequest(key=b"/bridge/v1/leases/%016x" % others, value=b"one", lease=own)
        )
    )(c, own, others),
    "lift a revocation": kv(
        "DeleteRange", pb.DeleteRangeRequest(key=b"/bridge/v1/ca/revoked/", range_end=b"0")
    ),
    "wipe": kv("DeleteRange", pb.DeleteRangeRequest(key=b"\0", range_end=b"\0")),
    "wipe in a transaction": write(WIPE),
    "read everything": kv("Range", pb.RangeRequest(key=b"\0", range_end=b"\0")),
    "read the CA's key": kv("Range", pb.RangeRequest(key=b"/bridge/v1/ca/authorities")),
    "read in a transaction": write(READ),
    "watch everything": watch,
    "compact": kv("Compact", pb.CompactionRequest(revision=2, physical=True)),
    "raise the alarm CORRUPT": lambda c, *_: MaintenanceStub(c).Alarm(
        pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, alarm=pb.CORRUPT), timeout=30
    ),
    "raise the alarm NOSPACE": lambda c, *_: MaintenanceStub(c).Alarm(
        pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, alarm=pb.NOSPACE), timeout=30
    ),
    "renew another's lease": lambda c, _, others: keep_alive(c, others),
    "revoke another's lease": lambda c, _, others: LeaseStub(c).LeaseRevoke(
        pb.LeaseRevokeRequest(ID=others), timeout=30
    ),
    "look into another's lease": lambda c, _, others: LeaseStub(c).LeaseTimeToLive(
        pb.LeaseTimeToLiveRequest(ID=others, keys=True), timeout=30
    ),
    "choose a lease's id": lambda c, _, others: LeaseStub(c).LeaseGrant(
        pb.LeaseGrantRequest(TTL=5, ID=others), timeout=30
    ),
    "hold a lease for ever": lambda c, *_: LeaseStub(c).LeaseGrant(
        pb.LeaseGrantRequest(TTL=2**40), timeout=30
    ),
    "list the members of etcd": lambda c, *_: ClusterStub(c).MemberList(pb.MemberListRequest(), timeout=30),
    "make itself a user": lambda c, *_: AuthStub(c).UserGrantRole(
        pb.AuthUserGrantRoleRequest(user="node/one", role="root"), timeout=30
    ),
    "call what does not exist": lambda c, *_: c.unary_unary("/etcdserverpb.KV/Nothing")(b"", timeout=30),
    "talk about something else": lambda c, *_: c.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30),
    "send rubbish": lambda c, *_: c.unary_unary("/etcdserverpb.KV/Txn")(b"\xff" * 64, timeout=30),
    "send too much": kv("Txn", txn(put(MEMBER), put(b"x" * 2_000_000))),
}


# What registries keep of identities, keys and money: no node reads or writes any of it.
def put_at(key: str) -> Attack:
    def attack(channel: grpc.aio.Channel, own: int, others: int) -> Awaitable[Any]:
        request = pb.PutRequest(key=key.encode(), value=b"{}", lease=own)
        return write(pb.RequestOp(request_put=request))(channel, own, others)

    return attack


for prefix in ("ca/", "tokens/", "clients/", "secrets/", "keysets/", "admins/", "usage/", "nodes/", "config"):
    at = f"/bridge/v1/{prefix}"
    ATTACKS[f"read {prefix}"] = kv("Range", pb.RangeRequest(key=at.encode(), range_end=b"/c"))
    ATTACKS[f"read one of {prefix}"] = kv("Range", pb.RangeRequest(key=f"{at}one".encode()))
    ATTACKS[f"write one of {prefix}"] = put_at(f"{at}one")


class Scene:
    """Two nodes and a registry, each with a lease; `one` attacks."""

    def __init__(self, bed: GuardBed, guard: GuardProcess, one: Holder, own: int, others: int) -> None:
        self.bed, self.guard, self.one, self.own, self.others = bed, guard, one, own, others
        self.elected = 0


@pytest.fixture
async def scene(bed: GuardBed, guard: GuardProcess) -> AsyncIterator[Scene]:
    one, two = await bed.enrol("one"), await bed.enrol("two")
    async with one.store() as own, two.store() as others, bed.registry() as registry:
        mine = await registered(own, "/bridge/v1/members/one/0")
        theirs = await registered(others, "/bridge/v1/members/two/0")
        elected = await registered(registry, "/bridge/v1/leader/1")
        found = Scene(bed, guard, one, mine.id, theirs.id)
        found.elected = elected.id
        yield found


async def kept(bed: GuardBed) -> dict[str, tuple[bytes, int]]:
    items = (await bed.everything()).items  # the guard's own sign of life comes when it comes
    return {i.key: (i.value, i.mod_revision) for i in items if not i.key.startswith(keyspace.GUARDS)}


async def refused(attempt: Awaitable[Any]) -> grpc.StatusCode:
    try:
        answer = await attempt
    except grpc.aio.AioRpcError as error:
        return error.code()
    raise AssertionError(f"let through: {answer}")


@contextlib.asynccontextmanager
async def nothing_changes(bed: GuardBed) -> AsyncIterator[None]:
    before = await kept(bed)
    yield
    assert await kept(bed) == before
    await bed.answers()
    async with bed.registry() as store:  # no alarm, no compaction that matters, still writable
        assert (await store.commit([Put("/probe", b"")])).committed


NOTHING_OF_NODES = {
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


async def test_a_nodes_certificate_gets_no_more_than_a_node_needs(scene: Scene) -> None:
    async with nothing_changes(scene.bed), scene.one.channel() as channel:
        for name, attack in ATTACKS.items():
            code = await refused(attack(channel, scene.own, scene.others))
            assert code in NOTHING_OF_NODES, (name, code)
    refusals = scene.guard.service.refused
    assert refusals[Reason.NESTED] >= 4
    assert refusals[Reason.FOREIGN_LEASE] >= 3
    assert refusals[Reason.FOREIGN_KEY] >= 6
    assert refusals[Reason.UNKNOWN_METHOD] >= 10


async def test_a_registrys_lease_is_no_lease_to_a_node(scene: Scene) -> None:
    """As etcd says it of one that is gone: nothing is learnt of it."""
    async with nothing_changes(scene.bed), scene.one.channel() as channel:
        assert (await keep_alive(channel, scene.elected)).TTL == 0
        revoke = LeaseStub(channel).LeaseRevoke(pb.LeaseRevokeRequest(ID=scene.elected), timeout=30)
        assert await refused(revoke) is grpc.StatusCode.NOT_FOUND
        attack = write(put(MEMBER, scene.elected))(channel, 0, 0)
        assert await refused(attack) is grpc.StatusCode.NOT_FOUND


async def test_every_other_certificate_gets_nothing(scene: Scene) -> None:
    bed = scene.bed
    revoked = await bed.enrol("revoked")
    left = await bed.enrol("left")
    async with bed.registry() as registry:
        await registry.commit([Put(keyspace.REVOKED + revoked.serial, b"{}")])
    thrown_out = await bed.enrol("thrown-out", state="revoked")
    async with left.store() as store:
        lease = await registered(store, "/bridge/v1/members/left/0")
        async with bed.registry() as registry:
            await registry.commit([Delete(keyspace.NODES + "left")])
        await eventually(lambda: "left" not in scene.guard.table.nodes)
        strangers = [
            revoked,
            left,
            thrown_out,
            bed.certificate("node", "never-enrolled"),
            bed.certificate("client", "one"),
            bed.certificate("admin", "one"),
            bed.certificate("registry", "one"),
            bed.certificate("guard", "one"),
            bed.certificate("node", "one", domain="other.mesh"),
        ]
        legitimate = {
            "renew": lambda c: keep_alive(c, scene.own),
            "renew its own": lambda c: keep_alive(c, lease.id),
            "grant": lambda c: LeaseStub(c).LeaseGrant(pb.LeaseGrantRequest(TTL=5), timeout=30),
            "write": lambda c: write(put(MEMBER, scene.own))(c, 0, 0),
            "read": lambda c: KVStub(c).Range(pb.RangeRequest(key=MEMBER), timeout=30),
            "ask": lambda c: MaintenanceStub(c).Status(pb.StatusRequest(), timeout=30),
        }
        async with nothing_changes(bed):
            for stranger in strangers:
                async with stranger.channel() as channel:
                    for name, call in {**legitimate, **_plain(scene)}.items():
                        code = await refused(call(channel))
                        denied = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED}
                        assert code in denied, (stranger.identity, name, code)


def _plain(scene: Scene) -> dict[str, Callable[[grpc.aio.Channel], Awaitable[Any]]]:
    return {
        name: lambda channel, attack=attack: attack(channel, scene.own, scene.others)
        for name, attack in ATTACKS.items()
    }


async def test_without_a_certificate_of_the_mesh_nobody_gets_as_far_as_asking(scene: Scene) -> None:
    bed = scene.bed
    now = time.time()
    foreign = x509.create_authority("bridge.local", now=now, ttl_s=3_600.0)
    expired = bed.certificate("node", "expired", now=now - 7_200.0)
    other_ca = bed.certificate("node", "other-ca", authority=foreign)
    etcds = x509.Authority(
        x509.from_pem(bed.pki.etcd_ca.read_bytes()), x509.key_from_pem(bed.pki.etcd_ca_key.read_bytes())
    )
    other_purpose = bed.certificate("node", "etcds", authority=etcds)
    async with nothing_changes(bed):
        for stranger in (expired, other_ca, other_purpose):
            async with stranger.channel() as channel:
                code = await refused(LeaseStub(channel).LeaseGrant(pb.LeaseGrantRequest(TTL=5), timeout=30))
                assert code is grpc.StatusCode.UNAVAILABLE, stranger.identity


async def test_a_revocation_holds_before_the_guard_has_heard_of_it(scene: Scene) -> None:
    """The store itself refuses: the guard's knowledge may be seconds old."""
    bed, guard = scene.bed, scene.guard
    table = guard.table
    frozen = type(table)()
    frozen.nodes, frozen.leases = dict(table.nodes), dict(table.leases)
    frozen._listed = set(table._listed)
    guard.service._table = frozen
    await bed.revoke(scene.one)
    async with nothing_changes(bed), scene.one.channel() as channel:
        attack = write(put(MEMBER, scene.own))(channel, 0, 0)
        assert await refused(attack) is grpc.StatusCode.PERMISSION_DENIED
        grant = LeaseStub(channel).LeaseGrant(pb.LeaseGrantRequest(TTL=5), timeout=30)
        assert await refused(grant) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_revoked_nodes_open_connection_and_stream_lose_it_too(scene: Scene) -> None:
    async with scene.one.channel() as channel:
        stream = LeaseStub(channel).LeaseKeepAlive(timeout=30)
        await stream.write(pb.LeaseKeepAliveRequest(ID=scene.own))
        assert (await stream.read()).TTL > 0
        await scene.bed.revoke(scene.one)
        await eventually(lambda: scene.guard.table.is_revoked(scene.one.serial))
        await stream.write(pb.LeaseKeepAliveRequest(ID=scene.own))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_one_node_cannot_take_what_all_need(scene: Scene) -> None:
    """Streams, calls, connections and bytes are counted for each node; the other is served meanwhile."""
    two = scene.bed.certificate("node", "two2")
    async with scene.bed.registry() as registry:
        await registry.commit([Put(keyspace.NODES + "two2", b'{"name":"two2"}')])
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(scene.one.channel()) for _ in range(12)]
        await keep_alive(channels[0], scene.own)  # this one stands before there are too many
        streams = []
        for channel in channels:
            for _ in range(40):
                stream = LeaseStub(channel).LeaseKeepAlive(timeout=30)
                stack.callback(stream.cancel)
                streams.append(stream)
        codes = await asyncio.gather(
            *(
                refused(LeaseStub(channels[0]).LeaseGrant(pb.LeaseGrantRequest(TTL=5, ID=1), timeout=30))
                for _ in range(300)
            )
        )
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
        await eventually(lambda: "two2" in scene.guard.table.nodes)
        async with two.store() as store:
            lease = await registered(store, "/bridge/v1/members/two2/0")
            await lease.revoke()
    assert scene.guard.service.refused[Reason.TOO_OFTEN] > 100


async def test_the_mesh_certificates_open_neither_of_etcds_own_ports(scene: Scene) -> None:
    bed = scene.bed
    peer = f"https://127.0.0.1:{bed.etcd.settings.peer_port}"
    ca, cert, key = bed.pki.ca, *bed.pki.pair("registry")
    registry = Holder(bed, scene.one.identity, "", ClientTls(cert, key, ca))
    async with nothing_changes(bed):
        for holder in (scene.one, registry, bed.certificate("client", "c"), bed.certificate("etcd", "r1")):
            for url in (bed.etcd_url, peer):
                async with holder.channel(url) as channel:
                    attack = write(nested(1, put()))(channel, 0, 0)
                    assert await refused(attack) is grpc.StatusCode.UNAVAILABLE, (holder.identity, url)
            assert await asyncio.to_thread(raft, bed, holder.tls) == "refused"


def raft(bed: GuardBed, tls: ClientTls) -> str:
    """What etcd's peer port says to `POST /raft` of somebody with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(bed.pki.etcd_ca)
    context.load_cert_chain(tls.cert, tls.key)
    address = ("127.0.0.1", bed.etcd.settings.peer_port)
    try:
        with (
            socket.create_connection(address, timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(b"POST /raft HTTP/1.1\r\nHost: etcd\r\nContent-Length: 0\r\n\r\n")
            return secure.recv(200).decode(errors="replace") or "refused"
    except (ssl.SSLError, ConnectionError):
        return "refused"


async def test_the_guards_own_certificate_is_no_peer_of_etcds(bed: GuardBed) -> None:
    cert, key = bed.pki.pair("etcd")
    assert "HTTP/1.1 4" in await asyncio.to_thread(raft, bed, ClientTls(cert, key, bed.pki.etcd_ca))
    for who in ("guard", "registry"):
        assert await asyncio.to_thread(raft, bed, bed.pki.etcd_client(who)) == "refused"


async def test_the_guards_own_user_is_kept_to_its_keys_where_etcd_can(
    bed: GuardBed, version: Version
) -> None:
    """A wall behind the guard, which holds only in the versions that look into nested transactions."""
    user = bed.pki.etcd_client("guard")
    holder = Holder(bed, bed.certificate("guard", "g").identity, "", user)
    before = await kept(bed)
    async with holder.channel(bed.etcd_url) as channel:
        flat = write(put())(channel, 0, 0)
        assert await refused(flat) is grpc.StatusCode.PERMISSION_DENIED
        try:
            await write(nested(1, put()))(channel, 0, 0)
            planted = True
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED  # noqa: PT017 - either may happen
            planted = False
    assert planted is not trusted_alone(version)
    assert (TOKEN.decode() in await kept(bed)) is planted
    assert planted or await kept(bed) == before


async def test_a_node_does_its_work_while_it_is_attacked(scene: Scene) -> None:
    async with scene.one.store() as store:
        with pytest.raises((StoreRefused, StoreUnavailable)):
            await store.commit([Put("/bridge/v1/tokens/evil", b"", lease=scene.own)])
        assert (await store.commit([Put(MEMBER.decode(), b"new", lease=scene.own)])).committed
        assert [item.value for item in (await store.list("/bridge/v1/members/one/")).items] == [b"new"]
