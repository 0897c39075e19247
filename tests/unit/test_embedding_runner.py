"""How a runner for embeddings is started: sequences share one context, nothing is kept between texts."""

from __future__ import annotations

from bridge_engine.runner.spec import RunnerSpec, context_size, server_arguments
from tests.runner_bed import runner_spec


def spec(*, embedding: bool) -> RunnerSpec:
    sizes = {"num_ctx": 2048, "parallel": 16, "batch": 2048, "micro_batch": 2048}
    placed = {"num_gpu": -1, "num_thread": 0}
    return runner_spec("/m.gguf", embedding=embedding, shared_context=embedding, **sizes, **placed)


def said(spec: RunnerSpec, name: str) -> str:
    arguments = server_arguments(spec)
    return arguments[arguments.index(name) + 1]


def test_sequences_of_texts_share_one_context() -> None:
    texts = spec(embedding=True)
    assert context_size(texts) == 2048
    assert (said(texts, "--ctx-size"), said(texts, "--parallel")) == ("2048", "16")
    assert "--kv-unified" in server_arguments(texts)


def test_conversations_have_one_each() -> None:
    chats = spec(embedding=False)
    assert context_size(chats) == 16 * 2048
    assert said(chats, "--ctx-size") == str(16 * 2048)
    assert "--kv-unified" not in server_arguments(chats)


def test_nothing_read_for_one_text_is_kept_for_another() -> None:
    texts = spec(embedding=True)
    assert (said(texts, "--cache-ram"), said(texts, "--slot-prompt-similarity")) == ("0", "0")
    assert not {"--cache-ram", "--slot-prompt-similarity"} & set(server_arguments(spec(embedding=False)))
