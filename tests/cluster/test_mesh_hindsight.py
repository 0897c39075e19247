"""`bridgectl explain` and `bridgectl replay` on a real mesh: what all nodes remember, in one answer."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.mesh_bed import NODES, SOLO, TALKER, Mesh, call
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.llamacpp, pytest.mark.etcd]

# Its backend lies on node3 alone.
ONLY_NODE3 = f"""\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {{name: "{TALKER}"}}
spec: {{backends: [{{model: "{SOLO}"}}]}}
"""


def generate(mesh: Mesh, node: str, model: str, request_id: str) -> None:
    body = {"model": model, "prompt": f"a {request_id}", "stream": False, "options": {"num_predict": 1}}
    code, _, answer = call(mesh.address(node), "POST", "/api/generate", body, {"X-Request-Id": request_id})
    assert code == 200, answer


def test_a_request_is_explained_hop_by_hop_from_the_admins_desk(mesh: Mesh) -> None:
    request_id = f"why-{uuid.uuid4()}"
    generate(mesh, "node1", SOLO, request_id)
    hops: list[dict[str, Any]] = json.loads(mesh.run("explain", request_id, "--json").stdout)
    assert [(hop["node"], hop["via"], hop["instance"]) for hop in hops] == [
        ("node1", "", "node3/0"),
        ("node3", "node1", "node3/0"),
    ]
    text = mesh.run("explain", request_id).stdout
    assert "node1 (called by local)" in text
    assert "node3 (forwarded by node1)" in text
    assert "ok (200)" in text


def test_an_id_that_nobody_remembers_is_said_to_be(mesh: Mesh) -> None:
    done = mesh.run("explain", "never-was", check=False)
    assert done.returncode == 1
    assert "no node remembers a request never-was" in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_requests_of_all_nodes_are_decided_again_under_a_changed_config(
    mesh: Mesh, tmp_path: Path
) -> None:
    name = f"past-{uuid.uuid4()}"
    for number in range(9):
        generate(mesh, NODES[number % 3], TALKER, f"{name}-{number}")
    (tmp_path / "route.yaml").write_text(ONLY_NODE3)

    def replayed() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(mesh.run("replay", "--with", str(tmp_path), "--json").stdout)
        return found

    def talker(column: dict[str, Any]) -> dict[str, Any]:
        (found,) = (one for asked, one in column.items() if asked.endswith(f"/{TALKER}"))
        return found

    async def all_there() -> dict[str, Any]:  # audit records are written a moment later
        found = replayed()
        return found if talker(found["was"])["requests"] >= 9 else {}

    found = await eventually(all_there, 60)
    assert set(talker(found["then"])["by_instance"]) == {"node3/0"}
    assert talker(found["now"])["requests"] == talker(found["then"])["requests"]
    text = mesh.run("replay", "--with", str(tmp_path)).stdout
    assert "with the change" in text
    (tmp_path / "route.yaml").write_text("kind: Nonsense\n")
    wrong = mesh.run("replay", "--with", str(tmp_path), check=False)
    assert wrong.returncode == 1
    assert "route.yaml" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_only_admins_and_nodes_are_told(mesh: Mesh) -> None:
    for path in ("/bridge/explain?id=x", "/bridge/past?seconds=60", "/bridge/snapshot"):
        assert call(mesh.address("node1", "peer"), "GET", path, tls=mesh.client_tls())[0] == 200
        assert call(mesh.address("node1"), "GET", path)[0] == 404
