"""Where the command `bridgectl` begins: Ctrl-C while it is being loaded ends it without a word."""

from __future__ import annotations

import signal


def bridgectl() -> None:
    """The command's entry point."""
    # Nothing is there yet to be ended, and what Python would say is a traceback of imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bridge_cli.main import run
    from bridge_core.hardening import keep_memory_private

    keep_memory_private()

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    finally:
        # The command is over; one more Ctrl-C while Python takes itself down would change its exit status.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
