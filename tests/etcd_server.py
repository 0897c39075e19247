"""An etcd as a child of the tests; `bridgectl up` detaches its own."""

from __future__ import annotations

import signal
import subprocess

from bridge_core.etcd_server import EtcdOptions, arguments, environment


class EtcdServer:
    """An etcd that is stopped with us. With `default_limits`, as somebody else would run it."""

    def __init__(self, settings: EtcdOptions, *, default_limits: bool = False) -> None:
        self.settings = settings
        self._left_out = ("--max-txn-ops=", "--max-request-bytes=") if default_limits else ()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self) -> None:
        """Starts it; `ready` says when it answers.

        Raises:
            Fatal: there is no etcd to run.
        """
        self.settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.settings.log_file.open("ab") as log_file:
            self._process = subprocess.Popen(
                [word for word in arguments(self.settings) if not word.startswith(self._left_out)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
            )

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, grace_s: float = 5.0) -> None:
        """Ends it: SIGTERM, then after `grace_s` SIGKILL."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
