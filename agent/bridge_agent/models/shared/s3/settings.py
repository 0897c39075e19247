"""Where the bucket is and who asks, from a file of its own: it is never in arguments, environment or logs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from bridge_agent.models.shared.s3.fault import S3Fault
from bridge_agent.models.shared.s3.signature_rules import Signer
from bridge_core.addresses import is_loopback
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import Fatal
from bridge_core.key_files import read_credential, read_key_file

_MOST: Final = 64 << 10
_PREFIX: Final = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$"

_Text = Annotated[str, msgspec.Meta(max_length=4096)]


class S3Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says.

    Attributes:
        endpoint: https://HOST[:PORT]; `http://` only where the store is on this machine, or `plain` is said.
        bucket: The bucket; it is asked for by path, never by a host name made of it.
        access_key: The key's name.
        secret_key: The key.
        prefix: What names begin with in the bucket, without a slash at its end.
        region: As the store calls it; those that have none take the default.
        session_token: Of a key that is good for a while.
        ca: A file of certificates that the store's own is checked against; empty: the system's.
        plain: Names and blobs may be read on their way to another machine.
    """

    endpoint: Annotated[str, msgspec.Meta(pattern=r"^https?://[A-Za-z0-9._:\[\]-]+/?$", max_length=512)]
    bucket: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")]
    access_key: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,256}$")]
    secret_key: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,1024}$")]
    prefix: Annotated[str, msgspec.Meta(pattern=_PREFIX, max_length=256)] = ""
    region: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "us-east-1"
    session_token: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{0,8192}$")] = ""
    ca: _Text = ""
    plain: bool = False

    def __repr__(self) -> str:
        """Without the keys."""
        return f"S3Settings({self.endpoint!r}, {self.bucket!r}, {self.prefix!r})"

    @property
    def signer(self) -> Signer:
        """Who signs."""
        return Signer(self.access_key, self.secret_key, self.region)

    @property
    def tls(self) -> bool:
        """Whether it is asked over TLS."""
        return self.endpoint.startswith("https://")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises ValueError."""
        parts = urlsplit(self.endpoint)
        if not parts.hostname:
            raise ValueError(f"{self.endpoint!r} names no host")
        return parts.hostname, parts.port or (443 if self.tls else 80)

    @property
    def host(self) -> str:
        """The value of `Host`: the port only where it is another than is usual."""
        return self.endpoint.partition("//")[2].rstrip("/")

    def path(self, key: str) -> str:
        """The path of a key below the prefix; of the bucket itself where the key is empty."""
        return f"/{self.bucket}/{self.name(key)}" if key else f"/{self.bucket}"

    def name(self, key: str) -> str:
        """The name in the bucket of a key below the prefix."""
        return f"{self.prefix}/{key}" if self.prefix else key


def parse(data: bytes) -> S3Settings:
    """What a file says.

    Raises:
        Fatal: it says something else, or would send models to another machine in the clear unasked. No
            message has anything of the content in it.
    """
    try:
        found = decode_json(data, S3Settings, most=_MOST)
    except Undecodable as fault:
        raise Fatal(f"the settings of the bucket cannot be read: {fault.message}") from None
    try:
        host, _ = found.address
    except ValueError:
        raise Fatal("the endpoint of the bucket is none", hint="https://HOST or https://HOST:PORT") from None
    if not (found.tls or found.plain or is_loopback(host)):
        raise Fatal(
            "the endpoint of the bucket begins with http://: what is stored would pass in the clear",
            hint='take https://, or say "plain": true',
        )
    if found.ca and not found.tls:
        raise Fatal('"ca" is given, and the endpoint begins with http://')
    return found


class SettingsFile:
    """The file, read again when it was replaced, so that keys can be changed while the agent runs.

    Args:
        source: `file:/PATH`, a file of mode 0600, or `credential:NAME`, as systemd gives it.
        environment: Of this process.
    """

    def __init__(self, source: str, environment: Mapping[str, str]) -> None:
        kind, _, value = source.partition(":")
        self._credential = value if kind == "credential" else ""
        self._environment = environment
        self._path = Path(value) if kind == "file" else None
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._settings: S3Settings | None = None
        self.source: Final = source

    @property
    def last(self) -> S3Settings | None:
        """As they were read last; None: they were not yet."""
        with self._lock:
            return self._settings

    def read(self) -> S3Settings:
        """As they are. Raises S3Fault."""
        with self._lock:
            try:
                seen = self._state()
                if self._settings is None or seen != self._seen:
                    self._settings, self._seen = parse(self._data()), seen
            except (Fatal, OSError) as fault:
                self._seen = None
                why = fault.message if isinstance(fault, Fatal) else fault.strerror or str(fault)
                hint = f" ({fault.hint})" if isinstance(fault, Fatal) and fault.hint else ""
                raise S3Fault(f"{self.source}: {why}{hint}") from None
            return self._settings

    def _state(self) -> tuple[int, int, int] | None:
        if self._path is None:  # systemd's own do not change while the service runs
            return None
        found = self._path.lstat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _data(self) -> bytes:
        if self._path is None:
            return read_credential(self._credential, self._environment, most=_MOST)
        return read_key_file(self._path, most=_MOST)
