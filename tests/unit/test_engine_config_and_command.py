"""What an engine is told to do, from its configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.kinds import EngineMissing, Place, command

PLACE = Place(Path("/s/engines/0"), Path("/s/models"), "127.0.0.1", 4321)
OUTSIDE = {
    "PATH": "/usr/bin",
    "HTTPS_PROXY": "http://proxy",
    "HOME": "/root",
    "OLLAMA_HOST": "0.0.0.0",
    "OLLAMA_DEBUG": "2",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "NOTIFY_SOCKET": "/run/systemd/notify",
}


def test_ollama_is_told_by_environment_alone():
    config = EngineConfig(
        index=0,
        kind="ollama",
        binary="/bin/sh",
        num_parallel=3,
        context_length=8192,
        keep_alive="-1",
        max_loaded=2,
        kv_cache_type="q8_0",
        gpus="GPU-1",
        env={"OLLAMA_FLASH_ATTENTION": "1"},
    )
    argv, env = command(config, PLACE, OUTSIDE)
    assert argv == ("/bin/sh", "serve")
    assert env == {
        "PATH": "/usr/bin",
        "HTTPS_PROXY": "http://proxy",
        "HOME": "/s/engines/0/home",
        "OLLAMA_HOST": "127.0.0.1:4321",
        "OLLAMA_MODELS": "/s/models",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "OLLAMA_FLASH_ATTENTION": "1",
    }


def test_llamacpp_is_told_by_arguments():
    config = EngineConfig(
        index=0,
        binary="/bin/sh",
        num_parallel=2,
        context_length=4096,
        keep_alive="-1",
        max_loaded=1,
        llama_server="/opt/llama-server",
    )
    argv, env = command(config, PLACE, OUTSIDE)
    assert " ".join(argv) == (
        "/bin/sh serve --models /s/models --listen 127.0.0.1:4321 --num-parallel 2"
        " --keep-alive=-1 --context-length=4096 --max-loaded=1 --llama-server=/opt/llama-server"
    )
    assert env.keys() == {"PATH", "HTTPS_PROXY", "HOME"}


def test_what_is_not_configured_is_left_to_the_engine():
    argv, env = command(EngineConfig(index=0, binary="/bin/sh"), PLACE, {})
    assert argv[-2:] == ("--num-parallel", "4")
    assert env == {"HOME": "/s/engines/0/home"}


def test_no_gpu_at_all_is_not_the_same_as_any():
    _, env = command(EngineConfig(index=0, binary="/bin/sh", gpus=""), PLACE, {"CUDA_VISIBLE_DEVICES": "3"})
    assert env["CUDA_VISIBLE_DEVICES"] == ""


def test_a_binary_that_is_missing_or_not_executable_is_named(tmp_path):
    with pytest.raises(EngineMissing, match=r"was not found .*install Ollama"):
        command(EngineConfig(index=0, kind="ollama", binary=str(tmp_path / "no")), PLACE, {})
    (tmp_path / "data").write_text("")
    with pytest.raises(EngineMissing, match="is not executable"):
        command(EngineConfig(index=0, binary=str(tmp_path / "data")), PLACE, {})


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ('{"index": -1}', "index -1 is not between"),
        ('{"index": 0, "num_parallel": 0}', "num_parallel 0 is not between"),
        ('{"index": 0, "context_length": 0}', "context_length 0 is not between"),
        ('{"index": 0, "attach": "https://h:1"}', "not of the form http://HOST:PORT"),
        ('{"index": 0, "attach": "http://h:99999"}', "port"),
        ('{"index": 0, "attach": "http://u@h:1"}', "not of the form"),
        ('{"index": 0, "attach": "http://h:1/path"}', "not of the form"),
        ('{"index": 0, "kind": "vllm"}', "vllm"),
        ('{"index": 0, "kv_cache_type": "q2"}', "q2"),
        ('{"index": 0, "kind": "ollama", "num_thread": 2}', "for the engine llamacpp only"),
        ('{"index": 0, "num_batch": 0}', "num_batch 0 is not between"),
        ('{"index": 0, "kind": "ollama", "llama_server": "/x"}', "for the engine llamacpp only"),
        ('{"index": 0, "numparallel": 1}', "numparallel"),
        ("{}", "index"),
    ],
)
def test_bad_configuration_is_refused_with_what_is_wrong(document, fault):
    with pytest.raises(msgspec.ValidationError, match=fault):
        msgspec.json.decode(document, type=EngineConfig)


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match=r"index -1.*num_parallel 0.*attach 'x'"):
        EngineConfig(index=-1, num_parallel=0, attach="x")


def test_the_fingerprint_tells_configurations_apart_and_survives_json():
    one = EngineConfig(index=0, env={"A": "1", "B": "2"})
    again = msgspec.json.decode(b'{"index": 0, "env": {"B": "2", "A": "1"}}', type=EngineConfig)
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint != EngineConfig(index=0, env={"A": "1"}).fingerprint
