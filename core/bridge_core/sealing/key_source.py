"""Where a key-encryption key (KEK) comes from: a file, a credential of systemd, or a command.

file:/path             32 bytes, or their 64 hex digits or base64, in a file that is 0600
credential:NAME        the same, as systemd's LoadCredential= or LoadCredentialEncrypted= gives it
exec:/program ARG …    the same, as the program prints it: a KMS, a TPM, a password store
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.errors import Fatal
from bridge_core.key_files import read_credential, read_key_file
from bridge_core.sealing.framing import KEY_BYTES

EXEC_LIMIT_S: Final = 30.0
_MOST_BYTES: Final = 256
_KINDS: Final = ("file", "credential", "exec")


class KeySource(msgspec.Struct, frozen=True):
    """Where a KEK comes from.

    Attributes:
        kind: "file", "credential" or "exec".
        value: The path, the credential's name, or the command as a shell would split it.
    """

    kind: str
    value: str

    @classmethod
    def parse(cls, text: str) -> KeySource:
        """The source that an admin wrote.

        Raises:
            Fatal: it is none of the three.
        """
        kind, colon, value = text.partition(":")
        source = cls(kind, value.strip())
        fault = "" if colon and kind in _KINDS and source.value else "it is none of them"
        if not fault and kind == "file" and not value.strip().startswith("/"):
            fault = "the path has to begin with /"
        if not fault and kind == "credential" and ("/" in value or value.strip() in {".", ".."}):
            fault = "a credential's name is no path"
        if not fault and kind == "exec":
            fault = _exec_fault(source.value)
        if fault:
            raise Fatal(
                f"{text[:200]!r} names no key: {fault}",
                hint="write file:/PATH, credential:NAME or exec:/PROGRAM ARGUMENTS",
            )
        return source

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    def read(self, environment: Mapping[str, str], limit_s: float = EXEC_LIMIT_S) -> bytes:
        """The key, 32 bytes. Blocks, up to `limit_s` for a command.

        Raises:
            Fatal: it is not to be had, or is no key; says which and what to do.
        """
        try:
            match self.kind:
                case "file":
                    data = read_key_file(Path(self.value), most=_MOST_BYTES)
                case "credential":
                    data = read_credential(self.value, environment, most=_MOST_BYTES)
                case _:
                    data = _printed(shlex.split(self.value), environment, limit_s)
        except OSError as fault:
            raise Fatal(
                f"the key-encryption key {self} cannot be read: {fault.strerror or fault}",
                hint="restore it from where it is kept; what it sealed opens with nothing else",
            ) from fault
        key = _decoded(data)
        if key is None:
            raise Fatal(
                f"{self} holds no key of {KEY_BYTES} bytes",
                hint="it is 32 raw bytes, 64 hex digits or base64: `openssl rand -hex 32` makes one",
            )
        return key


def key_source(text: str | None) -> KeySource | None:
    """The source that an option names; None: it names none. Raises Fatal."""
    return KeySource.parse(text) if text else None


def _exec_fault(command: str) -> str:
    try:
        argv = shlex.split(command)
    except ValueError as fault:
        return f"the command cannot be split: {fault}"
    # Looked up in PATH it would be whatever the caller's environment says it is.
    return "" if argv and argv[0].startswith("/") else "the program has to begin with /"


def _decoded(data: bytes) -> bytes | None:
    if len(data) == KEY_BYTES:
        return data
    text = data.strip()
    try:
        key = (
            bytes.fromhex(text.decode())
            if len(text) == 2 * KEY_BYTES
            else base64.b64decode(text, validate=True)
        )
    except (ValueError, binascii.Error):
        return None
    return key if len(key) == KEY_BYTES else None


def _printed(argv: list[str], environment: Mapping[str, str], limit_s: float) -> bytes:
    """What a command prints; it is ended when it takes too long or prints too much.

    What it says on stderr is not passed on: it could be the key.
    """
    hint = f"run it by hand as this user: {shlex.join(argv)}"
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as output:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.DEVNULL,
                env=dict(environment),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            data, ended = _until_end(process.pid, output, time.monotonic() + limit_s)
        finally:
            # With all that it started. It is not waited for before, so its number is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    if len(data) > _MOST_BYTES:
        raise Fatal(f"{argv[0]} printed more than {_MOST_BYTES} bytes, which is no key", hint=hint)
    if not ended:
        raise Fatal(f"{argv[0]} gave no key within {limit_s:g} s", hint=hint)
    if status != 0:
        raise Fatal(f"{argv[0]} ended with status {status} and gave no key", hint=hint)
    return data


def _until_end(pid: int, output: FileIO, until: float) -> tuple[bytes, bool]:
    """What a process writes, as far as a key goes, and whether it ended in time."""
    data = b""
    ends = os.pidfd_open(pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while len(data) <= _MOST_BYTES:
                if not selector.select(max(0.0, until - time.monotonic())):
                    return data, False
                piece = output.read(_MOST_BYTES + 1)
                if not piece:
                    break
                data += piece
            if len(data) > _MOST_BYTES:
                return data, False
            selector.unregister(output)
            selector.register(ends, selectors.EVENT_READ)
            return data, bool(selector.select(max(0.0, until - time.monotonic())))
    finally:
        os.close(ends)
