"""Telling systemd how a service is (sd_notify): ready, alive, stopping."""

from __future__ import annotations

import asyncio
import os
import socket

import structlog

log = structlog.get_logger()


class Notifier:
    """Speaks to the service manager that started this process; silent where none did.

    The variables are taken out of the environment: engines are not the service, and libraries
    that know the protocol must not speak for it.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog = os.environ.pop("WATCHDOG_USEC", "")
        owner = os.environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        mine = not owner or owner == str(os.getpid())
        self._watchdog_s = int(watchdog) / 1e6 if watchdog.isdigit() and mine else 0.0

    def tell(self, state: str) -> None:
        """Sends "READY=1", "STOPPING=1", "STATUS=…"."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                link.sendto(state.encode(), self._address)
        except OSError as fault:
            log.warning("systemd_not_told", state=state, reason=fault.strerror)

    async def keep_alive(self) -> None:
        """Feeds the watchdog from the event loop, so that a blocked loop starves it."""
        if not self._watchdog_s:
            return
        while True:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 3)
