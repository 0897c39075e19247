"""Nodes that stand badly with their mesh: away for too long, revoked, with a wrong clock, running twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bridge_agent.config import AgentConfig, StateDir, load_config, save_config
from bridge_agent.engines.config import EngineConfig
from bridge_agent.gateway.config import GatewaySection
from bridge_agent.membership.advertise import subject_names
from bridge_agent.membership.clock import ClockWatch
from bridge_agent.membership.join import join, replacing
from bridge_agent.membership.leave import leave
from bridge_agent.membership.mesh_trust import MeshTrust, issuer_of, pins_in
from bridge_agent.membership.presence import Presence, holder_id
from bridge_agent.membership.registration import Registration
from bridge_agent.membership.registry_api import NotAMember
from bridge_agent.membership.registry_client import RegistryClient
from bridge_agent.membership.renewal import Renewal
from bridge_agent.membership.subscription import SnapshotSubscription
from bridge_core.errors import BridgeError, Fatal
from bridge_core.http_access import Origins
from bridge_core.identity.certificates import create_authority
from bridge_core.registry_channel import open_channel
from bridge_core.security_settings import Trust
from bridge_core.snapshot import Instance
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.tls import TlsIdentity
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.registry_pb2_grpc import AdminStub
from tests.fakes.store import FakeStore
from tests.scenarios.enrolment_bed import DAY, EnrolmentBed, age, open_enrolment_bed, revoke
from tests.sealing_bed import sealer_of
from tests.support import copy_of_running, eventually


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[EnrolmentBed]:
    async with open_enrolment_bed(tmp_path) as bed:
        yield bed


async def joined(bed: EnrolmentBed, name: str = "node1") -> tuple[StateDir, AgentConfig]:
    state = bed.state(name)
    plan = bed.plan(await bed.token(), name, labels={"zone": "a"}, node_class={"walls": []})
    return state, await join(plan, state)


def renewal_of(bed: EnrolmentBed, state: StateDir, told: asyncio.Event, **more: object) -> Renewal:
    identity = TlsIdentity(state.certificate, state.key, state.ca)
    assert identity.info.identity is not None
    return Renewal(
        identity,
        identity.info.identity,
        subject_names("127.0.0.1"),
        state,
        [RegistryClient(bed.address, state, peer_address="127.0.0.1:77")],
        on_renewed=told.set,
        now=time.time,
        rng=random.Random(1),
        **more,  # type: ignore[arg-type]  # test shorthand
    )


@contextlib.asynccontextmanager
async def running(*parts: object) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part.run()) for part in parts]  # type: ignore[attr-defined]  # all have one
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- away for longer than the certificate lives


MESH_DOCUMENT = """
apiVersion: bridge.deepseek.io/v1
kind: Mesh
metadata: {name: mesh}
spec: {security: {renewalGrace: 2h}}
"""


async def allow_late_renewals(bed: EnrolmentBed) -> None:
    pki = bed.registry.settings.pki
    cert, key = (path.read_bytes() for path in pki.pair("admin"))
    async with open_channel(bed.address, pki.ca.read_bytes(), cert_pem=cert, key_pem=key) as channel:
        files = [pb.ConfigFile(name="mesh.yaml", text=MESH_DOCUMENT)]
        answer = await AdminStub(channel).Apply(pb.ApplyRequest(files=files), timeout=60)
    assert not answer.faults
    await eventually(lambda: bed.registry.publisher.table.mesh_spec)


async def test_where_the_mesh_allows_it_the_old_key_brings_a_node_back(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    await allow_late_renewals(bed)
    age(bed, state, DAY + 3600, own_key=True)
    before, told = state.key.read_bytes(), asyncio.Event()
    renewal = renewal_of(bed, state, told)
    async with running(renewal):
        await asyncio.wait_for(told.wait(), 60)
    assert TlsIdentity(state.certificate, state.key, state.issuers).info.not_after > time.time() + DAY / 2
    assert state.key.read_bytes() != before
    await RegistryClient(bed.address, state).check()


async def test_where_it_does_not_it_says_that_a_token_is_needed(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    age(bed, state, DAY + 3600, own_key=True)
    renewal = renewal_of(bed, state, asyncio.Event())
    async with running(renewal):
        await eventually(lambda: not renewal.status.up)
    said = renewal.status.report().reason
    assert "renewalGrace is 0" in said
    assert "bridgectl token create --node node1" in said


# -- another CA signs


async def test_a_certificate_of_the_former_ca_is_renewed_though_its_time_is_not_up(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    told, issuer = asyncio.Event(), issuer_of(state.certificate)
    renewal = renewal_of(bed, state, told)
    renewal.prefer(issuer, 3)
    async with running(renewal):
        before = state.certificate.read_bytes()
        renewal.prefer("f" * 64, 3)
        await asyncio.wait_for(told.wait(), 60)
    assert state.certificate.read_bytes() != before


async def test_a_node_takes_up_whom_its_mesh_trusts(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    identity, changed = TlsIdentity(state.certificate, state.key, state.issuers), list[str]()
    trust = MeshTrust(state, identity, lambda: changed.append("changed"))
    own = trust.pins
    roots, issuers = ((path.read_text(),) for path in (state.ca, state.issuers))
    trust.take(Trust(roots, issuers, own[0]))
    trust.take(Trust())  # a snapshot that does not say
    assert (changed, trust.pins) == ([], own)
    new = create_authority("bed.local", now=time.time(), ttl_s=DAY)
    trust.take(Trust(roots, (*issuers, new.pem.decode()), own[0]))
    assert (changed, trust.pins, trust.fault) == (["changed"], (*own, new.pin), "")
    assert {one.kind for one in trust.lives} == {"root", "intermediate"}
    trust.take(Trust(roots, ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",), own[0]))
    assert trust.fault
    assert trust.pins == (*own, new.pin) == pins_in(state.issuers)
    trust.take(Trust(roots, issuers, own[0]))
    assert (trust.pins, trust.fault) == (own, "")


async def test_one_command_brings_a_node_back_that_was_away_for_too_long(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    (state.models / "blobs").mkdir(parents=True)
    age(bed, state, 3 * DAY)
    told = asyncio.Event()
    renewal = renewal_of(bed, state, told)
    async with running(renewal):  # as in an agent that was started all the same
        await eventually(lambda: not renewal.status.up)
        said = renewal.status.report().reason
        assert said.startswith("expired, and not renewed")
        assert "bridgectl token create --node node1" in said
        assert f"bridge-agent join {bed.address} --token TOKEN --replace" in said
        # What it says, done:
        token = await bed.token(node="node1")
        again = await join(replacing(settings, settings.registries, token), state)
        await asyncio.wait_for(told.wait(), 60)  # the running agent takes it up by itself
        await eventually(lambda: renewal.status.up)
    assert again == settings == load_config(state)
    assert (state.models / "blobs").is_dir()
    await RegistryClient(bed.address, state).check()


async def test_a_token_for_any_name_says_which_one_is_needed(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    key = state.key.read_bytes()
    with pytest.raises(BridgeError, match="make a token with --node node1"):
        await join(replacing(settings, settings.registries, await bed.token()), state)
    assert load_config(state) == settings
    assert state.key.read_bytes() == key
    await RegistryClient(bed.address, state).check()


async def test_a_node_that_comes_back_keeps_what_its_file_says_of_the_gateway(
    bed: EnrolmentBed, tmp_path: Path
) -> None:
    state, settings = await joined(bed)
    section = GatewaySection(origins=Origins(("https://chat.example",)))
    settings = msgspec.structs.replace(settings, gateway=section)
    save_config(state, settings)
    token = await bed.token(node="node1")
    await join(replacing(settings, settings.registries, token), state)
    assert load_config(state) == settings


async def test_a_token_of_another_mesh_replaces_nothing(bed: EnrolmentBed, tmp_path: Path) -> None:
    state, settings = await joined(bed)
    async with open_enrolment_bed(tmp_path / "foreign", "foreign.local") as foreign:
        token = await foreign.token(node="node1")
        with pytest.raises(Fatal, match=r"node1 is a node of spiffe://bed\.local"):
            await join(replacing(settings, (foreign.address,), token), state)
        assert foreign.node_record("node1") is None
    await RegistryClient(bed.address, state).check()


async def test_leaving_with_an_expired_certificate_says_what_can_be_done(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    age(bed, state, 3 * DAY)
    stopped = []
    with pytest.raises(BridgeError) as caught:
        await leave(settings, state, force=False, drain_s=1.0, stop=lambda: stopped.append(1))
    assert "does not accept this certificate; node1 stays enrolled, and it serves on" in caught.value.message
    assert "bridge-agent leave --force" in caught.value.hint
    assert "--replace" in caught.value.hint
    assert not stopped
    note = await leave(settings, state, force=True, drain_s=1.0, stop=lambda: stopped.append(1))
    assert "bridgectl revoke node1" in note
    assert not state.joined


# -- revoked, or gone


async def test_a_revoked_node_comes_back_the_same_way(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    await revoke(bed, "node1")
    client = RegistryClient(bed.address, state)
    for call in (client.check, client.leave):
        with pytest.raises(NotAMember, match="revoked"):
            await call()
    token = await bed.token(node="node1")
    assert await join(replacing(settings, settings.registries, token), state) == settings
    await client.check()


async def test_a_revoked_node_leaves_without_force(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    await revoke(bed, "node1")
    note = await leave(settings, state, force=False, drain_s=1.0)
    assert "the mesh had let the node go already" in note
    assert not state.joined


async def test_leaving_again_after_an_answer_was_lost_ends_well(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    await RegistryClient(bed.address, state).leave()  # the registry did it, the agent never heard
    note = await leave(settings, state, force=False, drain_s=1.0)
    assert "the mesh had let the node go already" in note
    assert not state.joined


# -- clocks


@pytest.mark.parametrize(
    ("ahead_s", "says"),
    [(-3630.0, "60 min behind the registry's"), (25 * 3600.0 + 30.0, "25 h ahead of the registry's")],
)
async def test_a_wrong_clock_is_named_before_the_token_is_spent(
    bed: EnrolmentBed, ahead_s: float, says: str
) -> None:
    token = await bed.token()
    with pytest.raises(Fatal, match=says) as caught:
        await join(bed.plan(token), bed.state("node1"), now=lambda: time.time() + ahead_s)
    assert caught.value.message.count("UTC") == 2  # both times
    assert "the token has not been used" in caught.value.hint
    assert not bed.state("node1").root.exists()
    await join(bed.plan(token), bed.state("node1"))


async def test_a_clock_that_goes_wrong_later_is_said_and_unsaid(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    ahead = [0.0]
    watch = ClockWatch(lambda: ["127.0.0.1:1", bed.address], state.ca, now=lambda: time.time() + ahead[0])
    assert await watch._look()
    ahead[0] = -7230.0
    assert not await watch._look()
    assert "2 h behind the registry's" in watch.status.report().reason
    ahead[0] = 5.0  # as certificates allow
    assert await watch._look()
    assert watch.status.up


# -- the same node twice


class Twin:
    """The parts of an agent that say where its node is."""

    def __init__(self, bed: EnrolmentBed, state: StateDir, peer: str) -> None:
        self.store = FakeStore(bed.etcd)
        client = RegistryClient(bed.address, state, peer_address=peer)
        rng = random.Random(1)
        self.holder = holder_id(state.root)
        self.presence = Presence("node1", self.holder, peer, now=time.time, clock=time.monotonic)
        self.registration = Registration(
            self.store, ttl_s=1.0, now=time.time, rng=rng, holder=self.holder, patience_s=5.0
        )
        self.renewed = asyncio.Event()
        identity = TlsIdentity(state.certificate, state.key, state.ca)
        assert identity.info.identity is not None
        self.renewal = Renewal(
            identity,
            identity.info.identity,
            subject_names("127.0.0.1"),
            state,
            [client],
            on_renewed=self.renewed.set,
            now=time.time,
            rng=rng,
            may=lambda: self.presence.may_act,
        )
        self.subscription = SnapshotSubscription(
            [client],
            SnapshotFile(state.snapshot, sealer_of(state), now=time.time),
            on_snapshot=lambda _: None,
            on_confirmed=self.confirmed,
            now=time.time,
            rng=rng,
        )
        self.registration.publish([Instance("node1/0", "node1")])

    def confirmed(self, snapshot: object) -> None:
        found = self.presence.take(snapshot, self.registration.registered)  # type: ignore[arg-type]  # is one
        self.registration.stand(found)
        if self.presence.address_differs():
            self.renewal.renew_now()

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.subscription, self.registration, self.renewal)

    async def stop(self) -> None:
        await self.registration.revoke()
        await self.store.close()


def holder_of(bed: EnrolmentBed) -> str:
    item = bed.etcd.items.get("/bridge/v1/members/node1/0")
    return "" if item is None else json.loads(item.value).get("holder", "")


def peer_of(bed: EnrolmentBed) -> object:
    return (bed.node_record("node1") or {}).get("peer")


async def test_a_clone_is_refused_and_takes_over_only_when_the_first_is_gone(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    first = Twin(bed, state, "127.0.0.1:1001")
    async with running(*first.parts):
        await eventually(lambda: (holder_of(bed), peer_of(bed)) == (first.holder, "127.0.0.1:1001"))
        await eventually(lambda: "node1/0" in first.subscription.snapshot.instances)
        await copy_of_running(state.root, bed.folder / "clone")
        clone = Twin(bed, StateDir(bed.folder / "clone"), "127.0.0.1:2002")
        assert clone.holder != first.holder
        async with running(*clone.parts):
            await eventually(lambda: not clone.presence.status.up)
            assert "another agent is registered as node1: at 127.0.0.1:1001" in clone.presence.withheld
            assert (holder_of(bed), peer_of(bed)) == (first.holder, "127.0.0.1:1001")
            assert first.presence.status.up
            await first.stop()
            # A node that moved: the copy is it from now on, its address too.
            await eventually(lambda: (holder_of(bed), peer_of(bed)) == (clone.holder, "127.0.0.1:2002"))
            await eventually(lambda: clone.presence.status.up)
            await clone.stop()


async def test_the_living_ones_record_comes_back_after_a_clone_that_took_it(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    first = Twin(bed, state, "127.0.0.1:1001")
    async with running(*first.parts):
        await eventually(lambda: (holder_of(bed), peer_of(bed)) == (first.holder, "127.0.0.1:1001"))
        await copy_of_running(state.root, bed.folder / "clone")
        clone_state = StateDir(bed.folder / "clone")
        # One that was started while no registry told it better: it writes over the record and the address.
        clone = Twin(bed, clone_state, "127.0.0.1:2002")
        clone.presence.standing = msgspec.structs.replace(first.presence.standing, other="")
        clone.registration.stand(
            msgspec.structs.replace(first.presence.standing, other="", missing=frozenset())
        )
        clone.renewal.renew_now()
        async with running(clone.registration, clone.renewal):
            await eventually(lambda: (holder_of(bed), peer_of(bed)) == (clone.holder, "127.0.0.1:2002"))
            # Noticed while it runs:
            await eventually(lambda: "at 127.0.0.1:2002" in first.presence.withheld)
            assert not first.presence.status.up
            await clone.stop()
        first.presence._told_address = float("-inf")  # the half minute between two corrections
        await eventually(lambda: (holder_of(bed), peer_of(bed)) == (first.holder, "127.0.0.1:1001"))
        await eventually(lambda: first.presence.status.up)
        await first.stop()


async def test_an_agent_started_again_is_no_other(bed: EnrolmentBed) -> None:
    state, _ = await joined(bed)
    first = Twin(bed, state, "127.0.0.1:1001")
    async with running(*first.parts):
        await eventually(lambda: holder_of(bed) == first.holder)
        await eventually(lambda: "node1/0" in first.subscription.snapshot.instances)
    again = Twin(bed, state, "127.0.0.1:1001")  # after a crash: the old lease still holds the record
    lease = bed.etcd.items["/bridge/v1/members/node1/0"].lease
    async with running(*again.parts):
        await eventually(lambda: bed.etcd.items["/bridge/v1/members/node1/0"].lease != lease)
        assert again.presence.status.up
        await again.stop()
    await first.stop()


async def test_a_changed_address_is_told_and_its_old_one_no_more_asked_for(bed: EnrolmentBed) -> None:
    state, settings = await joined(bed)
    save_config(state, msgspec.structs.replace(settings, peer_address="127.0.0.9:1001"))
    moved = Twin(bed, state, "127.0.0.9:1001")
    async with running(*moved.parts):
        await eventually(lambda: peer_of(bed) == "127.0.0.9:1001")
        # The registry knows it before the certificate has come and been written.
        await eventually(
            lambda: "127.0.0.9" in TlsIdentity(state.certificate, state.key, state.ca).info.addresses
        )
        await moved.stop()


def test_engines_are_kept_word_for_word() -> None:
    before = AgentConfig(
        "n",
        "m",
        ("r:1",),
        ("e:1",),
        "[::1]:5",
        engines=(EngineConfig(index=3, num_parallel=7),),
        labels={"a": "b"},
        node_class={"walls": []},
    )
    plan = replacing(before, ("r:2",), "t")
    kept = {name: getattr(plan, name) for name in ("name", "listeners", "engines", "labels", "node_class")}
    assert kept == {name: getattr(before, name) for name in kept}
    assert (plan.advertise, plan.registries) == ("::1", ("r:2",))
    assert replacing(before, (), "t", advertise="h").advertise == "h"
