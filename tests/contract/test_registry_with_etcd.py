"""The registry's processes against a real etcd: init, run, join end to end, etcd's access control."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bridge_cli.etcd_ready import ready
from bridge_core import keyspace
from bridge_core.errors import BridgeError, Fatal, Reaction
from bridge_core.etcd_server import EtcdOptions, find_etcd
from bridge_core.files import write_atomically
from bridge_core.identity import JoinToken, SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.identity.api_keys import PEPPER, Pepper
from bridge_core.identity.certificates import create_csr, describe, generate_key, key_to_pem
from bridge_core.identity.spiffe import GUARD_SERVER_NAME
from bridge_core.registry_channel import fetch_ca, open_channel
from bridge_core.sealing import open_sealer
from bridge_core.sealing.sealer import SealFolder
from bridge_core.snapshot import Instance, encode_entry
from bridge_core.store.api import Put, StoreRefused
from bridge_core.store.etcd import ClientTls, EtcdStore
from bridge_core.tls import check_files
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.enrolment.pki_files import Pki, read_authorities
from bridge_registry.records import encode
from bridge_wire.v1 import clients_pb2
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc
from bridge_wire.v1.clients_pb2_grpc import ClientsStub
from tests.etcd_server import EtcdServer
from tests.ports import free_port
from tests.registry_bed import make_settings
from tests.support import eventually, kept

pytestmark = pytest.mark.etcd

COMMAND = [sys.executable, "-c", "from bridge_registry.cli import run; run()"]


PAIRS = ("registry", "guard", "admin", "etcd", "registry-etcd", "guard-etcd")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


class Mesh:
    """A state dir, an etcd, and a registry process."""

    def __init__(self, folder: Path) -> None:
        self.state, self.folder = folder / "registry", folder
        self.pki = self.state / "pki"
        self.ready_file = folder / "ready.json"
        done = command("init", "--state-dir", self.state)
        assert done.returncode == 0, done.stderr
        self.etcd = EtcdServer(
            EtcdOptions(
                data_dir=folder / "etcd",
                log_file=folder / "etcd.log",
                client_port=free_port(),
                peer_port=free_port(),
                cert=self.pki / "etcd.pem",
                key=self.pki / "etcd.key",
                ca=self.pki / "etcd-ca.pem",
            )
        )
        self.url = self.etcd.settings.url
        self.guard_ready = folder / "guard.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.guard: subprocess.Popen[bytes] | None = None
        self.log = (folder / "registry.log").open("ab")

    def start_guard(self) -> None:
        arguments = ["store-guard", "--state-dir", self.state, "--etcd", self.url]
        arguments += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", self.guard_ready]
        self.guard = subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=self.log)
        end = time.monotonic() + 90
        while not self.guard_ready.exists():
            assert time.monotonic() < end
            assert self.guard.poll() is None
        self.guard_url = f"https://{json.loads(self.guard_ready.read_text())['listen']}"

    def start(self) -> None:
        self.ready_file.unlink(missing_ok=True)
        arguments = ["run", "--state-dir", self.state, "--etcd", self.url, "--etcd-rbac"]
        arguments += ["--store-guard", self.guard_url]
        arguments += ["--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", self.ready_file]
        self.process = subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=self.log)

    async def serving(self) -> None:
        """Waits until the registry leads."""
        await eventually(self.ready_file.exists, 30)
        where = json.loads(self.ready_file.read_text())
        self.grpc, self.admin = where["grpc"], where["admin"]
        await eventually(lambda: asyncio.to_thread(self._leads), 30)

    def _leads(self) -> bool:
        try:
            return b"leading" in urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=10).read()
        except OSError:
            return False

    def stop(self) -> int:
        """Stops the registry; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def close(self) -> None:
        for process in (self.process, self.guard):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(60)
        self.etcd.stop()
        self.log.close()

    def admin_channel(self) -> AbstractAsyncContextManager[grpc.aio.Channel]:
        pem = [(self.pki / name).read_bytes() for name in ("ca.pem", "admin.pem", "admin.key")]
        return open_channel(self.grpc, pem[0], cert_pem=pem[1], key_pem=pem[2])


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    try:
        find_etcd()
    except Fatal as fault:
        pytest.skip(str(fault))
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    mesh.etcd.start()
    mesh.start_guard()
    mesh.start()
    yield mesh
    mesh.close()


@pytest.fixture
async def mesh(processes: Mesh) -> Mesh:
    pki = processes.pki
    tls = ClientTls(pki / "registry-etcd.pem", pki / "registry-etcd.key", pki / "etcd-ca.pem")
    await ready([processes.url], tls, 20)
    await processes.serving()
    return processes


async def enrol(mesh: Mesh, name: str) -> tuple[EtcdStore, pb.JoinResponse, bytes]:
    """Joins as an agent does; its etcd client, the answer and its key."""
    async with mesh.admin_channel() as channel:
        token = (await rpc.AdminStub(channel).CreateToken(pb.CreateTokenRequest())).token
    ca_pem, key = await fetch_ca(mesh.grpc, JoinToken.parse(token).ca_pin), generate_key()
    csr = create_csr(key, SpiffeId("bridge.local", "node", name))
    async with open_channel(mesh.grpc, ca_pem) as channel:
        answer = await rpc.EnrolmentStub(channel).Join(
            pb.JoinRequest(token=token, node_name=name, csr_pem=csr)
        )
    folder = mesh.folder / name
    folder.mkdir()
    (folder / "ca.pem").write_bytes(answer.identity.trust_bundle_pem)
    (folder / "cert.pem").write_bytes(answer.identity.certificate_chain_pem)
    (folder / "key.pem").write_bytes(key_to_pem(key))
    assert list(answer.etcd.endpoints) == [mesh.guard_url]
    tls = ClientTls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem", GUARD_SERVER_NAME)
    return EtcdStore(list(answer.etcd.endpoints), tls), answer, key_to_pem(key)


async def test_a_node_joins_registers_and_writes_nobody_elses_prefix(mesh: Mesh) -> None:
    one, answer, key_pem = await enrol(mesh, "one")
    two, _, _ = await enrol(mesh, "two")
    lease = kept(one, 5.0)
    await lease.changed(0)
    instance = encode_entry(Instance(id="one/0", node="one"))
    assert (await one.commit([Put("/bridge/v1/members/one/0", instance, lease=lease.id)])).committed
    for key in (
        "/bridge/v1/members/two/0",
        "/bridge/v1/members/one",
        "/bridge/v1/members/onex/0",
        "/bridge/v1/nodes/one",
        "/bridge/v1/ca/authorities",
    ):
        with pytest.raises(StoreRefused, match="is not a record of one"):
            await one.commit([Put(key, b"{}", lease=lease.id)])
        with pytest.raises(StoreRefused):
            await one.get(key)
    chain = answer.identity.certificate_chain_pem
    async with open_channel(
        mesh.grpc, answer.identity.trust_bundle_pem, cert_pem=chain, key_pem=key_pem
    ) as channel:
        call = rpc.MeshStub(channel).WatchSnapshot()
        await call.write(pb.SnapshotAck())
        entries: set[str] = set()
        while "instance/one/0" not in entries:
            update = await call.read()
            entries |= {entry.key for entry in update.entries}
            await call.write(pb.SnapshotAck(have=update.version))
        assert {"mesh", "node/one", "node/two"} <= entries
        call.cancel()
        await rpc.MeshStub(channel).Leave(pb.LeaveRequest())
    with pytest.raises(StoreRefused):
        await one.get("/bridge/v1/members/one/0")
    await one.close()
    await two.close()


async def test_a_lease_goes_on_while_no_registry_runs(mesh: Mesh) -> None:
    store, _, _ = await enrol(mesh, "outlives")
    lasts_s = 8.0  # a machine may stall for some of it
    lease = kept(store, lasts_s)
    held = await lease.changed(0)
    key = "/bridge/v1/members/outlives/0"
    assert (await store.commit([Put(key, b"{}", lease=held)])).committed
    assert await asyncio.to_thread(mesh.stop) == 0
    end = time.monotonic() + lasts_s  # what was granted before ends earlier
    await eventually(lambda: lease.expires_at > end, 30)
    assert (lease.id, store.fault) == (held, None)
    assert await store.get(key) is not None
    await store.close()
    mesh.start()
    await mesh.serving()


async def test_a_restart_keeps_tokens_nodes_and_identity(mesh: Mesh) -> None:
    store, answer, key_pem = await enrol(mesh, "stays")
    before = describe((mesh.pki / "registry.pem").read_bytes()).serial
    async with mesh.admin_channel() as channel:
        token = (await rpc.AdminStub(channel).CreateToken(pb.CreateTokenRequest())).token
        epoch = (await rpc.AdminStub(channel).Status(pb.StatusRequest())).version.epoch
    identity = answer.identity
    async with open_channel(
        mesh.grpc,
        identity.trust_bundle_pem,
        cert_pem=identity.certificate_chain_pem,
        key_pem=key_pem,
    ) as channel:
        call = rpc.MeshStub(channel).WatchSnapshot()
        await call.write(pb.SnapshotAck())
        update = await call.read()
        await call.write(pb.SnapshotAck(have=update.version))
        assert await asyncio.to_thread(mesh.stop) == 0
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert b"Traceback" not in (mesh.folder / "registry.log").read_bytes()
    mesh.start()
    await mesh.serving()
    assert describe((mesh.pki / "registry.pem").read_bytes()).serial == before
    async with mesh.admin_channel() as channel:
        admin = rpc.AdminStub(channel)
        status = await admin.Status(pb.StatusRequest())
        assert "stays" in {node.name for node in status.nodes}

        async def newer() -> bool:  # a leader's first snapshot comes a moment after it leads
            return (await admin.Status(pb.StatusRequest())).version.epoch > epoch

        await eventually(newer, 30)
        ids = {info.id for info in (await admin.ListTokens(pb.ListTokensRequest())).tokens}
        assert JoinToken.parse(token).id in ids
    await store.close()


async def test_clients_admins_and_the_pepper_outlive_the_registry_and_no_node_reads_them(mesh: Mesh) -> None:
    node, answer, key_pem = await enrol(mesh, "reader")
    own = generate_key()
    csr = create_csr(own, SpiffeId("bridge.local", "admin", "eve"))
    async with mesh.admin_channel() as channel:
        clients = ClientsStub(channel)
        made = await clients.CreateClient(clients_pb2.CreateClientRequest(name="anna", groups=["g"]))
        eve = await clients.CreateAdmin(
            clients_pb2.CreateAdminRequest(name="eve", role="viewer", csr_pem=csr)
        )
    for key in (
        keyspace.SECRETS + PEPPER,
        keyspace.CLIENTS + "anna",
        keyspace.ADMINS + "eve",
        keyspace.AUTHORITIES,
    ):
        with pytest.raises(StoreRefused):
            await node.get(key)
        with pytest.raises(StoreRefused):
            await node.commit([Put(key, b"{}")])
    await node.close()

    async def told() -> tuple[dict[str, bytes], bytes]:
        """The mesh's secrets and the client's entry, as an agent is told them."""
        identity = answer.identity
        async with open_channel(
            mesh.grpc,
            identity.trust_bundle_pem,
            cert_pem=identity.certificate_chain_pem,
            key_pem=key_pem,
        ) as channel:
            call = rpc.MeshStub(channel).WatchSnapshot()
            await call.write(pb.SnapshotAck())
            secrets, entries = dict[str, bytes](), dict[str, bytes]()
            while "client/anna" not in entries or not secrets:
                update = await call.read()
                secrets = dict(update.secrets) or secrets
                entries |= {entry.key: entry.value for entry in update.entries}
                await call.write(pb.SnapshotAck(have=update.version))
            call.cancel()
        return secrets, entries["client/anna"]

    before = await told()
    assert Pepper(before[0][PEPPER]).hash(made.key.encode()).hex().encode() in before[1]
    assert await asyncio.to_thread(mesh.stop) == 0
    mesh.start()
    await mesh.serving()
    assert await told() == before
    sealer = open_sealer(SealFolder(mesh.state / "pki"))
    stored = sealer.open((mesh.state / "snapshot.sealed").read_bytes(), "snapshot")
    stored += (mesh.state / "store.json").read_bytes()
    stored += (mesh.folder / "registry.log").read_bytes()
    assert made.key[17:].encode() not in stored
    assert before[0][PEPPER].hex().encode() not in stored
    assert base64.b64encode(before[0][PEPPER]) not in stored
    async with open_channel(
        mesh.grpc,
        mesh.pki.joinpath("ca.pem").read_bytes(),
        cert_pem=eve.certificate_chain_pem,
        key_pem=key_to_pem(own),
    ) as channel:
        assert [
            one.name
            for one in (await ClientsStub(channel).ListClients(clients_pb2.ListClientsRequest())).clients
        ] == ["anna"]
        with pytest.raises(grpc.aio.AioRpcError, match="needs the role operator"):
            await ClientsStub(channel).DeleteClient(clients_pb2.DeleteClientRequest(name="anna"))


async def test_the_admin_listener_answers(mesh: Mesh) -> None:
    def get(path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://{mesh.admin}{path}", timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    assert await asyncio.to_thread(get, "/healthz") == (200, b"ok\n")
    status, body = await asyncio.to_thread(get, "/metrics")
    assert status == 200
    assert b"bridge_registry_leader 1.0" in body
    asked = urllib.request.Request(
        f"http://{mesh.admin}/metrics", headers={"accept": "application/openmetrics-text"}
    )
    with await asyncio.to_thread(urllib.request.urlopen, asked, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert "bridge_registry_leader" in {one.name for one in families}
    assert (await asyncio.to_thread(get, "/nope"))[0] == 404


def test_init_is_private_and_harmless_when_repeated(tmp_path: Path) -> None:
    first = command("init", "--state-dir", tmp_path, "--trust-domain", "x.mesh", "--host", "10.1.2.3")
    assert first.returncode == 0
    assert (
        "mesh x.mesh: made ca, etcd-ca, registry, guard, admin, etcd, registry-etcd, guard-etcd"
        in first.stdout
    )
    pki = tmp_path / "pki"
    assert stat.S_IMODE(pki.stat().st_mode) == 0o700
    for path in pki.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) in (
            {0o600, 0o644} if path.name in {"ca.pem", "issuers.pem"} else {0o600}
        )
    assert "10.1.2.3" in describe((pki / "registry.pem").read_bytes()).addresses
    for name in ("authorities.json", next(pki.glob("root-*.key.enc")).name):
        assert b"PRIVATE KEY" not in (pki / name).read_bytes()
    kept = {path.name: path.read_bytes() for path in pki.iterdir()}
    again = command("init", "--state-dir", tmp_path, "--host", "10.1.2.3")
    assert "nothing: all is there" in again.stdout
    assert {path.name: path.read_bytes() for path in pki.iterdir()} == kept
    other = command("init", "--state-dir", tmp_path, "--trust-domain", "y.mesh")
    assert (other.returncode, "is of the mesh x.mesh" in other.stderr) == (1, True)
    assert "Traceback" not in other.stderr


@pytest.mark.parametrize(
    "broken", ["kek", "keyring", "authorities.json", "registry.key", "etcd-ca.pem", "etcd-ca.key"]
)
def test_a_damaged_state_dir_is_named_and_never_overwritten(tmp_path: Path, broken: str) -> None:
    settings = make_settings(tmp_path)
    assert settings.ensure_pki().written == ("ca", "etcd-ca", *PAIRS)
    path = tmp_path / "pki" / broken
    path.write_bytes(b"rubbish")
    with pytest.raises(BridgeError) as caught:
        settings.ensure_pki()
    assert (caught.value.reaction, bool(caught.value.hint)) == (Reaction.STOP, True)
    assert path.read_bytes() == b"rubbish"


def test_what_the_ca_can_issue_again_is(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.ensure_pki()
    (tmp_path / "pki" / "registry.pem").write_bytes(b"rubbish")
    (tmp_path / "pki" / "etcd.key").unlink()
    assert settings.ensure_pki().written == ("registry", "etcd")
    for what in PAIRS:
        check_files(*settings.pki.pair(what), settings.pki.etcd_ca if "etcd" in what else settings.pki.ca)


def test_etcds_own_ca_signs_for_registries_and_guards_alone(tmp_path: Path) -> None:
    pki = make_settings(tmp_path).pki
    ensured = make_settings(tmp_path).ensure_pki()
    assert stat.S_IMODE(pki.etcd_ca_key.stat().st_mode) == 0o600
    trusted = x509.from_pem(pki.etcd_ca.read_bytes())
    for what in PAIRS:
        leaf = x509.from_pem(pki.pair(what)[0].read_bytes())
        signer = trusted if "etcd" in what else ensured.authority.certificate
        leaf.verify_directly_issued_by(signer)
        assert leaf.issuer == signer.subject


def test_a_new_etcd_ca_signs_anew_what_the_old_one_signed(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.ensure_pki()
    settings.pki.etcd_ca.unlink()
    assert settings.ensure_pki().written == ("etcd-ca", "etcd", "registry-etcd", "guard-etcd")


def test_an_interrupted_init_begins_again_and_a_lost_ca_does_not(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    pki.mkdir()
    write_atomically(pki / "kek", b"x" * 32)  # what a crash before the first certificate leaves
    settings = make_settings(tmp_path)
    settings.ensure_pki()
    (pki / "authorities.json").unlink()
    with pytest.raises(Fatal, match="cannot read"):
        settings.ensure_pki()


def test_a_lost_keyring_is_named_and_not_made_anew(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.ensure_pki()
    settings.pki.seal.keyring.unlink()
    with pytest.raises(Fatal, match="keyring is missing, and the CA's key is sealed with what is in it"):
        settings.ensure_pki()
    assert not settings.pki.seal.keyring.exists()


def with_one_ca(pki: Pki) -> None:
    """The state before there were intermediates."""
    write_atomically(pki.earlier_key, b"BRK1" + bytes(200))
    pki.authorities.unlink()


def copied_with_one_ca(pki: Pki) -> None:
    """What a second registry was given then: it has no certificate of its own yet."""
    with_one_ca(pki)
    for what in PAIRS:
        pki.pair(what)[0].unlink()


def without_a_keyring(pki: Pki) -> None:
    """The state before there were keyrings."""
    found = read_authorities(pki)
    old = tuple(msgspec.structs.replace(one, sealed_key=b"BRK1" + bytes(200)) for one in found.issuers)
    write_atomically(pki.authorities, encode(Authorities(old)))


@pytest.mark.parametrize("as_it_was", [with_one_ca, copied_with_one_ca, without_a_keyring])
def test_the_state_of_an_earlier_version_is_refused_in_a_sentence(
    tmp_path: Path, as_it_was: Callable[[Pki], None]
) -> None:
    settings = make_settings(tmp_path)
    settings.ensure_pki()
    as_it_was(settings.pki)
    settings.pki.seal.keyring.unlink()  # it had none
    done = command("init", "--state-dir", tmp_path)
    assert (done.returncode, "sealed by an earlier version" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    assert not settings.pki.seal.keyring.exists()


def test_a_taken_port_and_a_bad_address_are_named(tmp_path: Path) -> None:
    base = ["run", "--state-dir", tmp_path, "--etcd", "https://127.0.0.1:1"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command(*base, "--grpc", address, "--admin", "127.0.0.1:0")
        assert (done.returncode, f"cannot listen on {address}" in done.stderr) == (1, True)
        assert "Traceback" not in done.stderr
    done = command(*base, "--grpc", "nowhere")
    assert (done.returncode, "--grpc 'nowhere' is not HOST:PORT" in done.stderr) == (1, True)


def test_an_etcd_that_is_not_there_is_said_and_waited_for(tmp_path: Path) -> None:
    log, ready_file = tmp_path / "log", tmp_path / "ready"
    arguments = ["run", "--state-dir", tmp_path, "--etcd", f"https://127.0.0.1:{free_port()}"]
    arguments += ["--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", ready_file]
    with log.open("wb") as errors:
        process = subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=errors, env={**os.environ})
        try:
            end = time.monotonic() + 90
            while b"store_unavailable" not in log.read_bytes():
                assert time.monotonic() < end
                assert process.poll() is None
            admin = json.loads(ready_file.read_text())["admin"]
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"http://{admin}/readyz", timeout=60)
            assert caught.value.code == 503
            with caught.value as answer:
                assert b"no state yet" in answer.read()
        finally:
            process.terminate()
            assert process.wait(60) == 0
