"""A Quota document on a real mesh: applied by an admin, met by an official client, seen by the admin."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import openai
import pytest

from tests.cluster.mesh_bed import ASK, TALKER, Mesh, call
from tests.cluster.test_mesh_keys import https
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]

QUOTA = """\
apiVersion: bridge.deepseek.io/v1
kind: Quota
metadata: {name: three-a-day}
spec:
  subjects: [{kind: User, name: quentin}]
  per: client
  window: 24h
  requests: 3
"""


async def test_a_client_beyond_its_quota_is_told_when_to_come_again(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = json.loads(mesh.run("client", "create", "quentin", "--json").stdout)
    monkeypatch.setenv("SSL_CERT_FILE", mesh.client_files()[0])
    document = tmp_path / "quota.yaml"
    document.write_text(QUOTA)
    mesh.run("apply", "-f", str(document))
    await eventually(lambda: asyncio.to_thread(lambda: "three-a-day" in mesh.run("quota", "list").stdout), 30)
    served, refused = 0, None

    def ask() -> None:
        nonlocal served, refused
        with openai.OpenAI(
            base_url=f"{https(mesh, 'node1')}/v1", api_key=made["key"], max_retries=0
        ) as client:
            try:
                client.chat.completions.create(model=TALKER, messages=ASK, max_tokens=1)  # type: ignore[arg-type]
            except openai.RateLimitError as fault:
                refused = fault
            except openai.AuthenticationError:
                return  # the node has not heard of the key yet
            else:
                served += 1

    async def beyond() -> bool:
        await asyncio.to_thread(ask)
        assert served <= 3
        return refused is not None and served == 3

    await eventually(beyond, 60)
    assert refused is not None
    assert refused.status_code == 429
    assert int(refused.response.headers["retry-after"]) >= 1
    assert refused.response.headers["x-ratelimit-limit-requests"] == "3"
    assert "three-a-day" in mesh.run("quota", "list").stdout
    body = {"model": TALKER, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    assert call(mesh.address("node1"), "POST", "/api/generate", body)[0] == 200  # it is about quentin alone
    mesh.run("client", "delete", "quentin")
