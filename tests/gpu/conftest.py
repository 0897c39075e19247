"""What every GPU test needs, or the reason why it is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu import agent_bed


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    if reason := agent_bed.without_gpu():
        pytest.skip(f"SKIPPED LOUDLY: nothing about a real GPU is shown here: {reason}")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with agent_bed.short_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def store(gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the model `m`: 245 million random weights in f16."""
    return agent_bed.make_store(tmp_path_factory.mktemp("models"), "m")
