"""What the rest of the agent sees of an engine instance."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridge_core.snapshot import LoadingModel, MemberModel, SignedModel, WithheldModel

InstanceState = Literal["starting", "ready", "draining", "stopped"]


class LocalInstance(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine instance of this node at one moment.

    Attributes:
        id: "<node>/<n>".
        host: Where its HTTP API listens; with `port`, good from "starting" on once `port` is not 0.
        port: 0 while it has none. Changes when the engine is started again.
        state: "starting": not yet, or no longer, answering, and expected back. "ready": takes
            requests. "draining": finishes what it has. "stopped": gone until started again.
        models: What its disk holds, as it last listed it, but `withheld`; kept while it restarts.
        loaded: Names of the models in its memory, as in `models`; empty unless it answers.
        loading: Those that this agent has it load now.
        warm: Those whose files lie in the page cache: to load them takes no disk.
        sealed: Those of which every blob lies sealed on the disk.
        withheld: Those of its disk that it does not serve, since a policy asks for a signature.
        signed: Those whose signature was asked for and checked.
        slots: Requests that it decodes at a time.
        engine: "llamacpp" or "ollama".
        network_pid: Its process, where that has a network of its own: only a connection made
            inside reaches it (`engine.address.engine_address`). 0: it is on the node's own.
        failure_domain: What it shares its fate with, beyond its node; empty: nothing.
        fault: Why it is kept out of the ring although its engine may answer; empty: it is not.
    """

    id: str
    host: str
    port: int
    state: InstanceState
    models: tuple[MemberModel, ...] = ()
    loaded: tuple[str, ...] = ()
    slots: int = 1
    engine: str = "llamacpp"
    network_pid: int = 0
    failure_domain: str = ""
    fault: str = ""
    loading: tuple[LoadingModel, ...] = ()
    warm: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()
    withheld: tuple[WithheldModel, ...] = ()
    signed: tuple[SignedModel, ...] = ()
