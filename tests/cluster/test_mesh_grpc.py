"""gRPC's own client at a real mesh: every call, health, reflection, and who is let in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from bridge_wire.v1.inference_pb2 import InferenceRequest
from bridge_wire.v1.inference_pb2_grpc import ModelInferenceStub
from tests.cluster.mesh_bed import ASK, EMBEDDER, GREEDY, NODES, QUESTION, SOLO, TALKER, Mesh
from tests.cluster.strangers import stranger

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]

SERVICE = "bridge.v1.ModelInference"


def channel_of(
    mesh: Mesh, node: str, files: tuple[str, str, str] | None, listener: str = "grpc"
) -> grpc.Channel:
    """A channel with CA, certificate and key; None: with the CA alone."""
    host, port = mesh.address(node, listener)
    ca, cert, key = files or (mesh.client_files()[0], "", "")
    credentials = grpc.ssl_channel_credentials(
        Path(ca).read_bytes(),
        Path(key).read_bytes() if key else None,
        Path(cert).read_bytes() if cert else None,
    )
    options = (("grpc.max_receive_message_length", 1 << 24),)
    return grpc.secure_channel(f"{host}:{port}", credentials, options=options)


@pytest.fixture(params=NODES)
def channel(request: pytest.FixtureRequest, mesh: Mesh) -> Iterator[grpc.Channel]:
    with channel_of(mesh, request.param, mesh.client_files()) as channel:
        yield channel


def asking(model: str, body: object, **metadata: str) -> InferenceRequest:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return InferenceRequest(model_name=model, input_data=data, metadata=metadata)


def test_predict_knows_paris(channel: grpc.Channel) -> None:
    stub = ModelInferenceStub(channel)
    answer = stub.Predict(asking(TALKER, {"messages": ASK, "options": GREEDY}, api="chat"), timeout=60)
    assert "Paris" in json.loads(answer.output_data)["message"]["content"]
    assert answer.done
    assert answer.metadata["x-bridge-node"] in NODES
    answer = stub.Predict(asking(TALKER, {"prompt": QUESTION, "options": GREEDY}), timeout=60)
    assert "Paris" in json.loads(answer.output_data)["response"]


def test_a_stream_ends_with_done(channel: grpc.Channel) -> None:
    stub = ModelInferenceStub(channel)
    answers = list(stub.PredictStream(asking(TALKER, {"prompt": QUESTION, "options": GREEDY}), timeout=60))
    assert "Paris" in "".join(json.loads(answer.output_data)["response"] for answer in answers)
    assert [answer.done for answer in answers] == [False] * (len(answers) - 1) + [True]


def test_a_conversation_answers_in_the_order_of_its_questions(channel: grpc.Channel) -> None:
    stub = ModelInferenceStub(channel)
    short = {"temperature": 0, "num_predict": 2}
    requests = [
        asking(SOLO, {"prompt": "one", "options": short}),
        asking(EMBEDDER, {"input": "two"}, api="embed"),
        asking(SOLO, {"messages": ASK, "options": short}, api="chat"),
    ]
    ended = [json.loads(one.output_data) for one in stub.Converse(iter(requests), timeout=60) if one.done]
    assert ["embeddings" in one for one in ended] == [False, True, False]
    assert "message" in ended[2]


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=60)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    file = database.FindFileContainingSymbol(SERVICE)
    assert [method.name for method in file.service[0].method] == ["Predict", "PredictStream", "Converse"]


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (asking(SOLO, ""), grpc.StatusCode.INVALID_ARGUMENT, "empty"),
        (asking("", "x"), grpc.StatusCode.INVALID_ARGUMENT, "model"),
        (asking("nope", "x"), grpc.StatusCode.NOT_FOUND, "model 'nope' not found"),
        (asking(SOLO, "x", api="nope"), grpc.StatusCode.INVALID_ARGUMENT, "nope"),
        (asking(SOLO, "", api="chat"), grpc.StatusCode.INVALID_ARGUMENT, ""),
        (asking(SOLO, "{", api="chat"), grpc.StatusCode.INVALID_ARGUMENT, "JSON"),
        (asking(SOLO, "[1]", api="embed"), grpc.StatusCode.INVALID_ARGUMENT, ""),
        (asking(SOLO, "x", encoding="zstd"), grpc.StatusCode.INVALID_ARGUMENT, "zstd"),
        (asking(SOLO, "x", encoding="lzma"), grpc.StatusCode.INVALID_ARGUMENT, "lzma"),
        (
            InferenceRequest(model_name=SOLO, input_data=b"\xff\xfe"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "UTF-8",
        ),
    ],
)
def test_bad_requests_have_a_status_and_a_sentence(
    mesh: Mesh, request_: InferenceRequest, code: grpc.StatusCode, words: str
) -> None:
    with channel_of(mesh, "node1", mesh.client_files()) as channel:
        stub = ModelInferenceStub(channel)
        for ask in (
            lambda: stub.Predict(request_, timeout=30),
            lambda: list(stub.PredictStream(request_, timeout=30)),
            lambda: list(stub.Converse(iter([request_]), timeout=30)),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                ask()
            assert refused.value.code() is code, refused.value.details()
            assert words in refused.value.details()
            assert len(refused.value.details()) > 10


def test_a_huge_request_is_refused_and_the_node_serves_on(mesh: Mesh) -> None:
    with channel_of(mesh, "node1", mesh.client_files()) as channel:
        stub = ModelInferenceStub(channel)
        huge = InferenceRequest(model_name=SOLO, input_data=b"x" * (101 << 20))
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(huge, timeout=60)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, refused.value.details()
        assert stub.Predict(asking(SOLO, {"prompt": "x", "options": {"num_predict": 1}}), timeout=30).done


def test_only_the_mesh_s_own_certificates_are_let_in(mesh: Mesh, tmp_path: Path) -> None:
    _, cert, key = stranger(tmp_path)
    for files in (None, (mesh.client_files()[0], cert, key)):
        with channel_of(mesh, "node1", files) as channel, pytest.raises(grpc.RpcError) as refused:
            ModelInferenceStub(channel).Predict(asking(SOLO, "x"), timeout=60)
        assert refused.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}
