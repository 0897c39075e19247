"""The command bridge-agent: join, run, status, set, explain, replay, plan, tune, leave.

A command imports what it needs when it runs: the agent must not keep what others of them need.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bridge_agent import attest_commands, audit_commands, seal_commands, service_commands, systemd
from bridge_agent.cli_options import StateOption
from bridge_agent.config import (
    DEFAULT_PORTS,
    DRAIN_S,
    Listeners,
    SealSection,
    StateDir,
    load_config,
    save_config,
)
from bridge_agent.engines.config import EngineConfig
from bridge_agent.lock import holder_of
from bridge_agent.models.section import ModelsSection
from bridge_agent.models.shared.section import SharedSection, shared_faults
from bridge_agent.serve import ServeOptions, become
from bridge_agent.tracing.section import TracesSection
from bridge_core.addresses import join_address, split_address
from bridge_core.command.guard import guarded
from bridge_core.command.labels import labels_of, listed
from bridge_core.command.program import as_called, program
from bridge_core.command.units import say
from bridge_core.errors import Fatal
from bridge_core.systemd.manager import ServiceManager

DEFAULT_PARALLEL = EngineConfig(index=0).num_parallel

app = program("The sidecar of a DeepSeek-Ollama Bridge node.")
app.add_typer(service_commands.group, name="service")
app.add_typer(seal_commands.group, name="seal")
app.add_typer(audit_commands.group, name="audit")
app.add_typer(attest_commands.attest, name="attest")


HttpOption = Annotated[str | None, typer.Option("--http", help="Ollama's API in the clear, HOST:PORT.")]
HttpsOption = Annotated[str | None, typer.Option("--https", help="The same over TLS 1.3, HOST:PORT.")]
GrpcOption = Annotated[str | None, typer.Option("--grpc", help="gRPC over TLS 1.3, HOST:PORT.")]
PeerOption = Annotated[str | None, typer.Option("--peer", help="Where other agents call, HOST:PORT.")]
ModelsOption = Annotated[
    Path | None,
    typer.Option("--models", help="The model store; default: the one of the node's first engine."),
]
AdvertiseOption = Annotated[
    str | None,
    typer.Option(
        "--advertise",
        help="The host name or address that other agents reach this one at; without it, the host of "
        "--peer, or this machine's address towards the registry.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="All of it as JSON.")]
AdminOption = Annotated[str | None, typer.Option("--admin", help="Metrics and status, HOST:PORT.")]


@app.command("join")
def join_command(
    *,
    registry: Annotated[str, typer.Argument(help="The registry's gRPC address, HOST:PORT[,HOST:PORT…].")],
    state_dir: StateOption,
    token: Annotated[
        str,
        typer.Option(
            "--token",
            envvar="BRIDGE_JOIN_TOKEN",
            help="What `bridgectl token create` printed; - reads it from standard input.",
        ),
    ] = "",
    service_account_token: Annotated[
        Path | None,
        typer.Option(
            "--service-account-token",
            help="In a pod, in the token's place: the file with its projected service account token, whose "
            "audience is bridge-join.TRUSTDOMAIN. The node's name is the pod's.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", help="With it: the mesh's CA certificate, which a join token names by itself."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The node's name; default: the host's.")] = None,
    http: HttpOption = None,
    https: HttpsOption = None,
    grpc: GrpcOption = None,
    peer: PeerOption = None,
    admin: AdminOption = None,
    advertise: AdvertiseOption = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            show_default="llamacpp",
            help="llamacpp, ollama, or attach=URL for one that runs already.",
        ),
    ] = None,
    num_parallel: Annotated[
        int | None, typer.Option("--num-parallel", help="Requests that the engine decodes at a time.")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option("--models", help="Ollama's model store; default: models in the state folder."),
    ] = None,
    shared: Annotated[
        Path | None,
        typer.Option(
            "--shared",
            help="A mounted folder that several nodes share (CephFS, NFS): models there are copied to the "
            "node's own store when they are pulled, instead of from outside.",
        ),
    ] = None,
    shared_s3: Annotated[
        str | None,
        typer.Option(
            "--shared-s3",
            metavar="file:PATH|credential:NAME",
            help="The same in an S3-compatible bucket: a file of mode 0600 that says which and has the key, "
            "or the name by which systemd gives it.",
        ),
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="This node may write models into the shared storage.")
    ] = False,
    label: Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE, repeatable.")] = None,
    seal_key: Annotated[
        str | None,
        typer.Option(
            "--seal-key",
            help="Where the key comes from that opens the node's keyring: file:/PATH, credential:NAME of "
            "systemd, or exec:/PROGRAM ARGUMENTS. Without, a file beside the keyring.",
        ),
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(
            "--traces",
            help="An OTLP/HTTP collector's address that traces go to, such as "
            "http://localhost:4318/v1/traces. agent.json has the rest.",
        ),
    ] = None,
    as_service: Annotated[
        bool,
        typer.Option(
            "--systemd", help="Also install it as a service of systemd, start it, and at each boot."
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Give the node that is enrolled here a new key and certificate, and keep its engines, "
            "models and settings: after a revocation, or a pause longer than the certificate's life. The "
            "token is made with `bridgectl token create --node NAME`. An agent that runs takes it up.",
        ),
    ] = False,
) -> None:
    """Enrol this machine as a node of a mesh, or (--replace) bring an enrolled one back."""

    def work() -> None:
        import asyncio

        from bridge_agent.membership.advertise import advertised_host
        from bridge_agent.membership.join import JoinPlan, default_name, join, pod_token, replacing

        state, manager = StateDir(state_dir), ServiceManager()
        registries = listed(registry)
        secret = sys.stdin.readline() if token == "-" else token  # noqa: S105 - a dash is no secret
        if service_account_token is not None or ca is not None:
            if service_account_token is None or ca is None or token:
                raise Fatal("--service-account-token and --ca go together, and without --token")
            secret = pod_token(service_account_token, ca)
        elif not secret:
            raise Fatal("--token is missing", hint="`bridgectl token create` prints one")
        host = None if advertise is None else advertised_host(advertise)
        if replace:
            settings = load_config(state)
            kept = {"--engine": engine, "--num-parallel": num_parallel, "--models": models, "--label": label}
            kept |= {
                "--seal-key": seal_key,
                "--shared": shared,
                "--shared-s3": shared_s3,
                "--publish": publish or None,
                "--traces": traces,
                "--http": http,
                "--https": https,
                "--grpc": grpc,
                "--peer": peer,
                "--admin": admin,
            }
            _refuse_changes({**kept, "--systemd": as_service or None}, name, settings.name)
            settings = asyncio.run(join(replacing(settings, registries, secret, advertise=host), state))
            typer.echo(f"{settings.name} is a node of the mesh {settings.trust_domain} again")
            _say_when_used(state, "The agent that runs takes the new certificate up by itself")
            return
        if as_service:  # refused before the token is spent
            systemd.check(manager, state)
        plan = JoinPlan(
            registries=registries,
            token=secret,
            name=name or default_name(),
            listeners=_moved(Listeners(), http=http, https=https, grpc=grpc, peer=peer, admin=admin),
            seal=SealSection(seal_key or ""),
            models=_models(shared, shared_s3, publish=publish),
            engines=(_engine(engine or "llamacpp", num_parallel, models),),
            labels=labels_of(label or []),
            advertise=host,
            traces=_traces(traces),
        )
        if as_service:
            systemd.check_listeners(plan.listeners)
        settings = asyncio.run(join(plan, state))
        typer.echo(f"{settings.name} joined the mesh {settings.trust_domain}; its state is in {state_dir}")
        if as_service:
            say(systemd.install(manager, settings, state))
        else:
            typer.echo(f"Start it: {as_called('bridge-agent')} run --state-dir {state_dir}")

    guarded(work)


@app.command("run")
def run_command(
    *,
    state_dir: StateOption,
    http: HttpOption = None,
    https: HttpsOption = None,
    grpc: GrpcOption = None,
    peer: PeerOption = None,
    admin: AdminOption = None,
    log_level: Annotated[
        str, typer.Option("--log-level", envvar="BRIDGE_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "info",
    keep_engines: Annotated[
        bool,
        typer.Option(
            "--keep-engines", help="On SIGTERM leave the engines running; the next start adopts them."
        ),
    ] = False,
    drain_s: Annotated[
        float,
        typer.Option(
            "--drain",
            envvar="BRIDGE_AGENT_DRAIN",
            min=0.0,
            max=86_400.0,
            help="On SIGTERM: how long running requests may take to finish, in seconds.",
        ),
    ] = DRAIN_S,
) -> None:
    """Serve as the enrolled node until SIGTERM, which drains first."""

    def work() -> None:
        settings = load_config(StateDir(state_dir))
        listeners = _moved(settings.listeners, http=http, https=https, grpc=grpc, peer=peer, admin=admin)
        become(ServeOptions(str(state_dir), listeners, log_level, keep_engines, drain_s))

    guarded(work)


@app.command("status")
def status_command(
    state_dir: StateOption,
    as_json: Annotated[bool, typer.Option("--json", help="The whole report as JSON.")] = False,
) -> None:
    """Say how the agent is, what it cannot reach, and since when. Exits 1 when it does not run."""

    def work() -> None:
        from bridge_agent.status_report import fetch_report, print_report

        report = fetch_report(load_config(StateDir(state_dir)))
        if as_json:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        else:
            from rich.console import Console

            print_report(report, Console(highlight=False))

    guarded(work)


@app.command("set")
def set_command(state_dir: StateOption, advertise: AdvertiseOption = None) -> None:
    """Change what the node is known by in its mesh: after a move, the host that others reach it at."""

    def work() -> None:
        from bridge_agent.membership.advertise import advertised_host

        if advertise is None:
            raise Fatal("nothing to set was given", hint="bridge-agent set --advertise HOST")
        state = StateDir(state_dir)
        settings = load_config(state)
        port = split_address(settings.peer_address, flag="peer_address")[1]
        peer = join_address(advertised_host(advertise), port)
        try:
            save_config(state, msgspec.structs.replace(settings, peer_address=peer))
        except OSError as fault:
            raise Fatal(f"cannot write to {state.root}: {fault.strerror}") from fault
        typer.echo(f"{settings.name} is to be reached at {peer}; the mesh is told when its agent starts")
        _say_when_used(state, "Restart the agent that runs")

    guarded(work)


@app.command("explain")
def explain_command(
    request_id: Annotated[
        str, typer.Argument(help="X-Request-Id of the answer, or of the client's request.")
    ],
    state_dir: StateOption,
    as_json: Annotated[bool, typer.Option("--json", help="All hops as JSON.")] = False,
) -> None:
    """Say why a request went where it went: who was asked, who was not and why, and how long it took."""

    def work() -> None:
        from bridge_agent.explain_report import fetch_explanation
        from bridge_core.command.explanation_text import print_explanation

        hops = fetch_explanation(load_config(StateDir(state_dir)), request_id)
        if as_json:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(hops), indent=2) + b"\n")
        else:
            from rich.console import Console

            print_explanation(hops, Console(highlight=False))

    guarded(work)


@app.command("replay")
def replay_command(
    state_dir: StateOption,
    folder: Annotated[
        Path, typer.Option("--with", help="A folder of mesh_config documents.", exists=True, file_okay=False)
    ],
    hours: Annotated[float, typer.Option("--hours", help="How far back.", min=0.01, max=168.0)] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="All counts as JSON.")] = False,
    collected: Annotated[
        bool, typer.Option("--collected", hidden=True, help="Standard input has all nodes' requests.")
    ] = False,
) -> None:
    """Say where this node's last requests would have gone with another mesh_config. Changes nothing."""

    def work() -> None:
        from bridge_agent.replay_report import (
            print_comparison,
            read_collected,
            replay_collected,
            replay_files,
        )

        if collected:
            handed = read_collected(sys.stdin.buffer.read())
            found = replay_collected(handed, folder)
            for name, node in () if as_json else handed.nodes.items():
                if node.left_out:
                    typer.echo(
                        f"{name} told its newest {len(node.requests)} requests, {node.left_out} are older"
                    )
        else:
            found = replay_files(StateDir(state_dir), folder, time.time() - hours * 3600)
        if as_json:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        else:
            from rich.console import Console

            print_comparison(found, Console(highlight=False))

    guarded(work)


@app.command("plan")
def plan_command(
    *,
    names: Annotated[list[str] | None, typer.Argument(help="Models, the most important first; all.")] = None,
    state_dir: StateOption,
    models: ModelsOption = None,
    slots: Annotated[
        int, typer.Option("--slots", min=1, help="Requests at a time that a model is to get.")
    ] = 4,
    context: Annotated[int, typer.Option("--context", min=4, help="Tokens of context of each.")] = 4096,
    vram: Annotated[
        str | None, typer.Option("--vram", help="Suppose GPUs with so much free memory each, e.g. 24GiB.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", help="How many to suppose.")] = 1,
    mps: Annotated[bool, typer.Option("--mps/--no-mps", help="Whether to suppose MPS.")] = True,
    save: Annotated[
        bool, typer.Option("--save", help="Put the engines into agent.json, for the agent's next start.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how engines are best set up for models on this node, and why."""
    from bridge_agent.tuning import commands
    from bridge_agent.tuning.plan_rules import ModelDemand

    wish = ModelDemand(slots=slots, context=context)
    state = StateDir(state_dir)
    commands.plan_command(
        names or [],
        state,
        models=models,
        vram=vram,
        gpus=gpus,
        mps=mps,
        wish=wish,
        save=save,
        as_json=as_json,
    )


@app.command("tune")
def tune_command(
    *,
    name: Annotated[str, typer.Argument(help="The model to measure.")],
    state_dir: StateOption,
    models: ModelsOption = None,
    context: Annotated[
        int, typer.Option("--context", min=256, help="Tokens of context of each slot.")
    ] = 2048,
    tokens: Annotated[int, typer.Option("--tokens", min=4, help="Tokens of each measured answer.")] = 64,
    limit_s: Annotated[
        float, typer.Option("--limit", min=5.0, help="How long it may take, in seconds.")
    ] = 180.0,
    engines: Annotated[int, typer.Option("--engines", min=1, help="Copies on one GPU under MPS.")] = 1,
    ttft_s: Annotated[
        float, typer.Option("--ttft", min=0.01, help="How late a first token may come, in seconds.")
    ] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Measure which settings make a model fastest on this node, and keep them for `plan`."""
    from bridge_agent.tuning import commands

    order = commands.TuneOptions(name, models, context, tokens, limit_s, engines, ttft_s)
    commands.tune_command(order, StateDir(state_dir), as_json=as_json)


@app.command("leave")
def leave_command(
    state_dir: StateOption,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the identity even if no registry can be told.")
    ] = False,
    drain_s: Annotated[
        float, typer.Option("--drain", help="How long running requests may take to finish, in seconds.")
    ] = 60.0,
) -> None:
    """Take this node out of its mesh for good: drain, stop, revoke and forget its identity."""

    def work() -> None:
        import asyncio

        from bridge_agent.membership.leave import leave

        state, manager = StateDir(state_dir), ServiceManager()
        settings = load_config(state)
        service = systemd.runs_as_service(manager, state)
        if service:
            manager.check()
        # Stopped by anybody but systemd, the agent would be started again.
        stop = (lambda: manager.stop(systemd.AGENT_UNIT)) if service else None
        note = asyncio.run(leave(settings, state, force=force, drain_s=drain_s, stop=stop))
        typer.echo(f"{settings.name} has left the mesh {settings.trust_domain}")
        if note:
            typer.echo(note)
        if service:
            say(systemd.remove(manager))

    guarded(work)


def run() -> None:
    """The command's entry point."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what its core writes besides comes as an error, too
    app()


def _refuse_changes(given: Mapping[str, object], name: str | None, enrolled: str) -> None:
    """Raises Fatal where `join --replace` was also told to change what it keeps."""
    if name not in {None, enrolled}:
        raise Fatal(
            f"the node enrolled here is {enrolled}, not {name}",
            hint="leave out --name, or choose another --state-dir and leave out --replace",
        )
    for flag, value in given.items():
        if value is not None:
            raise Fatal(
                f"--replace keeps what the node has: {flag} cannot go with it",
                hint="the node's settings are in its agent.json",
            )


def _say_when_used(state: StateDir, running: str) -> None:
    how = f"Start it: {as_called('bridge-agent')} run --state-dir {state.root}"
    typer.echo(how if holder_of(state.lock) is None else running)


def _moved(listeners: Listeners, **addresses: str | None) -> Listeners:
    """`listeners` with those given by flags in their place, each checked."""
    given = {name: address for name, address in addresses.items() if address is not None}
    for name, address in given.items():
        split_address(address, flag=f"--{name}")
    moved = msgspec.structs.replace(listeners, **given)
    chosen = [(name, getattr(moved, name)) for name in DEFAULT_PORTS]
    for at, (name, address) in enumerate(chosen):
        for other, same in chosen[:at]:
            if address == same and not address.endswith(":0"):
                raise Fatal(f"--{other} and --{name} are both {address}", hint="each needs its own port")
    return moved


def _models(shared: Path | None, shared_s3: str | None, *, publish: bool) -> ModelsSection:
    if shared is None and shared_s3 is None:
        if publish:
            raise Fatal(
                "--publish goes with --shared or --shared-s3", hint="they say where the shared storage is"
            )
        return ModelsSection()
    try:
        section = msgspec.convert(
            {
                "path": "" if shared is None else str(shared.absolute()),
                "s3": shared_s3 or "",
                "publish": publish,
            },
            SharedSection,
        )
    except msgspec.ValidationError:
        raise Fatal(
            f"--shared-s3 {shared_s3!r} names no settings",
            hint="file:/PATH of a file of mode 0600, or credential:NAME",
        ) from None
    if faults := shared_faults(section, ()):
        raise Fatal("; ".join(faults), hint="give --shared or --shared-s3")
    return ModelsSection(shared=section)


def _traces(endpoint: str | None) -> TracesSection | None:
    try:
        return None if endpoint is None else TracesSection(endpoint=endpoint)
    except ValueError as fault:
        raise Fatal(f"--traces: {fault}") from fault


def _engine(text: str, num_parallel: int | None, models: Path | None) -> EngineConfig:
    kind, _, where = text.partition("=")
    wanted = {"llamacpp": not where, "ollama": True, "attach": bool(where)}
    if not wanted.get(kind):
        hint = "llamacpp, ollama, ollama=/path/to/ollama or attach=http://HOST:PORT"
        raise Fatal(f"--engine {text!r} is not known", hint=hint)
    try:
        return EngineConfig(
            index=0,
            kind="llamacpp" if kind == "llamacpp" else "ollama",
            attach=where if kind == "attach" else None,
            binary=(where or None) if kind == "ollama" else None,
            num_parallel=DEFAULT_PARALLEL if num_parallel is None else num_parallel,
            models_dir=None if models is None else str(models.absolute()),
        )
    except ValueError as fault:
        raise Fatal(f"the engine cannot be run so: {fault}") from fault
