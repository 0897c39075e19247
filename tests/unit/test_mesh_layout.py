"""Where `bridgectl up` puts a mesh's listeners, and which changes of its options it takes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bridge_cli.layout import Layout, MeshFile, MeshOptions, check_options, combined, host_of
from bridge_cli.parts import check_engine, ended, engine_of, etcd_settings, init_command, join_command
from bridge_cli.ports import resolved
from bridge_core.errors import Fatal

STATE = Path("/state")


def test_ports_follow_the_base_port() -> None:
    layout = Layout(STATE, MeshOptions())
    assert layout.names == ["node1", "node2", "node3"]
    assert layout.listeners("node1") == {
        "http": "127.0.0.1:11434",
        "https": "127.0.0.1:11443",
        "grpc": "127.0.0.1:11444",
        "peer": "127.0.0.1:11445",
        "admin": "127.0.0.1:11446",
    }
    assert layout.listeners("node3")["http"] == "127.0.0.1:13434"
    assert layout.listeners("node3")["admin"] == "127.0.0.1:13446"
    assert (layout.registry_grpc, layout.registry_admin) == ("127.0.0.1:11400", "127.0.0.1:11401")
    assert layout.etcd_urls == ("https://127.0.0.1:11402",)
    assert (layout.guard, layout.guard_admin) == ("127.0.0.1:11404", "127.0.0.1:11405")


def test_no_two_listeners_share_a_port() -> None:
    layout = Layout(STATE, MeshOptions(nodes=40))
    parts = ("etcd", "guard", "registry", *layout.names)
    addresses = [address for part in parts for address in layout.addresses(part).values()]
    ports = [address.rpartition(":")[2] for address in addresses]
    assert len(set(ports)) == len(ports) == 2 + 2 + 2 + 5 * 40


def test_only_http_and_admin_stay_on_the_loopback() -> None:
    listeners = Layout(STATE, MeshOptions(host="10.0.0.1")).listeners("node1")
    away = {name for name, address in listeners.items() if address.startswith("10.0.0.1:")}
    assert Layout(STATE, MeshOptions(host="10.0.0.1")).etcd_urls == ("https://127.0.0.1:11402",)
    assert away == {"https", "grpc", "peer"}


@pytest.mark.parametrize(
    ("typed", "host"),
    [
        ("192.0.2.10", "192.0.2.10"),
        ("[FD00::0010]", "fd00::10"),
        ("fd00::10", "fd00::10"),
        ("GPU1.example", "gpu1.example"),
        (" localhost ", "localhost"),
    ],
)
def test_a_host_is_a_name_or_an_address_spelled_in_one_way(typed: str, host: str) -> None:
    assert host_of(typed) == host


def test_an_ipv6_host_has_brackets_wherever_a_port_follows() -> None:
    layout = Layout(STATE, MeshOptions(nodes=1, host="fd00::10"))
    assert layout.registry_grpc == "[fd00::10]:11400"
    assert layout.guard == "[fd00::10]:11404"
    assert layout.etcd_urls == ("https://127.0.0.1:11402",)  # nobody but the guard and the registry
    assert layout.listeners("node1")["peer"] == "[fd00::10]:11445"
    assert layout.mesh({}).agents[0].https == "[fd00::10]:11443"
    assert etcd_settings(layout).url == "https://127.0.0.1:11402"
    assert "--advertise" not in join_command(layout, "node1")


def test_a_name_is_dialled_and_its_address_is_listened_on() -> None:
    layout = Layout(STATE, MeshOptions(nodes=1, host="gpu1.example", address="192.0.2.10"))
    assert layout.registry_grpc == layout.mesh({}).registry.grpc == "gpu1.example:11400"
    assert layout.addresses("registry")["gRPC"] == "192.0.2.10:11400"
    assert layout.listeners("node1")["https"] == "192.0.2.10:11443"
    assert layout.mesh({}).agents[0].https == "gpu1.example:11443"
    argv = join_command(layout, "node1")
    assert argv[argv.index("--advertise") + 1] == "gpu1.example"
    assert init_command(layout)[-4:] == ["--host", "gpu1.example", "--host", "192.0.2.10"]


def test_a_name_that_no_other_machine_could_use_is_refused() -> None:
    with pytest.raises(Fatal, match="not known here"):
        resolved("no-such-host.invalid")
    assert resolved("localhost") in {"127.0.0.1", "::1"}
    assert resolved("fd00::10") == ""


def test_mesh_json_has_the_promised_shape() -> None:
    layout = Layout(STATE, MeshOptions(nodes=1))
    mesh = layout.mesh({"etcd": 1, "registry": 2, "node1": 3, "guard": 4})
    decoded = msgspec.json.decode(msgspec.json.encode(mesh))
    assert decoded == {
        "agents": [
            {
                "name": "node1",
                "pid": 3,
                "http": "127.0.0.1:11434",
                "https": "127.0.0.1:11443",
                "grpc": "127.0.0.1:11444",
                "peer": "127.0.0.1:11445",
                "admin": "127.0.0.1:11446",
            }
        ],
        "registry": {"pid": 2, "grpc": "127.0.0.1:11400", "admin": "127.0.0.1:11401"},
        "etcd": {"pid": 1, "endpoints": ["https://127.0.0.1:11402"]},
        "guard": {"pid": 4, "listener": "127.0.0.1:11404", "admin": "127.0.0.1:11405"},
        "ca": "/state/registry/pki/ca.pem",
        "client": {"cert": "/state/registry/pki/admin.pem", "key": "/state/registry/pki/admin.key"},
    }
    assert msgspec.json.decode(msgspec.json.encode(mesh), type=MeshFile) == mesh


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (MeshOptions(base_port=1050), "1016"),
        (MeshOptions(base_port=64_000), "66012"),
        (MeshOptions(nodes=60), "70446"),
        (MeshOptions(nodes=0), "--nodes"),
        (MeshOptions(host=""), "--host"),
        (MeshOptions(host="0.0.0.0"), "--host"),
        (MeshOptions(host="::"), "--host"),
        (MeshOptions(host="fe80::1%eth0"), "--host"),
        (MeshOptions(host="192.0.2"), "--host"),
        (MeshOptions(host="a host"), "--host"),
        (MeshOptions(etcd=("https://10.0.0.1:2379", "foo")), "--etcd 'foo'"),
        (MeshOptions(etcd=("",)), "--etcd"),
        (MeshOptions(etcd=("https://a:2379/x",)), "--etcd"),
        (MeshOptions(nodes=1, engine="ollama=http://a:1,http://b:1"), "names 2 Ollamas"),
        (MeshOptions(traces="localhost:4318"), "--traces 'localhost:4318'"),
        (MeshOptions(traces="http://a b/"), "--traces"),
        (MeshOptions(traces="https://me:pw@a/"), "--traces"),
    ],
)
def test_what_no_mesh_can_be_made_with_is_refused(options: MeshOptions, words: str) -> None:
    with pytest.raises(Fatal, match=words):
        check_options(options)


def test_an_etcd_is_named_by_its_address() -> None:
    check_options(MeshOptions(etcd=("https://a.example:2379", "https://10.0.0.1", "https://[::1]:2379/")))


def test_several_nodes_can_share_the_last_ollama() -> None:
    check_options(MeshOptions(nodes=2, engine="ollama=http://a:1,http://b:1"))
    check_options(MeshOptions(nodes=3, engine="ollama=http://a:1,http://b:1"))
    check_options(MeshOptions(nodes=1, engine="ollama=/opt/a,b/ollama"))


def test_every_node_joins_with_the_collector_where_there_is_one() -> None:
    options = MeshOptions(traces="http://localhost:4318/v1/traces")
    check_options(options)
    assert join_command(Layout(STATE, options), "node2")[-2:] == ["--traces", options.traces]
    assert "--traces" not in join_command(Layout(STATE, MeshOptions()), "node2")


def test_a_mesh_keeps_its_options() -> None:
    kept = MeshOptions(nodes=2, base_port=20_000)
    assert combined(None, {"nodes": 2, "base_port": 20_000}) == kept
    assert combined(kept, {}) == kept
    assert combined(kept, {"nodes": 4}).nodes == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base_port": 30_000}, "--base-port 20000, not 30000"),
        ({"engine": "ollama"}, "--engine llamacpp, not ollama"),
        ({"etcd": ("https://a:2379",)}, "--etcd .* not https://a:2379"),
        ({"traces": "http://a/"}, r"--traces \(none\), not http://a/"),
        ({"nodes": 1}, "has 2 nodes"),
    ],
)
def test_a_mesh_is_not_changed_under_way(given: dict[str, object], words: str) -> None:
    with pytest.raises(Fatal, match=words):
        combined(MeshOptions(nodes=2, base_port=20_000), given)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("llamacpp", ["llamacpp", "llamacpp"]),
        ("ollama", ["ollama", "ollama"]),
        ("ollama=/opt/ollama", ["ollama=/opt/ollama", "ollama=/opt/ollama"]),
        ("ollama=http://a:1", ["attach=http://a:1", "attach=http://a:1"]),
        ("ollama=http://a:1,http://b:2", ["attach=http://a:1", "attach=http://b:2"]),
    ],
)
def test_each_node_gets_its_engine(engine: str, expected: list[str]) -> None:
    layout = Layout(STATE, MeshOptions(nodes=2, engine=engine))
    assert [engine_of(layout, name) for name in layout.names] == expected


def test_an_ollama_that_is_not_there_is_named() -> None:
    with pytest.raises(Fatal, match="/no/such/ollama"):
        check_engine("ollama=/no/such/ollama")
    check_engine("ollama=http://127.0.0.1:1")
    check_engine("llamacpp")


_FULL_DISK = '{"level":"panic","msg":"failed to open database","error":"no space left on device"}'
_STACKS = {
    "in the goroutine of main": "goroutine 1 [running]:\nmain.main()\n\t/src/server/main.go:32 +0x45",
    "in another": "goroutine 98 [running]:\ncreated by openBackend\n\t/src/server/backend.go:75 +0x12b",
}


@pytest.mark.parametrize("stack", _STACKS.values(), ids=_STACKS)
def test_an_etcd_that_panicked_gives_its_reason_not_its_stack(tmp_path: Path, stack: str) -> None:
    log = tmp_path / "etcd.log"
    log.write_text(f"{_FULL_DISK}\npanic: failed to open database\n\n{stack}\n")
    said = str(ended("etcd", log))
    assert "failed to open database: no space left on device" in said
    assert ".go:" not in said


def test_a_crash_of_the_go_runtime_is_named(tmp_path: Path) -> None:
    log = tmp_path / "etcd.log"
    log.write_text(f"fatal error: fault\n[signal SIGBUS]\n\n{_STACKS['in another']}\n")
    assert "fatal error: fault" in str(ended("etcd", log))


def test_a_process_that_ended_in_words_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "etcd.log"
    log.write_text(
        f"{_FULL_DISK}\nmain.main()\n\t/src/server/main.go:32 +0x45\nsix\nlines\nof\na new\nstart\n"
    )
    said = str(ended("etcd", log))
    assert "| a new" in said
    assert "no space" not in said
