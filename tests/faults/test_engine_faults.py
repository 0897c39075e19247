"""Engines that die, hang, never start or lose their agent, as real processes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys

import msgspec
import pytest
import uvloop

from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.lifecycle_rules import Policy
from bridge_agent.engines.process import LaunchSpec, PlainLauncher, ProcessRecord
from bridge_agent.health.probe_rules import ProbePolicy
from bridge_engine.seed import seed
from tests.engine_support import (
    POLICY,
    PROBES,
    embedded_installed,
    everything_of,
    fake_config,
    gone,
    supervised,
)
from tests.support import eventually

pytestmark = pytest.mark.faults


async def fault(it, generate: str) -> None:
    async with it.client() as client:
        await client._call("POST", "/fault", dict, {"generate": generate})


async def runner_of(it) -> int:
    async with it.client() as client:
        return (await client._call("GET", "/fault", dict))["runners"][0]


async def load(it) -> None:
    async with it.client() as client:
        await client.load("tiny")
    it.supervisor.refresh("n1/0")
    await eventually(lambda: it.view.loaded)


async def test_a_killed_engine_is_replaced_with_its_runners_and_published_again(tmp_path):
    async with supervised(fake_config(tmp_path, FAKE_RUNNER="1"), tmp_path / "s") as it:
        first = await it.state("ready")
        await load(it)
        pid, runner = it.status.pid, await runner_of(it)
        os.kill(pid, signal.SIGKILL)
        down = await it.state("starting")
        assert (down.loaded, down.models) == ((), first.models), "what is on disk is still there"
        await it.state("ready")
        assert gone(runner), "an orphaned runner would keep the GPU's memory"
        assert it.status.pid != pid
        assert (it.status.launches, it.status.failures) == (2, 1)
        assert it.status.reason == "killed by SIGKILL"


def test_the_same_on_the_agents_own_event_loop(tmp_path):
    async def scenario() -> None:
        async with supervised(fake_config(tmp_path, FAKE_RUNNER="1"), tmp_path / "s") as it:
            await it.state("ready")
            os.kill(it.status.pid, signal.SIGKILL)
            await eventually(lambda: it.status.launches == 2 and it.view.state == "ready")
            assert it.status.reason == "killed by SIGKILL"
        assert it.view.state == "stopped"

    uvloop.run(scenario())


async def test_a_stopped_engine_is_found_dead_and_replaced(tmp_path):
    async with supervised(fake_config(tmp_path), tmp_path / "s", policy=quick(missed_probes=1)) as it:
        await it.state("ready")
        pid = it.status.pid
        os.kill(pid, signal.SIGSTOP)
        await it.state("starting")
        await it.state("ready")
        assert gone(pid)
        assert "does not answer /api/version" in it.status.reason


async def test_a_model_that_hangs_behind_healthy_routes_is_found_by_generating(tmp_path):
    async with supervised(fake_config(tmp_path), tmp_path / "s", probing=PROBES) as it:
        await it.state("ready")
        await load(it)
        pid = it.status.pid
        await fault(it, "hang")
        async with it.client() as client:
            assert await client.loaded(), "ps answers all the while"
        await eventually(lambda: it.status.pid != pid and it.view.state == "ready")
        assert "did not generate a token" in it.status.reason


async def test_an_engine_whose_models_stream_is_not_probed(tmp_path):
    """Progress is reported faster than the quiet time, and the hang that a probe would find stays unfound."""
    probing = dataclasses.replace(PROBES, quiet_s=2.0)  # a busy machine may not get to it more often
    async with supervised(fake_config(tmp_path), tmp_path / "s", probing=probing) as it:
        await it.state("ready")
        await load(it)
        pid = it.status.pid
        await fault(it, "hang")
        loop = asyncio.get_running_loop()
        end = loop.time() + probing.quiet_s + 2 * probing.timeout_s

        def streamed_on() -> bool:
            it.supervisor.activity("n1/0")
            return loop.time() > end

        await eventually(streamed_on)
        assert (it.status.pid, it.view.state) == (pid, "ready")


async def test_a_crash_loop_shows_the_last_lines_and_ends_when_the_cause_does(tmp_path):
    (tmp_path / "crash").write_text("CUDA error: no kernel image is available")
    async with supervised(fake_config(tmp_path), tmp_path / "s") as it:
        await eventually(lambda: it.status.failures >= 3)
        assert it.status.log_tail[-1] == "CUDA error: no kernel image is available"
        assert it.status.reason == "exited with status 1"
        assert all(view.state == "starting" for (view,) in it.published)
        (tmp_path / "crash").unlink()
        await it.state("ready")


async def test_an_engine_that_never_listens_is_given_up_and_replaced(tmp_path):
    (tmp_path / "never").touch()
    # Long enough for one that does listen, on a machine that does much else.
    async with supervised(fake_config(tmp_path), tmp_path / "s", policy=quick(start_timeout_s=6.0)) as it:
        await eventually(lambda: it.status.failures >= 1, 30)
        assert "did not answer within 6 s of its start" in it.status.reason
        (tmp_path / "never").unlink()
        await it.state("ready", 60)


async def test_a_port_taken_between_choice_and_bind_costs_one_start(tmp_path):
    class Thief(PlainLauncher):
        stolen: socket.socket | None = None

        async def launch(self, spec: LaunchSpec):
            if self.stolen is None:
                host, _, port = spec.env["OLLAMA_HOST"].rpartition(":")
                self.stolen = socket.create_server((host, int(port)))
            return await super().launch(spec)

    thief = Thief()
    async with supervised(fake_config(tmp_path), tmp_path / "s", launcher=thief) as it:
        view = await it.state("ready")
        assert view.port != thief.stolen.getsockname()[1]
        assert it.status.launches == 2
        assert any("Address already in use" in line for line in it.status.log_tail)
    thief.stolen.close()


AGENT = """
import asyncio, sys
from pathlib import Path
from tests.engine_support import fake_config, supervised
async def main(folder):
    async with supervised(fake_config(folder, FAKE_RUNNER="1"), folder / "s") as it:
        await it.state("ready")
        print(it.status.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main(Path(sys.argv[1])))
"""


async def killed_agent(folder) -> int:
    """Starts an agent's supervisor in a process of its own, kills it, and returns its engine's pid."""
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, str(folder), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        while not (line := await agent.stdout.readline()).strip().isdigit():
            assert line
        agent.kill()
        await agent.wait()
    return int(line)


async def test_an_engine_survives_its_agents_kill_and_is_adopted(tmp_path):
    pid = await killed_agent(tmp_path)
    async with supervised(fake_config(tmp_path, FAKE_RUNNER="1"), tmp_path / "s") as it:
        await it.state("ready")
        assert (it.status.pid, it.status.adopted, it.status.launches) == (pid, True, 0)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: it.status.launches == 1 and it.view.state == "ready")
        assert not it.status.adopted


async def test_an_orphan_that_does_not_answer_is_ended_and_replaced(tmp_path):
    pid = await killed_agent(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    async with supervised(fake_config(tmp_path, FAKE_RUNNER="1"), tmp_path / "s") as it:
        await it.state("ready")
        assert it.status.pid != pid
        assert gone(pid)


async def test_runners_that_an_engine_left_while_no_agent_ran_are_ended(tmp_path):
    config = fake_config(tmp_path, FAKE_RUNNER="1")
    async with supervised(config, tmp_path / "s", leave=True) as first:
        await first.state("ready")
        await load(first)
        pid, runner = first.status.pid, await runner_of(first)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: gone(pid))
    assert not gone(runner)
    async with supervised(config, tmp_path / "s") as second:
        await second.state("ready")
        await eventually(lambda: gone(runner))


async def test_an_engine_run_otherwise_than_configured_now_is_replaced(tmp_path):
    async with supervised(fake_config(tmp_path), tmp_path / "s", leave=True) as first:
        await first.state("ready")
        pid = first.status.pid
    changed = msgspec.structs.replace(fake_config(tmp_path), num_parallel=7)
    async with supervised(changed, tmp_path / "s") as second:
        assert (await second.state("ready")).slots == 7
        assert gone(pid)


@pytest.mark.parametrize("record", ["not json", "{}", '{"pid": 1}'])
async def test_a_damaged_record_is_no_record(tmp_path, record):
    (tmp_path / "s/engines/0").mkdir(parents=True)
    (tmp_path / "s/engines/0/process.json").write_text(record)
    async with supervised(fake_config(tmp_path), tmp_path / "s") as it:
        await it.state("ready")
        assert ProcessRecord.load(it.record).pid == it.status.pid


async def test_an_engine_whose_record_was_lost_is_ended_and_replaced(tmp_path):
    async with supervised(fake_config(tmp_path), tmp_path / "s", leave=True) as first:
        await first.state("ready")
        pid = first.status.pid
    first.record.write_text("not json")
    async with supervised(fake_config(tmp_path), tmp_path / "s") as second:
        await second.state("ready")
        assert gone(pid)


async def test_a_process_that_got_the_number_of_a_dead_engine_is_left_alone(tmp_path):
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        async with supervised(fake_config(tmp_path), tmp_path / "s", leave=True) as first:
            await first.state("ready")
            record = ProcessRecord.load(first.record)
        os.kill(record.pid, signal.SIGKILL)
        earlier = msgspec.structs.replace(record, pid=stranger.pid, start_time=1)
        earlier.save(first.record)
        async with supervised(fake_config(tmp_path), tmp_path / "s") as second:
            await second.state("ready")
            assert not second.status.adopted
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_missing_binary_is_named_with_what_to_do(tmp_path):
    config = EngineConfig(index=0, kind="ollama", binary=str(tmp_path / "ollama"))
    async with supervised(config, tmp_path / "s") as it:
        await eventually(lambda: it.status.failures)
        assert f"{tmp_path}/ollama was not found" in it.status.reason
        assert "install Ollama" in it.status.reason
        assert (it.status.phase, it.view.state, it.view.port) == ("backoff", "starting", 0)


async def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "s").write_text("a file where the folder should be")
    async with supervised(fake_config(tmp_path), tmp_path / "s") as it:
        await eventually(lambda: it.status.failures)
        assert "cannot prepare the engine's folder" in it.status.reason


async def test_an_engine_of_somebody_else_is_distrusted_but_left_alone(tmp_path):
    async with supervised(fake_config(tmp_path), tmp_path / "theirs") as theirs:
        address = await theirs.state("ready")
        pid = theirs.status.pid
        config = EngineConfig(index=0, kind="ollama", attach=f"http://{address.host}:{address.port}")
        # On a busy machine its processes may be seen at work: that is not to hold up the test for long.
        probing = dataclasses.replace(PROBES, busy_timeout_s=3.0)
        async with supervised(config, tmp_path / "ours", probing=probing) as ours:
            await ours.state("ready")
            await load(ours)
            await fault(theirs, "hang")
            await ours.state("starting")
            assert "did not generate a token" in ours.status.reason
            await fault(theirs, "ok")
            await ours.state("ready")
            assert (ours.status.pid, ours.status.attached) == (None, True)
        assert ours.view.state == "stopped"
        assert (theirs.status.pid, gone(pid)) == (pid, False)


async def test_a_drain_keeps_the_engine_can_be_taken_back_and_ends_in_a_stop(tmp_path):
    async with supervised(fake_config(tmp_path), tmp_path / "s") as it:
        await it.state("ready")
        pid = it.status.pid
        it.supervisor.drain()
        assert (await it.state("draining")).models
        it.supervisor.resume()
        await it.state("ready")
        it.supervisor.drain()
        await it.state("draining")
        assert it.status.pid == pid
        processes = everything_of(ProcessRecord.load(it.record))
    assert it.view.state == "stopped"
    assert all(gone(process) for process in processes)


async def test_a_model_deleted_through_the_gateway_is_unlisted_at_once(tmp_path):
    config = fake_config(tmp_path, FAKE_MODELS="tiny:latest,other:latest")
    async with supervised(config, tmp_path / "s") as it:
        await it.state("ready")
        async with it.client() as client:
            await client._call("DELETE", "/api/delete", dict, {"model": "other:latest"})
        it.supervisor.refresh("n1/0")
        await eventually(lambda: [model.name for model in it.view.models] == ["tiny:latest"])


@pytest.mark.llamacpp
async def test_a_stopped_runner_of_the_embedded_engine_is_replaced(tmp_path):
    if not embedded_installed():
        pytest.skip("bridge-engine or the wheel xllamacpp is not installed")
    seed(tmp_path / "models", ["tiny"], tmp_path / "cache")
    config = EngineConfig(index=0, models_dir=str(tmp_path / "models"), num_parallel=1, context_length=2048)
    probing = ProbePolicy(quiet_s=1.0, timeout_s=1.0)
    async with supervised(config, tmp_path / "s", probing=probing) as it:
        await it.state("ready", 30)
        await load(it)
        engine = ProcessRecord.load(it.record)
        (runner,) = set(everything_of(engine)) - {engine.pid}
        os.kill(runner, signal.SIGSTOP)
        await eventually(lambda: gone(runner))
        await it.state("ready", 30)
        async with it.client() as client, asyncio.timeout(30):
            await client.generate_one("tiny")


def quick(**changes: float) -> Policy:
    values = {name: getattr(POLICY, name) for name in Policy.__slots__}
    return Policy(**values | changes)
