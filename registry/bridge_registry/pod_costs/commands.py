"""`bridge-registry pod-costs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bridge_core.command.guard import guarded
from bridge_core.command.labels import listed
from bridge_core.hardening import keep_memory_private
from bridge_core.logs.setup import log_of_program

_NAMESPACE = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("pod-costs")
    def pod_costs(
        *,
        registries: Annotated[
            str,
            typer.Option(
                "--registries", envvar="BRIDGE_POD_COSTS_REGISTRIES", help="host:port[,…] of all registries."
            ),
        ],
        client: Annotated[
            Path,
            typer.Option(
                "--client",
                envvar="BRIDGE_POD_COSTS_CLIENT",
                help="Folder with tls.crt, tls.key and ca.pem of an admin of the role viewer.",
            ),
        ],
        namespace: Annotated[
            str,
            typer.Option(
                "--namespace", envvar="BRIDGE_POD_COSTS_NAMESPACE", help="Where the agents' pods are."
            ),
        ],
        api: Annotated[
            str | None,
            typer.Option("--api", help="host:port of the Kubernetes API; default: as the kubelet says."),
        ] = None,
        account: Annotated[
            Path | None,
            typer.Option("--account", help="Folder with token and ca.crt; default: where they are mounted."),
        ] = None,
    ) -> None:
        """Tells Kubernetes which agent's pod is the cheapest to end, from what the leading registry says."""
        import re

        from bridge_core.addresses import split_address
        from bridge_registry.kubernetes_api import MOUNTED
        from bridge_registry.pod_costs import writer

        keep_memory_private()
        guarded(lambda: log_of_program("bridge-pod-costs"))
        if not re.fullmatch(_NAMESPACE, namespace):
            raise typer.BadParameter(f"{namespace!r} is not the name of a namespace")
        options = writer.CostOptions(
            registries=listed(registries),
            certificate=client / "tls.crt",
            key=client / "tls.key",
            ca=client / "ca.pem",
            namespace=namespace,
            address=None if api is None else guarded(lambda: split_address(api, flag="--api")),
            folder=account or MOUNTED,
        )
        guarded(lambda: uvloop.run(writer.run(options)))
