"""The embedded engine: Ollama's HTTP API over llama.cpp, on Ollama's on-disk store."""

import bridge_core.lean_logging  # noqa: F401 - before whatever loads structlog
