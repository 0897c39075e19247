"""The gRPC listener as grpcio's own client sees it."""

from __future__ import annotations

import asyncio
import json
import random
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import zstandard
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from bridge_agent.ancillaries import Ancillaries
from bridge_agent.gateway.config import LONGEST_S
from bridge_agent.gateway.grpc_adapter import native
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.faults import CallFault
from bridge_agent.listening import Listening
from bridge_core.errors import Fatal
from bridge_core.tls import TlsIdentity
from bridge_wire.v1 import inference_pb2_grpc
from bridge_wire.v1.inference_pb2 import InferenceRequest
from tests.contract.grpc_bed import Bed, Credentials, open_bed
from tests.support import eventually, within_some_time


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with open_bed(tmp_path) as bed:
        yield bed


@pytest.fixture
async def stub(bed: Bed) -> AsyncIterator[Any]:
    async with bed.channel() as channel:
        yield inference_pb2_grpc.ModelInferenceStub(channel)


def ask(
    model: str, data: bytes | str | dict[str, Any] = "hello there world", **metadata: str
) -> InferenceRequest:
    if isinstance(data, dict):
        data = json.dumps(data)
    if isinstance(data, str):
        data = data.encode()
    return InferenceRequest(model_name=model, input_data=data, metadata=metadata)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def read_all(call: Any) -> list[Any]:
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


# Call shapes.


async def test_predict(bed: Bed, stub: Any) -> None:
    answer = await stub.Predict(ask("echo"))
    assert json.loads(answer.output_data) == {"response": "hello there world", "done": True}
    assert dict(answer.metadata) == {"x-request-id": "r-1", "x-bridge-node": "node9"}
    assert answer.done
    path, body, exchange = bed.engine.asked[0]
    assert (path, body) == (
        "/api/generate",
        {"prompt": "hello there world", "model": "echo", "stream": False},
    )
    assert exchange.request.identity == bed.client.identity
    assert exchange.request.listener == "grpc"


async def test_predict_stream(stub: Any) -> None:
    answers = await read_all(stub.PredictStream(ask("echo")))
    assert [json.loads(answer.output_data)["response"] for answer in answers] == [
        "hello",
        "there",
        "world",
        "",
    ]
    assert [answer.done for answer in answers] == [False, False, False, True]
    assert dict(answers[0].metadata)["x-bridge-node"] == "node9"


async def test_records_that_arrive_in_pieces_are_put_together(stub: Any) -> None:
    answers = await read_all(stub.PredictStream(ask("slow")))
    assert [json.loads(answer.output_data) for answer in answers] == [
        {"response": "é", "done": False},
        {"done": True},
    ]


@pytest.mark.parametrize("rpc", ["PredictStream", "Converse"])
async def test_an_answer_that_ends_behind_its_last_record_was_not_cancelled(
    bed: Bed, stub: Any, rpc: str
) -> None:
    asked = ask("lingers", "x")
    call = stub.PredictStream(asked) if rpc == "PredictStream" else stub.Converse(iter([asked]))
    assert [one.done async for one in call] == [False, True]
    exchange = bed.engine.asked[0][2]
    await eventually(lambda: exchange.finished)
    assert not exchange.disconnected
    assert bed.engine.cancelled == 0


async def test_converse_interleaves(stub: Any) -> None:
    call = stub.Converse()
    for text in ("one", "two words", "three"):
        await call.write(ask("echo", text))
        pieces = []
        while not pieces or not pieces[-1].done:
            pieces.append(await call.read())
        assert [json.loads(piece.output_data)["response"] for piece in pieces] == [*text.split(), ""]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_converse_answers_in_order_of_requests_sent_at_once(stub: Any) -> None:
    answers = await read_all(stub.Converse(iter([ask("echo", str(number)) for number in range(20)])))
    texts = [json.loads(answer.output_data)["response"] for answer in answers if not answer.done]
    assert texts == [str(number) for number in range(20)]


async def test_many_calls_at_once_on_one_connection(stub: Any) -> None:
    answers = await asyncio.gather(*(stub.Predict(ask("echo", str(number))) for number in range(200)))
    assert [json.loads(answer.output_data)["response"] for answer in answers] == [str(n) for n in range(200)]


@pytest.mark.parametrize(
    ("api", "data", "path", "streams"),
    [
        ("chat", {"messages": [{"role": "user", "content": "hi"}]}, "/api/chat", True),
        ("embed", {"input": ["a", "b"]}, "/api/embed", None),
        ("generate", {"prompt": "hi", "options": {"seed": 1.50}}, "/api/generate", True),
    ],
)
async def test_each_api_has_its_route_and_keeps_its_body(
    bed: Bed, stub: Any, api: str, data: dict[str, Any], path: str, streams: bool | None
) -> None:
    answers = await read_all(stub.PredictStream(ask("echo", data | {"future": {"x": 1}}, api=api)))
    assert answers[-1].done
    expected = data | {"future": {"x": 1}, "model": "echo"}
    if streams:
        expected["stream"] = True
    assert bed.engine.asked[0][:2] == (path, expected)


# Metadata, sizes, compression.


async def test_hints_reach_the_pipeline(bed: Bed, stub: Any) -> None:
    hints = {"x-bridge-session": "s-1", "x-bridge-priority": "high", "x-request-id": "mine", "other": "…"}
    await stub.Predict(ask("echo", **hints), timeout=30)
    headers = bed.engine.asked[0][2].request.headers
    assert headers.get(b"x-bridge-session") == b"s-1"
    assert headers.get(b"x-request-id") == b"mine"
    assert headers.get(b"other") is None
    assert 25 < float(headers.get(b"x-bridge-timeout")) <= 30


async def test_eight_mebibytes_each_way(stub: Any) -> None:
    text = "0123456789abcdef" * (8 << 16)
    answer = await stub.Predict(ask("echo", text))
    assert json.loads(answer.output_data)["response"] == text


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.NoCompression])
async def test_compressed_messages(bed: Bed, compression: grpc.Compression) -> None:
    chosen = bed.client.channel(bed.node.ca.read_bytes())
    async with grpc.aio.secure_channel(bed.target, chosen, compression=compression) as channel:
        stub = inference_pb2_grpc.ModelInferenceStub(channel)
        text = "compressible " * 10_000
        assert json.loads((await stub.Predict(ask("echo", text))).output_data)["response"] == text
        assert len(await read_all(stub.PredictStream(ask("echo", "a b c")))) == 4


async def test_zstd_input_and_output(stub: Any) -> None:
    data = zstandard.compress(b"hello " * 1000)
    answer = await stub.Predict(ask("echo", data, encoding="zstd"))
    plain = zstandard.decompress(answer.output_data)
    assert json.loads(plain)["response"] == "hello " * 1000


async def test_a_slow_reader_holds_the_engine_back(bed: Bed) -> None:
    options = {"grpc.http2.lookahead_bytes": 65_536, "grpc.http2.bdp_probe": 0}
    async with bed.channel(**options) as channel:
        call = inference_pb2_grpc.ModelInferenceStub(channel).PredictStream(ask("flood", "2000"))
        await call.read()
        held = await eventually(lambda: _settled(bed))
        assert held < 500
        assert len(await read_all(call)) == 2000
        assert bed.engine.written == 2000


_seen: dict[int, tuple[int, int]] = {}


async def _settled(bed: Bed) -> int:
    """The number of records written, once it has stopped growing."""
    written, (last, still) = bed.engine.written, _seen.get(id(bed), (-1, 0))
    _seen[id(bed)] = (written, still + 1 if written == last else 0)
    return written if still > 5 else 0


async def test_keep_alive_pings_are_answered(bed: Bed) -> None:
    options = {
        "grpc.keepalive_time_ms": 20,
        "grpc.keepalive_timeout_ms": 2_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
    }
    async with bed.channel(**options) as channel:
        stub = inference_pb2_grpc.ModelInferenceStub(channel)
        call = stub.PredictStream(ask("forever"))
        await call.read()
        for _ in range(20):
            await stub.Predict(ask("echo"))
        assert not call.done()
        call.cancel()


# Deadlines and cancellation.


async def test_a_deadline_ends_the_call_and_the_work_behind_it(bed: Bed, stub: Any) -> None:
    async def reaches_the_engine(timeout_s: float) -> bool:
        fault = await failure(stub.Predict(ask("forever"), timeout=timeout_s))
        assert fault.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return bool(bed.engine.asked)

    await within_some_time(reaches_the_engine)
    await eventually(lambda: bed.engine.cancelled == len(bed.engine.asked), 30)


@pytest.mark.parametrize("given", [b"2562047H", b"99999999H", b"99999999S", b"9m"])
def test_grpc_timeouts_are_read_and_none_is_longer_than_a_clock_reaches(given: bytes) -> None:
    seconds = native.read_timeout(given)
    assert seconds is not None
    assert 0 < seconds <= LONGEST_S
    assert (seconds == LONGEST_S) is (given[-1:] in b"HS")


@pytest.mark.parametrize("given", [b"", b"H", b"1", b"-1S", b"123456789S", b"1.5S", b"1x"])
def test_malformed_grpc_timeouts_are_refused(given: bytes) -> None:
    with pytest.raises(CallFault):
        native.read_timeout(given)


async def test_a_deadline_in_a_stream(bed: Bed, stub: Any) -> None:
    async def reaches_the_engine(timeout_s: float) -> bool:
        fault = await failure(read_all(stub.PredictStream(ask("forever"), timeout=timeout_s)))
        assert fault.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return bool(bed.engine.asked)

    await within_some_time(reaches_the_engine)
    await eventually(lambda: bed.engine.cancelled == len(bed.engine.asked), 30)


@pytest.mark.parametrize("rpc", ["Predict", "PredictStream"])
async def test_cancelling_cancels_the_work(bed: Bed, stub: Any, rpc: str) -> None:
    call = getattr(stub, rpc)(ask("forever"))
    await eventually(lambda: len(bed.engine.asked) == 1)
    call.cancel()
    await eventually(lambda: bed.engine.cancelled == 1, 30)


async def test_cancelling_a_conversation_cancels_the_work(bed: Bed, stub: Any) -> None:
    call = stub.Converse()
    await call.write(ask("forever"))
    await call.read()
    call.cancel()
    await eventually(lambda: bed.engine.cancelled == 1, 30)


async def test_a_client_that_goes_away_cancels_the_work(bed: Bed) -> None:
    async with bed.channel() as channel:
        call = inference_pb2_grpc.ModelInferenceStub(channel).PredictStream(ask("forever"))
        await call.read()
    await eventually(lambda: bed.engine.cancelled == 1, 30)


# Failures.


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (405, "UNIMPLEMENTED"),
        (413, "RESOURCE_EXHAUSTED"),
        (429, "RESOURCE_EXHAUSTED"),
        (499, "CANCELLED"),
        (500, "INTERNAL"),
        (502, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
async def test_the_pipelines_errors_become_statuses(stub: Any, status: int, code: str) -> None:
    for call in (
        stub.Predict(ask("status", str(status))),
        read_all(stub.PredictStream(ask("status", str(status)))),
    ):
        fault = await failure(call)
        assert (fault.code().name, fault.details()) == (code, f"this is a {status}")


async def test_retry_after_is_a_trailer(stub: Any) -> None:
    fault = await failure(stub.Predict(ask("status", "503")))
    assert ("retry-after", "7") in list(fault.trailing_metadata())


@pytest.mark.parametrize(
    ("model", "words"),
    [("dies", "the runner died"), ("silent", "ended before it was complete"), ("cut", "cut off")],
)
async def test_a_stream_without_its_last_record_is_a_failure(stub: Any, model: str, words: str) -> None:
    call = stub.PredictStream(ask(model))
    assert json.loads((await call.read()).output_data)["response"] == "half"
    fault = await failure(read_all(call))
    assert fault.code() is grpc.StatusCode.UNAVAILABLE
    assert words in fault.details()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ask("", "hi"), "model_name is empty"),
        (ask("echo", b""), "input_data is empty"),
        (ask("echo", b"", api="chat"), "input_data is empty"),
        (ask("echo", b"\xff\xfe"), "neither UTF-8"),
        (ask("echo", "text", api="chat"), "not a JSON object"),
        (ask("echo", "{bad", api="chat"), "not a JSON object"),
        (ask("echo", "[1]", api="embed"), "not a JSON object"),
        (ask("echo", "hi", api="sing"), "'sing' is not known"),
        (ask("echo", "hi", encoding="br"), "'br' is not known"),
        (ask("echo", "hi", encoding="zstd"), "not zstd"),
        (ask("echo", zstandard.compress(b"hi" * 999)[:-3], encoding="zstd"), "truncated"),
        (ask("echo", zstandard.compress(b"hi") + b"more", encoding="zstd"), "goes on after"),
        (ask("echo", {"model": "other", "prompt": "hi"}), "names the model 'other'"),
        (ask("echo", {"model": 7, "prompt": "hi"}), "not a string"),
        (ask("echo", b'{"model":"\xff","prompt":"hi"}'), "not a string"),
        (ask("", b'{"model":"\xff","prompt":"hi"}'), "not a string"),
        (ask("echo", b'{"\xff":1}', api="chat"), "not a JSON object"),
        (ask("echo", b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}", api="chat"), "not a JSON object"),
        (ask("echo", b'{"a":' * 5000 + b"1" + b"}" * 5000, api="embed"), "not a JSON object"),
        (ask("echo", "hi", **{"x-bridge-session": "a\r\nb: c"}), "not printable"),
    ],
)
async def test_bad_input_is_refused_in_words(
    bed: Bed, stub: Any, request_: InferenceRequest, words: str
) -> None:
    for call in (stub.Predict(request_), read_all(stub.PredictStream(request_))):
        fault = await failure(call)
        assert fault.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in fault.details()
    assert bed.engine.asked == []


async def test_a_body_may_name_the_same_model_in_another_spelling(bed: Bed, stub: Any) -> None:
    await stub.Predict(ask("Echo:latest", {"model": "echo", "prompt": "hi"}))
    assert bed.engine.asked[0][1]["model"] == "Echo:latest"


async def test_a_bomb_is_refused_before_it_is_large(stub: Any) -> None:
    bomb = zstandard.compress(bytes(1 << 28), level=3)
    fault = await failure(stub.Predict(ask("echo", bomb, encoding="zstd")))
    assert fault.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_undecodable_messages_and_unknown_methods(bed: Bed) -> None:
    async with bed.channel() as channel:
        garbage = channel.unary_unary("/bridge.v1.ModelInference/Predict")
        assert (await failure(garbage(b"\xff\xff\xff"))).code() is grpc.StatusCode.INVALID_ARGUMENT
        unknown = channel.unary_unary("/bridge.v1.Nothing/Here")
        assert (await failure(unknown(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
        other = channel.unary_unary("/bridge.v1.ModelInference/Other")
        assert (await failure(other(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_over_the_limit_is_refused(stub: Any) -> None:
    fault = await failure(stub.Predict(ask("echo", b"x" * (102 << 20))))
    assert fault.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Who may call.


async def test_who_shows_neither_certificate_nor_key_reaches_no_service(bed: Bed) -> None:
    anonymous = grpc.ssl_channel_credentials(bed.node.ca.read_bytes())
    async with grpc.aio.secure_channel(bed.target, anonymous) as channel:
        fault = await failure(inference_pb2_grpc.ModelInferenceStub(channel).Predict(ask("echo"), timeout=60))
    assert fault.code() is grpc.StatusCode.UNAUTHENTICATED
    assert bed.engine.asked == []


async def test_a_foreign_certificate_is_not_accepted(bed: Bed) -> None:
    async with bed.channel(bed.stranger) as channel:
        fault = await failure(inference_pb2_grpc.ModelInferenceStub(channel).Predict(ask("echo"), timeout=60))
    assert fault.code() is grpc.StatusCode.UNAVAILABLE
    assert bed.engine.asked == []


async def test_tls_1_2_reaches_no_service(bed: Bed) -> None:
    import http.client
    import ssl

    def post() -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # the version alone is to decide
        context.load_cert_chain(bed.client.cert, bed.client.key)
        context.load_verify_locations(bed.client.ca)
        connection = http.client.HTTPSConnection("127.0.0.1", bed.listener.port, context=context, timeout=60)
        try:
            connection.request(
                "POST", "/bridge.v1.ModelInference/Predict", "{}", {"content-type": "application/json"}
            )
            return connection.getresponse().status
        except ssl.SSLError:
            return 401
        finally:
            connection.close()

    assert await asyncio.to_thread(post) == 401
    assert bed.engine.asked == []


async def test_a_revoked_certificate_is_refused_on_an_open_connection(bed: Bed, stub: Any) -> None:
    await stub.Predict(ask("echo"))
    bed.refused.add(bed.client.serial)
    assert (await failure(stub.Predict(ask("echo")))).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_renewed_certificate_is_taken_up_without_ending_a_stream(bed: Bed, tmp_path: Path) -> None:
    async with bed.channel() as channel:
        call = inference_pb2_grpc.ModelInferenceStub(channel).Converse()
        await call.write(ask("echo", "before"))
        await call.read()
        from bridge_core.identity import SpiffeId

        fresh = Credentials(tmp_path / "fresh", bed.authority, SpiffeId.parse(bed.node.identity))
        bed.node.cert.write_bytes(fresh.cert.read_bytes())
        bed.node.key.write_bytes(fresh.key.read_bytes())
        await bed.listener.renew()
        assert await _served_serial(bed) == fresh.serial
        await call.write(ask("echo", "after"))
        pieces = [await call.read() for _ in range(3)]
        assert json.loads(pieces[1].output_data)["response"] == "after"
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def _served_serial(bed: Bed) -> str:
    import ssl

    from bridge_core.identity.certificates import describe
    from bridge_core.tls import client_context

    context = client_context(bed.client.cert, bed.client.key, bed.client.ca)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", bed.listener.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return describe(ssl.DER_cert_to_PEM_cert(der).encode()).serial


# The standard services, and other clients.


async def test_health(bed: Bed) -> None:
    async with bed.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "bridge.v1.ModelInference"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        fault = await failure(health.Check(health_pb2.HealthCheckRequest(service="nothing")))
        assert fault.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        bed.serving.value = False
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="nothing"))
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
        unknown.cancel()


async def test_reflection_of_the_older_version_through_grpcios_own_client(bed: Bed) -> None:
    def look() -> tuple[list[str], list[str]]:
        with grpc.secure_channel(bed.target, bed.client.channel()) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = list(database.get_services())
            file = database.FindFileContainingSymbol("bridge.v1.ModelInference")
            return services, [method.name for method in file.service[0].method]

    services, methods = await asyncio.to_thread(look)
    assert {
        "bridge.v1.ModelInference",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    } <= set(services)
    assert methods == ["Predict", "PredictStream", "Converse"]


async def test_connect_json_over_http(bed: Bed) -> None:
    import http.client

    from bridge_core.tls import client_context

    def post() -> tuple[int, dict[str, Any]]:
        context = client_context(bed.client.cert, bed.client.key, bed.client.ca)
        connection = http.client.HTTPSConnection("127.0.0.1", bed.listener.port, context=context, timeout=60)
        body = json.dumps({"modelName": "echo", "inputData": "aGVsbG8="})
        connection.request(
            "POST", "/bridge.v1.ModelInference/Predict", body, {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        result = answer.status, json.loads(answer.read())
        connection.close()
        return result

    status, answer = await asyncio.to_thread(post)
    assert status == 200
    assert answer["done"] is True
    assert answer["metadata"]["x-bridge-node"] == "node9"


async def test_grpc_web(bed: Bed) -> None:
    import http.client

    from bridge_core.tls import client_context

    def post() -> tuple[int, bytes]:
        context = client_context(bed.client.cert, bed.client.key, bed.client.ca)
        connection = http.client.HTTPSConnection("127.0.0.1", bed.listener.port, context=context, timeout=60)
        message = ask("echo").SerializeToString()
        body = b"\0" + len(message).to_bytes(4, "big") + message
        connection.request(
            "POST", "/bridge.v1.ModelInference/Predict", body, {"content-type": "application/grpc-web+proto"}
        )
        answer = connection.getresponse()
        result = answer.status, answer.read()
        connection.close()
        return result

    status, body = await asyncio.to_thread(post)
    assert status == 200
    assert body[0] == 0
    assert b"grpc-status:0" in body.replace(b" ", b"").lower()


async def test_a_renewal_without_a_key_is_refused_and_the_listener_stays(bed: Bed) -> None:
    before = await _served_serial(bed)
    key = bed.node.key.read_bytes()
    bed.node.key.unlink()
    with pytest.raises(Fatal, match="gRPC listener does not start"):
        await bed.listener.renew()
    bed.node.key.write_bytes(b"no key")
    with pytest.raises(Fatal, match="gRPC listener does not start"):
        await bed.listener.renew()
    assert await _served_serial(bed) == before
    bed.node.key.write_bytes(key)
    await bed.listener.renew()


async def test_a_renewal_without_descriptors_is_refused_and_the_listener_stays(bed: Bed) -> None:
    before = await _served_serial(bed)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(Fatal, match="gRPC listener does not start"):
            await bed.listener.renew()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await _served_serial(bed) == before
    await bed.listener.renew()


async def test_a_listener_that_was_closed_is_not_opened_again_by_a_renewal(bed: Bed) -> None:
    bed.listener.retire()
    await bed.listener.renew()
    assert bed.listener._server is None


async def test_a_listener_that_ends_by_itself_is_opened_again(bed: Bed, tmp_path: Path) -> None:
    identity = TlsIdentity(bed.node.cert, bed.node.key, bed.node.ca)
    listening = Listening({}, identity, lambda _: None, grpc=bed.listener, calls=Calls(), serving=bed.serving)
    bed.listener._ended = listening.grpc_ended
    ancillaries = Ancillaries(random.Random(1), sleep=lambda _: asyncio.sleep(0.01))
    follows = asyncio.create_task(ancillaries.keep("grpc-renewal", listening.follow_renewals))
    ended = bed.listener._server
    assert ended is not None
    ended.shutdown()
    await eventually(lambda: bed.listener._server not in {None, ended})
    assert ancillaries.faults == {"grpc-renewal": 1}
    assert "ended by itself" in ancillaries.concerns()[0]
    assert await _served_serial(bed)
    key = bed.node.key.read_bytes()
    bed.node.key.unlink()
    listening.renewed()
    await eventually(lambda: ancillaries.faults["grpc-renewal"] >= 2, 30)
    assert await _served_serial(bed)
    bed.node.key.write_bytes(key)
    before = bed.listener._server
    await eventually(lambda: bed.listener._server is not before, 30)
    listening.retire()
    follows.cancel()
    await asyncio.gather(follows, return_exceptions=True)
