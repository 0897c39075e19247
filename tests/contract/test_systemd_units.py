"""Our units as systemd reads them, and as they are put in place and taken away."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from bridge_agent import systemd as agent_service
from bridge_agent.config import AgentConfig, Listeners, StateDir
from bridge_agent.engines.config import EngineConfig
from bridge_agent.models.section import ModelsSection
from bridge_agent.models.shared.section import SharedSection
from bridge_core.errors import BridgeError, Fatal
from bridge_core.etcd_server import find_etcd
from bridge_core.systemd import placement
from bridge_core.systemd.manager import ServiceManager
from bridge_core.systemd.units import Service, Unit, unit_folder
from bridge_registry import systemd as registry_service
from bridge_registry.cli import app as registry_command
from bridge_registry.systemd import ServiceOptions

SETTINGS = AgentConfig(
    name="node1",
    trust_domain="bridge.local",
    registries=("registry.example:11400",),
    etcd=("https://registry.example:2379",),
    peer_address="node1.example:11445",
)
analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: systemd)"
)
# `systemd-analyze security` of 252 said 5.3 and 1.4 of the others (installed in /opt: 5.1 and 1.1); versions
# differ a little. 10 is open to all, and what loses a wall by mistake is past these.
CONTROL_PLANE = ("bridge-etcd.service", "bridge-store-guard.service", "bridge-registry.service")
EXPOSURE = {"bridge-agent.service": 5.5, "bridge-engines.service": 3.0, **dict.fromkeys(CONTROL_PLANE, 1.7)}


def agent_files(state: Path, settings: AgentConfig = SETTINGS) -> Service:
    return agent_service.agent_service(settings, StateDir(state))


def registry_files() -> Service:
    return registry_service.registry_service(ServiceOptions(name="registry1", hosts=("127.0.0.1",)))


def machine(root: Path, *services: Service) -> Path:
    """A system's root with these services as they are installed, and what they start; returns their units."""
    folder, commands = root / "etc/systemd/system", root / "usr/local/bin"
    for one in services:
        for path, text in ServiceManager(folder, variables=root / "etc/bridge").files(one).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    commands.mkdir(parents=True)
    for command in (*placement.COMMANDS, "etcd"):
        (commands / command).write_text("#!/bin/sh\n")
        (commands / command).chmod(0o755)
    return folder


def run_analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def faults(folder: Path) -> list[str]:
    """What systemd says of the units in a folder; that the programs are not here is not theirs."""
    units = sorted(path for path in folder.iterdir() if path.is_file())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = (done.stdout + done.stderr).splitlines()
    return [line for line in said if "bridge-" in line and "is not executable" not in line]


@analyze
def test_systemd_finds_no_fault_with_them(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(
        SETTINGS,
        listeners=Listeners(http="127.0.0.1:8000", peer="[fd00::1]:9000"),
        engines=(EngineConfig(index=0, models_dir=str(tmp_path / "big disk")),),
    )
    odd = agent_files(tmp_path / "a state folder, 100% odd", settings)
    assert all(one.drop_in for one in odd.units if one.name != agent_service.ENGINES_UNIT)
    assert faults(machine(tmp_path / "odd", odd, registry_files())) == []
    assert faults(machine(tmp_path / "plain", agent_files(agent_service.STATE), registry_files())) == []


@analyze
def test_a_fault_in_a_unit_would_be_found(tmp_path: Path) -> None:
    folder = machine(tmp_path, agent_files(tmp_path / "state"))
    unit = folder / agent_service.AGENT_UNIT
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notifies"))
    assert any("notifies" in line for line in faults(folder))


@analyze
@pytest.mark.parametrize("name", EXPOSURE)
def test_they_are_as_closed_as_their_jobs_allow(tmp_path: Path, name: str) -> None:
    folder = machine(tmp_path, agent_files(agent_service.STATE), registry_files())
    version = re.search(r"systemd (\d+)", run_analyze("--version"))
    if version is None or int(version[1]) < 250:
        pytest.skip("systemd-analyze cannot judge units offline before version 250")
    said = run_analyze("security", "--offline=yes", "--no-pager", folder / name)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found is not None
    assert float(found[1]) <= EXPOSURE[name]


def test_units_are_installed_as_they_lie_in_the_folder(tmp_path: Path) -> None:
    units = [*agent_files(tmp_path / "state").units, *registry_files().units]
    assert {one.name: one.text for one in units} == {
        path.name: path.read_text() for path in unit_folder().iterdir()
    }


def test_what_the_folder_says_of_a_usual_node_needs_no_drop_in() -> None:
    service = agent_files(agent_service.STATE)
    # Where the program lies in somebody's home, that is one thing more to say.
    assert {one.drop_in.replace("[Service]\nProtectHome=read-only\n", "") for one in service.units} == {""}
    words = "BRIDGE_AGENT_STATE_DIR=/var/lib/bridge/agent\n"
    assert service.variables == {
        "agent.env": f"# The node node1; written by `bridge-agent service install`.\n{words}"
    }


def test_the_services_of_a_registry_are_walled_off_alike() -> None:
    etcd, guard, registry = (one.text.partition("# A user that exists")[2] for one in registry_files().units)
    assert etcd == guard == registry != ""


def test_nodes_get_a_guard_that_comes_after_etcd_and_before_the_registry() -> None:
    own = registry_files()
    foreign = registry_service.registry_service(ServiceOptions(name="r1", etcd="https://etcd.example:2379"))
    assert [one.name for one in own.units] == list(CONTROL_PLANE)
    assert [one.name for one in foreign.units] == list(CONTROL_PLANE[1:])
    assert all(one.enabled for one in own.units)
    texts = {one.name: one.text for one in own.units}
    for name, before in (
        ("bridge-store-guard.service", ["bridge-etcd.service"]),
        ("bridge-registry.service", ["bridge-etcd.service", "bridge-store-guard.service"]),
    ):
        for setting in ("After", "Wants"):
            [line] = [line for line in texts[name].splitlines() if line.startswith(f"{setting}=")]
            assert set(before) <= set(line.partition("=")[2].split()), (name, setting)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"hosts": ("192.0.2.1",)}, None),  # the registry itself says the first host's
        ({"hosts": ("192.0.2.1",), "guard_listen": ":7404"}, "https://192.0.2.1:7404"),
        ({"grpc": "[fd00::1]:11400", "guard_listen": "[::]:7404"}, "https://[fd00::1]:7404"),
        ({"guards": "https://a:11404,https://b:11404"}, "https://a:11404,https://b:11404"),
    ],
)
def test_nodes_are_told_where_the_guard_listens(given: dict[str, Any], told: str | None) -> None:
    service = registry_service.registry_service(ServiceOptions(name="r1", etcd="https://a:2379", **given))
    words = service.variables["registry.env"].splitlines()
    said = [line.partition("=")[2] for line in words if line.startswith("BRIDGE_REGISTRY_STORE_GUARD=")]
    assert said == ([] if told is None else [told])


def test_a_guard_without_a_fixed_port_is_refused() -> None:
    with pytest.raises(Fatal, match="no fixed port"):
        registry_service.registry_service(ServiceOptions(name="r1", guard_listen="0.0.0.0:0"))


def test_etcd_is_on_the_loopback_so_a_registry_may_be_known_by_a_name_alone() -> None:
    service = registry_service.registry_service(ServiceOptions(name="r1", hosts=("registry.example",)))
    assert "ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379\n" in service.variables["etcd.env"]


def test_the_agents_units_follow_its_settings(tmp_path: Path) -> None:
    models, state = str(tmp_path / "big disk"), tmp_path / "state"
    settings = msgspec.structs.replace(
        SETTINGS,
        listeners=Listeners(http="127.0.0.1:8000", peer="[fd00::1]:9000", grpc=":7000"),
        engines=(EngineConfig(index=0, models_dir=models),),
    )
    service = agent_files(state, settings)
    added = {one.name: one.drop_in for one in service.units}
    condition = f"ConditionPathExists=\nConditionPathExists={state}/agent.json\n"
    assert added["bridge-agent-http.socket"] == (
        f"[Unit]\n{condition}\n[Socket]\nListenStream=\nListenStream=127.0.0.1:8000\n"
    )
    assert "ListenStream=\nListenStream=[fd00::1]:9000\n" in added["bridge-agent-peer.socket"]
    assert "ListenStream=\nListenStream=0.0.0.0:7000\n" in added["bridge-agent-grpc.socket"]
    assert added["bridge-agent-https.socket"] == f"[Unit]\n{condition}"
    assert f'ReadWritePaths=\nReadWritePaths={state} "{models}"\n' in added["bridge-agent.service"]
    assert condition in added["bridge-agent.service"]
    assert [one.name for one in service.units if not one.enabled] == ["bridge-engines.service"]
    assert f"BRIDGE_AGENT_STATE_DIR={state}\n" in service.variables["agent.env"]


@pytest.mark.parametrize("publish", [False, True])
def test_shared_storage_is_writable_for_who_publishes_and_no_start_waits_for_it(
    tmp_path: Path, publish: bool
) -> None:
    shared = SharedSection("/mnt/all models", publish)
    settings = msgspec.structs.replace(SETTINGS, models=ModelsSection(shared=shared))
    (agent,) = (
        one for one in agent_files(tmp_path / "state", settings).units if one.name == "bridge-agent.service"
    )
    assert ('ReadWritePaths="-/mnt/all models"\n' in agent.drop_in) is publish
    assert "/mnt" not in agent.drop_in.partition("[Service]")[0]


def test_the_registrys_options_are_variables_that_its_command_reads() -> None:
    options = ServiceOptions(
        name="r1",
        trust_domain="lab.example",
        hosts=("192.0.2.1", "r1.example"),
        etcd="https://a:2379,https://b:2379",
        guards="https://r1.example:11404,https://r2.example:11404",
        mesh_config=Path("/etc/bridge/mesh config"),
        seal_key="credential:bridge-kek",
    )
    words = dict(
        line.split("=", 1)
        for line in registry_service.registry_service(options).variables["registry.env"].splitlines()[1:]
    )
    assert words == {
        "BRIDGE_REGISTRY_NAME": "r1",
        "BRIDGE_REGISTRY_TRUST_DOMAIN": "lab.example",
        "BRIDGE_REGISTRY_HOST": '"192.0.2.1 r1.example"',
        "BRIDGE_REGISTRY_GRPC": "0.0.0.0:11400",
        "BRIDGE_REGISTRY_ADMIN": "127.0.0.1:11401",
        "BRIDGE_REGISTRY_ETCD": "https://a:2379,https://b:2379",
        "BRIDGE_REGISTRY_STORE_GUARD": "https://r1.example:11404,https://r2.example:11404",
        "BRIDGE_REGISTRY_MESH_CONFIG": '"/etc/bridge/mesh config"',
        "BRIDGE_REGISTRY_SEAL_KEY": "credential:bridge-kek",
        "BRIDGE_STORE_GUARD_LISTEN": "0.0.0.0:11404",
        "BRIDGE_STORE_GUARD_ADMIN": "127.0.0.1:11405",
    }
    commands = typer.main.get_command(registry_command).commands
    run, guard, init = (
        {option.envvar for option in commands[name].params if option.envvar}
        for name in ("run", "store-guard", "init")
    )
    # Pods are not vouched for beside systemd.
    kubernetes = {"BRIDGE_REGISTRY_KUBERNETES_JOIN", "BRIDGE_REGISTRY_KUBERNETES_DNS_NAME"}
    assert set(words) | {"BRIDGE_REGISTRY_ETCD_RBAC"} | kubernetes == run | guard
    # Each starts with what the others were told: one registry's identities, one etcd.
    assert guard - run == {"BRIDGE_STORE_GUARD_LISTEN", "BRIDGE_STORE_GUARD_ADMIN"}
    assert guard & run == {"BRIDGE_REGISTRY_ETCD", "BRIDGE_REGISTRY_NAME"}
    assert init <= run


@pytest.mark.parametrize(
    ("address", "why"), [("0.0.0.0:0", "has no fixed port"), ("localhost:80", "is on the name 'localhost'")]
)
def test_a_listener_that_systemd_cannot_open_is_refused(tmp_path: Path, address: str, why: str) -> None:
    settings = msgspec.structs.replace(SETTINGS, listeners=Listeners(https=address))
    with pytest.raises(Fatal, match=f"listener https {why}"):
        agent_files(tmp_path, settings)


def test_a_foreign_etcd_gets_no_unit_and_its_access_control_is_left_alone() -> None:
    service = registry_service.registry_service(ServiceOptions(name="r1", etcd="https://etcd.example:2379"))
    assert "bridge-etcd.service" not in {one.name for one in service.units}
    assert service.gone == ("bridge-etcd.service",)
    assert list(service.variables) == ["registry.env"]
    assert "BRIDGE_REGISTRY_ETCD=https://etcd.example:2379\n" in service.variables["registry.env"]
    assert "RBAC" not in service.variables["registry.env"]


def test_an_etcd_of_ours_is_told_all_by_variables() -> None:
    service = registry_files()
    etcd = service.units[0]
    binary = find_etcd()
    named = f"ExecStart=\nExecStart={binary}\n" in etcd.drop_in
    assert named != (str(binary) in {"/usr/local/bin/etcd", "/usr/bin/etcd"})  # where systemd finds it itself
    assert "ETCD_DATA_DIR=/var/lib/bridge/etcd\n" in service.variables["etcd.env"]
    assert "ETCD_CLIENT_CERT_AUTH=true\n" in service.variables["etcd.env"]


class Recorded:
    """systemctl's calls; `fault` is what the next one fails with."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.fault = ""

    def __call__(self, arguments: Sequence[str]) -> str:
        self.calls.append(list(arguments))
        if self.fault:
            raise BridgeError(self.fault)
        return ""


SERVICE = Service(
    (
        Unit("bridge-a.socket", "[Socket]\n", drop_in="[Unit]\n"),
        Unit("bridge-b.service", "[Service]\n", enabled=False),
    ),
    {"a.env": "A=1\n"},
)


@pytest.fixture
def systemctl() -> Recorded:
    return Recorded()


@pytest.fixture
def manager(tmp_path: Path, systemctl: Recorded) -> ServiceManager:
    folder = tmp_path / "units"
    folder.mkdir()
    return ServiceManager(
        folder,
        packaged=tmp_path / "packaged",
        variables=tmp_path / "bridge",
        commands=tmp_path / "bin",
        running=tmp_path,
        call=systemctl,
        root=True,
    )


def test_installing_writes_then_enables_and_says_so(
    tmp_path: Path, manager: ServiceManager, systemctl: Recorded
) -> None:
    done = manager.install(SERVICE)
    written = manager.files(SERVICE)
    assert {path: path.read_text() for path in written} == written
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "bridge/a.env",
        "units/bridge-a.socket",
        "units/bridge-a.socket.d/10-bridge.conf",
        "units/bridge-b.service",
    ]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o644}
    assert systemctl.calls == [["daemon-reload"], ["enable", "--now", "bridge-a.socket"]]
    beside = Path(sys.executable).parent
    assert done == [
        *(f"linked {tmp_path}/bin/{name} to {beside / name}" for name in placement.COMMANDS),
        *(f"wrote {path}" for path in written),
        "enabled and started bridge-a.socket",
    ]
    assert manager.install(SERVICE) == ["enabled and started bridge-a.socket"]  # nothing to write


def test_what_ran_before_a_change_is_said_to_go_on(manager: ServiceManager) -> None:
    manager.install(SERVICE)
    plain = msgspec.structs.replace(SERVICE, units=tuple(Unit(one.name, one.text) for one in SERVICE.units))
    assert "systemctl restart" not in str(manager.install(plain))
    assert not (manager.folder / "bridge-a.socket.d/10-bridge.conf").exists()
    other = msgspec.structs.replace(plain, variables={"a.env": "A=2\n"})
    assert manager.install(other)[-1].startswith(
        "what ran already goes on as it was started, until systemctl"
    )


def test_removing_takes_what_is_there_and_leaves_the_administrators_own(
    tmp_path: Path, manager: ServiceManager, systemctl: Recorded
) -> None:
    manager.install(SERVICE)
    own = manager.folder / "bridge-a.socket.d/override.conf"
    own.write_text("[Socket]\n")
    systemctl.calls.clear()
    done = manager.remove(["bridge-a.socket", "bridge-b.service"], ["a.env"])
    assert [path for path in manager.folder.rglob("*") if path.is_file()] == [own]
    assert systemctl.calls == [["disable", "--now", "bridge-a.socket", "bridge-b.service"], ["daemon-reload"]]
    assert not (tmp_path / "bridge").exists()
    assert done[-1] == f"removed the link {tmp_path}/bin/bridge-engine"
    assert list((tmp_path / "bin").iterdir()) == []
    assert manager.remove(["bridge-a.socket", "bridge-b.service"]) == []


def test_the_commands_stay_while_another_service_does(manager: ServiceManager, tmp_path: Path) -> None:
    manager.install(SERVICE)
    (manager.folder / "bridge-registry.service").write_text("[Service]\n")
    manager.remove(["bridge-a.socket", "bridge-b.service"], ["a.env"])
    assert len(list((tmp_path / "bin").iterdir())) == 4


def test_a_unit_that_is_done_without_goes(manager: ServiceManager, systemctl: Recorded) -> None:
    manager.install(SERVICE)
    systemctl.calls.clear()
    manager.install(Service((SERVICE.units[1],), {}, gone=("bridge-a.socket",)))
    assert systemctl.calls[0] == ["disable", "--now", "bridge-a.socket"]
    assert not manager.has("bridge-a.socket")


def test_units_of_a_package_are_used_where_they_lie(
    tmp_path: Path, manager: ServiceManager, systemctl: Recorded
) -> None:
    manager.install(SERVICE)  # as it was before there was a package
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    for one in SERVICE.units:
        (packaged / one.name).write_text(one.text)
    assert "wrote" not in str(manager.install(SERVICE))
    assert [path.name for path in manager.folder.rglob("*") if path.is_file()] == ["10-bridge.conf"]
    assert not manager.has("bridge-a.socket")  # it lies there, and nobody has asked for it
    wants = manager.folder / "sockets.target.wants"
    wants.mkdir()
    (wants / "bridge-a.socket").symlink_to(packaged / "bridge-a.socket")
    assert manager.has("bridge-a.socket")
    systemctl.calls.clear()
    manager.remove(["bridge-a.socket", "bridge-b.service", "bridge-c.service"], ["a.env"])
    assert systemctl.calls[0] == ["disable", "--now", "bridge-a.socket", "bridge-b.service"]
    assert not list(manager.folder.glob("*.d"))
    assert len(list(packaged.iterdir())) == 2  # the package's own


def test_another_version_of_a_packages_unit_is_written_over_it(
    tmp_path: Path, manager: ServiceManager
) -> None:
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged/bridge-b.service").write_text("[Service]\nExecStart=older\n")
    manager.install(SERVICE)
    assert (manager.folder / "bridge-b.service").read_text() == SERVICE.units[1].text


def test_commands_that_a_package_has_linked_are_left_at_that(tmp_path: Path) -> None:
    usr = tmp_path / "usr"
    usr.mkdir()
    for name in placement.COMMANDS:
        (usr / name).symlink_to(Path(sys.executable).with_name(name))
    assert placement.put_on_path(tmp_path / "bin", packaged=usr) == []
    assert not (tmp_path / "bin").exists()


def test_a_program_of_our_name_is_left_and_named(manager: ServiceManager, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bridgectl").write_text("theirs")
    with pytest.raises(Fatal, match="bridgectl is there and not a link of ours"):
        manager.install(SERVICE)
    assert (tmp_path / "bin/bridgectl").read_text() == "theirs"


def test_a_unit_that_does_not_start_is_told(manager: ServiceManager, systemctl: Recorded) -> None:
    systemctl.fault = "Job for a.socket failed."
    with pytest.raises(BridgeError, match=re.escape("Job for a.socket failed.")):
        manager.install(SERVICE)


def test_nothing_is_written_without_systemd_or_rights(tmp_path: Path, systemctl: Recorded) -> None:
    folder = tmp_path / "units"
    folder.mkdir()
    for manager, sentence in (
        (ServiceManager(folder, running=tmp_path / "no", call=systemctl, root=True), "systemd does not run"),
        (ServiceManager(folder, running=tmp_path, call=systemctl, root=False), "only root installs services"),
        (ServiceManager(tmp_path / "gone", running=tmp_path, call=systemctl, root=True), "cannot be written"),
    ):
        with pytest.raises(Fatal, match=sentence):
            manager.install(SERVICE)
    assert systemctl.calls == []
    assert list(folder.iterdir()) == []


def test_only_the_installed_nodes_folder_is_taken_for_the_service(
    tmp_path: Path, manager: ServiceManager
) -> None:
    assert not agent_service.runs_as_service(manager, StateDir(tmp_path / "agent"))
    manager.install(agent_files(tmp_path / "agent"))
    for name, expected in (("agent", True), ("agent2", False), ("agen", False)):
        assert agent_service.runs_as_service(manager, StateDir(tmp_path / name)) is expected


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs this machine")
def test_a_join_as_a_service_is_refused_before_anything_else_without_systemd(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("bridge-agent")), "join", "127.0.0.1:1", "--token", "-"]
    done = subprocess.run(
        [*command, "--systemd", "--state-dir", str(tmp_path / "state")],
        input="no token at all",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "systemd does not run this machine" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()
