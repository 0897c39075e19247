"""Where the parts of a mesh on one machine listen and keep their files. Pure.

With the base port B (11434): node k's HTTP is B + 1000·(k-1), its HTTPS, gRPC, peer and admin
listeners follow at +9 to +12; the registry's gRPC and admin listeners are B-34 and B-33, etcd's client
and peer listeners B-32 and B-31, the store guard's and its admin listener B-30 and B-29.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import msgspec

from bridge_core.addresses import LOOPBACK, join_address
from bridge_core.errors import Fatal

DEFAULT_BASE_PORT = 11434
_NODE_STRIDE = 1000
_HIGHEST_OFFSET = 12
_LOWEST_OFFSET = 34
_NAME = re.compile(r"(?!.{254})[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_-]{1,63})*\.?")
_URL = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[^/\s:\[\]]+)(:\d{1,5})?/?")
_COLLECTOR = re.compile(r"https?://[^\s/?#@]+(/[^\s#]*)?")


class MeshOptions(msgspec.Struct, frozen=True):
    """What `bridgectl up` was told; kept, so that the next one brings the same mesh back.

    Attributes:
        nodes: How many agents.
        base_port: Node 1's HTTP port; see the module's text for the others.
        host: Name or address that other machines reach this one at.
        address: What that name is the name of; empty where `host` is an address.
        engine: As `bridgectl up --engine` takes it.
        etcd: Endpoints of an etcd that somebody else runs; empty: our own.
        traces: The collector's address that nodes send traces to; empty: none are made.
    """

    nodes: int = 3
    base_port: int = DEFAULT_BASE_PORT
    host: str = LOOPBACK
    address: str = ""
    engine: str = "llamacpp"
    etcd: tuple[str, ...] = ()
    traces: str = ""

    @property
    def listens(self) -> str:
        """The address that everything but HTTP and the admin listeners listens on."""
        return self.address or self.host


class AgentEntry(msgspec.Struct, frozen=True):
    """An agent in mesh.json; addresses are host:port."""

    name: str
    pid: int
    http: str
    https: str
    grpc: str
    peer: str
    admin: str


class RegistryEntry(msgspec.Struct, frozen=True):
    """The registry in mesh.json."""

    pid: int
    grpc: str
    admin: str


class EtcdEntry(msgspec.Struct, frozen=True):
    """etcd in mesh.json; `pid` is 0 when somebody else runs it."""

    pid: int
    endpoints: tuple[str, ...]


class GuardEntry(msgspec.Struct, frozen=True):
    """The store guard in mesh.json: what agents reach etcd through."""

    pid: int
    listener: str
    admin: str


class ClientEntry(msgspec.Struct, frozen=True):
    """An identity to call the mesh with: an admin's."""

    cert: str
    key: str


class MeshFile(msgspec.Struct, frozen=True):
    """mesh.json: what runs where."""

    agents: tuple[AgentEntry, ...]
    registry: RegistryEntry
    etcd: EtcdEntry
    guard: GuardEntry
    ca: str
    client: ClientEntry


class Layout:
    """Every address and path of the mesh with `options` under `state`."""

    def __init__(self, state: Path, options: MeshOptions) -> None:
        self.state = state
        self.options = options
        self.logs = state / "logs"
        self.mesh_file = state / "mesh.json"
        self.registry_state = state / "registry"
        self.pki = self.registry_state / "pki"
        self.etcd_data = state / "etcd"
        self.model_cache = state / "model-cache"
        base = options.base_port
        self.registry_grpc = join_address(options.host, base - 34)
        self.registry_admin = f"{LOOPBACK}:{base - 33}"
        self.etcd_client_port = base - 32
        self.etcd_peer_port = base - 31
        self.guard = join_address(options.host, base - 30)
        self.guard_admin = f"{LOOPBACK}:{base - 29}"

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [f"node{number}" for number in range(1, self.options.nodes + 1)]

    @property
    def etcd_urls(self) -> tuple[str, ...]:
        """Where etcd is reached."""
        return self.options.etcd or (f"https://{LOOPBACK}:{self.etcd_client_port}",)

    def node_state(self, name: str) -> Path:
        """A node's state dir."""
        return self.state / name

    def listeners(self, name: str) -> dict[str, str]:
        """A node's listeners by the name of the flag that moves each."""
        return self._node(name, self.options.listens)

    def _node(self, name: str, host: str) -> dict[str, str]:
        first = self.options.base_port + _NODE_STRIDE * self.names.index(name)
        return {
            "http": f"{LOOPBACK}:{first}",
            "https": join_address(host, first + 9),
            "grpc": join_address(host, first + 10),
            "peer": join_address(host, first + 11),
            "admin": f"{LOOPBACK}:{first + 12}",
        }

    def addresses(self, part: str) -> dict[str, str]:
        """What listens where in a part: "etcd", "guard", "registry" or a node's name."""
        if part == "etcd":
            if self.options.etcd:
                return {}
            return {
                "clients": f"{LOOPBACK}:{self.etcd_client_port}",
                "peers": f"{LOOPBACK}:{self.etcd_peer_port}",
            }
        if part == "guard":
            nodes = join_address(self.options.listens, self.options.base_port - 30)
            return {"nodes": nodes, "admin": self.guard_admin}
        if part == "registry":
            grpc = join_address(self.options.listens, self.options.base_port - 34)
            return {"gRPC": grpc, "admin": self.registry_admin}
        return self.listeners(part)

    def mesh(self, pids: dict[str, int]) -> MeshFile:
        """What mesh.json says when the parts have these process ids."""
        return MeshFile(
            agents=tuple(
                AgentEntry(name=name, pid=pids.get(name, 0), **self._node(name, self.options.host))
                for name in self.names
            ),
            registry=RegistryEntry(pids.get("registry", 0), self.registry_grpc, self.registry_admin),
            etcd=EtcdEntry(pids.get("etcd", 0), self.etcd_urls),
            guard=GuardEntry(pids.get("guard", 0), self.guard, self.guard_admin),
            ca=str(self.pki / "ca.pem"),
            client=ClientEntry(str(self.pki / "admin.pem"), str(self.pki / "admin.key")),
        )


def check_options(options: MeshOptions) -> None:
    """Refuses what no mesh could be made with.

    Raises:
        Fatal: an address is none, a port would not be one, or there are more Ollamas than nodes.
    """
    host_of(options.host)
    for url in options.etcd:
        if _URL.fullmatch(url) is None:
            raise Fatal(f"--etcd {url!r} is not an address", hint="https://HOST:PORT, several with commas")
    if options.traces and _COLLECTOR.fullmatch(options.traces) is None:
        raise Fatal(
            f"--traces {options.traces!r} is not an address", hint="such as http://localhost:4318/v1/traces"
        )
    engines = options.engine.count(",") + 1
    if options.engine.startswith("ollama=http") and engines > options.nodes >= 1:
        raise Fatal(
            f"--engine names {engines} Ollamas, and {options.nodes} of them would be asked: a node has one",
            hint=f"--nodes {engines} gives each a node of its own",
        )
    lowest = options.base_port - _LOWEST_OFFSET
    highest = options.base_port + _NODE_STRIDE * (options.nodes - 1) + _HIGHEST_OFFSET
    if options.nodes < 1:
        raise Fatal("--nodes has to be at least 1")
    if lowest < 1024 or highest > 65_535:
        raise Fatal(
            f"--base-port {options.base_port} with {options.nodes} nodes needs ports {lowest} to {highest}",
            hint="they have to lie between 1024 and 65535",
        )


def host_of(text: str) -> str:
    """What `--host` names, spelled as it is compared and dialled: a name, or an address without brackets.

    Raises:
        Fatal: it is neither, or an address that nobody can be reached at.
    """
    host = text.strip().lower().removeprefix("[").removesuffix("]")
    try:
        address = ip_address(host)
    except ValueError:
        # Digits and dots alone are a mistyped address.
        if _NAME.fullmatch(host) and not host.replace(".", "").isdecimal():
            return host
        raise Fatal(
            f"--host {text!r} is neither a name nor an address",
            hint="this machine's own, such as 192.0.2.10, fd00::10 or gpu1.example",
        ) from None
    if address.is_unspecified or address.is_multicast or (address.version == 6 and address.scope_id):
        raise Fatal(
            f"--host {text!r} is no address that another machine can reach",
            hint="one of this machine's own; `ip address` lists them",
        )
    return str(address)


def combined(kept: MeshOptions | None, given: dict[str, object]) -> MeshOptions:
    """The options of a mesh that exists (`kept`) or not, with those `given` on the command line.

    Raises:
        Fatal: the mesh cannot be changed that way.
    """
    if kept is None:
        return msgspec.structs.replace(MeshOptions(), **given)
    wanted = msgspec.structs.replace(kept, **given)
    for field in ("base_port", "host", "engine", "etcd", "traces"):
        old, new = getattr(kept, field), getattr(wanted, field)
        if old != new:
            raise Fatal(
                f"this mesh was made with --{field.replace('_', '-')} {_written(old)}, not {_written(new)}",
                hint="choose another --state-dir, or remove this one after `bridgectl down`",
            )
    if wanted.nodes < kept.nodes:
        raise Fatal(
            f"this mesh has {kept.nodes} nodes, not {wanted.nodes}",
            hint="`bridge-agent leave --state-dir …` takes a node out",
        )
    return wanted


def _written(value: object) -> str:
    return ",".join(value) or "(our own)" if isinstance(value, tuple) else str(value) or "(none)"
