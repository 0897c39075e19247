"""An NFS server in user space (nfs-ganesha) and a client (libnfs): for kernels that have neither.

The server is the one that clusters run in front of CephFS, too; here it exports a local folder on loopback.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PORT = 12_049
_CONFIG = """
NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Enable_NLM = false;
  Enable_RQUOTA = false; }}
NFSv4 {{ Graceless = true; RecoveryBackend = fs; }}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /models; Access_Type = RW; Squash = No_Root_Squash;
  SecType = sys; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = WARN; }}
"""


def missing() -> str:
    """What is needed and not there; empty: nothing."""
    lacks = [] if shutil.which("ganesha.nfsd") else ["nfs-ganesha, nfs-ganesha-vfs"]
    lacks += [] if ctypes.util.find_library("nfs") else ["libnfs13"]
    return ", ".join(lacks)


@contextlib.contextmanager
def exported(folder: Path, export: Path) -> Iterator[str]:
    """An NFSv4.0 server of `export` on loopback; its URL."""
    config = folder / "ganesha.conf"
    config.write_text(_CONFIG.format(port=PORT, export=export))
    command = ["ganesha.nfsd", "-F", "-f", str(config), "-L", str(folder / "log"), "-p", str(folder / "pid")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"nfs://127.0.0.1/models?version=4&nfsport={PORT}"
        for _ in range(100):
            with contextlib.suppress(OSError):
                NfsFile(url, "/.", folder=True)
                break
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        if server.poll() is None:
            server.kill()
            server.wait()


class _Url(ctypes.Structure):
    _fields_ = (("server", ctypes.c_char_p), ("path", ctypes.c_char_p), ("file", ctypes.c_char_p))


class NfsFile:
    """A file of an NFS server, open for reading; for one thread.

    Raises:
        OSError: the server does not answer, or refuses.
    """

    def __init__(self, url: str, path: str, *, folder: bool = False) -> None:
        self._nfs = _library()
        self._context = self._nfs.nfs_init_context()
        parsed = self._nfs.nfs_parse_url_dir(self._context, url.encode())
        if not parsed:
            raise OSError(self._error())
        if self._nfs.nfs_mount(self._context, parsed.contents.server, parsed.contents.path) < 0:
            raise OSError(self._error())
        self._handle = ctypes.c_void_p()
        if not folder:
            opened = self._nfs.nfs_open(self._context, path.encode(), os.O_RDONLY, ctypes.byref(self._handle))
            if opened < 0:
                raise OSError(self._error())
        self._buffer = ctypes.create_string_buffer(1 << 20)  # what kernels ask for, too

    def read(self, offset: int, length: int) -> int:
        """Reads into a buffer, as much as one request takes; how many bytes."""
        wanted = min(length, len(self._buffer))
        got = self._nfs.nfs_pread(self._context, self._handle, offset, wanted, self._buffer)
        if got < 0:
            raise OSError(self._error())
        return int(got)

    def _error(self) -> str:
        return str(ctypes.string_at(self._nfs.nfs_get_error(self._context)).decode("utf-8", "replace"))


def _library() -> Any:
    found = ctypes.CDLL(ctypes.util.find_library("nfs") or "libnfs.so.13", use_errno=True)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
    found.nfs_init_context.restype = pointer
    found.nfs_parse_url_dir.argtypes, found.nfs_parse_url_dir.restype = [pointer, text], ctypes.POINTER(_Url)
    found.nfs_mount.argtypes = [pointer, text, text]
    found.nfs_open.argtypes = [pointer, text, ctypes.c_int, ctypes.POINTER(pointer)]
    found.nfs_pread.argtypes = [pointer, pointer, number, number, pointer]
    found.nfs_get_error.argtypes, found.nfs_get_error.restype = [pointer], pointer
    return found
