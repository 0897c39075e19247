"""Stands in for nvidia-cuda-mps-control: the same command line, pipe directory and answers.

With -f it is the daemon: it logs to its standard output, as the real one does, and listens on a
socket in the pipe directory until told to quit. Without, it sends its standard input to the daemon.
Beside the real one's commands it knows `serve` (a server starts, as for a first client; its pid is
answered), `crash` (it dies, its servers stay, as after a SIGKILL) and `fault [PID]` (the server logs
that this client faulted, in the words of driver 580).
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

PIPE = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
SOCKET = PIPE / "fake.sock"


def daemon() -> int:
    SOCKET.unlink(missing_ok=True)
    (PIPE / "control").touch()
    percentage = "100.0"
    servers: list[subprocess.Popen[bytes]] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(SOCKET))
        server.listen()
        print("[2026-11-23 00:00:00.000 Control     1] Starting control daemon", flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                words = connection.recv(4096).decode().split()
                if words[:1] == ["quit"]:
                    for one in servers:
                        one.kill()
                        one.wait()
                    return 0
                if words[:1] == ["serve"]:
                    servers.append(subprocess.Popen(["sleep", "600"]))
                if words[:1] in (["serve"], ["get_server_list"]):
                    connection.sendall("".join(f"{one.pid}\n" for one in servers).encode())
                    continue
                if words[:1] == ["crash"]:
                    return 9
                if words[:1] == ["set_default_active_thread_percentage"]:
                    percentage = f"{float(words[1]):.1f}"
                if words[:1] == ["fault"]:
                    named = [f"Client {{PID: {pid}, Context: 1}} encountered" for pid in words[1:]]
                    for text in (*named, "Server is handling"):
                        print(f"[2026-11-23 00:00:01.000 Server    77] {text} a fatal GPU error.", flush=True)
                connection.sendall(f"{percentage}\n".encode())


def control() -> int:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(SOCKET))
            client.sendall(sys.stdin.buffer.read())
            client.shutdown(socket.SHUT_WR)
            sys.stdout.write(client.recv(4096).decode())
    except OSError:
        print("Cannot find MPS control daemon process")
        return 1
    return 0


sys.exit(daemon() if "-f" in sys.argv else control())
