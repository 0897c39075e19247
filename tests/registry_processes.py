"""Registries as processes over one real etcd, each with its store guard, on ports that stay."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc.aio

from bridge_core.etcd_server import EtcdOptions
from bridge_core.registry_channel import open_channel
from tests.etcd_server import EtcdServer
from tests.ports import free_port

COMMAND = [sys.executable, "-c", "from bridge_registry.cli import run; run()"]
# What a second registry gets.
SHARED = ("authorities.json", "keyring", "kek", "etcd-ca.pem", "etcd-ca.key")


def init(state: Path, name: str) -> None:
    subprocess.run(
        [*COMMAND, "init", "--state-dir", str(state), "--name", name],
        capture_output=True,
        timeout=60,
        check=True,
    )


class RegistryPair:
    """A registry process and its guard's, at new ports with every start."""

    def __init__(self, name: str, state: Path, etcd: str) -> None:
        self.name, self.state, self._etcd = name, state, etcd
        self.address = self.admin = self.guard = self.guard_admin = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        ports = [f"127.0.0.1:{free_port()}" for _ in range(4)]
        self.address, self.admin, self.guard, self.guard_admin = ports
        self.start_guard()
        self._run(
            "run", "--grpc", self.address, "--admin", self.admin, "--store-guard", f"https://{self.guard}"
        )

    def start_guard(self) -> None:
        """The guard alone, where it was."""
        self._run("store-guard", "--listen", self.guard, "--admin", self.guard_admin)

    def _run(self, command: str, *arguments: str) -> None:
        common = ["--state-dir", str(self.state), "--name", self.name, "--etcd", self._etcd]
        with (self.state / "run.log").open("ab") as log:
            argv = [*COMMAND, command, *common, *arguments]
            self._processes[command] = subprocess.Popen(argv, stderr=log)

    def ready(self) -> str:
        """What it says of itself; empty while it does not serve, or its guard does not."""
        try:
            with urllib.request.urlopen(f"http://{self.guard_admin}/readyz", timeout=10):
                pass
            with urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=10) as answer:
                said: str = answer.read().decode()
                return said
        except OSError:
            return ""

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            process.wait(60)
        self._processes = {}

    def stop_guard(self) -> None:
        guard = self._processes.pop("store-guard")
        guard.send_signal(signal.SIGTERM)
        guard.wait(60)

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(60)

    def admin_channel(self) -> AbstractAsyncContextManager[grpc.aio.Channel]:
        pem = [(self.state / "pki" / name).read_bytes() for name in ("ca.pem", "admin.pem", "admin.key")]
        return open_channel(self.address, pem[0], cert_pem=pem[1], key_pem=pem[2])

    def log(self) -> str:
        return (self.state / "run.log").read_text()


class Registries:
    """Some of them, none started."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        first, *others = [folder / name for name in names]
        init(first, names[0])
        for state, name in zip(others, names[1:], strict=True):
            (state / "pki").mkdir(parents=True)
            for file in SHARED:
                shutil.copy2(first / "pki" / file, state / "pki" / file)
            init(state, name)
        pki = first / "pki"
        self.etcd = EtcdServer(
            EtcdOptions(
                data_dir=folder / "etcd",
                log_file=folder / "etcd.log",
                client_port=free_port(),
                peer_port=free_port(),
                cert=pki / "etcd.pem",
                key=pki / "etcd.key",
                ca=pki / "etcd-ca.pem",
            )
        )
        url = self.etcd.settings.url
        self.pairs = [RegistryPair(name, folder / name, url) for name in names]


@contextlib.contextmanager
def registries(folder: Path, *names: str) -> Iterator[Registries]:
    """An etcd that runs and these registries, which the caller starts; all ended at the end."""
    made = Registries(folder, names)
    made.etcd.start()
    try:
        yield made
    finally:
        for pair in made.pairs:
            pair.kill()
        made.etcd.stop()
