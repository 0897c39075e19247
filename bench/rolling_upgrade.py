"""Rolls a mesh from an older checkout to this one and back, part by part, under load, and counts what fails.

    python -m bench.rolling_upgrade OLDER_CHECKOUT [--seconds-between 4]

A client asks three nodes in turn, as a load balancer does: where a connection is refused, or a node that ends
answers 503 before anything else, the next node is asked. Anything else than a whole 200 counts as failed.
Each version is a checkout with a `.venv` of its own (`make setup` there).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parents[1]
PARTS = ("guard", "registry", "node1", "node2", "node3")
BASE_PORT = 28_434
ASK = json.dumps({"model": "tiny", "prompt": "hi", "options": {"num_predict": 12}}).encode()


class Load:
    """Clients that ask until told to stop."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.good = self.elsewhere = 0
        self.failed: list[str] = []
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]

    def _run(self, number: int) -> None:
        turn = number
        while not self.done.is_set():
            turn += 1
            for offset in range(len(self.ports)):
                verdict = self._ask(self.ports[(turn + offset) % len(self.ports)])
                if verdict == "good":
                    self.good += 1
                    break
                if verdict != "elsewhere":
                    self.failed.append(verdict)
                    break
                self.elsewhere += 1
            else:
                self.failed.append("no node took it")

    def _ask(self, port: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.connect()
        except OSError:
            return "elsewhere"
        try:
            connection.request("POST", "/api/generate", ASK)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as fault:
            return f"{port}: {type(fault).__name__} {fault}"
        finally:
            connection.close()
        if answer.status == 503:
            return "elsewhere"
        whole = answer.status == 200 and b'"done":true' in body
        return "good" if whole else f"{port}: {answer.status} {body[-200:]!r}"


def bridgectl(code: Path, state: Path, *argv: str) -> str:
    """Runs a version's own command."""
    environment = {**os.environ, "BRIDGE_CONTEXT": str(state.parent / "context.json")}
    command = [str(code / ".venv" / "bin" / "bridgectl"), *argv, "--state-dir", str(state)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
    return done.stdout


def move(code: Path, state: Path, part: str) -> None:
    """Ends one part, and has it started by a version."""
    process = psutil.Process(json.loads((state / "processes.json").read_bytes())[part]["pid"])
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    bridgectl(code, state, "up")


def main() -> None:
    """Prints one line a part, and what the load saw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("older", type=Path)
    parser.add_argument("--seconds-between", type=float, default=4.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        bridgectl(given.older, state, "up", "--nodes", "3", "--base-port", str(BASE_PORT))
        load = Load([BASE_PORT, BASE_PORT + 1000, BASE_PORT + 2000])
        for thread in load.threads:
            thread.start()
        try:
            for name, code in (("this", HERE), ("older", given.older)):
                for part in PARTS:
                    time.sleep(given.seconds_between)
                    began = time.monotonic()
                    move(code, state, part)
                    print(
                        f"{part} runs {name} version after {time.monotonic() - began:.1f} s; "
                        f"{load.good} good, {load.elsewhere} asked elsewhere, {len(load.failed)} failed",
                        flush=True,
                    )
        finally:
            load.done.set()
            for thread in load.threads:
                thread.join()
            bridgectl(given.older, state, "down")
        print(f"{load.good} answered whole, {load.elsewhere} asked elsewhere, {len(load.failed)} failed")
        print(*load.failed[:20], sep="\n")


if __name__ == "__main__":
    main()
