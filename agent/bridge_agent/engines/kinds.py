"""The engines that can be started: the command and environment of each.

All speak Ollama's HTTP API and are ready when they answer `/api/version`; what differs is how
they are told what to do.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bridge_agent.engines.config import EngineConfig
from bridge_core.errors import BridgeError, Reaction

# What an engine gets of the agent's environment. All else stays out: it may hold secrets, and
# OLLAMA_* variables of whoever started the agent would change the engine behind the configuration.
INHERITED: Final = frozenset(
    {
        "ALL_PROXY",
        "CUDA_DEVICE_ORDER",
        "CUDA_HOME",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
        "CUDA_MPS_LOG_DIRECTORY",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
        "CUDA_MPS_PIPE_DIRECTORY",
        "CUDA_VISIBLE_DEVICES",
        "GGML_VK_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "HSA_OVERRIDE_GFX_VERSION",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "NO_PROXY",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "PATH",
        "ROCR_VISIBLE_DEVICES",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TZ",
        "all_proxy",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    }
)


class EngineMissing(BridgeError):
    """The engine's executable is not there; it may be once somebody installs it."""

    reaction = Reaction.RETRY


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance runs.

    Attributes:
        folder: Its own folder; exists.
        models: Its model store.
        host: The address it is to listen on.
        port: The port it is to listen on.
    """

    folder: Path
    models: Path
    host: str
    port: int

    @property
    def home(self) -> Path:
        """The HOME of the engine: its own, so that it neither finds nor leaves anything elsewhere."""
        return self.folder / "home"


class EngineKind(Protocol):
    """How one kind of engine is started."""

    def executable(self, config: EngineConfig) -> str:
        """The path of what to run.

        Raises:
            EngineMissing: it is not there.
        """
        ...

    def arguments(self, config: EngineConfig, place: Place) -> list[str]:
        """What follows the executable."""
        ...

    def environment(self, config: EngineConfig, place: Place) -> dict[str, str]:
        """The variables that are the engine's own."""
        ...


class LlamaCpp:
    """Ours: `bridge-engine`."""

    def executable(self, config: EngineConfig) -> str:
        """See `EngineKind`."""
        beside = Path(sys.executable).with_name("bridge-engine")
        return _find(
            config.binary or (str(beside) if beside.exists() else "bridge-engine"),
            hint='install the embedded engine (pip install "deepseek-ollama-bridge[embedded]")',
        )

    def arguments(self, config: EngineConfig, place: Place) -> list[str]:
        """See `EngineKind`."""
        arguments = ["serve", "--models", str(place.models), "--listen", f"{place.host}:{place.port}"]
        arguments += ["--num-parallel", str(config.num_parallel)]
        optional = {
            "--keep-alive": config.keep_alive,
            "--context-length": config.context_length,
            "--max-loaded": config.max_loaded,
            "--kv-cache-type": config.kv_cache_type,
            "--threads": config.num_thread,
            "--batch": config.num_batch,
            "--llama-server": config.llama_server,
        }
        for flag, value in optional.items():
            if value is not None:
                arguments.append(f"{flag}={value}")  # a keep_alive of "-1" is not a flag
        return arguments

    def environment(self, config: EngineConfig, place: Place) -> dict[str, str]:
        """See `EngineKind`."""
        return {}


class OllamaServe:
    """`ollama serve`."""

    def executable(self, config: EngineConfig) -> str:
        """See `EngineKind`."""
        return _find(
            config.binary or "ollama",
            hint="install Ollama, name its binary in the engine's settings, or use the engine llamacpp",
        )

    def arguments(self, config: EngineConfig, place: Place) -> list[str]:
        """See `EngineKind`."""
        return ["serve"]

    def environment(self, config: EngineConfig, place: Place) -> dict[str, str]:
        """See `EngineKind`."""
        return {
            "OLLAMA_HOST": f"{place.host}:{place.port}",
            "OLLAMA_MODELS": str(place.models),
            "OLLAMA_NUM_PARALLEL": str(config.num_parallel),
            # Several instances share a store: at its start one would delete what another downloads.
            "OLLAMA_NOPRUNE": "1",
            "OLLAMA_NO_CLOUD": "1",
            **_optional(
                {
                    "OLLAMA_MAX_LOADED_MODELS": config.max_loaded,
                    "OLLAMA_CONTEXT_LENGTH": config.context_length,
                    "OLLAMA_KEEP_ALIVE": config.keep_alive,
                    "OLLAMA_KV_CACHE_TYPE": config.kv_cache_type,
                }
            ),
        }


KINDS: Final[dict[str, EngineKind]] = {"llamacpp": LlamaCpp(), "ollama": OllamaServe()}


def command(
    config: EngineConfig, place: Place, inherited: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The argument list and the whole environment of an engine.

    Args:
        config: What to run.
        place: Where.
        inherited: The agent's environment; only `INHERITED` of it is passed on.

    Raises:
        EngineMissing: the executable is not there.
    """
    kind = KINDS[config.kind]
    argv = (kind.executable(config), *kind.arguments(config, place))
    environment = {name: value for name, value in inherited.items() if name in INHERITED}
    environment["HOME"] = str(place.home)
    environment |= kind.environment(config, place)
    environment |= _optional({"CUDA_VISIBLE_DEVICES": config.gpus})
    return argv, environment | config.env


def _find(name: str, *, hint: str) -> str:
    found = shutil.which(name)
    if found is None:
        wrong = "is not executable" if os.path.sep in name and Path(name).exists() else "was not found"
        raise EngineMissing(f"the engine's executable {name} {wrong}", hint=hint)
    return str(Path(found).absolute())  # the engine runs in a folder of its own


def _optional(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
