"""Addresses, agent.json and the flags that make it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bridge_agent.cli import _engine, _moved
from bridge_agent.config import (
    AgentConfig,
    Listeners,
    StateDir,
    load_config,
    save_settings,
)
from bridge_agent.engines.config import EngineConfig
from bridge_core.addresses import join_address, split_address
from bridge_core.command.labels import labels_of
from bridge_core.errors import Fatal

SETTINGS = AgentConfig(
    name="n1",
    trust_domain="mesh",
    registries=("r:11400",),
    etcd=("https://r:2379",),
    peer_address="10.0.0.1:11445",
    engines=(EngineConfig(index=0, kind="ollama", attach="http://127.0.0.1:11434"),),
    labels={"zone": "a"},
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("0.0.0.0", 80)),
        ("host.example:0", ("host.example", 0)),
    ],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text, flag="--http") == parts
    assert split_address(join_address(*parts), flag="--http") == parts


@pytest.mark.parametrize("text", ["80", "host:", "host:http", "host:70000", ""])
def test_what_is_no_address_names_the_flag(text: str) -> None:
    with pytest.raises(Fatal, match="--grpc"):
        split_address(text, flag="--grpc")


def test_settings_survive_the_disk(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    save_settings(state, SETTINGS)
    assert load_config(state) == SETTINGS
    assert state.settings.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": 3}', b'{"name": "n"}', b"\xff\xff"])
def test_damaged_settings_are_said_to_be_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.json").write_bytes(content)
    with pytest.raises(Fatal, match=r"agent\.json cannot be used"):
        load_config(StateDir(tmp_path))


def test_two_listeners_at_one_port_are_refused() -> None:
    with pytest.raises(Fatal, match="--http and --grpc"):
        _moved(Listeners(), http="127.0.0.1:7", grpc="127.0.0.1:7", https=None)
    assert _moved(Listeners(), http="127.0.0.1:0", admin="127.0.0.1:0").http == "127.0.0.1:0"


def test_engines() -> None:
    assert _engine("llamacpp", None, None) == EngineConfig(index=0)
    assert _engine("ollama", 2, None) == EngineConfig(index=0, kind="ollama", num_parallel=2)
    attached = _engine("attach=http://127.0.0.1:9", None, None)
    assert (attached.kind, attached.attach) == ("ollama", "http://127.0.0.1:9")


@pytest.mark.parametrize("text", ["vllm", "attach=", "attach", "attach=ftp://x", "llamacpp=x"])
def test_unknown_engines_are_refused(text: str) -> None:
    with pytest.raises(Fatal):
        _engine(text, None, None)


def test_labels() -> None:
    assert labels_of(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    with pytest.raises(Fatal):
        labels_of(["novalue"])


def test_settings_of_a_later_release_are_read() -> None:
    document = msgspec.to_builtins(SETTINGS) | {"future": 1}
    assert msgspec.json.decode(msgspec.json.encode(document), type=AgentConfig) == SETTINGS


def test_a_nodes_own_class_is_read_as_mesh_config_is(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    limits = {"memoryMax": "2GiB", "pidsMax": 500}
    save_settings(state, msgspec.structs.replace(SETTINGS, node_class={"limits": limits}))
    own = load_config(state).own_class
    assert own is not None
    assert (own.limits.memory_max, own.limits.pids_max) == (2 << 30, 500)
    assert SETTINGS.own_class is None


def test_every_fault_of_a_nodes_own_class_is_said_at_once() -> None:
    wrong = {"limits": {"memoryMax": "2GB"}, "gpus": {}}
    with pytest.raises(Fatal, match=r"agent\.json .* limits\.memoryMax: .*2GB.*; gpus: is not a known key"):
        _ = msgspec.structs.replace(SETTINGS, node_class=wrong).own_class
