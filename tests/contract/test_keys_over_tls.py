"""Clients with keys and certificates at the listeners over TLS: the stock clients, and those who may not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import grpc
import grpc.aio
import httpx
import ollama
import openai
import pytest
from structlog.testing import capture_logs

from bridge_agent.gateway.config import ListenerKind
from bridge_agent.gateway.grpc_adapter.application import GrpcApplication
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.listener import GrpcListener
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_agent.listening import Listening
from bridge_agent.membership.revocation import Revocations
from bridge_core.clients import Admin, Client
from bridge_core.http1 import Pool
from bridge_wire.v1 import inference_pb2_grpc
from bridge_wire.v1.inference_pb2 import InferenceRequest
from tests.contract.gateway_bed import Bed, api_key, client_of, foreign_context, issue, mesh
from tests.fakes.recorded_engine import Fault, RecordedEngine
from tests.support import eventually

MODEL = "smollm2:135m"
ASK = [{"role": "user", "content": "What is the capital of France?"}]
KEY = api_key("anna")


class Front:
    """Node a's listeners as an agent opens them, and what cuts them when a snapshot says so."""

    def __init__(self, bed: Bed, listening: Listening, port: int, grpc_port: int, folder: Path) -> None:
        self.bed, self.listening, self.port, self.grpc_port = bed, listening, port, grpc_port
        self.folder = folder
        self.ca = str(folder / "ca.pem")
        self.revocations = Revocations()
        self.follow()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def follow(self) -> None:
        self.listening.cut(self.revocations.update(self.bed["a"].view.current))

    def put(self, client: Client | None, name: str = "anna") -> None:
        self.bed.publish(**{f"client__{name}": client})
        self.follow()

    async def status(
        self,
        headers: dict[str, str] | None = None,
        *,
        cert: ssl.SSLContext | None = None,
        path: str = "/api/tags",
    ) -> tuple[int, dict[str, str], Any]:
        context = cert or ssl.create_default_context(cafile=self.ca)
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.get(f"{self.url}{path}", headers=headers)
            return answer.status_code, dict(answer.headers), answer.json()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    engines = {"a": RecordedEngine(("other",)), "b": RecordedEngine((MODEL, "tiny-embed"))}
    async with mesh(tmp_path, engines) as bed, asyncio.TaskGroup() as group:
        gateway, tls = bed["a"].gateway, bed["a"].tls
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        revocations = Revocations()
        app = gateway.http_app(ListenerKind.TLS)
        serving = Serving()
        calls = Calls()
        application = GrpcApplication(
            app, serving, refusal=lambda request, _: gateway.refusal(request), calls=calls
        )
        grpc_listener = GrpcListener(
            application, sockets[1], cert=tls.cert, key=tls.key, ca=tls.ca, group=group, grace_s=1.0
        )
        listening = Listening(
            {"https": sockets[0]},
            tls,
            revocations.identify,
            grpc=grpc_listener,
            calls=calls,
            serving=serving,
        )
        await listening.open_gateway("https", app, gateway, require_client=False)
        await listening.open_grpc()
        ports = [one.getsockname()[1] for one in sockets]
        found = Front(bed, listening, ports[0], ports[1], tmp_path)
        found.revocations = revocations
        found.put(client_of("anna", groups=("staff",)))
        try:
            yield found
        finally:
            await grpc_listener.close(1.0)
            await listening.release()


@pytest.fixture
def trusting(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user sets it: the mesh's CA for every client of this process."""
    monkeypatch.setenv("SSL_CERT_FILE", front.ca)


async def test_ollamas_client_with_the_key_in_its_environment(
    front: Front, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", front.url)
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    client = ollama.AsyncClient()
    assert MODEL in {model.model for model in (await client.list()).models}
    assert "Paris" in (await client.chat(MODEL, messages=ASK)).message.content
    parts = [part async for part in await client.chat(MODEL, messages=ASK, stream=True)]
    assert parts[-1].done
    await client._client.aclose()


async def test_openais_client_with_the_key_in_its_environment(
    front: Front, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{front.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with openai.AsyncOpenAI(max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=ASK)  # type: ignore[arg-type]
        assert "Paris" in (answer.choices[0].message.content or "")
    monkeypatch.setenv("OPENAI_API_KEY", KEY[:-1])
    async with openai.AsyncOpenAI(max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="no whole API key"):
            await client.models.list()


async def test_anthropics_client_with_the_key_in_its_environment(
    front: Front, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    async with anthropic.AsyncAnthropic(max_retries=0) as client:
        answer = await client.messages.create(model=MODEL, max_tokens=20, messages=ASK)  # type: ignore[arg-type]
        assert "Paris" in answer.content[0].text  # type: ignore[union-attr]
    monkeypatch.setenv("ANTHROPIC_API_KEY", api_key("nobody"))
    async with anthropic.AsyncAnthropic(max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError, match="not known"):
            await client.messages.create(model=MODEL, max_tokens=20, messages=ASK)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["Authorization", "X-Api-Key", "Api-Key"])
async def test_no_credential_reaches_an_engine_a_hop_a_record_or_a_log(front: Front, field: str) -> None:
    value = f"Bearer {KEY}" if field == "Authorization" else KEY
    with capture_logs() as logs:
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=front.ca)) as client:
            for path, body in (
                ("/api/chat", {"model": MODEL, "messages": ASK, "stream": False}),
                ("/v1/chat/completions", {"model": MODEL, "messages": ASK}),
                ("/api/show", {"model": MODEL}),
            ):
                answer = await client.post(f"{front.url}{path}", json=body, headers={field: value})
                assert answer.status_code == 200, answer.text
            await client.get(f"{front.url}/api/ps", headers={field: value})
    secret = KEY.encode()
    for name in ("a", "b"):
        for asked in front.bed[name].engine.asked:
            assert field.lower().encode() not in asked.headers
            assert secret not in repr(asked).encode()
        assert KEY not in repr(front.bed[name].gateway.records())
    assert KEY not in repr(logs)
    # The owner knows who asks all the same.
    (record, *_) = front.bed["b"].gateway.records()
    assert record.caller.who.groups == ("staff",)
    assert record.caller.principal == "spiffe://bed.local/client/anna"


async def test_every_refusal_has_its_protocols_shape_and_a_challenge(front: Front) -> None:
    for path, message in (
        ("/api/tags", lambda body: body["error"]),
        ("/v1/models", lambda body: body["error"]["message"]),
        ("/v1/messages", lambda body: body["error"]["message"]),
    ):
        status, headers, body = await front.status(path=path)
        assert (status, message(body)) == (401, "a client certificate or API key is needed")
        assert headers["www-authenticate"] == 'Bearer realm="bed.local"'
        assert headers["connection"] == "close"
    status, headers, _ = await front.status({"x-api-key": api_key("nobody")})
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="bed.local", error="invalid_token"')


async def test_a_certificate_counts_while_the_mesh_has_its_client(front: Front, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    contexts = {name: _context(folder, "client", name) for name in ("anna", "otto")}
    assert (await front.status(cert=contexts["anna"]))[0] == 200
    assert (await front.status(cert=contexts["otto"]))[0] == 403
    assert (await front.status({"x-api-key": KEY}, cert=contexts["anna"]))[0] == 200
    front.put(client_of("otto"), "otto")
    assert (await front.status(cert=contexts["otto"]))[0] == 200
    assert (await front.status({"x-api-key": KEY}, cert=contexts["otto"]))[0] == 401
    front.put(client_of("anna", blocked=True))
    status, _, body = await front.status(cert=contexts["anna"])
    assert (status, body["error"]) == (403, "client anna is blocked")
    front.put(client_of("anna", expires=1.0))
    assert (await front.status(cert=contexts["anna"]))[2]["error"] == "client anna has expired"


@pytest.mark.parametrize("end", ["blocked", "deleted"])
@pytest.mark.parametrize("by", ["key", "certificate"])
async def test_what_runs_for_a_client_is_cut_when_it_may_no_more(
    front: Front, tmp_path: Path, by: str, end: str
) -> None:
    front.bed["b"].engine.faults.append(Fault("hang"))
    folder = tmp_path / "certs"
    folder.mkdir()
    plain = ssl.create_default_context(cafile=front.ca)
    context = plain if by == "key" else _context(folder, "client", "anna")
    headers = {"Authorization": f"Bearer {KEY}"} if by == "key" else {}
    begun = asyncio.Event()

    async def stream(client: httpx.AsyncClient) -> None:
        body = {"model": MODEL, "messages": ASK}
        async with client.stream("POST", f"{front.url}/api/chat", json=body, headers=headers) as answer:
            async for _ in answer.aiter_lines():
                begun.set()

    async with httpx.AsyncClient(verify=context) as client, httpx.AsyncClient(verify=plain) as other:
        front.put(client_of("otto"), "otto")
        running = asyncio.create_task(stream(client))
        await asyncio.wait_for(begun.wait(), 60)
        assert (await other.get(front.url, headers={"x-api-key": api_key("otto")})).status_code == 200
        front.put(client_of("anna", blocked=True) if end == "blocked" else None)
        with pytest.raises(httpx.HTTPError):
            await asyncio.wait_for(running, 60)
        # Whoever else is connected is not disturbed.
        assert (await other.get(front.url, headers={"x-api-key": api_key("otto")})).status_code == 200
    await eventually(lambda: front.bed["b"].engine.cancelled == 1)


async def test_connections_with_a_key_are_no_strangers(front: Front) -> None:
    context = ssl.create_default_context(cafile=front.ca)
    server = front.listening._servers[0]
    pool = Pool(("127.0.0.1", front.port), ssl=context)
    for key, strangers in ((api_key("nobody"), 0), (KEY, 0)):
        async with pool.request("GET", "/", [(b"x-api-key", key.encode())]) as answer:
            await answer.read()
        await eventually(lambda strangers=strangers: server.strangers == strangers)
    assert len(server.connections) == 1
    await pool.close()


async def test_a_flood_in_the_place_of_a_key_is_cut_off_unread(front: Front) -> None:
    context = ssl.create_default_context(cafile=front.ca)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer brk_")
    with contextlib.suppress(ConnectionError):
        for _ in range(800):  # 50 MiB
            writer.write(bytes(64 * 1024).replace(b"\0", b"A"))
            await writer.drain()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        head = await asyncio.wait_for(reader.read(64), 60)
        assert not head or head.startswith(b"HTTP/1.1 431 ")
    writer.close()
    assert (await front.status({"x-api-key": KEY}))[0] == 200


async def test_nobody_names_a_principal_for_itself(front: Front) -> None:
    """What agents tell one another counts on the peer listener alone."""
    claims = {"X-Bridge-Hop": "b", "X-Bridge-Principal": "spiffe://bed.local/admin/root"}
    assert (await front.status(claims))[0] == 401
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=front.ca)) as client:
        body = {"model": MODEL, "messages": ASK, "stream": False}
        answer = await client.post(f"{front.url}/api/chat", json=body, headers={**claims, "x-api-key": KEY})
    assert answer.status_code == 200
    assert front.bed["b"].gateway.records()[0].caller.principal == "spiffe://bed.local/client/anna"


# -- gRPC


def _channel(front: Front) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(Path(front.ca).read_bytes())
    return grpc.aio.secure_channel(f"127.0.0.1:{front.grpc_port}", credentials)


def _ask(model: str = MODEL) -> InferenceRequest:
    return InferenceRequest(
        model_name=model, input_data=json.dumps({"messages": ASK}).encode(), metadata={"api": "chat"}
    )


@pytest.mark.parametrize("field", ["authorization", "x-api-key", "api-key"])
async def test_a_key_in_the_metadata_of_a_grpc_call(front: Front, field: str) -> None:
    value = f"Bearer {KEY}" if field == "authorization" else KEY
    async with _channel(front) as channel:
        stub = inference_pb2_grpc.ModelInferenceStub(channel)
        answer = await stub.Predict(_ask(), metadata=[(field, value)], timeout=60)
        assert b"Paris" in answer.output_data
        parts = [one async for one in stub.PredictStream(_ask(), metadata=[(field, value)], timeout=60)]
        assert parts[-1].done
    assert front.bed["b"].gateway.records()[0].caller.who.name == "anna"
    assert all(field.encode() not in asked.headers for asked in front.bed["b"].engine.asked)


async def test_grpc_calls_without_a_right_key_reach_nothing(front: Front) -> None:
    async with _channel(front) as channel:
        stub = inference_pb2_grpc.ModelInferenceStub(channel)
        for metadata, says in (
            ([], "a client certificate or API key is needed"),
            ([("x-api-key", api_key("nobody"))], "this API key is not known"),
            ([("x-api-key", KEY), ("x-api-key", KEY)], "comes twice"),
            ([("x-api-key", KEY), ("api-key", api_key("nobody"))], "not known"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Predict(_ask(), metadata=metadata, timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert says in (refused.value.details() or "")
        front.put(client_of("anna", blocked=True))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Predict(_ask(), metadata=[("x-api-key", KEY)], timeout=60)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert front.bed["b"].engine.asked == []


async def test_a_grpc_stream_is_cut_when_its_client_is_blocked(front: Front) -> None:
    front.bed["b"].engine.faults.append(Fault("hang"))
    async with _channel(front) as channel:
        stub = inference_pb2_grpc.ModelInferenceStub(channel)
        call = stub.PredictStream(_ask(), metadata=[("x-api-key", KEY)], timeout=60)
        await call.read()
        front.put(client_of("anna", blocked=True))
        with pytest.raises(grpc.aio.AioRpcError, match="the caller is no longer accepted"):
            await asyncio.wait_for(_drain(call), 60)


async def _drain(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


# -- admins at the peer listener


async def test_the_pages_for_admins_are_for_those_whom_the_mesh_has(front: Front, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    pool = Pool(("127.0.0.1", front.bed["b"].peer.port), ssl=foreign_context(folder, "admin", "eve"))

    async def status() -> int:
        async with pool.request("GET", "/bridge/snapshot") as answer:
            await answer.read()
            return answer.status

    assert await status() == 403
    front.bed.publish(admin__eve=Admin("eve", "viewer"))
    assert await status() == 200
    front.bed.publish(admin__eve=None)
    assert await status() == 403
    await pool.close()


def _context(folder: Path, kind: str, name: str) -> ssl.SSLContext:
    cert, key, ca = issue(folder, kind, name)
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(cert, key)
    return context


def test_calls_without_anybody_are_cut_without_a_fault() -> None:
    Calls().cut({"x"})
