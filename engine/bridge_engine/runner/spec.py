"""What a runner is started with. Pure, and imported by the runner itself: it must stay light."""

from __future__ import annotations

import enum
from typing import Final

import msgspec

READY_MARK: Final = "bridge-runner-ready"
_DESCRIPTORS: Final = "/proc/self/fd/"


class KvType(enum.StrEnum):
    """Precisions of the KV cache."""

    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


class RunnerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One runner: files, sizes, and the back end that serves them."""

    model: str
    num_ctx: int
    parallel: int
    batch: int
    micro_batch: int
    shift: bool
    embedding: bool
    num_gpu: int
    main_gpu: int | None
    num_thread: int
    use_mmap: bool | None
    kv_cache_type: str = "f16"
    projectors: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    llama_server: str = ""
    port: int = 0
    shared_context: bool = False  # of num_ctx tokens for all sequences, in place of as many for each
    jinja: bool = False  # the runner renders prompts, with the weights' own template

    @property
    def private(self) -> bool:
        """Files of it are descriptors of memory, with what lies sealed on the disk."""
        return bool(descriptors(self))


def in_memory(descriptor: int) -> str:
    """The path by which a runner opens a descriptor that it was started with."""
    return f"{_DESCRIPTORS}{descriptor}"


def descriptors(spec: RunnerSpec) -> list[int]:
    """The descriptors among a runner's files."""
    files = (spec.model, *spec.projectors, *spec.adapters)
    return [int(path.removeprefix(_DESCRIPTORS)) for path in files if path.startswith(_DESCRIPTORS)]


def context_size(spec: RunnerSpec) -> int:
    """The tokens of its whole context."""
    return spec.num_ctx if spec.shared_context else spec.num_ctx * spec.parallel


def server_arguments(spec: RunnerSpec) -> list[str]:
    """The command line for a `llama-server` binary."""
    arguments = [
        "--model",
        spec.model,
        "--host",
        "127.0.0.1",
        "--port",
        str(spec.port),
        "--offline",
        "--slots",
    ]
    arguments += ["--ctx-size", str(context_size(spec)), "--parallel", str(spec.parallel)]
    if spec.shared_context:
        arguments.append("--kv-unified")
    arguments += ["--batch-size", str(spec.batch), "--ubatch-size", str(spec.micro_batch)]
    arguments += [
        "--no-webui",
        *(("--jinja",) if spec.jinja else ("--no-jinja", "--chat-template", "chatml")),
    ]
    if spec.shift:
        arguments.append("--context-shift")
    if spec.embedding:
        arguments += ["--embedding", "--cache-ram", "0", "--slot-prompt-similarity", "0"]
    if spec.num_gpu >= 0:
        arguments += ["--n-gpu-layers", str(spec.num_gpu)]
    if spec.main_gpu is not None:
        arguments += ["--main-gpu", str(spec.main_gpu)]
    if spec.num_thread > 0:
        arguments += ["--threads", str(spec.num_thread)]
    if spec.kv_cache_type != KvType.F16:
        # Only flash attention reads a quantised V.
        kind = spec.kv_cache_type
        arguments += ["--cache-type-k", kind, "--cache-type-v", kind, "--flash-attn", "on"]
    if spec.use_mmap is False:
        arguments.append("--no-mmap")
    for path in spec.projectors[:1]:
        arguments += ["--mmproj", path]
    for path in spec.adapters:
        arguments += ["--lora", path]
    return arguments
