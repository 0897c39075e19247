"""A client's life in a real mesh: made, used at every node with unchanged clients, blocked, deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import ollama
import openai
import pytest

from tests.cluster.mesh_bed import ASK, GREEDY, NODES, TALKER, Mesh
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]


def https(mesh: Mesh, node: str) -> str:
    host, port = mesh.address(node, "https")
    return f"https://{host}:{port}"


async def within(seconds: float, predicate: Callable[[], bool]) -> None:
    """Waits for what asks a mesh, off the loop."""
    await eventually(lambda: asyncio.to_thread(predicate), seconds)


async def test_a_client_with_a_key_and_a_certificate(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "anna"
    made = json.loads(
        mesh.run(
            "client",
            "create",
            "anna",
            "--group",
            "staff",
            "--attr",
            "department=finance",
            "--cert",
            "--out",
            str(out),
            "--json",
        ).stdout
    )
    key = made["key"]
    assert made["urls"] == [https(mesh, node) for node in NODES]
    monkeypatch.setenv("SSL_CERT_FILE", made["ca"])

    def works(node: str) -> bool:
        with openai.OpenAI(base_url=f"{https(mesh, node)}/v1", api_key=key, max_retries=0) as client:
            try:
                answer = client.chat.completions.create(model=TALKER, messages=ASK, temperature=0, seed=1)  # type: ignore[call-overload]
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                return False
        return "Paris" in answer.choices[0].message.content

    for node in NODES:
        await within(5.0, lambda node=node: works(node))
    monkeypatch.setenv("OLLAMA_API_KEY", key)
    with ollama.Client(host=https(mesh, "node2")) as client:
        assert "Paris" in client.chat(TALKER, messages=ASK, options=GREEDY).message.content

    shown = json.loads(mesh.run("client", "show", "anna", "--json").stdout)
    assert (shown["groups"], shown["attributes"]) == (["staff"], {"department": "finance"})
    await within(
        5.0, lambda: json.loads(mesh.run("client", "show", "anna", "--json").stdout)["lastUsedUnix"] > 0
    )
    assert "anna" in mesh.run("client", "list").stdout
    rotated = json.loads(mesh.run("client", "rotate", "anna", "--overlap", "0s", "--json").stdout)["key"]
    await within(2.0, lambda: not works("node1"))
    key = rotated
    await within(2.0, lambda: works("node1"))
    mesh.run("client", "block", "anna")
    await within(2.0, lambda: not any(works(node) for node in NODES))
    mesh.run("client", "unblock", "anna")
    await within(2.0, lambda: works("node3"))
    mesh.run("client", "delete", "anna")
    await within(2.0, lambda: not any(works(node) for node in NODES))
    for name, text in mesh.logs().items():
        assert key[17:] not in text, name
        assert made["key"][17:] not in text, name


async def test_keys_are_known_after_a_restart_without_any_registry(
    harmed_mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = harmed_mesh
    made = json.loads(mesh.run("client", "create", "otto", "--json").stdout)
    monkeypatch.setenv("SSL_CERT_FILE", mesh.client_files()[0])

    def works() -> bool:
        try:
            with openai.OpenAI(
                base_url=f"{https(mesh, 'node1')}/v1", api_key=made["key"], max_retries=0
            ) as client:
                return TALKER in {one.id for one in client.models.list()}
        except openai.APIError:
            return False

    await within(5.0, works)
    secrets = mesh.state / "node1" / "secrets.sealed"
    assert secrets.stat().st_mode & 0o777 == 0o600
    with mesh.stopped("registry"):
        mesh.kill("node1")
        alone = mesh.start("node1")
        try:
            await within(30.0, works)
        finally:
            alone.terminate()
            alone.wait(60)
    mesh.run("up")
