"""The command `bridgectl`."""

from __future__ import annotations

import base64
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bridge_cli import (
    admin_commands,
    admins_commands,
    alerting_commands,
    audit_commands,
    autoscale_commands,
    backup_commands,
    ca_commands,
    client_commands,
    console_commands,
    doctor_commands,
    forecast_commands,
    health_commands,
    hindsight_commands,
    models_commands,
    policy_commands,
    quota_commands,
    restore_command,
    signing_commands,
    silence_commands,
    status_commands,
    traffic_commands,
    upgrade_commands,
    watch_commands,
)
from bridge_cli.access import default_state_dir
from bridge_cli.attest_commands import group as attest
from bridge_cli.context_commands import contexts
from bridge_cli.layout import host_of
from bridge_cli.output import JsonOption, print_json
from bridge_core.command.guard import guarded
from bridge_core.command.program import as_called, program
from bridge_core.errors import Fatal

if TYPE_CHECKING:
    from bridge_cli.layout import MeshFile
    from bridge_cli.progress import Progress

T = TypeVar("T")

app = program("A mesh of Ollama-compatible nodes: start one on this machine, or administer one.")

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
            "--host", help="Name or address that other machines reach this one at (127.0.0.1: none can)."
        ),
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(
            "--traces",
            help="An OTLP/HTTP collector's address that every node sends traces to, such as "
            "http://localhost:4318/v1/traces.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a mesh on this machine, or what is missing of it. Needs neither root nor a network."""
    given: dict[str, object] = {
        "nodes": nodes,
        "base_port": base_port,
        "host": guarded(lambda: host_of(host)) if host is not None else None,
        "engine": _engine(engine) if engine else None,
        "etcd": tuple(url.strip() for url in etcd.split(",")) if etcd else None,
        "traces": traces,
    }
    given = {name: value for name, value in given.items() if value is not None}

    async def work() -> None:
        from bridge_cli.progress import Progress
        from bridge_cli.up import bring_up, locked

        progress = Progress(quiet=as_json)
        with locked(state):
            progress.say(f"Mesh in {state}")
            mesh, changed = await bring_up(state, given, progress)
        _keep_context(mesh, state, progress)
        if as_json:
            print_json(mesh)
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
        from bridge_cli.progress import Progress
        from bridge_cli.up import locked

        progress = Progress(quiet=as_json)
        if not state.exists():
            raise Fatal(f"no mesh in {state}", hint="--state-dir (or BRIDGE_STATE_DIR) names another place")
        with locked(state):
            running = await take_down(state, progress, grace_s=grace)
        if as_json:
            print_json({"ended": running})
        else:
            progress.say("The mesh is down." if running else "The mesh was down already.")

    state = state_dir.absolute()
    _run(work())


# After those that one begins with: this is the order of `bridgectl --help`.
status_commands.register(app)
console_commands.register(app)
watch_commands.register(app)
doctor_commands.register(app)
models_commands.register(app)
signing_commands.register(models_commands.models)
app.add_typer(contexts, name="context")
app.add_typer(attest, name="attest")
app.add_typer(ca_commands.group, name="ca")
admin_commands.register(app)
app.add_typer(client_commands.clients, name="client")
app.add_typer(admins_commands.admins, name="admin")
health_commands.register(app)
silence_commands.register(app)
alerting_commands.register(app)
forecast_commands.register(app)
policy_commands.register(app)
quota_commands.register(app)
autoscale_commands.register(app)
traffic_commands.register(app)
backup_commands.register(app)
restore_command.register(app)
upgrade_commands.register(app)
hindsight_commands.register(app)
audit_commands.register(app)


def run() -> None:
    """The command's entry point."""
    app()


def _run(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return guarded(lambda: asyncio.run(work))


def _engine(text: str) -> str:
    kind, equals, where = text.partition("=")
    known = text == "llamacpp" or (kind == "ollama" and bool(where) == bool(equals))
    if not known:
        raise typer.BadParameter("llamacpp, ollama, ollama=/path or ollama=URL", param_hint="--engine")
    return text


def _keep_context(mesh: MeshFile, state: Path, progress: Progress) -> None:
    """Makes the mesh what commands ask from now on."""
    from bridge_cli.access import access_of
    from bridge_cli.context import Context, put_context

    to = access_of(mesh)
    name = "local" if state == Path.home() / ".local/state/bridge" else str(state)
    try:
        kept = Context(to.registries, str(to.ca), str(to.cert), str(to.key), str(state))
        before = put_context(name, kept, use=True)
    except Fatal as fault:  # the mesh is up all the same
        progress.say(f"! {fault.message}: name the mesh with --state-dir {state}")
        return
    if before.current not in {name, ""}:
        progress.say(
            f"Commands ask this mesh from now on; `bridgectl context use {before.current}` goes back."
        )


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
    'https://{first.grpc}/bridge.v1.ModelInference/Predict' \\
    -d '{{"modelName":"smollm2:135m","inputData":"{prompt}"}}'

From other machines{_from_afar(first.https, state)}

State, logs and mesh.json: {state}. Stop it: {as_called("bridgectl")} down{_flag(state)}
"""


def _from_afar(https: str, state: Path) -> str:
    program = as_called("bridgectl")
    if https.startswith(("127.", "localhost:", "[::1]")):
        return f": not at all; `{program} up --host ADDRESS` in a new state dir makes one that they reach."
    return f" it is https://{https}, with a key: {program} client create NAME{_flag(state)}"


def _with_what(state: Path) -> str:
    from bridge_cli.parts import engine_of
    from bridge_cli.up import load_layout

    layout = load_layout(state)
    attached = layout is not None and engine_of(layout, layout.names[0]).startswith("attach=")
    return " (with a model of yours in place of smollm2:135m)" if attached else ""


def _flag(state: Path) -> str:
    return "" if state == default_state_dir().absolute() else f" --state-dir {state}"
