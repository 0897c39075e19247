"""Opens a connection inside another process's network namespace and hands it over.

Run as a script by `network.connect_inside` where the agent is not root: `python -I -S door.py FD
PID HOST PORT`. FD is one end of a socket pair: it gets one byte with the connected socket, or a
sentence that says what went wrong. Standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def main() -> None:
    """Enters, connects, hands over."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    pid, host, port = sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        # Both are opened before either is entered: inside, /proc may show nothing of this process.
        handles = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), kind) for name, kind in KINDS]
        for handle, kind in handles:
            if libc.setns(handle, kind) == -1:
                code = ctypes.get_errno()
                raise OSError(code, f"setns: {os.strerror(code)}")  # noqa: TRY301 - told just below
        connection = socket.create_connection((host, int(port)), 5.0)
    except OSError as fault:
        channel.sendall((fault.strerror or str(fault)).encode())
        return
    socket.send_fds(channel, [b"+"], [connection.fileno()])


KINDS = (("user", CLONE_NEWUSER), ("net", CLONE_NEWNET))

if __name__ == "__main__":
    main()
