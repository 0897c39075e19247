"""Addresses, agent.json and the flags that make it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.cli import _engine, _moved, _traces
from bridge_agent.config import (
    AgentConfig,
    Listeners,
    StateDir,
    load_config,
    save_config,
)
from bridge_agent.engines.config import EngineConfig
from bridge_agent.gateway.config import GatewayConfig, GatewaySection, ResumePolicy
from bridge_agent.models.section import ModelsSection
from bridge_agent.tracing.section import TracesSection
from bridge_core.addresses import join_address, split_address
from bridge_core.command.labels import labels_of
from bridge_core.errors import Fatal
from bridge_core.http_access import Origins

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


@pytest.mark.parametrize(
    ("engines", "section", "says"),
    [
        ((EngineConfig(0),), ModelsSection(sealed=True), ""),
        ((EngineConfig(0), EngineConfig(1)), ModelsSection(sealed=True), ""),
        (SETTINGS.engines, ModelsSection(), ""),
        (
            (EngineConfig(0), EngineConfig(1, attach="http://127.0.0.1:1")),
            ModelsSection(sealed=True),
            "the attached engine 1 (http://127.0.0.1:1): sealing does not cover it",
        ),
        ((EngineConfig(0, kind="ollama"),), ModelsSection(sealed=True), "the engine 0 of kind ollama"),
        (
            (EngineConfig(0), EngineConfig(1, models_dir="/x")),
            ModelsSection(sealed=True),
            "different models_dir",
        ),
        ((EngineConfig(0),), ModelsSection(sealed=True, pull_by_engine=True), "models.pull_by_engine"),
    ],
)
def test_what_cannot_be_sealed_is_refused_by_name(
    tmp_path: Path, engines: tuple[EngineConfig, ...], section: ModelsSection, says: str
) -> None:
    state = StateDir(tmp_path)
    save_config(state, msgspec.structs.replace(SETTINGS, engines=engines, models=section))
    if not says:
        assert load_config(state).models == section
        return
    with pytest.raises(Fatal, match=re.escape(says)):
        load_config(state)


def test_settings_survive_the_disk(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    save_config(state, SETTINGS)
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


def written(tmp_path: Path, **changes: Any) -> StateDir:
    document = msgspec.to_builtins(SETTINGS) | changes
    (tmp_path / "agent.json").write_bytes(msgspec.json.encode(document))
    return StateDir(tmp_path)


def test_every_unknown_key_is_told_with_the_one_that_was_meant(tmp_path: Path) -> None:
    state = written(
        tmp_path,
        nodeClass={},
        listeners={"http": "127.0.0.1:1", "htps": "127.0.0.1:2"},
        engines=[{"index": 0}, {"index": 1, "num-paralel": 3}],
        gateway={"maxBody": 1, "resume": {"patiense": 3}, "zzz": 1},
    )
    with pytest.raises(Fatal) as caught:
        load_config(state)
    assert caught.value.message.partition("cannot be used: ")[2].split("; ") == [
        "listeners.htps is not a known key: did you mean https?",
        "engines[1].num-paralel is not a known key: did you mean num_parallel?",
        "gateway.maxBody is not a known key: did you mean max_body?",
        "gateway.resume.patiense is not a known key: did you mean patience?",
        "gateway.zzz is not a known key",
        "nodeClass is not a known key: did you mean node_class?",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"gateway": {"node": "n2"}},
        {"gateway": {"max_body": 0}},
        {"gateway": {"fan_out_s": -1}},
        {"gateway": {"pulse": {"tick_s": 0}}},
        {"gateway": {"origins": {"extra": ["https://chat.example/"]}}},
        {"gateway": {"origins": {"extra": ["chat.example"]}}},
        {"gateway": {"origins": {"extra": ["https://*.*.example"]}}},
        {"labels": {f"k{n}": "" for n in range(65)}},
        {"registries": ["r:1"] * 65},
        {"engines": [{"index": 0, "context_length": 1 << 40}]},
    ],
)
def test_what_an_agent_could_not_run_with_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(Fatal, match=r"agent\.json cannot be used: .*"):
        load_config(written(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"name": "\xff"}', b" " * (5 << 20), b"1" * 10_000])
def test_whatever_lies_there_is_no_more_than_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.json").write_bytes(content)
    with pytest.raises(Fatal, match=r"agent\.json cannot be used"):
        load_config(StateDir(tmp_path))


def test_every_field_of_the_gateway_is_reached_from_the_file(tmp_path: Path) -> None:
    wanted = GatewaySection(
        origins=Origins(("https://chat.example", "http://*.lab.example:3000", "*")),
        host_names=("ollama.internal",),
        max_body=5,
        default_deadline_s=7.5,
        fan_out_s=0.5,
        explained=3,
        suspect_s=0.0,
        load_wait_s=1.0,
        load_keep_alive_s=0.0,
        ask_owner=True,
        batching=None,
        pulse=None,
        resume=ResumePolicy(stall_floor=2, patience=0.0),
    )
    fields = msgspec.structs.asdict(wanted)
    assert all(value != getattr(GatewaySection(), name) for name, value in fields.items())
    config = load_config(written(tmp_path, gateway=wanted))
    assert config.gateway == wanted
    own = {"node", "host_name"}
    assert own | set(fields) == set(GatewayConfig.__struct_fields__)
    assert GatewayConfig(node="n1", **fields).origins.allows("https://chat.example")
    save_config(StateDir(tmp_path), config)
    assert load_config(StateDir(tmp_path)) == config


def test_a_nodes_own_class_is_read_as_mesh_config_is(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    limits = {"memoryMax": "2GiB", "pidsMax": 500}
    save_config(state, msgspec.structs.replace(SETTINGS, node_class={"limits": limits}))
    own = load_config(state).own_class
    assert own is not None
    assert (own.limits.memory_max, own.limits.pids_max) == (2 << 30, 500)
    assert SETTINGS.own_class is None


def test_every_fault_of_a_nodes_own_class_is_said_at_once() -> None:
    wrong = {"limits": {"memoryMax": "2GB"}, "gpus": {}}
    with pytest.raises(Fatal, match=r"agent\.json .* limits\.memoryMax: .*2GB.*; gpus: is not a known key"):
        _ = msgspec.structs.replace(SETTINGS, node_class=wrong).own_class


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"endpoint": "http://127.0.0.1:4318/v1/traces"}, ""),
        ({"endpoint": "http://collector:4318/v1/traces", "ratio": 1, "slow_s": 0.5}, ""),
        ({"endpoint": "https://otlp.example/v1/traces?a=b", "headers": "/h", "ca": "/ca.pem"}, ""),
        ({"endpoint": "http://localhost:4318/v1/traces", "headers": "/h"}, ""),
        ({"endpoint": "http://[::1]:4318/v1/traces", "headers": "/h"}, ""),
        ({"endpoint": "http://collector:4318/v1/traces", "headers": "/h"}, "headers are secrets"),
        ({"endpoint": "http://10.0.0.1:4318/v1/traces", "headers": "/h"}, "headers are secrets"),
        ({"endpoint": "http://localhost:4318/", "ca": "/ca.pem"}, "traces.ca is for an https://"),
        ({"endpoint": "https://me:pw@otlp.example/"}, "no user, password and fragment"),
        ({"endpoint": "https://otlp.example/#a"}, "no user, password and fragment"),
        ({"endpoint": "collector:4317"}, "is an address such as"),
        ({"endpoint": "grpc://collector:4317"}, "is an address such as"),
        ({"endpoint": "http:///v1/traces"}, "is an address such as"),
        ({"endpoint": "http://a:99999/"}, "out of range"),
        ({"endpoint": "http://a:0/"}, "is an address such as"),
        ({"endpoint": "http://a/\r\nx: y"}, "characters that no address has"),
        ({"endpoint": "http://ä/"}, "characters that no address has"),
        ({"endpoint": ""}, "length >= 1"),
        ({}, "missing required field `endpoint`"),
        ({"endpoint": "http://a/", "ratio": 1.1}, "<= 1.0"),
        ({"endpoint": "http://a/", "ratio": -0.1}, ">= 0.0"),
        ({"endpoint": "http://a/", "slow_s": 0}, "> 0.0"),
        ({"endpoint": "http://a/", "most_per_s": 1e9}, "<= 10000.0"),
        ({"endpoint": "http://a/", "slowS": 3}, "did you mean slow_s?"),
    ],
)
def test_where_traces_go_is_checked(tmp_path: Path, section: dict[str, Any], says: str) -> None:
    state = written(tmp_path, traces=section)
    if not says:
        assert load_config(state).traces == TracesSection(**section)
        return
    with pytest.raises(Fatal, match=re.escape(says)):
        load_config(state)


def test_without_them_no_traces_are_made(tmp_path: Path) -> None:
    assert load_config(written(tmp_path)).traces is None


def test_a_join_takes_the_address_alone_and_says_what_is_wrong_with_it() -> None:
    assert _traces(None) is None
    assert _traces("http://c:4318/v1/traces") == TracesSection(endpoint="http://c:4318/v1/traces")
    with pytest.raises(Fatal, match=r"--traces: .* such as http://localhost:4318/v1/traces"):
        _traces("c:4318")
