"""A runner: serves one model over llama-server's HTTP API until its engine is gone.

Started by `runner.process` with one argument, a JSON object (`runner.spec.Spec`). Prints
READY_MARK and its address once the model is loaded. Dies with the engine (PR_SET_PDEATHSIG), also
when that is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

import msgspec

from bridge_core.hardening import keep_memory_private
from bridge_engine.runner.spec import (
    READY_MARK,
    KvType,
    RunnerSpec,
    context_size,
    descriptors,
    server_arguments,
)

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Entry point of `python -m bridge_engine.runner SPEC PARENT-PID`."""
    spec = msgspec.json.decode(sys.argv[1], type=RunnerSpec)
    die_with(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the engine decides
    if spec.private:
        keep_memory_private()
    if spec.llama_server:
        os.execv(spec.llama_server, [spec.llama_server, *server_arguments(spec)])  # noqa: S606 -- no shell wanted
    serve(spec)


def die_with(parent: int) -> None:
    """Makes the kernel kill this process when its parent dies, which may have happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def serve(spec: RunnerSpec) -> None:
    """Loads the model with the wheel's server and waits to be ended."""
    import xllamacpp

    server = xllamacpp.Server(_parameters(xllamacpp, spec))
    for descriptor in descriptors(spec):
        os.close(descriptor)  # what is not mapped by now is not needed: the memory is free again
    # In one write and on a line of its own: llama.cpp's threads log meanwhile, half a line at a time.
    os.write(sys.stdout.fileno(), f"\n{READY_MARK} {server.listening_address}\n".encode())
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        signal.pause()


def _parameters(xllamacpp: Any, spec: RunnerSpec) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = spec.model
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.ui = False
    parameters.verbosity = 4  # the first at which it tells the sizes of its buffers
    parameters.offline = True
    parameters.endpoint_slots = True
    parameters.n_ctx = context_size(spec)
    parameters.n_parallel = spec.parallel
    parameters.kv_unified = spec.shared_context
    parameters.n_batch = spec.batch
    parameters.n_ubatch = spec.micro_batch
    parameters.ctx_shift = spec.shift
    parameters.embedding = spec.embedding
    if spec.embedding:  # nothing read for one text serves another: without this each is looked for and kept
        parameters.cache_ram_mib = 0
        parameters.cache_idle_slots = False
        parameters.slot_prompt_similarity = 0.0
    parameters.use_jinja = spec.jinja
    if not spec.jinja:
        # Prompts arrive rendered: the model's own template must not be parsed, it may not even parse.
        parameters.chat_template = "chatml"
    if spec.num_gpu >= 0:
        parameters.n_gpu_layers = spec.num_gpu
    if spec.main_gpu is not None:
        parameters.main_gpu = spec.main_gpu
    if spec.num_thread > 0:
        parameters.cpuparams.n_threads = spec.num_thread
        parameters.cpuparams_batch.n_threads = spec.num_thread
    if spec.kv_cache_type != KvType.F16:
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{spec.kv_cache_type.upper()}")
        parameters.cache_type_k = parameters.cache_type_v = kind
        # Only flash attention reads a quantised V.
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    if spec.use_mmap is not None:
        modes = xllamacpp.llama_load_mode
        parameters.load_mode = modes.LLAMA_LOAD_MODE_MMAP if spec.use_mmap else modes.LLAMA_LOAD_MODE_NONE
    if spec.projectors:
        parameters.mmproj.path = spec.projectors[0]
    adapters = []
    for path in spec.adapters:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 1.0
        adapters.append(adapter)
    if adapters:
        parameters.lora_adapters = adapters
    return parameters


if __name__ == "__main__":
    main()
