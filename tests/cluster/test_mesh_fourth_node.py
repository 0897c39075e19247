"""Nodes that come and go: joining, refused joins, leaving."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bridge_cli.parts import agent_state
from tests.cluster.fourth_node import Newcomer, newcomer, token
from tests.cluster.load import load_on
from tests.cluster.mesh_bed import Mesh, call
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]


async def test_a_fourth_node_answers_its_peers_and_leaves_without_a_loss(mesh: Mesh) -> None:
    async with newcomer(mesh, "node4") as node:
        share = mesh.state.parent / "share"
        share.mkdir()
        code, said = await node.join(token(mesh), "--shared", str(share), "--publish")
        assert (code, "node4" in said) == (0, True), said
        node.seed("tiny", "tiny-solo")
        node.run()

        async def ready() -> bool:
            return (await agent_state(node.listeners.admin)).ready

        await eventually(ready, 30)
        copied = {"source": "tiny-solo", "destination": "only-fourth"}
        status, _, body = await asyncio.to_thread(call, node.address(), "POST", "/api/copy", copied)
        assert status == 200, body
        ask = {"model": "only-fourth", "prompt": "x", "stream": False, "options": {"num_predict": 2}}

        async def answers_a_peer() -> bool:
            status, head, _ = await asyncio.to_thread(
                call, mesh.address("node1"), "POST", "/api/generate", ask
            )
            return status == 200 and head["x-bridge-node"] == "node4"

        await eventually(answers_a_peer)
        await publishes(mesh, share)
        await leaves_without_a_loss(mesh, node)


async def publishes(mesh: Mesh, share: Path) -> None:
    """The one node that has shared storage writes a model there, under a lease of the mesh's registry."""
    said = await asyncio.to_thread(mesh.run, "models", "publish", "only-fourth", "--json")
    assert json.loads(said.stdout) == {"node": "node4", "done": "published"}
    assert [path.name for path in (share / "manifests").rglob("*") if path.is_file()] == ["latest"]
    said = await asyncio.to_thread(mesh.run, "models", "shared", "--nodes", "node4")
    assert said.stdout.splitlines()[-1].split() == ["only-fourth:latest", "node4"]


async def leaves_without_a_loss(mesh: Mesh, node: Newcomer) -> None:
    async with load_on([mesh.url("node1"), mesh.url("node2")], ["tiny"]) as load:
        await eventually(load.after(20), 60)
        code, said = await node.command("leave")
        assert code == 0, said
        await node.ended()
        await eventually(load.after(20), 60)
    assert load.counts.refused == []
    assert load.counts.silent == []
    assert load.counts.broken == []
    await mesh.whole()
    assert not (node.state / "identity" / "key.pem").exists()


async def test_a_token_is_good_once_for_its_own_mesh_and_whole(mesh: Mesh) -> None:
    good = await asyncio.to_thread(token, mesh, "--node", "other")
    brj, identifier, secret, pin = good.split(".")
    refused = {
        "nonsense": "token",
        good[: len(good) // 2]: "token",
        ".".join((brj, identifier, "A" * len(secret), pin)): "token",
        ".".join((brj, "A" * len(identifier), secret, pin)): "token",
        ".".join((brj, identifier, secret, "0" * len(pin))): "CA",
        good: "other",
    }
    async with newcomer(mesh, "refused") as node:
        for text, word in refused.items():
            code, said = await node.join(text)
            assert code == 1, said
            assert word in said, said
            assert not (node.state / "agent.json").exists()
            assert not (node.state / "identity" / "key.pem").exists()


async def test_a_used_or_expired_token_and_a_taken_name_are_named(mesh: Mesh) -> None:
    once, short = token(mesh), mesh.run("token", "create", "--ttl", "1s").stdout.strip()
    async with newcomer(mesh, "node3") as twin:
        # Its folder is the real node's: another one, so that it comes as another machine would.
        twin.state = mesh.state / "twin"
        code, said = await twin.join(once)
        assert code == 1
        assert "node3" in said
        assert "taken" in said or "exists" in said or "enrolled" in said, said
    async with newcomer(mesh, "fifth") as node:
        code, said = await node.join(once)
        assert code == 0, said
    async with newcomer(mesh, "sixth") as node:
        code, said = await node.join(once)
        assert (code, "used" in said) == (1, True), said

        async def expired() -> bool:
            code, said = await node.join(short)
            assert code == 1, said
            return "expired" in said

        await eventually(expired)
    async with newcomer(mesh, "fifth") as node:
        assert (await node.command("leave"))[0] == 0


async def test_a_registry_that_is_not_there_is_named(mesh: Mesh) -> None:
    async with newcomer(mesh, "lost") as node:
        code, said = await node.join(token(mesh), registry="127.0.0.1:9")
    assert code == 1
    assert "127.0.0.1:9" in said
