"""A Kubernetes API that reviews tokens and takes what pods cost.

The fake that scenarios use, held to what the real one answers.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trustme

from bridge_core import http1
from bridge_core.http1 import Exchange
from bridge_registry.enrolment.pod_rules import KubernetesApi

OWN = "the-registrys-own"
ACCOUNT = "bridge:mesh-bridge-agent"


class FakeApi:
    """Reviews the tokens that it is told of.

    Attributes:
        pods: By token: the username, the pod's name and uid, and the audiences.
        asked: Bodies of the reviews.
        annotations: By path of a pod; a pod that is not in here is not there.
        refused: Statuses in place of a change, by path of a pod.
        answer: Status and body in place of a review; None: it reviews.
    """

    def __init__(self) -> None:
        self.pods: dict[str, tuple[str, str, str, list[str]]] = {}
        self.asked: list[dict[str, Any]] = []
        self.annotations: dict[str, dict[str, str]] = {}
        self.refused: dict[str, int] = {}
        self.answer: tuple[int, bytes] | None = None

    def knows(
        self,
        token: str,
        name: str,
        uid: str,
        *,
        audience: str = "bridge-join.bridge.local",
        account: str = ACCOUNT,
    ) -> None:
        """A pod's token."""
        self.pods[token] = (f"system:serviceaccount:{account}", name, uid, [audience])

    def app(self, exchange: Exchange) -> None:
        """Answers one request."""
        request = exchange.request
        known = (b"Bearer " + OWN.encode()) == request.headers.get(b"authorization")
        if request.method == "PATCH" and request.path.endswith("/status"):
            exchange.respond(*self._annotated(request.path.removesuffix("/status"), request, known=known))
        elif (request.method, request.path) != ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"):
            exchange.respond(404)
        elif self.answer is not None:
            exchange.respond(self.answer[0], (), self.answer[1])
        elif not known:
            exchange.respond(401, (), b'{"kind":"Status","code":401}')
        else:
            exchange.respond(201, ((b"content-type", b"application/json"),), self._review(request.body))

    def _annotated(self, path: str, request: Any, *, known: bool) -> tuple[int, tuple[()], bytes]:
        if self.answer is not None:
            return self.answer[0], (), self.answer[1]
        if not known or path not in self.annotations:
            return (404 if known else 401), (), b'{"kind":"Status"}'
        if path in self.refused:
            return self.refused[path], (), b'{"kind":"Status"}'
        if request.headers.get(b"content-type") != b"application/merge-patch+json":
            return 415, (), b'{"kind":"Status"}'
        self.annotations[path] |= json.loads(request.body)["metadata"]["annotations"]
        return 200, (), b'{"kind":"Pod"}'

    def _review(self, body: bytes) -> bytes:
        asked = json.loads(body)
        self.asked.append(asked)
        pod = self.pods.get(asked["spec"]["token"])
        status: dict[str, Any] = {"user": {}, "error": "invalid bearer token"}
        if pod is not None and (meant := [one for one in pod[3] if one in asked["spec"]["audiences"]]):
            extra = {
                "authentication.kubernetes.io/pod-name": [pod[1]],
                "authentication.kubernetes.io/pod-uid": [pod[2]],
            }
            status = {
                "authenticated": True,
                "audiences": meant,
                "user": {"username": pod[0], "uid": "u", "groups": ["system:authenticated"], "extra": extra},
            }
        return json.dumps({**asked, "status": status}).encode()


@contextlib.asynccontextmanager
async def reviewing(folder: Path) -> AsyncIterator[tuple[FakeApi, KubernetesApi]]:
    """A fake API over TLS, and how a registry is told of it."""
    authority, api = trustme.CA(), FakeApi()
    folder.mkdir(parents=True)
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    (folder / "token").write_text(OWN + "\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = await http1.serve(api.app, name="kubernetes", ssl=context)
    try:
        told = KubernetesApi((ACCOUNT,), ("mesh-bridge.bridge.svc",), ("127.0.0.1", server.port), folder)
        yield api, told
    finally:
        await server.close()
