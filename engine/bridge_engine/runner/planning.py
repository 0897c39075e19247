"""How a model is loaded. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from bridge_core.model_store.weights import EMBEDDING_BATCH
from bridge_engine.options import RunnerOptions
from bridge_engine.runner.spec import RunnerSpec
from bridge_engine.store.model import OpenedModel

DEFAULT_BATCH: Final = 512
EMBEDDING_SEQUENCES: Final = 16
"""Texts that an embedding model reads together; they share one context, so that more cost no memory."""
# These keep state that cannot be shared between sequences in one context.
_SERIAL: Final = ("mllama", "qwen3vl", "qwen35", "qwen3next", "lfm2", "nemotron_h")


def plan(
    model: OpenedModel,
    options: RunnerOptions,
    *,
    parallel: int,
    context_length: int,
    llama_server: str,
    port: int,
    kv_cache_type: str = "f16",
    threads: int = 0,
    batch: int = 0,
) -> RunnerSpec:
    """Decides how a model is loaded.

    Args:
        model: What.
        options: What the request and the model file ask for.
        parallel: Slots of the engine; some architectures get one whatever it says.
        context_length: The context length where nobody asks for one.
        llama_server: Path of a llama-server to run; empty for the wheel's.
        port: Where that one listens.
        kv_cache_type: Precision of the KV cache.
        threads: CPU threads where nobody asks for a number; 0: llama.cpp's own choice.
        batch: Prompt tokens read at a time where nobody asks for a number; 0: the default.
    """
    num_ctx = max(4, options.num_ctx or context_length)
    if model.trained_context:
        num_ctx = min(num_ctx, model.trained_context)
    embedding = "embedding" in model.capabilities
    size = min(options.num_batch or batch or (EMBEDDING_BATCH if embedding else DEFAULT_BATCH), num_ctx)
    if embedding:  # a text is embedded in one batch or not at all
        size = max(size, min(EMBEDDING_BATCH, num_ctx))
    if model.header.architecture.startswith(_SERIAL):
        parallel = 1
    elif embedding:
        parallel = EMBEDDING_SEQUENCES
    return RunnerSpec(
        model=str(model.weights),
        num_ctx=num_ctx,
        parallel=parallel,
        shared_context=embedding,
        batch=size,
        micro_batch=size,
        shift=options.shift,
        embedding=embedding,
        num_gpu=options.num_gpu,
        main_gpu=options.main_gpu,
        num_thread=options.num_thread or threads,
        kv_cache_type=kv_cache_type,
        use_mmap=options.use_mmap,
        projectors=tuple(map(str, model.projectors)),
        adapters=tuple(map(str, model.adapters)),
        llama_server=llama_server,
        port=port,
        jinja=model.prompts.jinja,
    )


def serves(running: RunnerSpec, wanted: RunnerSpec) -> bool:
    """Whether a runner that was started with one plan may answer what another one was made for.

    Plans are compared, not options: a request that names the very context that the runner chose by
    itself must not load the model anew.
    """
    return msgspec.structs.replace(wanted, port=running.port) == running
