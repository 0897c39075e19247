"""What every engine that can be supervised must do: real ones, and the fake that stands in for them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.process import ProcessRecord
from bridge_engine.seed import seed
from tests.engine_support import FAKE, embedded_installed, everything_of, gone, supervised
from tests.support import eventually


@pytest.fixture(
    params=[
        "fake-as-ollama",
        "fake-as-llamacpp",
        pytest.param("llamacpp", marks=pytest.mark.llamacpp),
        pytest.param("ollama", marks=pytest.mark.ollama),
    ]
)
def config(request, tmp_path):
    """One engine of each kind with the models `tiny` and `tiny-embed`."""
    kind = request.param
    if kind.startswith("fake"):
        env = {"FAKE_MODELS": "tiny:latest,tiny-embed:latest", "FAKE_RUNNER": "1"}
        return EngineConfig(index=0, kind=kind.removeprefix("fake-as-"), binary=str(FAKE), env=env)
    if kind == "llamacpp" and not embedded_installed():
        pytest.skip("bridge-engine or the wheel xllamacpp is not installed")
    binary = os.environ.get("BRIDGE_TEST_OLLAMA")
    if kind == "ollama" and not binary:
        pytest.skip("NOT RUN AGAINST A REAL OLLAMA: BRIDGE_TEST_OLLAMA does not name a binary")
    models = tmp_path / "own-models"
    seed(models, ["tiny", "tiny-embed"], tmp_path / "cache")
    return EngineConfig(
        index=0,
        kind=kind,
        models_dir=str(models),
        context_length=2048,
        num_parallel=1,
        keep_alive="-1",
        binary=binary if kind == "ollama" else None,
    )


async def test_it_starts_lists_loads_generates_and_stops_whole(config, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET_OF_THE_AGENT", "do not pass on")
    async with supervised(config, tmp_path / "state") as it:
        view = await it.state("ready", 60)
        assert (view.id, view.host, view.engine) == ("n1/0", "127.0.0.1", config.kind)
        models = {model.name: model for model in view.models}
        assert models.keys() == {"tiny:latest", "tiny-embed:latest"}
        assert len(models["tiny:latest"].digest) == 64
        assert models["tiny:latest"].details.family == "llama"
        assert "completion" in models["tiny:latest"].capabilities
        assert "embedding" in models["tiny-embed:latest"].capabilities
        assert view.loaded == ()
        async with it.client() as client, asyncio.timeout(60):
            await client.version()
            assert "details" in await client.show("tiny")
            await client.load("tiny")
            await client.generate_one("tiny", context_length=2048)
            it.supervisor.refresh("n1/0")
            await eventually(lambda: it.view.loaded == ("tiny:latest",))
            await client.load("tiny", keep_alive=0)
            await eventually(lambda: it.view.loaded == ())
            await client.generate_one("tiny-embed", embedding=True)
        record = ProcessRecord.load(it.record)
        environment = Path(f"/proc/{record.pid}/environ").read_bytes()
        assert b"do not pass on" not in environment
        assert b"HOME=" + str(tmp_path / "state/engines/0/home").encode() in environment
        processes = everything_of(record)
        assert len(processes) >= 2, "the engine and its runner"
    assert all(gone(pid) for pid in processes)
    assert not it.record.exists()
    assert it.view.state == "stopped"


async def test_it_outlives_its_agent_and_the_next_one_adopts_it(config, tmp_path):
    async with supervised(config, tmp_path / "state", leave=True) as first:
        before = await first.state("ready", 60)
        pid = first.status.pid
    async with supervised(config, tmp_path / "state") as second:
        after = await second.state("ready")
        assert (after.port, second.status.pid) == (before.port, pid)
        assert (second.status.adopted, second.status.launches) == (True, 0)
        assert {model.name for model in after.models} == {"tiny:latest", "tiny-embed:latest"}
    assert gone(pid)
