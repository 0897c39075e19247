"""The registry."""

import bridge_core.lean_logging  # noqa: F401 - before whatever loads structlog
