"""The commands that make up a mesh on one machine, and asking each whether it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from bridge_cli.layout import Layout
from bridge_core.child import converse
from bridge_core.errors import BridgeError, Fatal
from bridge_core.etcd_server import EtcdOptions, arguments
from bridge_core.etcd_server import environment as etcd_environment

MODELS = ("smollm2:135m", "tiny", "tiny-embed")
SOLO_MODEL = "tiny-solo"  # the last node's alone, so that a peer has to be asked for it
_GO_FRAME = re.compile(r"\.go:\d+ \+0x")


def command(name: str) -> str:
    """The path of one of our commands: beside this interpreter, else on PATH.

    Raises:
        Fatal: it is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Fatal(
            f"the command {name} is not installed", hint="run `make up`, or install the package whole"
        )
    return found


def environment() -> dict[str, str]:
    """What our processes inherit: all but other programs' secrets that we know of."""
    return {name: value for name, value in os.environ.items() if name != "BRIDGE_JOIN_TOKEN"}


def etcd_settings(layout: Layout) -> EtcdOptions:
    """How our own etcd runs."""
    return EtcdOptions(
        data_dir=layout.etcd_data,
        log_file=layout.logs / "etcd.log",
        client_port=layout.etcd_client_port,
        peer_port=layout.etcd_peer_port,
        cert=layout.pki / "etcd.pem",
        key=layout.pki / "etcd.key",
        ca=layout.pki / "etcd-ca.pem",
    )


def launch(layout: Layout, part: str) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of "etcd", "guard", "registry" or a node."""
    if part == "etcd":
        return arguments(etcd_settings(layout)), etcd_environment()
    if part == "guard":
        argv = [command("bridge-registry"), "store-guard", "--state-dir", str(layout.registry_state)]
        argv += ["--etcd", ",".join(layout.etcd_urls)]
        return [
            *argv,
            "--listen",
            layout.addresses(part)["nodes"],
            "--admin",
            layout.guard_admin,
        ], environment()
    if part == "registry":
        argv = [command("bridge-registry"), "run", "--state-dir", str(layout.registry_state)]
        argv += ["--etcd", ",".join(layout.etcd_urls)]
        argv += ["--grpc", layout.addresses(part)["gRPC"], "--admin", layout.registry_admin]
        argv += [*_hosts(layout), "--store-guard", f"https://{layout.guard}"]
        if not layout.options.etcd:  # ours alone, so its access control may be turned on
            argv.append("--etcd-rbac")
        return argv, environment()
    return [command("bridge-agent"), "run", "--state-dir", str(layout.node_state(part))], environment()


def init_command(layout: Layout) -> list[str]:
    """What makes the CA and the first identities; harmless when they are there."""
    argv = [command("bridge-registry"), "init", "--state-dir", str(layout.registry_state)]
    return [*argv, *_hosts(layout)]


def _hosts(layout: Layout) -> list[str]:
    options = layout.options
    return [word for host in dict.fromkeys([options.host, options.listens]) for word in ("--host", host)]


def join_command(layout: Layout, name: str) -> list[str]:
    """What enrols a node; the token is read from standard input, since argv can be read by all."""
    argv = [command("bridge-agent"), "join", layout.registry_grpc, "--token", "-", "--name", name]
    argv += ["--state-dir", str(layout.node_state(name)), "--engine", engine_of(layout, name)]
    for flag, address in layout.listeners(name).items():
        argv += [f"--{flag}", address]
    if layout.options.address:  # of a name, which is what others are to use
        argv += ["--advertise", layout.options.host]
    if layout.options.traces:
        argv += ["--traces", layout.options.traces]
    return argv


def engine_of(layout: Layout, name: str) -> str:
    """`bridge-agent join --engine` for a node: of several Ollamas the node takes its own."""
    kind, _, where = layout.options.engine.partition("=")
    if kind == "ollama" and where.startswith(("http://", "https://")):
        urls = where.split(",")
        return f"attach={urls[min(layout.names.index(name), len(urls) - 1)]}"
    return layout.options.engine


def check_engine(engine: str) -> None:
    """Refuses an Ollama that is not there, before nodes wait for it in vain.

    Raises:
        Fatal: the binary cannot be found or run.
    """
    kind, _, where = engine.partition("=")
    if kind != "ollama" or where.startswith(("http://", "https://")):
        return
    if shutil.which(where or "ollama") is None:
        raise Fatal(
            f"no executable {where or 'ollama on PATH'}",
            hint="--engine ollama=/path/to/ollama names one, ollama=URL one that runs; llamacpp needs none",
        )


def seed_command(layout: Layout, name: str) -> list[str] | None:
    """What gives a node its models; None where the engine brings its own."""
    if engine_of(layout, name).startswith("attach="):
        return None
    argv = [command("bridge-engine"), "seed", "--models", str(layout.node_state(name) / "models")]
    argv += ["--cache", str(layout.model_cache), *MODELS]
    return [*argv, SOLO_MODEL] if name == layout.names[-1] else argv


async def run_to_end(argv: list[str], *, given: str = "") -> None:
    """Runs a command that ends by itself.

    Raises:
        Fatal: it failed; what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(),
        start_new_session=True,  # Ctrl-C is for `up` alone: it ends this, and says so in its own words
    )
    try:
        output, _ = await converse(process, given.encode())
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        said = output.decode(errors="replace").strip() or f"it ended with status {process.returncode}"
        raise Fatal(f"{Path(argv[0]).name} {argv[1]} failed: {said}")


async def ask(address: str, path: str, *, timeout_s: float = 2.0) -> tuple[int, bytes]:
    """GET from a part's admin listener.

    Raises:
        OSError, http.client.HTTPException: nothing answers there.
    """

    def get() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(address, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    return await asyncio.to_thread(get)


class AgentState(msgspec.Struct, frozen=True):
    """What an agent's /readyz and /status say, as far as `up` and `status` care."""

    ready: bool = False
    instances: int = 0
    reason: str = "it does not answer"
    concerns: tuple[str, ...] = ()


async def agent_state(admin: str) -> AgentState:
    """Asks an agent how it is; one that does not answer is not ready."""
    try:
        ready, words = await ask(admin, "/readyz")
        _, report = await ask(admin, "/status")
        said: dict[str, Any] = msgspec.json.decode(report)
        snapshot: dict[str, Any] = said.get("snapshot", {})
    except (OSError, http.client.HTTPException, msgspec.DecodeError, AttributeError) as fault:
        return AgentState(reason=str(fault) or type(fault).__name__)
    return AgentState(
        ready == 200,
        snapshot.get("instances", 0),
        words.decode(errors="replace").strip(),
        tuple(map(str, said.get("concerns", ()))),
    )


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for a message about a process that ended."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-count:]
    except OSError:
        return ""
    return "\n".join(f"  | {line[:300]}" for line in lines)


def ended(part: str, log: Path) -> BridgeError:
    """The fault of a process that ended instead of becoming ready."""
    last = last_lines(log)
    # Whichever goroutine gave up first ends the log: its last frame need not be main's.
    if _GO_FRAME.search(last) and (reason := panic_of(log)):
        last = f"  | {reason}"
    return Fatal(f"{part} ended at its start:\n{last}", hint=f"its log is {log}")


def panic_of(log: Path) -> str:
    """Why a Go program (etcd) gave up: its log ends in a stack, and the reason lies before that."""
    reason = ""
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("fatal error: "):  # the Go runtime's own; etcd logs its panics as JSON as well
            reason = line
        with contextlib.suppress(msgspec.DecodeError, TypeError, AttributeError):
            record = msgspec.json.decode(line)
            if record.get("level") in {"panic", "fatal"}:
                reason = f"{record.get('msg', '')}: {record.get('error', '')}".strip(": ")
    return reason
