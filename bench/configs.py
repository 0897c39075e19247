"""Configuration of the peers: nginx as upstream and as proxy, Envoy plain and over mutual TLS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BODY = json.dumps(
    {"model": "tiny:latest", "created_at": "2026-11-23T00:00:00Z", "response": "x" * 310, "done": True}
)
_ANY = "type.googleapis.com/envoy"


def nginx(folder: Path, port: int, upstream: int | None) -> Path:
    """An nginx of one worker that answers `BODY`, or that relays to `upstream`."""
    if upstream is None:
        location = f"default_type application/json; return 200 '{BODY}';"
        block = ""
    else:
        block = f"upstream u {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}"
        location = (
            "proxy_pass http://u; proxy_http_version 1.1; proxy_buffering off; "
            'proxy_set_header Connection "";'
        )
    path = folder / f"nginx-{port}.conf"
    temporary = " ".join(
        f"{kind}_temp_path {folder}/tmp-{port};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path.write_text(
        f"worker_processes 1; daemon off; pid {folder}/nginx-{port}.pid; error_log {folder}/nginx-{port}.err;"
        "events { worker_connections 4096; } "
        f"http {{ access_log off; {temporary} keepalive_requests 100000000; keepalive_timeout 600; {block} "
        f"server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }} }}\n"
    )
    return path


def envoy(
    folder: Path,
    port: int,
    upstream: int,
    *,
    serve_tls: dict[str, str] | None = None,
    speak_tls: dict[str, str] | None = None,
    http2: bool = False,
) -> Path:
    """An Envoy of one listener and one cluster; TLS files are `cert`, `key` and `ca`.

    With `http2` both sides speak that: clients of a TLS listener by their ALPN, the cluster from the start.
    """
    manager = {
        "@type": f"{_ANY}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_ANY}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    cluster: dict[str, Any] = {
        "name": "up",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_requests": 4096}]},
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
        },
    }
    if serve_tls is not None:
        context: dict[str, Any] = {"common_tls_context": _tls(serve_tls), "require_client_certificate": True}
        if http2:
            context["common_tls_context"]["alpn_protocols"] = ["h2"]
        chain["transport_socket"] = _socket("DownstreamTlsContext", context)
    if http2:
        options = f"{_ANY}.extensions.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    if speak_tls is not None:
        cluster["transport_socket"] = _socket("UpstreamTlsContext", {"common_tls_context": _tls(speak_tls)})
    config = {
        "static_resources": {
            "listeners": [{"address": _address(port), "filter_chains": [chain]}],
            "clusters": [cluster],
        }
    }
    path = folder / f"envoy-{port}.json"
    path.write_text(json.dumps(config))
    return path


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _tls(files: dict[str, str]) -> dict[str, Any]:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {"certificate_chain": {"filename": files["cert"]}, "private_key": {"filename": files["key"]}}
        ],
        "validation_context": {"trusted_ca": {"filename": files["ca"]}},
    }


def _socket(kind: str, context: dict[str, Any]) -> dict[str, Any]:
    kind_url = f"{_ANY}.extensions.transport_sockets.tls.v3.{kind}"
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind_url, **context}}
