"""Joining, following, renewing and leaving, against a real registry in this process."""

from __future__ import annotations

import asyncio
import random
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import structlog

from bridge_agent.config import AgentConfig, StateDir, load_config
from bridge_agent.membership.advertise import SubjectNames, subject_names
from bridge_agent.membership.join import join
from bridge_agent.membership.leave import leave
from bridge_agent.membership.new_key import new_key
from bridge_agent.membership.registry_client import RegistryClient
from bridge_agent.membership.renewal import Renewal
from bridge_agent.membership.subscription import SnapshotSubscription
from bridge_core.errors import BridgeError
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.tls import TlsIdentity
from tests.scenarios.enrolment_bed import EnrolmentBed, open_enrolment_bed
from tests.sealing_bed import sealer_of
from tests.support import eventually


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[EnrolmentBed]:
    async with open_enrolment_bed(tmp_path) as bed:
        yield bed


def content(state: StateDir) -> set[str]:
    if not state.root.exists():
        return set()
    return {str(path.relative_to(state.root)) for path in state.root.rglob("*")}


async def joined(bed: EnrolmentBed, name: str = "node1") -> tuple[StateDir, AgentConfig]:
    state = bed.state(name)
    return state, await join(bed.plan(await bed.token(), name), state)


async def test_a_join_leaves_a_whole_node_behind(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    assert load_config(state) == settings
    assert (settings.name, settings.trust_domain) == ("node1", "bed.local")
    assert settings.etcd == ("https://127.0.0.1:1",)
    identity = TlsIdentity(state.certificate, state.key, state.ca)
    assert str(identity.info.identity) == "spiffe://bed.local/node/node1"
    assert "127.0.0.1" in identity.info.addresses
    for path in (state.key, state.certificate, state.ca, state.settings, state.snapshot):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.root.stat().st_mode) == 0o700
    assert (
        SnapshotFile(state.snapshot, sealer_of(state), now=lambda: 0.0).load().mesh.trust_domain
        == "bed.local"
    )
    assert bed.node_record("node1").get("state", "active") == "active"


async def test_the_key_never_leaves_the_node(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    secret = b"".join(state.key.read_bytes().splitlines()[1:-1])
    assert not any(secret[:40] in item.value for item in bed.etcd.items.values())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda token: token[:-5], "truncated"),
        (lambda token: ".".join(token.split(".")[:3]), "truncated"),
        (lambda token: "nonsense", "not a join token"),
        (lambda token: token.replace(token.split(".")[2], "0" * 64), ""),
        (lambda token: token.replace(token.split(".")[1], "0" * 16), ""),
        (lambda token: token.rpartition(".")[0] + "." + "0" * 64, "another CA"),
    ],
    ids=["cut", "part missing", "no token", "wrong secret", "unknown", "another mesh's CA"],
)
async def test_a_bad_token_is_refused_and_nothing_is_left(bed: EnrolmentBed, spoil, words: str) -> None:
    state, token = bed.state("node1"), await bed.token()
    with pytest.raises(BridgeError) as caught:
        await join(bed.plan(spoil(token)), state)
    assert words in str(caught.value)
    assert token.split(".")[2] not in str(caught.value)
    assert content(state) == set()
    assert not state.root.exists()
    assert bed.node_record("node1") is None


async def test_a_used_token_is_refused(bed: EnrolmentBed) -> None:
    token = await bed.token()
    await join(bed.plan(token), bed.state("node1"))
    with pytest.raises(BridgeError, match="used"):
        await join(bed.plan(token, "node2"), bed.state("node2"))
    assert content(bed.state("node2")) == set()


async def test_an_expired_token_is_refused(bed: EnrolmentBed) -> None:
    token, made = await bed.token(ttl_s=1), time.time()
    await eventually(lambda: time.time() > made + 1.1)
    with pytest.raises(BridgeError, match="expired"):
        await join(bed.plan(token, "late"), bed.state("late"))
    assert content(bed.state("late")) == set()


async def test_a_taken_name_is_refused(bed: EnrolmentBed) -> None:
    await joined(bed)
    with pytest.raises(BridgeError, match="node1"):
        await join(bed.plan(await bed.token()), bed.state("other"))
    assert content(bed.state("other")) == set()


async def test_a_token_for_another_name_is_refused(bed: EnrolmentBed) -> None:
    with pytest.raises(BridgeError):
        await join(bed.plan(await bed.token(node="node7")), bed.state("node1"))


async def test_a_second_join_in_the_same_folder_is_refused(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    with pytest.raises(BridgeError, match="enrolled"):
        await join(bed.plan(await bed.token(), "node2"), state)
    assert load_config(state) == settings


async def test_models_that_were_there_before_a_failed_join_stay(bed: EnrolmentBed) -> None:
    state = bed.state("node1")
    (state.models / "blobs").mkdir(parents=True)
    with pytest.raises(BridgeError):
        await join(bed.plan("brj1.x"), state)
    with pytest.raises(BridgeError):
        await join(bed.plan((await bed.token()).rpartition(".")[0] + "." + "0" * 64), state)
    assert content(state) == {"models", "models/blobs"}


async def test_nobody_at_the_address(bed: EnrolmentBed) -> None:
    plan = bed.plan(await bed.token(), registries=("127.0.0.1:1",))
    with pytest.raises(BridgeError, match=r"no registry answers at 127\.0\.0\.1:1"):
        await join(plan, bed.state("node1"))


async def test_a_join_waits_for_a_registry_that_cannot_answer_yet(bed: EnrolmentBed) -> None:
    token = await bed.token()
    bed.etcd.pause()
    with structlog.testing.capture_logs() as logs:
        joining = asyncio.create_task(join(bed.plan(token), bed.state("one")))
        await eventually(lambda: any(line["event"] == "join_failed" for line in logs))
    assert not joining.done()
    bed.etcd.resume()
    assert (await joining).name == "node1"
    assert bed.state("one").joined


async def test_another_registry_is_asked_when_the_first_is_down(bed: EnrolmentBed) -> None:
    plan = bed.plan(await bed.token(), registries=("127.0.0.1:1", bed.address))
    await join(plan, bed.state("node1"))


async def test_a_registry_of_another_mesh_gets_nothing(bed: EnrolmentBed, tmp_path: Path) -> None:
    async with open_enrolment_bed(tmp_path / "foreign", "foreign.local") as foreign:
        plan = bed.plan(await bed.token(), registries=(foreign.address,))
        with pytest.raises(BridgeError, match="another CA"):
            await join(plan, bed.state("node1"))
        assert foreign.node_record("node1") is None


async def test_a_folder_that_cannot_be_written_is_named_before_the_token_is_spent(bed: EnrolmentBed) -> None:
    token = await bed.token()
    blocked = bed.folder / "file"
    blocked.write_text("not a folder")
    with pytest.raises(BridgeError, match="cannot write"):
        await join(bed.plan(token), StateDir(blocked / "state"))
    await join(bed.plan(token), bed.state("node1"))


async def test_snapshots_follow_the_registry(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    file = SnapshotFile(state.snapshot, sealer_of(state), now=lambda: 0.0)
    seen = []
    client = RegistryClient(bed.address, state)
    subscription = SnapshotSubscription(
        [client], file, on_snapshot=seen.append, now=lambda: 0.0, rng=random.Random(1)
    )
    task = asyncio.create_task(subscription.run())
    await eventually(lambda: subscription.status.up)
    await joined(bed, "node2")
    await eventually(lambda: "node2" in subscription.snapshot.nodes)
    assert seen[-1] is subscription.snapshot
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "node2" in file.load().nodes


async def test_a_renewal_replaces_key_and_certificate_together(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    identity = TlsIdentity(state.certificate, state.key, state.ca)
    before, key = identity.info, state.key.read_bytes()
    context = identity.server(require_client=True)
    told = asyncio.Event()
    clients = [
        RegistryClient("127.0.0.1:1", state),
        RegistryClient(bed.address, state, peer_address="127.0.0.1:77"),
    ]
    renewal = Renewal(
        identity,
        before.identity,
        subject_names("127.0.0.1"),
        state,
        clients,
        on_renewed=told.set,
        now=lambda: before.not_before + 0.9 * (before.not_after - before.not_before),
        rng=random.Random(1),
    )
    task = asyncio.create_task(renewal.run())
    await asyncio.wait_for(told.wait(), 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert identity.info.serial != before.serial
    assert state.key.read_bytes() != key
    assert identity.info.addresses == before.addresses
    assert context is not None
    assert bed.node_record("node1")["peer"] == "127.0.0.1:77"
    # One set of files, not the rests of two.
    assert len(list(state.root.glob(".identity-*"))) == 1


async def test_a_key_that_cannot_be_made_says_why(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    info = TlsIdentity(state.certificate, state.key, state.ca).info
    assert info.identity is not None
    with pytest.raises(BridgeError, match=r"a key was not made: .*not a host name or address"):
        await new_key(info.identity, SubjectNames((), ("nowhere",)))


async def test_leaving_frees_the_name_and_forgets_the_identity(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    state.models.mkdir()
    stolen = {path: path.read_bytes() for path in (state.key, state.certificate, state.ca)}
    await leave(settings, state, force=False, drain_s=1.0)
    assert content(state) <= {"models", "agent.lock", "seal", "seal/kek", "seal/keyring"}
    # What was copied before is of no use any more.
    other = StateDir(bed.folder / "copy")
    other.identity.mkdir(parents=True)
    for path, data in stolen.items():
        (other.identity / path.name).write_bytes(data)
    with pytest.raises(BridgeError, match="refused"):
        await RegistryClient(bed.address, other).renew(b"")
    await joined(bed)


async def test_leaving_without_a_registry_changes_nothing_unless_forced(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    lost = msgspec.structs.replace(settings, registries=("127.0.0.1:1",))
    with pytest.raises(BridgeError, match="no registry answers"):
        await leave(lost, state, force=False, drain_s=1.0)
    assert load_config(state) == settings
    await leave(lost, state, force=True, drain_s=1.0)
    assert not state.joined
