"""The project's own images as a mesh of containers: confined, a real answer, a probe, an end that drains.

Asked for by BRIDGE_TEST_IMAGES (see tests/image_bed.py), what `make images` made.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import image_bed
from tests.image_bed import ADMIN, Containers, containers, podman
from tests.support import eventually

_why = image_bed.missing()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(_why), reason=f"no images: {_why}"),
]
MODEL = "smollm2:135m"
STATE = "/var/lib/bridge/agent"
_ASK = (
    "import json,sys,urllib.request as u;"
    "r=u.urlopen(u.Request('http://127.0.0.1:11434/api/generate',sys.argv[1].encode()),timeout=120);"
    "print('node',r.headers['X-Bridge-Node'],flush=True);"
    "[print(line.decode().strip(),flush=True) for line in r]"
)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Containers]:
    with containers() as found:
        yield found


def ask(mesh: Containers, entry: str, **more: Any) -> subprocess.Popen[str]:
    """A client inside a node's container, since Ollama's own port is on its loopback."""
    body = json.dumps({"model": MODEL, "prompt": "Count to one hundred.", **more})
    argv = ["podman", "exec", mesh.called(entry), "python3", "-ISc", _ASK, body]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("image", [0, 1])
def test_an_image_holds_no_compiler_no_secret_and_a_list_of_what_is_in_it(
    mesh: Containers, image: int
) -> None:
    name = (mesh.agent_image, mesh.registry_image)[image]
    run = ("run", "--rm", "--read-only", "--cap-drop=ALL", "--network=none", name)
    assert podman(*run, "id", "-u").strip() == "65532"
    assert podman(*run, "sh", "-c", "command -v gcc cc c++ make || true") == ""
    told = json.loads(podman(*run, "cat", "/usr/share/bridge/sbom.cdx.json"))
    listed = {one["purl"].partition("@")[0] for one in told["components"]}
    assert {"pkg:pypi/deepseek-ollama-bridge", "pkg:pypi/grpcio", "pkg:deb/debian/libc6"} <= listed
    assert ("pkg:pypi/xllamacpp" in listed) == (not image)  # the registry's has no engine
    assert (
        podman(*run, "sh", "-c", "find / -xdev -name '*.key' -o -xdev -name id_rsa 2>/dev/null || true") == ""
    )


async def test_a_mesh_of_containers_answers_and_ends_without_cutting_a_stream(mesh: Containers) -> None:
    await mesh.control_plane()
    for name in ("node1", "node2"):
        await mesh.agent(name)
    seeding = ("bridge-engine", "seed", "--models", f"{STATE}/models", "--cache", "/tmp/seed", MODEL)
    podman("exec", mesh.called("node2"), *seeding)
    await eventually(lambda: _answers(mesh, "node1"), 120)

    with ask(mesh, "node1", options={"num_predict": 200, "seed": 1}) as stream:
        assert stream.stdout is not None
        assert stream.stdout.readline().strip() == "node node2"
        first = json.loads(stream.stdout.readline())
        assert not first["done"]
        podman("kill", "--signal", "TERM", mesh.called("node2"))
        rest = [json.loads(line) for line in stream.stdout]
        assert rest[-1]["done"], stream.stderr.read() if stream.stderr else ""
        assert rest[-1]["eval_count"] == 200 or rest[-1]["done_reason"] == "stop"
        assert stream.wait(60) == 0
    await eventually(lambda: _state(mesh, "node2") == ["exited", "0"], 90)

    podman("start", mesh.called("node2"))  # the volume has its identity: it comes back as who it was
    await eventually(lambda: _answers(mesh, "node1"), 180)
    nodes = mesh.once(["bridgectl", "nodes", *ADMIN])
    assert "node1" in nodes
    assert "node2" in nodes


def _answers(mesh: Containers, entry: str) -> bool:
    with ask(mesh, entry, options={"num_predict": 4}) as done:
        out, _ = done.communicate(timeout=150)
    return done.returncode == 0 and out.startswith("node node2") and '"done":true' in out


def _state(mesh: Containers, part: str) -> list[str]:
    return podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", mesh.called(part)).split()
