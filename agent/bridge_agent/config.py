"""What `join` wrote about this node, and where its files lie.

`agent.json` is written last by a join and removed first by a leave: where it is, the node is
enrolled and everything else in the folder is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from bridge_agent.engines.config import EngineConfig
from bridge_agent.gateway.config import GatewaySection
from bridge_agent.models.section import ModelsSection, sealing_faults
from bridge_agent.tracing.section import TracesSection
from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.node_class import NodeClass
from bridge_core.spelling import unknown_keys

if TYPE_CHECKING:
    from bridge_core.sealing.sealer import SealFolder

DEFAULT_PORTS = {"http": 11434, "https": 11443, "grpc": 11444, "peer": 11445, "admin": 11446}
DRAIN_S: Final = 30.0  # for running requests, when the agent is told to end
_MAX_BYTES: Final = 4 << 20


class Listeners(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the agent listens, each "host:port"; the names are the flags that move them."""

    http: str = "127.0.0.1:11434"
    https: str = "0.0.0.0:11443"
    grpc: str = "0.0.0.0:11444"
    peer: str = "0.0.0.0:11445"
    admin: str = "127.0.0.1:11446"


class SealSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the node's files are sealed at rest.

    Attributes:
        key: Where the key comes from that opens the keyring: "file:/path", "credential:name" or
            "exec:/program arguments"; empty: a file beside the keyring.
    """

    key: str = ""


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `agent.json` holds.

    Attributes:
        name: The node's.
        trust_domain: The mesh's.
        registries: Where they answer, host:port each.
        etcd: URLs of its endpoints.
        peer_address: The host:port that other agents reach the peer listener at.
        listeners: Where the agent listens.
        engines: Its engines.
        labels: The node's own, as it joined with them.
        node_class: As the `spec` of a NodeClass document; it stands over the mesh's.
        gateway: How requests are served.
        seal: How its files are sealed.
        models: How models come to the node, and go to others.
        traces: Where traces of requests go; None: none are made.
    """

    name: str
    trust_domain: str
    registries: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)]
    etcd: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)]
    peer_address: str
    listeners: Listeners = Listeners()
    engines: Annotated[tuple[EngineConfig, ...], msgspec.Meta(max_length=1024)] = (EngineConfig(index=0),)
    labels: Annotated[dict[str, str], msgspec.Meta(max_length=64)] = {}
    node_class: dict[str, Any] | None = None
    gateway: GatewaySection = GatewaySection()
    seal: SealSection = SealSection()
    models: ModelsSection = ModelsSection()
    traces: TracesSection | None = None

    @property
    def instances(self) -> dict[str, EngineConfig]:
        """The engines by the ids of their instances."""
        return {f"{self.name}/{engine.index}": engine for engine in self.engines}

    def own_id(self, identity: SpiffeId | None) -> SpiffeId:
        """The node's identity, which its certificate has to be of.

        Raises:
            Fatal: the certificate is another's.
        """
        wanted = SpiffeId.make(self.trust_domain, "node", self.name)
        if identity != wanted:
            raise Fatal(
                f"the node's certificate is {identity}, not {wanted}",
                hint="identity and agent.json belong to different joins; leave and join again",
            )
        return wanted

    @property
    def own_class(self) -> NodeClass | None:
        """The node's own NodeClass, which stands over the mesh's; None: it has none.

        Raises:
            Fatal: it cannot be used: every fault of it.
        """
        if self.node_class is None:
            return None
        from bridge_core.config import own_node_class  # what reads YAML is large, and few need it

        try:
            return own_node_class(self.node_class)
        except ValueError as fault:
            raise Fatal(
                f"node_class in agent.json cannot be used: {fault}",
                hint="it is written as the `spec` of a NodeClass in mesh_config",
            ) from None


class StateDir:
    """The agent's files under one folder that `--state-dir` moves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "agent.json"
        self.identity = root / "identity"
        self.key = self.identity / "key.pem"
        self.certificate = self.identity / "cert.pem"
        self.ca = self.identity / "ca.pem"  # roots: who a registry is
        self.issuers = self.identity / "issuers.pem"  # who signs certificates of members
        self.snapshot = root / "snapshot.sealed"
        self.secrets = root / "secrets.sealed"
        self.seal = root / "seal"
        self.models = root / "models"
        self.habits = root / "habits.json"  # what models are asked for at which time of day
        self.programs = root / "engine-programs.json"  # the files that engines are made of
        self.engines = root / "engines"
        self.lock = root / "agent.lock"

    def seal_folder(self, section: SealSection) -> SealFolder:
        """The node's keyring and what opens it. Raises Fatal."""
        from bridge_core.sealing.key_source import key_source  # cryptography is large, and few need it
        from bridge_core.sealing.sealer import SealFolder

        return SealFolder(self.seal, key_source(section.key))

    @property
    def joined(self) -> bool:
        """Whether a node is enrolled here."""
        return self.settings.exists()


def load_config(state: StateDir) -> AgentConfig:
    """The configuration of the node enrolled in `state`.

    Raises:
        Fatal: no node is enrolled there, or the file cannot be read or is at fault; says where.
    """
    try:
        return _decoded(state.settings.read_bytes())
    except FileNotFoundError:
        raise Fatal(
            f"no node is enrolled in {state.root}",
            hint="bridge-agent join REGISTRY --token TOKEN enrols it; --state-dir names another folder",
        ) from None
    except OSError as fault:
        raise Fatal(f"cannot read {state.settings}: {fault.strerror}") from fault
    except (ValueError, RecursionError) as fault:  # msgspec's and Unicode's among them
        raise Fatal(
            f"{state.settings} cannot be used: {fault}", hint="correct it, or leave and join again"
        ) from fault


def _decoded(data: bytes) -> AgentConfig:
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    # All of them at once, each with the one that was meant: msgspec tells the first alone.
    if unknown := list(unknown_keys(msgspec.json.decode(data), AgentConfig)):
        raise ValueError("; ".join(unknown[:20]))
    config = msgspec.json.decode(data, type=AgentConfig)
    if faults := sealing_faults(config.models, config.engines):
        raise ValueError("; ".join(faults))
    return config


def save_config(state: StateDir, config: AgentConfig) -> None:
    """Writes `agent.json`. Raises OSError."""
    write_atomically(state.settings, msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
