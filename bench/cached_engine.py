"""The embedded engine, telling in each last record how much of the prompt came from a cache.

Ollama's API has no field for it, and counts cached tokens as evaluated.
"""

from __future__ import annotations

from typing import Any

from bridge_engine import cli, generation, prompting


def metrics(timings: dict[str, Any], **times: int) -> dict[str, int]:
    counts = prompting.metrics(timings, **times)
    return {**counts, "prompt_cached_count": int(timings.get("cache_n", 0))}


if __name__ == "__main__":
    generation.metrics = metrics
    cli.app()
