"""How one engine instance is to be run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

MAX_PARALLEL = 1024
_MAX_INDEX = 9999
_MOST = 1 << 31
DEFAULT_MAX_LOADED = 3  # both engines' own, where none is set


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One engine instance of this node; decodable from JSON.

    Attributes:
        index: The n of the instance's id "<node>/<n>"; unique on the node.
        kind: Which engine: "llamacpp" (bridge-engine) or "ollama".
        attach: URL of an engine run by somebody else ("http://127.0.0.1:11434"); it is watched
            but never started or stopped. `kind` says what it is.
        binary: The engine's executable; None: `bridge-engine` beside this Python, or `ollama` on PATH.
        models_dir: Ollama's model store; None: `models` in the agent's state folder.
        num_parallel: Requests it decodes at a time.
        context_length: Tokens of context of a request; None: the engine's own choice.
        keep_alive: How long an unused model stays loaded ("5m", "-1"); None: the engine's own choice.
        max_loaded: Models in memory at a time; None: the engine's own choice.
        kv_cache_type: Precision of the KV cache ("f16", "q8_0", "q4_0"); None: the engine's own choice.
        num_thread: CPU threads that a model of `llamacpp` computes with; None: llama.cpp's own choice.
        num_batch: Tokens of a prompt that `llamacpp` reads at a time; None: its own choice.
        gpus: Value of CUDA_VISIBLE_DEVICES (indices or UUIDs; "" hides every GPU); None: not set.
        llama_server: A llama-server binary for `llamacpp` to run models with; None: the wheel's own.
        env: Environment variables in addition; they win over the engine's own.
    """

    index: int
    kind: Literal["llamacpp", "ollama"] = "llamacpp"
    attach: str | None = None
    binary: str | None = None
    models_dir: str | None = None
    num_parallel: int = 4
    context_length: int | None = None
    keep_alive: str | None = None
    max_loaded: int | None = None
    kv_cache_type: Literal["f16", "q8_0", "q4_0"] | None = None
    num_thread: int | None = None
    num_batch: int | None = None
    gpus: str | None = None
    llama_server: str | None = None
    env: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Refuses values that no engine could run with.

        Raises:
            ValueError: which becomes msgspec.ValidationError when decoding.
        """
        faults = [*self._number_faults(), *self._kind_faults()]
        if self.attach is not None:
            try:
                attach_address(self.attach)
            except ValueError as fault:
                faults.append(str(fault))
        if faults:
            raise ValueError("; ".join(faults))

    def _number_faults(self) -> list[str]:
        faults = []
        if not 0 <= self.index <= _MAX_INDEX:
            faults.append(f"index {self.index} is not between 0 and {_MAX_INDEX}")
        if not 1 <= self.num_parallel <= MAX_PARALLEL:
            faults.append(f"num_parallel {self.num_parallel} is not between 1 and {MAX_PARALLEL}")
        for name in ("context_length", "max_loaded", "num_thread", "num_batch"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= _MOST:
                faults.append(f"{name} {value} is not between 1 and {_MOST}")
        return faults

    def _kind_faults(self) -> list[str]:
        """What the engine would silently not do."""
        only = {"llama_server": "llamacpp", "num_thread": "llamacpp", "num_batch": "llamacpp"}
        return [
            f"{name} is for the engine {kind} only"
            for name, kind in only.items()
            if getattr(self, name) is not None and self.kind != kind
        ]

    @property
    def binaries(self) -> tuple[Path, ...]:
        """The executables that it names by a path."""
        named = (self.binary, self.llama_server)
        return tuple(Path(path).absolute() for path in named if path and "/" in path)

    @property
    def fingerprint(self) -> str:
        """Differs when an engine started with this configuration must not be taken for another's."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


def attach_address(url: str) -> tuple[str, int]:
    """The host and port of an attached engine's URL.

    Raises:
        ValueError: it is not "http://HOST[:PORT]".
    """
    parts = urlsplit(url)
    extra = parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username
    if parts.scheme != "http" or not parts.hostname or extra:
        raise ValueError(f"attach {url!r} is not of the form http://HOST:PORT")
    try:
        return parts.hostname, parts.port or 80
    except ValueError:
        raise ValueError(f"attach {url!r} has a port that is not between 0 and 65535") from None
