"""Ways around a policy, each tried at a running mesh: none gets to the model, or learns of it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.mesh_bed import NODES, SOLO, TALKER, Mesh, call, open_mesh
from tests.support import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(400)]

POLICY = f"""apiVersion: security.deepseek.io/v1
kind: ModelAccessPolicy
metadata: {{name: finance-team-policy}}
spec:
  subjects: [{{kind: Group, name: finance-analysts}}]
  resources: [{{kinds: ["Model"], names: ["{SOLO}"]}}]
  actions: ["predict", "explain"]
  conditions: [{{key: "department", operator: In, values: ["finance"]}}]
"""
ONE_TOKEN = {"prompt": "x", "stream": False, "options": {"num_predict": 1}}
ASK = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
PATHS = {
    "/api/generate": ONE_TOKEN,
    "//api/generate": ONE_TOKEN,
    "/api//generate": ONE_TOKEN,
    "/api/./generate": ONE_TOKEN,
    "/api/%2e/generate": ONE_TOKEN,
    "/%61pi/generate": ONE_TOKEN,
    "/api/generate/": ONE_TOKEN,
    "/API/generate": ONE_TOKEN,
    "/api/chat": {**ONE_TOKEN, **ASK},
    "/api/embed": {"input": "x"},
    "/v1/chat/completions": ASK,
    "/v1/completions": ONE_TOKEN,
    "/v1/embeddings": {"input": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": ASK,
    "/api/copy": {"source": SOLO, "destination": "mine"},
    "/api/push": {},
    "/api/create": {"from": SOLO, "model": "mine", "stream": False},
}
NAMES = (SOLO, SOLO.upper(), f"{SOLO}:latest", f"library/{SOLO}", f"registry.ollama.ai/library/{SOLO}")


class Attacked:
    """The mesh, and the keys of ann, who may, and eve, who may not."""

    def __init__(self, mesh: Mesh, keys: dict[str, str]) -> None:
        self.mesh = mesh
        self._keys = keys
        self._tls = ssl.create_default_context(cafile=mesh.client_files()[0])
        self._tls.check_hostname = False

    def ask(
        self, who: str, node: str, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """As a client with a key; as `local` on the loopback without."""
        if who == "local":
            return call(self.mesh.address(node), method, path, body, headers)
        headers["authorization"] = f"Bearer {self._keys[who]}"
        return call(self.mesh.address(node, "https"), method, path, body, headers, self._tls)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("policies")
    (folder / "policy.yaml").write_text(POLICY)
    for mesh in open_mesh(folder / "state"):
        group = ("--group", "finance-analysts", "--attr", "department=finance")
        keys = {
            name: json.loads(mesh.run("client", "create", name, *more, "--json").stdout)["key"]
            for name, more in {"ann": group, "eve": ()}.items()
        }
        mesh.run("apply", "-f", str(folder / "policy.yaml"))
        found = Attacked(mesh, keys)

        def in_force(found: Attacked = found) -> bool:
            body = {"model": SOLO, **ONE_TOKEN}
            told = {
                who: found.ask(who, node, "POST", "/api/generate", body)[0]
                for who in ("ann", "eve")
                for node in NODES
            }
            return told == {"ann": 200, "eve": 403}

        asyncio.run(eventually(in_force, 30))
        yield found


@pytest.mark.parametrize("path", PATHS)
def test_no_path_and_no_spelling_gets_around_a_policy(attacked: Attacked, path: str) -> None:
    for node in ("node1", "node3"):  # one without the model, and its owner
        for name in NAMES:
            body = {"model": name, **PATHS[path]}
            status, fields, said = attacked.ask("eve", node, "POST", path, body)
            assert status in {301, 307, 403, 404}, (name, said)
            assert b"finance" not in said
            if "location" in fields:
                again = attacked.ask("eve", node, "POST", fields["location"], body)
                assert again[0] == 403


def test_nobody_on_a_nodes_loopback_uses_or_takes_a_closed_model(attacked: Attacked) -> None:
    for node in NODES:
        for path in ("/api/generate", "/api/copy", "/api/create", "/v1/chat/completions"):
            assert attacked.ask("local", node, "POST", path, {"model": SOLO, **PATHS[path]})[0] == 403
        assert attacked.ask("local", node, "DELETE", "/api/delete", {"model": SOLO})[0] == 403


def test_a_closed_model_shows_in_no_list(attacked: Attacked) -> None:
    assert attacked.ask("ann", "node1", "POST", "/api/generate", {"model": SOLO, **ONE_TOKEN})[0] == 200
    for who, sees in {"ann": True, "eve": False, "local": False}.items():
        for node in NODES:
            for path in ("/api/tags", "/v1/models", "/api/ps"):
                status, _, said = attacked.ask(who, node, "GET", path)
                assert status == 200
                assert (SOLO.encode() in said) is sees, (who, node, path)
            assert attacked.ask(who, node, "POST", "/api/show", {"model": SOLO})[0] == (200 if sees else 404)
            assert attacked.ask(who, node, "GET", f"/v1/models/{SOLO}")[0] == (200 if sees else 404)


def test_a_client_changes_no_node_and_no_node_another(attacked: Attacked) -> None:
    for method, path, body in (
        ("POST", "/api/pull", {"model": "127.0.0.1:1/a/b", "insecure": True}),
        ("POST", "/api/copy", {"source": TALKER, "destination": "mine"}),
        ("POST", "/api/create", {"model": "mine", "from": TALKER}),
        ("POST", "/api/push", {"model": TALKER}),
        ("DELETE", "/api/delete", {"model": TALKER}),
        ("POST", "/api/blobs/sha256:" + "0" * 64, b"x"),
    ):
        assert attacked.ask("eve", "node1", method, path, body)[0] == 403, path
        elsewhere = attacked.ask("local", "node1", method, path, body, **{"x-bridge-node": "node2"})
        assert elsewhere[0] == 403, path


def test_fields_of_hops_count_for_nobody_but_nodes(attacked: Attacked) -> None:
    lies = {"x-bridge-hop": "node3", "x-bridge-principal": "spiffe://mesh/client/ann", "x-bridge-route": "x"}
    for who in ("eve", "local"):
        body = {"model": SOLO, **ONE_TOKEN}
        assert attacked.ask(who, "node3", "POST", "/api/generate", body, **lies)[0] == 403


def test_an_admin_is_told_by_which_rule(attacked: Attacked) -> None:
    mesh = attacked.mesh
    ask = ("policy", "test", "--do", "predict", "--model", SOLO.upper())
    yes = mesh.run(*ask, "--as", "ann")
    assert "yes: policy finance-team-policy allows it" in yes.stdout
    no = mesh.run(*ask, "--as", "eve", check=False)
    assert (no.returncode, no.stdout.startswith("no: the model is closed")) == (1, True)
    assert "finance-team-policy" in mesh.run("policy", "list").stdout
