"""What admins and joining nodes ask of a registry is on record, and nothing secret with it."""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import shutil
from pathlib import Path
from typing import Any

import grpc

from bridge_cli.audit_verifying import verify
from bridge_core.snapshot import Node
from bridge_registry.audit import _LOOKS
from bridge_wire import v1
from bridge_wire.v1 import registry_pb2 as pb
from tests import independent_log
from tests.fakes.store import FakeEtcd
from tests.registry_bed import leading, refused
from tests.support import eventually

ROUTE = """apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: chat}
spec: {backends: [{model: "m"}]}
"""


def told(state: Path) -> list[dict[str, Any]]:
    entries = map(json.loads, independent_log.entries_of(state / "audit" / "log"))
    return [one for one in entries if one["kind"] == "admin"]


RECORDED = {
    "Join", "RenewExpired", "Renew", "Leave", "CreateToken", "RevokeToken", "Apply", "Rollback", "Drain",
    "Revoke", "CommandRollout", "Restore", "RotateAuthority", "CreateClient", "RotateClient", "BlockClient",
    "DeleteClient", "CertifyClient", "CreateAdmin", "DeleteAdmin", "LeaseCells", "TryReceiver", "Publish",
    "SignIn", "BeginConsoleSession", "Silence", "Unsilence",
}  # fmt: skip
INNER = {"BeginConsoleSession", "LookAtConsoleSession"}  # of the console's own pages


def registry_calls() -> set[str]:
    """All on the wire but those that agents answer."""
    names = {one.name for one in pkgutil.iter_modules(v1.__path__) if one.name.endswith("_pb2")}
    wire = [importlib.import_module(f"{v1.__name__}.{name}") for name in names - {"inference_pb2"}]
    services = [service for one in wire for service in one.DESCRIPTOR.services_by_name.values()]
    return {method.name for service in services for method in service.methods}


def test_of_every_call_somebody_decided_whether_it_only_looks() -> None:
    assert registry_calls() | INNER == RECORDED | _LOOKS
    assert not RECORDED & _LOOKS


async def test_calls_are_on_record_with_who_made_them_and_what_came_of_it(tmp_path: Path) -> None:
    async with leading(tmp_path, FakeEtcd()) as bed:
        token = await bed.token(node_name="n1", uses=1, ttl_seconds=60)
        node = await bed.join("n1", token)
        assert (await refused(bed.join("n2", token)))[0] is grpc.StatusCode.UNAUTHENTICATED
        async with bed.admin() as admin:
            await admin.Status(pb.StatusRequest())
            await admin.Apply(pb.ApplyRequest(files=[pb.ConfigFile(name="r.yaml", text=ROUTE)]))
            await admin.Drain(pb.DrainRequest(node_name="n1", drained=True))
            assert (await refused(admin.Revoke(pb.RevokeRequest(node_name="nobody"))))[0]
            await admin.Revoke(pb.RevokeRequest(node_name="n1"))
        async with node.mesh() as stub:
            await refused(stub.Renew(pb.RenewRequest()))
        await eventually(lambda: len(told(tmp_path)) >= 8)
    domain = "spiffe://" + (tmp_path / "audit/log/key.pub").read_text().partition("/")[0]
    admin_id = f"{domain}/admin/admin"
    assert [(one["call"], one["principal"], one["outcome"]) for one in told(tmp_path)] == [
        ("CreateToken", admin_id, "OK"),
        ("Join", "", "OK"),
        ("Join", "", "UNAUTHENTICATED"),
        ("Apply", admin_id, "OK"),
        ("Drain", admin_id, "OK"),
        ("Revoke", admin_id, "INVALID_ARGUMENT"),
        ("Revoke", admin_id, "OK"),
        ("Renew", f"{domain}/node/n1", "PERMISSION_DENIED"),
    ]
    records = told(tmp_path)
    assert json.loads(records[1]["what"])["node_name"] == "n1"
    assert json.loads(records[3]["what"])["files"][0]["name"] == "r.yaml"
    assert json.loads(records[4]["what"]) == {"node_name": "n1", "drained": True}
    assert "there is no node 'nobody'" in records[5]["reason"]
    assert {one["node"] for one in records} == {"r1"}
    secret = token.split(".")[2]
    assert secret not in json.dumps(records)
    assert "backends" not in json.dumps(records)
    assert verify(tmp_path / "audit" / "log").faults == ()


def _spoiled(log: Path) -> bool:
    """Puts a file where the log's folder was; not yet, when the writer has just made the folder anew."""
    shutil.rmtree(log, ignore_errors=True)
    try:
        log.write_text("no folder")
    except IsADirectoryError:
        return False
    return True


def _put_back(log: Path) -> bool:
    """Puts the log's folder back, instead of the file or of one that the writer has just made."""
    if log.is_dir():
        shutil.rmtree(log, ignore_errors=True)
    else:
        log.unlink(missing_ok=True)
    try:
        log.with_name("away").rename(log)
    except OSError:
        return False
    return True


async def test_where_the_mesh_says_so_nothing_is_changed_unrecorded(tmp_path: Path) -> None:
    mesh = "apiVersion: bridge.deepseek.io/v1\nkind: Mesh\nmetadata: {name: mesh}\n"
    mesh += "spec: {audit: {onFullDisk: refuse}}\n"
    async with leading(tmp_path, FakeEtcd()) as bed, bed.admin() as admin:
        answer = await admin.Apply(pb.ApplyRequest(files=[pb.ConfigFile(name="m.yaml", text=mesh)]))
        assert not answer.faults
        await eventually(lambda: bed.registry.publisher.hub.current.mesh.audit.on_full_disk == "refuse")
        log = tmp_path / "audit" / "log"
        await eventually(log.exists)
        log.rename(log.with_name("away"))
        await eventually(lambda: _spoiled(log))
        with contextlib.suppress(grpc.aio.AioRpcError):  # refused, where a signature was due first
            await admin.CreateToken(pb.CreateTokenRequest(uses=1, ttl_seconds=60))
        await eventually(lambda: bool(bed.registry._audit.refusal), 60)
        code, why = await refused(admin.CreateToken(pb.CreateTokenRequest(uses=1, ttl_seconds=60)))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "nothing is served unrecorded" in why

        async def says_so() -> bool:
            status = await admin.Status(pb.StatusRequest())
            return any("the audit lost" in one for one in status.concerns)

        await eventually(says_so, 60)
        await eventually(lambda: _put_back(log))
        await eventually(lambda: not bed.registry._audit.refusal, 60)
        await admin.CreateToken(pb.CreateTokenRequest(uses=1, ttl_seconds=60))


async def test_of_nodes_that_moved_or_went_no_connections_are_kept(tmp_path: Path) -> None:
    async with leading(tmp_path, FakeEtcd()) as bed:
        links = bed.registry._links
        for port in range(1, 50):
            links.to(Node("n1", f"127.0.0.1:{port}"))
        pool = links.to(Node("n2", "127.0.0.1:1"))
        assert len(links._pools) == 1
        assert links.to(Node("n2", "127.0.0.1:1")) is pool
