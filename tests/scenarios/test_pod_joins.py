"""Pods join by their service account's token, and by nothing that only looks like one."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from bridge_agent.config import StateDir
from bridge_agent.membership.join import JoinRefused, pod_token
from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.identity import TokenFault
from bridge_core.identity.certificates import from_pem
from bridge_registry.enrolment.join_rules import EnrolmentRefused
from bridge_registry.enrolment.pod_rules import KubernetesApi
from bridge_registry.enrolment.token_review import TokenReviewer
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd
from tests.kubernetes_api import ACCOUNT, FakeApi, reviewing
from tests.pod_bed import Cluster, clustered
from tests.registry_bed import Bed, make_settings
from tests.support import eventually

UID, NEXT_UID = "5f0c-01", "5f0c-02"


def jwt(word: str) -> str:
    part = base64.urlsafe_b64encode(word.encode()).decode().rstrip("=")
    return f"{part}.{part}.{part}"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with (
        reviewing(tmp_path / "kubernetes") as (api, told),
        clustered(tmp_path, FakeEtcd(), told) as bed,
    ):
        yield Cluster(tmp_path, api, bed)


async def nodes(bed: Bed) -> dict[str, str]:
    async with bed.admin() as admin:
        return {one.name: one.state for one in (await admin.Status(pb.StatusRequest())).nodes}


def serial(state: StateDir) -> int:
    return from_pem(state.certificate.read_bytes()).serial_number


async def test_a_pod_joins_under_its_own_name_without_a_secret_that_others_have(cluster: Cluster) -> None:
    cluster.api.knows(jwt("a"), "agent-x7k2", UID)
    state = await cluster.joins("agent-x7k2", jwt("a"))
    assert state.joined
    assert await nodes(cluster.registry) == {"agent-x7k2": "active"}
    (asked,) = cluster.api.asked
    assert asked["spec"] == {"token": jwt("a"), "audiences": ["bridge-join.bridge.local"]}
    assert jwt("a") not in "".join(path.read_text(errors="ignore") for path in state.root.glob("*.json"))


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("other", {}, "is of the pod 'agent-1', which joins under no other name"),
        ("agent-1", {"account": "bridge:default"}, "'system:serviceaccount:bridge:default' may not join"),
        ("agent-1", {"audience": "https://kubernetes.default.svc"}, "does not know"),
        ("agent-1", {"audience": "bridge-join.other.mesh"}, "does not know"),
    ],
)
async def test_a_token_of_another_pod_account_or_audience_joins_nobody(
    cluster: Cluster, name: str, known: dict[str, str], words: str
) -> None:
    cluster.api.knows(jwt("a"), "agent-1", UID, **known)
    with pytest.raises(JoinRefused, match=words):
        await cluster.joins(name, jwt("a"))
    assert not await nodes(cluster.registry)


async def test_a_pod_that_comes_again_under_its_name_takes_it_over(cluster: Cluster) -> None:
    cluster.api.knows(jwt("a"), "agent-0", UID)
    cluster.api.knows(jwt("b"), "agent-0", NEXT_UID)
    first = await cluster.joins("agent-0", jwt("a"))
    async with cluster.registry.admin() as admin:
        await admin.Drain(pb.DrainRequest(node_name="agent-0", drained=True))
    second = await cluster.joins("agent-0", jwt("b"))
    table = cluster.registry.registry.publisher.table
    await eventually(lambda: table.is_revoked(f"{serial(first):x}"))
    assert (await nodes(cluster.registry))["agent-0"] == "drained"
    assert not table.is_revoked(f"{serial(second):x}")


async def test_a_name_of_a_node_with_a_join_token_is_not_a_pods_to_take(cluster: Cluster) -> None:
    await cluster.registry.join("agent-0")
    cluster.api.knows(jwt("a"), "agent-0", UID)
    with pytest.raises(JoinRefused, match="agent-0 is taken, and not by a pod of this namespace"):
        await cluster.joins("agent-0", jwt("a"))


async def test_a_revoked_pod_stays_out_and_the_next_one_of_its_name_does_not(cluster: Cluster) -> None:
    cluster.api.knows(jwt("a"), "agent-0", UID)
    await cluster.joins("agent-0", jwt("a"))
    async with cluster.registry.admin() as admin:
        await admin.Revoke(pb.RevokeRequest(node_name="agent-0"))
    with pytest.raises(JoinRefused, match="agent-0 was revoked"):
        await cluster.joins("agent-0", jwt("a"))
    cluster.api.knows(jwt("b"), "agent-0", NEXT_UID)
    assert (await cluster.joins("agent-0", jwt("b"))).joined


async def test_who_names_another_ca_is_not_sent_to_kubernetes(cluster: Cluster, tmp_path: Path) -> None:
    cluster.api.knows(jwt("a"), "agent-0", UID)
    other = make_settings(tmp_path / "other")
    other.ensure_pki()
    with pytest.raises(BridgeError, match="another CA"):
        await cluster.joins("agent-0", jwt("a"), ca=other.pki.ca.read_bytes())
    assert not cluster.api.asked


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((403, b"{}"), "may not have tokens reviewed"),
        ((500, b"{}"), "answered 500 to a TokenReview"),
        ((201, b"not JSON"), "no TokenReview"),
        ((201, b'{"status": {"authenticated": "yes"}}'), "no TokenReview"),
        ((201, b"[" * 100_000), "no TokenReview"),
        ((201, b"x" * 300_000), "larger than"),
    ],
)
async def test_an_api_that_does_not_review_lets_nobody_in(
    cluster: Cluster, answer: tuple[int, bytes], words: str
) -> None:
    cluster.api.answer = answer
    code, told = await cluster.refused("agent-0", jwt("a"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert words in told
    assert not await nodes(cluster.registry)


async def test_reviews_are_rationed_by_who_asks(tmp_path: Path) -> None:
    async with reviewing(tmp_path / "kubernetes") as (api, told):
        now = 100.0
        reviewer = TokenReviewer(told, "bridge.local", lambda: now)
        api.knows(jwt("a"), "agent-0", UID)
        for _ in range(10):
            assert (await reviewer.review(jwt("a"), "192.0.2.1:1")).name == "agent-0"
        with pytest.raises(EnrolmentRefused, match="asked too often"):
            await reviewer.review(jwt("a"), "192.0.2.1:2")
        assert len(api.asked) == 10
        assert (await reviewer.review(jwt("a"), "192.0.2.2:1")).name == "agent-0"
        now += 1.0
        assert (await reviewer.review(jwt("a"), "192.0.2.1:3")).name == "agent-0"
        with pytest.raises(EnrolmentRefused, match="asked too often"):
            await reviewer.review(jwt("a"), "192.0.2.1:4")


async def test_a_token_of_its_own_that_is_no_text_is_no_fault_of_the_registrys(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    told = KubernetesApi((ACCOUNT,), (), ("127.0.0.1", 1), tmp_path)  # and there is no ca.crt
    with pytest.raises(Unavailable, match=f"cannot read {tmp_path}: No such file"):
        await TokenReviewer(told, "bridge.local", lambda: 0.0).review(jwt("a"), "192.0.2.1:1")


async def test_a_registry_that_was_told_of_no_kubernetes_says_so(tmp_path: Path) -> None:
    async with clustered(tmp_path, FakeEtcd(), None) as bed:
        with pytest.raises(JoinRefused, match="lets no pods join by their service account"):
            await Cluster(tmp_path, FakeApi(), bed).joins("agent-0", jwt("a"))


def test_files_that_are_no_token_or_no_ca_are_named(tmp_path: Path) -> None:
    token, ca = tmp_path / "token", tmp_path / "ca.pem"
    with pytest.raises(Fatal, match=r"cannot read .*token"):
        pod_token(token, ca)
    token.write_text("one.two")
    ca.write_text("nothing")
    with pytest.raises(Fatal, match="no CA's certificate"):
        pod_token(token, ca)
    made = make_settings(tmp_path / "registry")
    made.ensure_pki()
    with pytest.raises(TokenFault, match="service account's token is none"):
        pod_token(token, made.pki.ca)
