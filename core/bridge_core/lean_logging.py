"""structlog without rich, which it takes along wherever it is installed.

rich is a third of what a small process of ours loads (0.13 s of CPU time, 50 modules) and would draw
tracebacks as our logs never do (`bridge_core.command.logs`). A command that draws tables loads it then.
The first import of structlog decides: programs that need it at once import this before anything else of ours.
"""

from __future__ import annotations

import sys

_LOADED_ALREADY = "rich" in sys.modules

if not _LOADED_ALREADY:
    sys.modules["rich"] = None  # type: ignore[assignment]  # how an import is made to fail
try:
    import structlog
finally:
    if not _LOADED_ALREADY:
        del sys.modules["rich"]

__all__ = ["structlog"]
