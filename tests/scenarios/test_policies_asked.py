"""`TestAccess` at a registry that runs: what policies would say, before somebody is refused by them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from bridge_core import keyspace
from bridge_core.clients import Client
from bridge_core.registry_channel import open_channel
from bridge_core.store.api import Put
from bridge_registry.records import ClientRecord, encode
from bridge_wire.v1 import policy_pb2 as pb
from bridge_wire.v1 import policy_pb2_grpc as rpc
from bridge_wire.v1 import registry_pb2 as registry
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, make_settings, refused, running
from tests.support import eventually
from tests.unit.token_support import ec, key_set

GUIDE = """apiVersion: security.deepseek.io/v1
kind: ModelAccessPolicy
metadata: {name: finance-team-policy}
spec:
  subjects: [{kind: Group, name: finance-analysts}]
  resources: [{kinds: ["Model"], names: ["risk-assessment-v3"]}]
  actions: ["predict", "explain"]
  conditions: [{key: "department", operator: In, values: ["finance"]}]
"""
HOURS = GUIDE.replace("finance-team-policy", "hours").replace(
    'key: "department", operator: In, values: ["finance"]', 'key: time, operator: Gt, values: ["08:00"]'
)
CLUSTER = """apiVersion: security.deepseek.io/v1
kind: IdentityProvider
metadata: {name: k8s}
spec: {issuer: "https://k8s.example", audiences: [bridge], jwks: 'KEYS', kubernetes: true}
"""
ACCOUNT = """apiVersion: security.deepseek.io/v1
kind: ModelAccessPolicy
metadata: {name: account}
spec:
  subjects: [{kind: ServiceAccount, name: "k8s#default:web"}]
  resources: [{kinds: [Model], names: [web-model]}]
  actions: [predict]
"""


@contextlib.asynccontextmanager
async def asking(folder: Path, *files: str) -> AsyncIterator[Any]:
    """The stub of a registry where these are applied, and ann and bob are clients."""
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    for client in (
        Client("ann", ("finance-analysts",), {"department": "finance"}),
        Client("bob", ("finance-analysts",), {"department": "sales"}),
    ):
        await store.commit([Put(keyspace.CLIENTS + client.name, encode(ClientRecord(client)))])
    async with running(make_settings(folder), store) as bed:
        await bed.leads()
        async with bed.admin() as admin:
            if files:
                sent = [registry.ConfigFile(name=f"{at}.yaml", text=text) for at, text in enumerate(files)]
                assert not (await admin.Apply(registry.ApplyRequest(files=sent))).faults
                await eventually(lambda: len(bed.registry.publisher.hub.current.policies) > 0)
        async with _stub(bed) as stub:
            yield stub
    await store.close()


@contextlib.asynccontextmanager
async def _stub(bed: Bed, identity: tuple[bytes, bytes] | None = None) -> AsyncIterator[Any]:
    cert, key = identity or bed._admin
    async with open_channel(bed.address, bed.ca_pem, cert_pem=cert, key_pem=key) as channel:
        yield rpc.PoliciesStub(channel)


def question(subject: str, **more: Any) -> pb.TestAccessRequest:
    return pb.TestAccessRequest(
        **{"subject": subject, "action": "predict", "resource": "risk-assessment-v3", **more}
    )


async def test_a_question_is_answered_with_the_rule_that_decides(tmp_path: Path) -> None:
    async with asking(tmp_path, GUIDE) as policies:
        yes = await policies.TestAccess(question("ann"))
        assert (yes.allowed, yes.policy) == (True, "finance-team-policy")
        assert yes.reason == "policy finance-team-policy allows it"
        for subject in ("client/bob", "node/n1", "local@n1", "group/finance-analysts"):
            no = await policies.TestAccess(question(subject))
            assert (no.allowed, no.policy) == (False, ""), subject
            assert no.reason.startswith("the model is closed")
        assert (await policies.TestAccess(question("admin/admin"))).allowed
        assert (
            await policies.TestAccess(question("ann", resource="LIBRARY/Risk-Assessment-v3:latest"))
        ).allowed
        assert (await policies.TestAccess(question("bob", resource="other"))).allowed
        assert (await policies.TestAccess(question("bob", facts={"department": "finance"}))).allowed
        assert (
            await policies.TestAccess(
                question("user/corp#x", groups=["finance-analysts"], facts={"department": "finance"})
            )
        ).allowed
        assert not (await policies.TestAccess(question("ann", action="delete", resource="other"))).allowed
        assert not (
            await policies.TestAccess(
                question("local@n1", action="pull", resource_kind="Node", resource="n2")
            )
        ).allowed


async def test_a_question_may_be_about_files_that_are_not_applied(tmp_path: Path) -> None:
    async with asking(tmp_path, GUIDE) as policies:
        files = [registry.ConfigFile(name="hours.yaml", text=HOURS)]
        for time, allowed in {"07:00": False, "09:00": True}.items():
            answer = await policies.TestAccess(question("bob", files=files, facts={"time": time}))
            assert answer.allowed is allowed
        wrong = [registry.ConfigFile(name="w.yaml", text=HOURS.replace('"08:00"', '"8"'))]
        status, says = await refused(policies.TestAccess(question("bob", files=wrong)))
        assert (status, "w.yaml:8: spec.conditions[0]: '8' is no time" in says) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )


async def test_service_accounts_are_those_of_clusters_that_the_mesh_knows(tmp_path: Path) -> None:
    async with asking(tmp_path, CLUSTER.replace("KEYS", key_set(ec())), ACCOUNT) as policies:
        for provider, allowed in {"k8s": True, "corp": False}.items():
            subject = f"user/{provider}#system:serviceaccount:default:web"
            assert (await policies.TestAccess(question(subject, resource="web-model"))).allowed is allowed


async def test_what_was_not_said_is_named_as_open(tmp_path: Path) -> None:
    text = GUIDE.replace(
        'key: "department", operator: In, values: ["finance"]', "key: node.zone, operator: In, values: [eu]"
    )
    async with asking(tmp_path, text) as policies:
        assert (await policies.TestAccess(question("ann"))).open
        there = await policies.TestAccess(question("ann", facts={"node.zone": "eu"}))
        assert (there.allowed, there.open) == (True, False)
        assert not (await policies.TestAccess(question("ann", facts={"node.zone": "us"}))).allowed


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"subject": "carl"}, "there is no client carl"),
        ({"subject": "an"}, "did you mean ann?"),
        ({"subject": "robot/x"}, "'robot' is no kind of subject"),
        ({"subject": ""}, "names nobody"),
        ({"subject": "user/#x"}, "a user is <provider>#<subject>"),
        ({"action": "predct"}, "'predct' is no action of policies: did you mean predict?"),
        ({"action": "drain"}, "'drain' is no action of policies"),
        ({"resource": "a b"}, "'a b' is not a model name"),
        ({"resource_kind": "Config"}, "policies are about a Model or a Node, not a Config"),
        ({"resource_kind": "Node", "resource": ""}, "which node?"),
        ({"facts": {"time": "8"}}, "time=8 is no time of the day"),
        ({"facts": {"weekday": "Monday"}}, "weekday=Monday is no day"),
        ({"facts": {"num_ctx": "8k"}}, "num_ctx=8k is no number"),
        ({"facts": {"keep_alive": "long"}}, "keep_alive=long is no number of seconds"),
    ],
)
async def test_a_question_that_makes_no_sense_is_told_why(
    tmp_path: Path, asked: dict[str, Any], says: str
) -> None:
    async with asking(tmp_path) as policies:
        status, message = await refused(policies.TestAccess(question(asked.pop("subject", "ann"), **asked)))
        assert status is grpc.StatusCode.INVALID_ARGUMENT
        assert says in message


async def test_only_admins_may_ask(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), FakeStore(FakeEtcd())) as bed:
        await bed.leads()
        node = await bed.join("n1")
        async with _stub(bed, (node.cert_pem, node.key_pem)) as stub:
            status, _ = await refused(stub.TestAccess(question("ann")))
            assert status is grpc.StatusCode.PERMISSION_DENIED
