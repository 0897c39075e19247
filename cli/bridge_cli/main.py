"""The command `bridgectl`."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bridge_cli import admin_commands, hindsight_commands, restore_command, traffic_commands
from bridge_cli.connection import default_state_dir
from bridge_cli.layout import MeshFile
from bridge_cli.progress import Progress
from bridge_core.command.guard import guarded
from bridge_core.command.program import as_called, program
from bridge_core.errors import Fatal

T = TypeVar("T")

app = program("A mesh of Ollama-compatible nodes: start one on this machine, or administer one.")
_out = Console(highlight=False)

StateOption = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="BRIDGE_STATE_DIR",
        default_factory=default_state_dir,
        show_default="~/.local/state/bridge",
        help="Where the mesh's files lie.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("up")
def up_command(
    *,
    state_dir: StateOption,
    nodes: Annotated[int | None, typer.Option("--nodes", help="How many nodes (3).")] = None,
    base_port: Annotated[
        int | None,
        typer.Option(
            "--base-port",
            help="Node 1's HTTP port (11434). Node k's is 1000·(k-1) higher; a node's HTTPS, gRPC, peer "
            "and admin ports follow at +9 to +12, registry, etcd and store guard lie below at -34 to -29.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="llamacpp (ours), ollama (found on PATH), ollama=/path/to/ollama, or ollama=URL[,URL…] "
            "for servers that run already.",
        ),
    ] = None,
    etcd: Annotated[
        str | None,
        typer.Option(
            "--etcd", help="https://HOST:PORT[,…] of an etcd that runs already; else one of our own."
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", help="IPv4 address that other machines reach this one at (127.0.0.1: none can)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a mesh on this machine, or what is missing of it. Needs neither root nor a network."""
    given: dict[str, object] = {
        "nodes": nodes,
        "base_port": base_port,
        "host": host,
        "engine": _engine(engine) if engine else None,
        "etcd": tuple(url.strip() for url in etcd.split(",")) if etcd else None,
    }
    given = {name: value for name, value in given.items() if value is not None}

    async def work() -> None:
        from bridge_cli.up import bring_up, locked

        progress = Progress(_out, quiet=as_json)
        with locked(state):
            progress.say(f"Mesh in {state}")
            mesh, changed = await bring_up(state, given, progress)
        if as_json:
            _print_json(mesh)
            return
        done = "The mesh is up" if changed else "The mesh was up already"
        progress.say(f"{done} ({progress.elapsed_s:.1f} s).")
        progress.say(_invitation(mesh, state))

    state = state_dir.absolute()
    _run(work())


@app.command("down")
def down_command(
    *,
    state_dir: StateOption,
    grace: Annotated[float, typer.Option("--grace", help="Seconds that running requests may take.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Stop what `up` started, and nothing else. Identities, models and configuration stay."""

    async def work() -> None:
        from bridge_cli.down import take_down
        from bridge_cli.up import locked

        progress = Progress(_out, quiet=as_json)
        if not state.exists():
            raise Fatal(f"no mesh in {state}", hint="--state-dir (or BRIDGE_STATE_DIR) names another place")
        with locked(state):
            running = await take_down(state, progress, grace_s=grace)
        if as_json:
            _print_json({"ended": running})
        else:
            progress.say("The mesh is down." if running else "The mesh was down already.")

    state = state_dir.absolute()
    _run(work())


@app.command("status")
def status_command(*, state_dir: StateOption, as_json: JsonOption = False) -> None:
    """Say what of the mesh is alive. Exits 1 when something is not."""

    async def work() -> bool:
        from bridge_cli.down import report

        found: dict[str, Any] = await report(state)
        if as_json:
            _print_json(found)
        else:
            _print_status(found)
        return all(agent["alive"] and agent["ready"] for agent in found["agents"]) and bool(
            all(found[part]["alive"] for part in ("registry", "guard"))
            and found["etcd"]["alive"] in {True, None}
        )

    state = state_dir.absolute()
    if not _run(work()):
        raise SystemExit(1)


# After those that one begins with: this is the order of `bridge --help`.
admin_commands.register(app)
traffic_commands.register(app)
restore_command.register(app)
hindsight_commands.register(app)


def run() -> None:
    """The command's entry point."""
    app()


def _run(work: Coroutine[Any, Any, T]) -> T:
    return guarded(lambda: asyncio.run(work))


def _engine(text: str) -> str:
    kind, equals, where = text.partition("=")
    known = text == "llamacpp" or (kind == "ollama" and bool(where) == bool(equals))
    if not known:
        raise typer.BadParameter("llamacpp, ollama, ollama=/path or ollama=URL", param_hint="--engine")
    return text


def _print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def _print_status(found: dict[str, Any]) -> None:
    table = Table("part", "alive", "process", "where")
    for agent in found["agents"]:
        alive = "ready" if agent["ready"] else "not ready" if agent["alive"] else "no"
        table.add_row(agent["name"], alive, str(agent["pid"] or ""), f"http://{agent['http']}")
    registry, etcd, guard = found["registry"], found["etcd"], found["guard"]
    table.add_row("registry", _yes(registry["alive"]), str(registry["pid"] or ""), registry["grpc"])
    table.add_row("store guard", _yes(guard["alive"]), str(guard["pid"] or ""), guard["listener"])
    table.add_row("etcd", _yes(etcd["alive"]), str(etcd["pid"] or ""), ", ".join(etcd["endpoints"]))
    _out.print(table)
    for agent in found["agents"]:
        if agent["alive"] and agent["reason"]:
            _out.print(f"! {agent['name']}: {agent['reason']}", markup=False, soft_wrap=True)
        for concern in agent["concerns"]:
            _out.print(f"! {concern}", markup=False, soft_wrap=True)


def _yes(alive: bool | None) -> str:
    return "not ours" if alive is None else "yes" if alive else "no"


def _invitation(mesh: MeshFile, state: Path) -> str:
    first, last = mesh.agents[0], mesh.agents[-1]
    question = "What is the capital of France?"
    chat = f'{{"model":"smollm2:135m","messages":[{{"role":"user","content":"{question}"}}]'
    prompt = base64.b64encode(question.encode()).decode()
    secure = f"--cacert {mesh.ca} --cert {mesh.client.cert} --key {mesh.client.key}"
    json = "-H 'Content-Type: application/json'"
    return f"""
Every node answers for all: {", ".join(f"http://{agent.http}" for agent in mesh.agents)}
Ollama clients: OLLAMA_HOST=http://{first.http}; OpenAI clients: OPENAI_BASE_URL=http://{first.http}/v1
(any key); gRPC over TLS: {first.grpc}, with the certificates below.

Try{_with_what(state)}:
  curl http://{last.http}/api/chat -d '{chat},"stream":false,"options":{{"temperature":0}}}}'
  curl http://{first.http}/v1/chat/completions {json} -d '{chat},"temperature":0}}'
  curl {secure} {json} \\
    https://{first.grpc}/bridge.v1.ModelInference/Predict \\
    -d '{{"modelName":"smollm2:135m","inputData":"{prompt}"}}'

State, logs and mesh.json: {state}. Stop it: {as_called("bridgectl")} down{_flag(state)}
"""


def _with_what(state: Path) -> str:
    from bridge_cli.parts import engine_of
    from bridge_cli.up import load_layout

    layout = load_layout(state)
    attached = layout is not None and engine_of(layout, layout.names[0]).startswith("attach=")
    return " (with a model of yours in place of smollm2:135m)" if attached else ""


def _flag(state: Path) -> str:
    return "" if state == default_state_dir().absolute() else f" --state-dir {state}"
