"""Nodes cosign each other's logs over real peer links, and convict the one that rewrites its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.audit.made import cosigning_of, made_of
from bridge_agent.audit.pages import admin_pages, node_pages
from bridge_agent.audit.vouching import Vouching
from bridge_agent.audit.witness import witness_of
from bridge_cli.audit_verifying import verify
from bridge_core.audit import tiles
from bridge_core.audit.answers import EntriesAnswer, FoundRecord
from bridge_core.audit.cosigning import cosigners_of
from bridge_core.audit.notes import PublicKey
from bridge_core.audit.proofs import read_proof
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.writing import LogWriter, public_key
from bridge_core.clients import Admin
from bridge_core.http1 import Pool
from bridge_core.security_settings import AuditSettings
from bridge_core.snapshot import MeshConfig, Node, encode_entry
from tests import independent_log
from tests.contract.gateway_bed import DOMAIN, Bed, BedNode, foreign_context, mesh
from tests.fakes.recorded_engine import RecordedEngine
from tests.sealing_bed import SEALER
from tests.support import eventually

NAMES = ("a", "b", "c")


class AuditedNode:
    """What an agent has beside its gateway, around a node of the bed."""

    def __init__(self, node: BedNode, folder: Path, group: asyncio.TaskGroup) -> None:
        self.folder = folder / f"audit-{node.name}"
        self.audit: AuditLog = made_of(
            self.folder, f"spiffe://{DOMAIN}/node/{node.name}", node.name, node.view, SEALER
        )
        self.witness = witness_of(self.folder, self.audit)
        self.cosigning = cosigning_of(self.audit, node.view, node.upstreams)
        node.gateway.on_record(self.audit.put)
        self.audit.on_refusal(node.gateway.refuse_all)
        for path, page in node_pages(self.audit, self.witness, group).items():
            node.gateway.serve_nodes(path, page)
        vouching = Vouching(node.tls.cert, node.tls.key)
        for path, page in admin_pages(self.audit, self.witness, vouching, group).items():
            node.gateway.serve_admins(path, page)
        self.task = group.create_task(self.audit.run())

    @property
    def log(self) -> Path:
        return self.folder / "log"

    async def signed(self, size: int) -> None:
        await eventually(lambda: self.audit.head is not None and self.audit.head.size >= size)


class AuditedBed:
    def __init__(self, bed: Bed, folder: Path, group: asyncio.TaskGroup) -> None:
        self.bed = bed
        self.nodes = {name: AuditedNode(bed[name], folder, group) for name in bed.nodes}
        self._admin = foreign_context(folder, "admin", "root")
        bed.entries["admin/root"] = encode_entry(Admin("root"))
        bed.publish()

    def __getitem__(self, name: str) -> AuditedNode:
        return self.nodes[name]

    def settings(self, **given: Any) -> None:
        self.bed.entries["mesh"] = encode_entry(MeshConfig(trust_domain=DOMAIN, audit=AuditSettings(**given)))
        self.bed.publish()

    async def page(self, name: str, path: str, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        pool = Pool(("127.0.0.1", self.bed[name].peer.port), ssl=context or self._admin)
        try:
            async with pool.request("GET", path) as response:
                return response.status, await response.read()
        finally:
            await pool.close()


@contextlib.asynccontextmanager
async def audited(folder: Path) -> AsyncIterator[AuditedBed]:
    engines = {name: RecordedEngine(("smollm2:135m",) if name == "c" else ("other",)) for name in NAMES}
    async with mesh(folder, engines) as bed, asyncio.TaskGroup() as group:
        made = AuditedBed(bed, folder, group)
        try:
            yield made
        finally:
            for node in made.nodes.values():
                node.task.cancel()


async def test_a_request_is_on_record_at_both_nodes_and_its_heads_are_cosigned(tmp_path: Path) -> None:
    async with audited(tmp_path) as bed:
        asked = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "a secret"}]}
        answer = await bed.bed["a"].ask("POST", "/api/chat", asked, {"X-Request-Id": "one"})
        assert answer.status == 200
        await bed["a"].signed(2)
        await bed["c"].signed(2)
        for node in bed.nodes.values():
            await node.cosigning.ask_all()
        keys = [public_key(node.log).text for node in bed.nodes.values()]
        for name, node in bed.nodes.items():
            others = {f"{DOMAIN}/node/{other}" for other in NAMES if other != name}
            assert set(independent_log.cosigners_of((node.log / "cosigned").read_bytes(), keys)) == others
            assert node.cosigning.concerns() == []
        records = [json.loads(one) for one in independent_log.entries_of(bed["a"].log)]
        (entry,) = (one for one in records if one["kind"] == "request")
        assert (entry["request_id"], entry["node"], entry["address"]) == ("one", "a", "127.0.0.1")
        assert entry["principal"] == "local"
        assert len(entry["input"]) == 64
        key = (bed["a"].folder / "input-keys" / f"{entry['input_key']}.key").read_bytes()
        import hmac

        assert hmac.digest(key, json.dumps(asked).encode(), "sha256").hex() == entry["input"]
        whole = b"".join(path.read_bytes() for path in bed["a"].folder.rglob("*") if path.is_file())
        assert b"a secret" not in whole
        (hop,) = (
            one
            for one in map(json.loads, independent_log.entries_of(bed["c"].log))
            if one.get("request_id") == "one"
        )
        assert (hop["via"], hop["instance"], hop["listener"]) == ("a", "c/0", "peer")


async def test_a_node_that_rewrites_its_log_is_refused_by_its_cosigners_and_named(tmp_path: Path) -> None:
    async with audited(tmp_path) as bed:
        for _ in range(3):
            await bed.bed["a"].infer()
        await bed["a"].signed(4)
        liar = bed["a"]
        await liar.cosigning.ask_all()
        assert liar.cosigning.cosigned >= 4
        liar.task.cancel()
        await asyncio.gather(liar.task, return_exceptions=True)
        # With its own key it signs the same log without its last but one record.
        entries = independent_log.entries_of(liar.log)
        keys = {name: (liar.log / name).read_bytes() for name in ("key", "key.pub")}
        shutil.rmtree(liar.log)
        liar.log.mkdir()
        for name, data in keys.items():
            (liar.log / name).write_bytes(data)
        forged = LogWriter(liar.log, f"{DOMAIN}/node/a", lambda _: entries[0])
        forged.append([*entries[1:-2], *entries[-1:], *[b'{"kind":"request"}'] * 5])
        forged.checkpoint()
        liar.audit._writer, liar.audit.head = forged, forged.signed
        liar.cosigning.cosigned = 0
        await liar.cosigning.ask_all()
        for name in ("b", "c"):
            assert bed[name].witness.findings["a"].what == "forked"
            (concern,) = bed[name].witness.concerns()
            assert f"the audit log of {DOMAIN}/node/a is not to be trusted" in concern
            log = bed[name].log
            await eventually(
                lambda log=log: (
                    "finding" in [json.loads(one)["kind"] for one in independent_log.entries_of(log)]
                )
            )
        assert "does not cosign the audit log of" in liar.cosigning.concerns()[0]
        # What the others remember convicts it, whoever asks.
        status, body = await bed.page("b", "/bridge/audit/seen")
        seen = json.loads(body)["a"]
        assert status == 200
        head = independent_log.checkpoint_of(seen["note"].encode(), public_key(liar.log).text)
        from bridge_core.audit.notes import Checkpoint

        verdict = verify(liar.log, seen={"b": Checkpoint(*head)})
        assert [one.what for one in verdict.faults] == ["forked"]


async def test_admins_find_and_prove_records_and_nobody_else_does(tmp_path: Path) -> None:
    async with audited(tmp_path) as bed:
        await bed.bed["a"].infer(headers={"X-Request-Id": "proved"})
        await bed["a"].signed(2)
        await bed["a"].cosigning.ask_all()
        status, body = await bed.page("a", "/bridge/audit/find?id=proved")
        assert status == 200
        (found,) = msgspec.json.decode(body, type=list[FoundRecord])
        index, checkpoint = independent_log.included(found.entry.encode(), found.proof)
        assert index == found.index
        key = public_key(bed["a"].log).text
        origin, _, _ = independent_log.checkpoint_of(checkpoint, key)
        assert origin == f"{DOMAIN}/node/a"
        others = [public_key(bed[name].log).text for name in ("b", "c")]
        assert len(independent_log.cosigners_of(checkpoint, others)) == 2
        status, body = await bed.page("a", "/bridge/audit/entries?from=0")
        told = msgspec.json.decode(body, type=EntriesAnswer)
        assert (status, told.next) == (200, told.size)
        assert [json.loads(one)["kind"] for one in told.entries][:2] == ["begun", "request"]
        for path in ("find?id=proved", "files?path=checkpoint", "entries?from=0"):
            node = foreign_context(tmp_path, "node", "b")
            assert (await bed.page("a", f"/bridge/audit/{path}", node))[0] == 400  # no hop: forwarded only
            client = foreign_context(tmp_path, "client", "eve")
            assert (await bed.page("a", f"/bridge/audit/{path}", client))[0] == 403
            assert (await bed.bed["a"].ask("GET", f"/bridge/audit/{path}")).status == 404
        for path in ("key", "../identity/key.pem", "tile/0/../../key", "tail/0.keys"):
            status, _ = await bed.page("a", f"/bridge/audit/files?path={path}")
            assert status == 400


async def test_a_log_is_fetched_and_verified_far_from_its_node(tmp_path: Path) -> None:
    async with audited(tmp_path) as bed:
        for _ in range(300):
            bed["a"].audit.put(msgspec.structs.replace(_finding()))
        await bed["a"].signed(301)
        paths = ["key.pub", "checkpoint", tiles.tile_path(0, 0), tiles.bundle_path(0), *tiles.tail_paths(1)]
        status, body = await bed.page("a", "/bridge/audit/files?" + "&".join(f"path={one}" for one in paths))
        assert status == 200
        for path, data in msgspec.msgpack.decode(body).items():
            (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "copy" / path).write_bytes(data)
        assert verify(tmp_path / "copy").faults == ()


def _finding() -> Any:
    from bridge_core.audit.entries import FindingRecord

    return FindingRecord(1e9, "x", "forked", "a test")


async def test_a_full_disk_refuses_traffic_where_the_mesh_says_so(tmp_path: Path) -> None:
    async with audited(tmp_path) as bed:
        bed.settings(on_full_disk="refuse")
        await bed["a"].signed(1)
        log = bed["a"].log
        log.rename(log.with_name("away"))
        log.write_text("no folder")
        assert (await bed.bed["a"].infer()).status == 200  # found out with this one
        await eventually(lambda: bool(bed.bed["a"].gateway._state.unrecorded))
        answer = await bed.bed["a"].infer()
        assert answer.status == 503
        assert "nothing is served unrecorded" in answer.json()["error"]
        log.unlink()
        log.with_name("away").rename(log)
        await eventually(lambda: not bed.bed["a"].gateway._state.unrecorded)
        assert (await bed.bed["a"].infer()).status == 200
    assert [json.loads(one)["kind"] for one in independent_log.entries_of(log)].count("lost") == 1
    assert verify(log).faults == ()


async def test_prompts_are_recorded_only_where_the_mesh_says_so(tmp_path: Path) -> None:
    async with audited(tmp_path) as bed:
        await bed.bed["a"].infer()
        await bed["a"].signed(2)
        bed.settings(content=True)
        await bed.bed["a"].infer(headers={"X-Request-Id": "told"})
        await eventually(lambda: bed["a"].audit.written >= 3)
    import base64

    parts = [json.loads(one) for one in independent_log.entries_of(bed["a"].log)]
    (content,) = (one for one in parts if one["kind"] == "content")
    assert content["request_id"] == "told"
    assert json.loads(base64.b64decode(content["data"]))["messages"][0]["content"] == "hi"


@pytest.mark.parametrize("many", [0, 1, 2, 9])
def test_everybody_knows_the_same_cosigners(many: int) -> None:
    nodes = [Node(f"n{number}", f"h:{number}") for number in range(6)]
    nodes += [Node("gone", "h:7", "revoked"), Node("resting", "h:8", "drained"), Node("new")]
    found = cosigners_of("m/node/n1", nodes, "n1", many)
    assert found == cosigners_of("m/node/n1", reversed(nodes), "n1", many)
    assert len(found) == min(many, 5)
    assert not {one.name for one in found} & {"n1", "gone", "resting", "new"}


def test_keys_are_told_apart_by_name_and_id() -> None:
    one, other = PublicKey("m/node/a", bytes(32)), PublicKey("m/node/b", bytes(32))
    assert one.id(b"\1") != other.id(b"\1") != other.id(b"\4")


async def test_where_the_mesh_says_so_records_lie_sealed_and_admins_read_them_as_ever(tmp_path: Path) -> None:
    async with audited(tmp_path) as bed:
        bed.settings(sealed=True)
        node = bed["a"]
        answer = await bed.bed["a"].ask("GET", "/api/tags", None, {"X-Request-Id": "find-me"})
        assert answer.status == 200
        await node.signed(2)
        assert [path.name for path in (node.log / "tail").iterdir() if "hashes" not in path.name] == [
            "0.sealed"
        ]
        assert b"find-me" not in b"".join(one.read_bytes() for one in node.log.rglob("*") if one.is_file())
        _, body = await bed.page("a", "/bridge/audit/find?id=find-me")
        (found,) = json.loads(body)
        read_proof(found["proof"].encode()).check()
        _, body = await bed.page("a", "/bridge/audit/entries?from=0")
        assert "find-me" in body.decode()
        wanted = "/bridge/audit/files?path=tail/0.entries&path=tail/0.hashes&path=tile/entries/000.zst"
        _, body = await bed.page("a", wanted)
        files = msgspec.msgpack.decode(body)
        assert sorted(files) == ["tail/0.entries", "tail/0.hashes"]
        assert b"find-me" in files["tail/0.entries"]
        sealed = node.log / "tail/0.sealed"
        whole = sealed.read_bytes()
        sealed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        _, body = await bed.page("a", wanted)
        assert b"chunk 0 was changed" in msgspec.msgpack.decode(body)["tail/0.entries.fault"]
        sealed.write_bytes(whole)
