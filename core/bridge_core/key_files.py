"""Files that hold keys: read only where nobody else could have read or exchanged them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bridge_core.errors import Fatal

_MOST: Final = 1 << 20


def read_key_file(path: Path, *, most: int = _MOST, of_service: bool = False) -> bytes:
    """What a key file holds, checked on the open file itself so that none can be exchanged meanwhile.

    Args:
        path: The file.
        most: How many bytes it may have.
        of_service: A service of its own user keeps it: root may read it as well, as its commands on that
            machine do, where it belongs to whom its folder belongs to.

    Raises:
        Fatal: it is a link or no plain file, another user's, open to others, or longer than `most` bytes.
        OSError: it cannot be read.
    """
    handle = _opened(path)
    try:
        _check(path, os.fstat(handle), of_service=of_service)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(handle)
    if len(data) > most:
        raise Fatal(f"{path} is longer than {most} bytes, which no key is", hint="see what lies there")
    return data


def read_credential(name: str, environment: Mapping[str, str], *, most: int) -> bytes:
    """What systemd gave this process by that name (`LoadCredential=`), and one byte more than `most` at most.

    Raises:
        Fatal: it gave none.
        OSError: it cannot be read.
    """
    folder = environment.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        raise Fatal(
            f"the credential {name} is not there: systemd gave this process none",
            hint=f"add LoadCredential={name}:/PATH to the service; outside of one name a file",
        )
    # systemd's own folder: it lets the service's user in by an access list, which looks like mode 0440.
    with (Path(folder) / name).open("rb") as file:
        return file.read(most + 1)


def check_key_files(*paths: Path) -> None:
    """Refuses key files that others could read or exchange, for who hands them to a library by name.

    One that is not there, or cannot be opened, is left to who reads it.

    Raises:
        Fatal: as `read_key_file` of a service's.
    """
    for path in paths:
        try:
            handle = _opened(path)
        except OSError:
            continue
        try:
            _check(path, os.fstat(handle), of_service=True)
        finally:
            os.close(handle)


def _opened(path: Path) -> int:
    # A pipe would keep the open waiting for its other end.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except OSError:
        if path.is_symlink():
            raise Fatal(
                f"{path} is a link, and key files are not read through links",
                hint="put the key itself there, or name the file that it points to",
            ) from None
        raise


def _check(path: Path, found: os.stat_result, *, of_service: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Fatal(f"{path} is no plain file", hint="a key lies in a file of its own")
    if found.st_uid not in _owners(path, of_service=of_service):
        raise Fatal(
            f"{path} belongs to the user {found.st_uid}, who could exchange the key in it",
            hint=f"chown it to the user that runs this ({os.geteuid()}), and ask who else had it",
        )
    if found.st_mode & 0o077:
        raise Fatal(
            f"{path} is open to other users (mode {found.st_mode & 0o777:04o})",
            hint=f"chmod 0600 {path}; replace the key if others use this machine",
        )


def _owners(path: Path, *, of_service: bool) -> set[int]:
    own = os.geteuid()
    if of_service and own == 0:
        return {own, path.parent.stat().st_uid}
    return {own, 0}
