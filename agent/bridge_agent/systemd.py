"""The agent as a service of systemd: its units, and ending the engines that outlive it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from bridge_agent.config import DEFAULT_PORTS, AgentConfig, Listeners, StateDir
from bridge_core.addresses import join_address, split_address
from bridge_core.errors import Fatal
from bridge_core.systemd import placement
from bridge_core.systemd.manager import ServiceManager
from bridge_core.systemd.units import Service, quoted_path, unit, variable, variables

AGENT_UNIT = "bridge-agent.service"
ENGINES_UNIT = "bridge-engines.service"
SOCKET_UNITS = {name: f"bridge-agent-{name}.socket" for name in DEFAULT_PORTS}
# Sockets first: removed before the agent, no connection starts it again.
ALL_UNITS = (*SOCKET_UNITS.values(), AGENT_UNIT, ENGINES_UNIT)

VARIABLES = "agent.env"
STATE = Path("/var/lib/bridge/agent")  # as the units have it

_STATE_VARIABLE = "BRIDGE_AGENT_STATE_DIR"
_ENGINE_GRACE_S = 10.0


def agent_service(settings: AgentConfig, state: StateDir) -> Service:
    """A node's service: its agent, a socket for each listener, and its engines' keeper.

    Raises:
        Fatal: the node cannot be run as a service as it is; why.
    """
    root = state.root.absolute()
    writable = _writable(settings, state)
    paths = " ".join(quoted_path(path) for path in writable)
    elsewhere = writable != [str(STATE)]
    # An empty value takes back what the unit itself says.
    condition = ["ConditionPathExists=", f"ConditionPathExists={root}/agent.json".replace("%", "%%")]
    unit_lines = [
        *(condition if root != STATE else []),
        *([f"RequiresMountsFor={paths}"] if elsewhere else []),
    ]
    service_lines = [
        *(["ReadWritePaths=", f"ReadWritePaths={paths}"] if elsewhere else []),
        *_published(settings),
        *placement.home_settings(_seen(settings, state)),
    ]
    sockets = [
        unit(
            name,
            {
                "Unit": condition if root != STATE else (),
                "Socket": _listen(listener, getattr(settings.listeners, listener)),
            },
        )
        for listener, name in SOCKET_UNITS.items()
    ]
    agent = unit(AGENT_UNIT, {"Unit": unit_lines, "Service": service_lines})
    # The engines' keeper has nothing to do before an agent is there, which pulls it in.
    engines = unit(ENGINES_UNIT, enabled=False)
    says = f"The node {settings.name}; written by `bridge-agent service install`."
    words = variables({_STATE_VARIABLE: str(root)}, says=says)
    return Service((*sockets, engines, agent), {VARIABLES: words})


def _writable(settings: AgentConfig, state: StateDir) -> list[str]:
    models = [one.models_dir for one in settings.engines if one.models_dir is not None and one.attach is None]
    return list(dict.fromkeys([str(state.root.absolute()), *models]))


def _published(settings: AgentConfig) -> list[str]:
    """Shared storage that the agent writes to; it starts also where that is not mounted."""
    shared = settings.models.shared
    return (
        [f"ReadWritePaths={quoted_path(f'-{shared.path}')}"]
        if shared is not None and shared.path and shared.publish
        else []
    )


def _seen(settings: AgentConfig, state: StateDir) -> list[str]:
    binaries = [path for one in settings.engines for path in (one.binary, one.llama_server) if path]
    named = settings.models.shared
    shared = [] if named is None else [one for one in (named.path, named.file) if one]
    return [*_writable(settings, state), *binaries, *shared, *placement.program_folders()]


def _listen(name: str, address: str) -> list[str]:
    fixed = _fixed(name, address)
    if fixed == _fixed(name, getattr(Listeners(), name)):
        return []
    return ["ListenStream=", f"ListenStream={fixed}"]


def _fixed(name: str, address: str) -> str:
    host, port = split_address(address, flag=f"--{name}")
    if not port:
        raise Fatal(
            f"the listener {name} has no fixed port, which a socket of systemd needs",
            hint=f"join with --{name} HOST:PORT",
        )
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise Fatal(
            f"the listener {name} is on the name {host!r}, and a socket of systemd needs an address",
            hint=f"join with --{name} ADDRESS:PORT",
        ) from None
    return join_address(host, port)


def check_listeners(listeners: Listeners) -> None:
    """Raises Fatal where systemd could not open one of them."""
    for name in DEFAULT_PORTS:
        _fixed(name, getattr(listeners, name))


def runs_as_service(manager: ServiceManager, state: StateDir) -> bool:
    """Whether the installed units are those of the node in `state`."""
    line = variable(_STATE_VARIABLE, str(state.root.absolute()))
    return manager.has(AGENT_UNIT) and line in manager.text(VARIABLES)


def check(manager: ServiceManager, state: StateDir) -> None:
    """Raises Fatal where the node in `state`, enrolled or not yet, cannot be this machine's service."""
    manager.check()
    placement.check_lasting([str(state.root.absolute()), *placement.program_folders()])
    if manager.has(AGENT_UNIT) and not runs_as_service(manager, state):
        raise Fatal(
            f"{AGENT_UNIT} runs another node of this machine",
            hint="`bridge-agent service remove` takes its units away; one node a machine is a service",
        )


def install(manager: ServiceManager, settings: AgentConfig, state: StateDir) -> list[str]:
    """Puts the node's units in place and starts them; returns what was done. Raises BridgeError."""
    check(manager, state)
    placement.check_lasting(_seen(settings, state))
    try:
        for folder in _writable(settings, state):  # systemd lets the agent write only to what is there
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as fault:
        raise Fatal(f"cannot make {fault.filename}: {fault.strerror}") from fault
    return manager.install(agent_service(settings, state))


def remove(manager: ServiceManager) -> list[str]:
    """Stops agent and engines and takes the units away; returns what was done. Raises BridgeError."""
    return manager.remove(ALL_UNITS, [VARIABLES])


async def stop_engines(state: StateDir) -> list[int]:
    """Ends every engine that an agent of this folder has left running; returns their process ids."""
    import asyncio

    folders = [folder for folder in sorted(_children(state.engines.absolute())) if folder.is_dir()]
    return [pid for found in await asyncio.gather(*map(_end, folders)) for pid in found]


async def _end(folder: Path) -> list[int]:
    from bridge_agent.engines.process import ProcessRecord, sweep_marked

    record = ProcessRecord.load(folder / "process.json")
    process = record.find(folder) if record is not None else None
    if process is not None:
        try:
            await process.end(_ENGINE_GRACE_S)
        finally:
            process.close()
    await sweep_marked(folder)
    return [process.pid] if process is not None else []


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
