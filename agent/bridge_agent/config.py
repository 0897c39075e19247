"""What `join` wrote about this node, and where its files lie.

`agent.json` is written last by a join and removed first by a leave: where it is, the node is
enrolled and everything else in the folder is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bridge_agent.engines.config import EngineConfig
from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.node_class import NodeClass

DEFAULT_PORTS = {"http": 11434, "https": 11443, "grpc": 11444, "peer": 11445, "admin": 11446}


class Listeners(msgspec.Struct, frozen=True):
    """Where the agent listens, each "host:port"; the names are the flags that move them."""

    http: str = "127.0.0.1:11434"
    https: str = "0.0.0.0:11443"
    grpc: str = "0.0.0.0:11444"
    peer: str = "0.0.0.0:11445"
    admin: str = "127.0.0.1:11446"


class AgentConfig(msgspec.Struct, frozen=True):
    """The agent's part of `agent.json`."""

    name: str
    trust_domain: str
    registries: tuple[str, ...]
    etcd: tuple[str, ...]
    peer_address: str  # host:port that other agents reach the peer listener at
    listeners: Listeners = Listeners()
    engines: tuple[EngineConfig, ...] = (EngineConfig(index=0),)
    labels: dict[str, str] = {}
    node_class: dict[str, Any] | None = None  # as the `spec` of a NodeClass document

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
        self.ca = self.identity / "ca.pem"
        self.snapshot = root / "snapshot.json"
        self.models = root / "models"
        self.engines = root / "engines"
        self.lock = root / "agent.lock"

    @property
    def joined(self) -> bool:
        """Whether a node is enrolled here."""
        return self.settings.exists()


def load_config(state: StateDir) -> AgentConfig:
    """The settings of the node enrolled in `state`.

    Raises:
        Fatal: no node is enrolled there, or the file cannot be read or does not decode.
    """
    try:
        return msgspec.json.decode(state.settings.read_bytes(), type=AgentConfig)
    except FileNotFoundError:
        raise Fatal(
            f"no node is enrolled in {state.root}",
            hint="bridge-agent join REGISTRY --token TOKEN enrols it; --state-dir names another folder",
        ) from None
    except OSError as fault:
        raise Fatal(f"cannot read {state.settings}: {fault.strerror}") from fault
    except msgspec.DecodeError as fault:
        raise Fatal(
            f"{state.settings} cannot be used: {fault}", hint="correct it, or leave and join again"
        ) from fault


def save_settings(state: StateDir, settings: AgentConfig) -> None:
    """Writes `agent.json`. Raises OSError."""
    write_atomically(state.settings, msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")
