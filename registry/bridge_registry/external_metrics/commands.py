"""`bridge-registry external-metrics`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bridge_core.addresses import split_address
from bridge_core.command.guard import guarded
from bridge_core.command.labels import listed
from bridge_core.hardening import keep_memory_private
from bridge_core.logs.setup import log_of_program


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("external-metrics")
    def external_metrics(
        *,
        registries: Annotated[
            str,
            typer.Option(
                "--registries", envvar="BRIDGE_METRICS_REGISTRIES", help="host:port[,…] of all registries."
            ),
        ],
        tls: Annotated[
            Path,
            typer.Option(
                "--tls",
                envvar="BRIDGE_METRICS_TLS",
                help="Folder with tls.crt and tls.key for the Service's name: the API server is shown them.",
            ),
        ],
        client: Annotated[
            Path,
            typer.Option(
                "--client",
                envvar="BRIDGE_METRICS_CLIENT",
                help="Folder with tls.crt, tls.key and ca.pem of an admin of the role viewer.",
            ),
        ],
        request_header_ca: Annotated[
            Path,
            typer.Option(
                "--request-header-ca",
                envvar="BRIDGE_METRICS_REQUEST_HEADER_CA",
                help="The cluster's requestheader-client-ca-file: the API server shows certificates of it.",
            ),
        ],
        allowed_names: Annotated[
            str,
            typer.Option(
                "--allowed-names",
                envvar="BRIDGE_METRICS_ALLOWED_NAMES",
                help="Common names of that certificate, NAME[,…]; empty: any.",
            ),
        ] = "front-proxy-client",
        namespaces: Annotated[
            str,
            typer.Option(
                "--namespaces",
                envvar="BRIDGE_METRICS_NAMESPACES",
                help="Namespaces that have the metrics, NAME[,…]; empty: every one.",
            ),
        ] = "",
        listen: Annotated[
            str,
            typer.Option(
                "--listen", envvar="BRIDGE_METRICS_LISTEN", help="host:port for the API server; port 0: any."
            ),
        ] = "0.0.0.0:11406",
        ready_file: Annotated[
            Path | None,
            typer.Option("--ready-file", help="Written when it listens: pid and address, JSON."),
        ] = None,
    ) -> None:
        """Serves external.metrics.k8s.io to a Kubernetes API server, from what the leading registry says."""
        keep_memory_private()
        guarded(lambda: log_of_program("bridge-external-metrics"))
        from bridge_registry.external_metrics import adapter

        options = adapter.AdapterOptions(
            listen=guarded(lambda: split_address(listen, flag="--listen")),
            tls=(tls / "tls.crt", tls / "tls.key"),
            request_header_ca=request_header_ca,
            allowed_names=frozenset(listed(allowed_names)),
            namespaces=frozenset(listed(namespaces)),
            registries=listed(registries),
            certificate=client / "tls.crt",
            key=client / "tls.key",
            ca=client / "ca.pem",
            ready_file=ready_file,
        )
        guarded(lambda: uvloop.run(adapter.run(options)))
