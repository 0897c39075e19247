"""The CAs of a real mesh under load are changed, root and all: no request fails, no node is lost."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from typing import Any

import pytest

from bridge_agent.config import StateDir
from bridge_agent.membership.mesh_trust import issuer_of, pins_in
from tests.cluster.load import load_on
from tests.cluster.mesh_bed import NODES, SOLO, Mesh
from tests.support import eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.faults,
    pytest.mark.etcd,
    pytest.mark.llamacpp,
    pytest.mark.timeout(400),
]

SOME = 20


async def ca(mesh: Mesh, *arguments: str) -> dict[str, Any]:
    done = await asyncio.to_thread(mesh.run, "ca", *arguments, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def in_state(answer: dict[str, Any], state: str) -> str:
    found = [one for one in answer["authorities"] if (one["kind"], one["state"]) == ("intermediate", state)]
    return str(found[0]["pin"]) if found else ""


def asked_over_tls(mesh: Mesh, node: str, context: ssl.SSLContext) -> int:
    host, port = mesh.address(node, "https")
    connection = http.client.HTTPSConnection(host, port, timeout=60, context=context)
    try:
        connection.request("GET", "/api/tags")
        return connection.getresponse().status
    finally:
        connection.close()


async def test_root_and_intermediate_change_with_no_failed_request(harmed_mesh: Mesh) -> None:
    mesh = harmed_mesh
    outside = mesh.client_tls()  # made once: it knows the present root alone
    async with load_on([mesh.url(node) for node in NODES], ["tiny", SOLO]) as load:
        await eventually(load.after(SOME), 60)
        begun = await ca(mesh, "rotate", "begin", "--new-root")
        new, old = in_state(begun, "announced"), in_state(begun, "issuing")

        async def all_trust() -> bool:
            return "rotate issue" in (await ca(mesh, "status"))["next"]

        await eventually(all_trust, 30)
        await eventually(load.after(SOME), 60)
        await ca(mesh, "rotate", "issue")

        async def all_hold() -> bool:
            return "rotate finish" in (await ca(mesh, "status"))["next"]

        await eventually(all_hold, 60)
        for node in NODES:
            assert asked_over_tls(mesh, node, outside) == 200  # by the former root, across to the new one
        await eventually(load.after(SOME), 60)
        done = await ca(mesh, "rotate", "finish")
        assert (in_state(done, "issuing"), in_state(done, "retired")) == (new, "")
        await eventually(load.after(SOME), 60)
        for node in NODES:
            files = StateDir(mesh.state / node)
            await eventually(lambda files=files: pins_in(files.issuers) == (new,))  # type: ignore[misc]  # the default binds it
            assert issuer_of(files.certificate) == new
            with pytest.raises((OSError, http.client.HTTPException)):
                await asyncio.to_thread(
                    asked_over_tls, mesh, node, outside
                )  # its certificate is the old CA's
            assert asked_over_tls(mesh, node, mesh.client_tls()) == 200
        await eventually(load.after(SOME), 60)
        await mesh.whole()
    assert load.counts.refused == []
    assert load.counts.broken == []
    assert load.counts.silent == []
    assert old != new
    mesh.assert_logs_are_clean()
