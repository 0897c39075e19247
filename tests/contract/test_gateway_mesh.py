"""Three gateways over mutual TLS: who answers, what happens when somebody dies, what clients see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from bridge_agent.gateway.state import FRESH_S
from bridge_agent.routing.affinity import affinity_key
from bridge_core.http1 import ConnectFailed, IncompleteResponse, Pool
from bridge_core.snapshot import Backend, Node, Route, RoutePolicy
from bridge_core.traffic import AdmissionPolicy, Retries
from tests.contract.gateway_bed import Answer, Bed, Clock, foreign_context, issue, mesh
from tests.fakes.recorded_engine import Fault, RecordedEngine
from tests.support import eventually, within_some_time

ALL = "smollm2:135m"
STREAMS = {
    "/api/generate": {"prompt": "hi"},
    "/api/chat": {},
    "/v1/chat/completions": {},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"max_tokens": 9},
}


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    engines = {
        "a": RecordedEngine((ALL,)),
        "b": RecordedEngine((ALL,)),
        "c": RecordedEngine((ALL, "solo", "tiny-embed")),
    }
    async with mesh(tmp_path, engines) as bed:
        yield bed


def queue_of(per_slot: int) -> RoutePolicy:
    return RoutePolicy(admission=AdmissionPolicy(queue_per_slot=per_slot))


def served(bed: Bed) -> dict[str, int]:
    return {name: len(node.engine.inferences()) for name, node in bed.nodes.items()}


def idle(bed: Bed) -> bool:
    return all(node.gateway.in_flight == 0 for node in bed.nodes.values())


def session_for(bed: Bed, entry: str, owner: str) -> dict[str, str]:
    """Headers of a session that the ring gives to `owner`."""
    pool = bed[entry].view.index.pool(f"registry.ollama.ai/library/{ALL}")
    name = f"registry.ollama.ai/library/{ALL}"
    for number in range(1000):
        key = affinity_key(name, {}, session=f"s{number}".encode(), client=b"")
        if pool.ring.owner(key) == f"{owner}/0":
            return {"X-Bridge-Session": f"s{number}"}
    raise AssertionError(f"no session for {owner}")


# -- who answers


@pytest.mark.parametrize("entry", ["a", "b", "c"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", STREAMS)
async def test_a_model_of_one_node_is_served_at_every_node(
    bed: Bed, entry: str, path: str, stream: bool
) -> None:
    answer = await bed[entry].infer(path, model="solo", stream=stream, **STREAMS[path])
    direct = Pool(("127.0.0.1", bed["c"].engine.server.port))
    body = bed["c"].engine.asked[0].body
    async with direct.request("POST", path, (), body) as response:
        expected = await response.read()
    await direct.close()
    assert answer.status == 200
    assert answer.body == expected
    assert answer.headers.get(b"x-bridge-node") == b"c"
    assert answer.headers.get(b"x-bridge-attempts") == b"1"
    assert answer.headers.get(b"x-bridge-overhead-us").isdigit()
    assert answer.headers.get(b"x-request-id")
    assert b"x-bridge-refused" not in answer.headers


async def test_bodies_cross_a_hop_byte_for_byte_compressed_or_not(bed: Bed) -> None:
    for text in ("short", "long " * 50_000):
        body = json.dumps({"model": "solo", "prompt": text, "stream": False}).encode()
        assert (await bed["a"].ask("POST", "/api/generate", body)).status == 200
        assert bed["c"].engine.asked[-1].body == body


@pytest.mark.parametrize("model", ["solo", "alias"])
async def test_a_compressed_responses_body_decides_and_arrives(bed: Bed, model: str) -> None:
    bed.publish(route__alias=Route("alias", (Backend("solo"),)))
    body = zstandard.compress(json.dumps({"model": model, "input": "hi"}).encode())
    coded = {"Content-Encoding": "zstd"}
    answer = await bed["a"].ask("POST", "/v1/responses", body, coded)
    assert (answer.status, answer.json()["model"]) == (200, model)
    assert (await bed["a"].ask("POST", "/v1/responses", body[:-3], coded)).status == 400
    assert (await bed["a"].ask("POST", "/v1/responses", b"{}", coded)).status == 400
    assert (await bed["a"].ask("POST", "/api/generate", body, coded)).status == 400


async def test_a_session_and_a_conversation_stay_with_one_node(bed: Bed) -> None:
    for turn in range(6):
        messages = [{"role": "user", "content": "tell me of Paris"}]
        messages += [{"role": "assistant", "content": str(turn)}, {"role": "user", "content": "more"}]
        await bed["abc"[turn % 3]].infer(messages=messages)
    assert sorted(served(bed).values()) == [0, 0, 6]
    for name in "abc":
        answer = await bed["a"].infer(headers=session_for(bed, "a", name))
        assert answer.headers.get(b"x-bridge-node") == name.encode()


async def test_a_request_id_is_kept_over_the_hop(bed: Bed) -> None:
    answer = await bed["a"].infer(model="solo", headers={"X-Request-Id": "my-id-1"})
    assert answer.headers.get(b"x-request-id") == b"my-id-1"
    assert bed["a"].gateway.records("my-id-1")[0].instance == "c/0"
    assert bed["c"].gateway.records("my-id-1")[0].caller.via == "a"
    unsafe = await bed["a"].infer(headers={"X-Request-Id": "a b<c>"})
    assert unsafe.headers.get(b"x-request-id") != b"a b<c>"


async def test_lists_are_of_the_whole_mesh(bed: Bed) -> None:
    bed.publish(route__chat=Route("chat", (Backend("solo"),)))
    for entry in "abc":
        tags = (await bed[entry].ask("GET", "/api/tags")).json()["models"]
        assert {tag["name"] for tag in tags} == {ALL, "solo:latest", "tiny-embed:latest", "chat:latest"}
        listed = (await bed[entry].ask("GET", "/v1/models")).json()["data"]
        assert {model["id"] for model in listed} == {tag["name"] for tag in tags}
        assert (await bed[entry].ask("GET", "/v1/models/solo")).json()["id"] == "solo"
        assert (await bed[entry].ask("POST", "/api/show", {"model": "solo"})).status == 200
        loaded = (await bed[entry].ask("GET", "/api/ps")).json()["models"]
        assert {model["node"] for model in loaded} == {"a", "b", "c"}


async def test_ps_leaves_out_a_dead_node_within_its_time(bed: Bed) -> None:
    await bed["b"].peer.close()
    loaded = (await bed["a"].ask("GET", "/api/ps")).json()["models"]
    assert {model["node"] for model in loaded} == {"a", "c"}


async def test_mutations_go_where_they_are_told(bed: Bed) -> None:
    pull = {"model": "x"}
    assert b"success" in (await bed["a"].ask("POST", "/api/pull", pull)).body
    assert b"success" in (await bed["a"].ask("POST", "/api/pull", pull, {"X-Bridge-Node": "b"})).body
    counts = {name: len(node.engine.asked) for name, node in bed.nodes.items()}
    assert counts == {"a": 1, "b": 1, "c": 0}
    answer = await bed["a"].ask("POST", "/api/pull", pull, {"X-Bridge-Node": "all"})
    records = [json.loads(line) for line in answer.body.splitlines()]
    assert {record.get("node") for record in records[:-1]} == {"a", "b", "c"}
    assert records[-1] == {"status": "success"}
    gone = await bed["a"].ask("DELETE", "/api/delete", {"model": "x"}, {"X-Bridge-Node": "all"})
    assert (gone.status, gone.body) == (200, b"")
    nowhere = await bed["a"].ask("POST", "/api/pull", pull, {"X-Bridge-Node": "z"})
    assert (nowhere.status, nowhere.json()) == (404, {"error": "node 'z' not found"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/copy", {"source": "solo", "destination": "Fresh"}),
        ("/api/create", {"model": "fresh", "from": "solo", "stream": False}),
        ("/api/pull", {"name": "library/fresh:latest"}),
    ],
)
@pytest.mark.parametrize(("entry", "where"), [("c", None), ("a", "c"), ("b", "all")])
async def test_what_was_just_made_is_there_before_any_list_says_so(
    bed: Bed, path: str, body: dict[str, Any], entry: str, where: str | None
) -> None:
    node, named = bed[entry], {} if where is None else {"X-Bridge-Node": where}
    assert (await node.infer(model="fresh")).status == 404
    for one in bed.nodes.values():
        one.engine.models = (*one.engine.models, "fresh")
    assert (await node.ask("POST", path, body, named)).status == 200
    assert (await node.infer(model="fresh")).status == 200
    assert (await node.ask("POST", "/api/show", {"model": "fresh:latest"})).status == 200
    assert (await node.infer(model="solo2")).status == 404


async def test_a_name_means_what_its_own_node_lists_and_what_most_have_elsewhere(tmp_path: Path) -> None:
    old, new = "0" * 64, "1" * 64
    engines = {
        "a": RecordedEngine(("m",), new),
        "b": RecordedEngine(("m",), old),
        "c": RecordedEngine(("m",), old),
        "d": RecordedEngine((ALL,)),
    }
    async with mesh(tmp_path, engines) as bed:
        for entry, owners in (("a", {b"a"}), ("b", {b"b", b"c"}), ("d", {b"b", b"c"})):
            asked = [await bed[entry].infer(model="m", headers=session(number)) for number in range(10)]
            assert {answer.status for answer in asked} == {200}
            assert {answer.headers.get(b"x-bridge-node") for answer in asked} <= owners
            shown = await bed[entry].ask("POST", "/api/show", {"model": "m"})
            assert shown.headers.get(b"x-bridge-node") in owners
        tags = {tag["name"]: tag for tag in (await bed["a"].ask("GET", "/api/tags")).json()["models"]}
        assert tags["m:latest"]["digest"] == new
        assert tags["m:latest"]["different"] == [{"node": "b", "digest": old}, {"node": "c", "digest": old}]
        assert "different" not in tags[ALL]
        tags = {tag["name"]: tag for tag in (await bed["d"].ask("GET", "/api/tags")).json()["models"]}
        assert (tags["m:latest"]["digest"], tags["m:latest"]["different"][0]["node"]) == (old, "a")


def session(number: int) -> dict[str, str]:
    return {"X-Bridge-Session": f"s{number}"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/copy", {"source": ALL, "destination": "solo"}),
        ("/api/create", {"model": "solo", "from": ALL, "stream": False}),
        ("/api/pull", {"name": "solo"}),
    ],
)
async def test_what_was_just_made_here_is_not_asked_of_those_who_had_the_name(
    bed: Bed, path: str, body: dict[str, Any]
) -> None:
    assert (await bed["a"].infer(model="solo")).headers.get(b"x-bridge-node") == b"c"
    bed["a"].engine.models = (ALL, "solo")
    before = asyncio.get_running_loop().time()
    assert (await bed["a"].ask("POST", path, body)).status == 200
    bed.publish()  # another index, in which the list still does not say so
    for number in range(10):
        answer = await bed["a"].infer(model="solo", headers=session(number))
        if asyncio.get_running_loop().time() >= before + FRESH_S:
            break  # a busy machine: by now the lists count again
        assert answer.headers.get(b"x-bridge-node") == b"a"


@pytest.mark.parametrize("path", ["/api/chat", "/api/show"])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_what_one_node_has_deleted_is_found_at_another_before_any_list_says_so(
    bed: Bed, path: str, entry: str
) -> None:
    bed["a"].engine.models = ()
    headers = session_for(bed, entry, "a")
    answer = await bed[entry].ask("POST", path, {"model": ALL, "stream": False}, headers)
    assert answer.status == 200
    assert answer.headers.get(b"x-bridge-node") != b"a"
    for node in bed.nodes.values():
        node.engine.models = ()
    assert (await bed[entry].ask("POST", path, {"model": ALL, "stream": False}, headers)).status == 404


async def test_a_mutation_on_all_names_who_failed(bed: Bed) -> None:
    bed["b"].engine.faults.append(Fault("silent"))
    answer = await bed["a"].ask("POST", "/api/pull", {"model": "x"}, {"X-Bridge-Node": "all"})
    assert json.loads(answer.body.splitlines()[-1]) == {"error": "failed on b"}


@pytest.mark.parametrize("where", [None, "c"])
async def test_a_blob_is_uploaded_as_it_comes(bed: Bed, where: str | None) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65_536

    headers = [] if where is None else [(b"x-bridge-node", where.encode())]
    async with bed["a"].pool.request("POST", "/api/blobs/sha256:1", headers, parts()) as response:
        assert response.status == 201
        await response.read()
    assert len(bed[where or "a"].engine.blobs["sha256:1"]) == 64 * 65_536
    named = {} if where is None else {"X-Bridge-Node": where}
    assert (await bed["a"].ask("HEAD", "/api/blobs/sha256:1", headers=named)).status == 200


@pytest.mark.parametrize("where", ["a", "c"])
async def test_a_blob_that_waits_to_be_called_for_is_called_for(bed: Bed, where: str) -> None:
    head = "POST /api/blobs/sha256:1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", bed["a"].local.port)
    writer.write(f"{head}X-Bridge-Node: {where}\r\nExpect: 100-continue\r\n\r\n".encode())
    async with asyncio.timeout(60):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"x" * 1000)
        assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
    writer.close()
    assert bed[where].engine.blobs["sha256:1"] == b"x" * 1000


async def test_a_route_asks_its_backend_and_answers_by_its_own_name(bed: Bed) -> None:
    bed.publish(route__chat=Route("chat", (Backend("solo"),)))
    for stream in (True, False):
        answer = await bed["a"].infer(model="chat", stream=stream)
        assert json.loads(bed["c"].engine.asked[-1].body)["model"] == "solo"
        assert {json.loads(line)["model"] for line in answer.body.splitlines()} == {"chat"}


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/responses"])
async def test_a_route_answers_by_its_own_name_however_the_answer_is_cut(bed: Bed, path: str) -> None:
    bed.publish(route__chat=Route("chat", (Backend("solo"),)))
    for entry in ("a", "c"):
        for stream in (True, False):
            bed["c"].engine.faults = [Fault("crumbs", times=1)]
            answer = await bed[entry].infer(path, model="chat", stream=stream, input="hi")
            assert answer.status == 200
            assert b'"model":"chat"' in answer.body
            assert b'"solo"' not in answer.body


async def test_a_route_falls_back_when_nobody_has_its_backend(bed: Bed) -> None:
    bed.publish(route__chat=Route("chat", (Backend("nope"),), fallback=ALL))
    assert (await bed["a"].infer(model="chat")).status == 200
    bed.publish(route__chat=Route("chat", (Backend("nope"),)))
    assert (await bed["a"].infer(model="chat")).status == 404


async def test_a_route_that_is_answered_is_listed(bed: Bed) -> None:
    bed.publish(
        route__first=Route("first", (Backend("nope"),), fallback="second"),
        route__second=Route("second", (Backend("neither"),), fallback="solo"),
        route__ghost=Route("ghost", (Backend("nope"),), fallback="nor"),
    )
    listed = {one["name"] for one in (await bed["a"].ask("GET", "/api/tags")).json()["models"]}
    for name, status in (("first", 200), ("second", 200), ("ghost", 404)):
        assert (await bed["a"].infer(model=name)).status == status
        assert (await bed["a"].ask("GET", f"/v1/models/{name}")).status == status
        assert (f"{name}:latest" in listed) is (status == 200)


# -- who may


async def test_the_peer_listener_takes_forwarded_requests_of_nodes_only(bed: Bed, tmp_path: Path) -> None:
    address = ("127.0.0.1", bed["c"].peer.port)
    body = json.dumps({"model": "solo", "prompt": "x", "stream": False}).encode()

    def hop(name: str) -> list[tuple[bytes, bytes]]:
        return [(b"x-bridge-hop", name.encode()), (b"x-bridge-principal", b"local")]

    async def status(kind: str, name: str, headers: list[tuple[bytes, bytes]]) -> int:
        pool = Pool(address, ssl=foreign_context(tmp_path, kind, name))
        try:
            async with pool.request("POST", "/api/generate", headers, body) as response:
                await response.read()
                return response.status
        finally:
            await pool.close()

    assert await status("client", "eve", hop("eve")) == 403
    assert await status("admin", "root", hop("root")) == 403
    assert await status("node", "a", []) == 400
    assert await status("node", "a", hop("a")) == 200
    assert await status("node", "newcomer", hop("newcomer")) == 200
    assert await status("node", "newcomer", hop("a")) == 403
    assert await status("node", "a", hop("A")) == 403
    bed.publish(node__b=Node("b", "127.0.0.1:1", state="revoked"))
    assert await status("node", "b", hop("b")) == 403
    bare = Pool(address)
    with pytest.raises((ConnectFailed, IncompleteResponse)):
        async with bare.request("GET", "/"):
            pass
    await bare.close()


async def test_a_forwarded_request_is_never_forwarded_again(bed: Bed, tmp_path: Path) -> None:
    pool = Pool(("127.0.0.1", bed["a"].peer.port), ssl=foreign_context(tmp_path, "node", "b"))
    body = json.dumps({"model": "solo", "prompt": "x"}).encode()
    async with pool.request(
        "POST", "/api/generate", [(b"x-bridge-hop", b"b"), (b"x-bridge-principal", b"local")], body
    ) as response:
        assert response.status == 503
        assert b"x-bridge-refused" in response.headers
        await response.read()
    await pool.close()
    assert served(bed) == {"a": 0, "b": 0, "c": 0}


async def test_what_clients_claim_about_hops_is_dropped(bed: Bed) -> None:
    claims = {"X-Bridge-Hop": "a", "X-Bridge-Principal": "root", "X-Bridge-Deadline-Ms": "1"}
    assert (await bed["a"].infer(model="solo", headers=claims)).status == 200


async def test_a_peer_with_another_nodes_name_is_not_spoken_to(bed: Bed) -> None:
    """c's address now leads to b: TLS is fine, the identity is not."""
    bed.publish(node__c=Node("c", f"127.0.0.1:{bed['b'].peer.port}"))
    answer = await bed["a"].infer(model="solo")
    assert answer.status == 502
    assert served(bed)["b"] == 0


async def test_links_survive_a_certificate_renewal(bed: Bed, tmp_path: Path) -> None:
    bed["c"].engine.release.clear()
    running = asyncio.create_task(bed["a"].infer(model="solo"))
    await eventually(lambda: bed["c"].engine.running == 1)
    for name in "abc":
        issue(tmp_path, "node", name)
        bed[name].tls.reload()
    bed["c"].engine.release.set()
    assert (await running).status == 200
    assert (await bed["b"].infer(model="solo")).status == 200


# -- who dies


@pytest.mark.parametrize("fault", ["close", "busy", "died"])
@pytest.mark.parametrize("owner", ["a", "b"])
async def test_a_failure_before_the_first_byte_is_invisible(bed: Bed, owner: str, fault: str) -> None:
    bed[owner].engine.faults.append(Fault(fault, times=1))
    answer = await bed["a"].infer(headers=session_for(bed, "a", owner))
    assert answer.status == 200
    assert b'"done":true' in answer.body
    assert answer.headers.get(b"x-bridge-attempts") == b"2"
    assert answer.headers.get(b"x-bridge-node") != owner.encode()


async def test_an_error_that_everybody_gives_is_the_answer(bed: Bed) -> None:
    for node in bed.nodes.values():
        node.engine.faults.append(Fault("died"))
    for _ in range(4):
        answer = await bed["a"].infer()
        assert (answer.status, answer.json()["error"][:12]) == (500, "an error was")
    assert bed["a"].gateway.ejections() == {}, "the requests may have been to blame"


@pytest.mark.parametrize("fault", ["died", "close"])
async def test_a_request_that_two_engines_died_of_reaches_no_third(tmp_path: Path, fault: str) -> None:
    engines = {name: RecordedEngine((ALL,)) for name in "abcd"}
    policy = RoutePolicy(retries=Retries(attempts=9))
    async with mesh(tmp_path, engines, policy=policy) as bed:
        for engine in engines.values():
            engine.faults.append(Fault(fault))
        for entry in "abcd":
            for engine in engines.values():
                engine.asked.clear()
            answer = await bed[entry].infer(headers=session_for(bed, entry, entry))
            assert answer.status >= 500
            assert sum(len(engine.inferences()) for engine in engines.values()) == 2


async def test_a_dead_node_costs_one_try_and_is_then_skipped(tmp_path: Path) -> None:
    engines = {name: RecordedEngine((ALL,)) for name in "abc"}
    async with mesh(tmp_path, engines, now=Clock()) as bed:  # which stands still: it is skipped for so long
        headers = session_for(bed, "a", "b")
        await bed["b"].peer.close()
        first = await bed["a"].infer(headers=headers)
        assert (first.status, first.headers.get(b"x-bridge-attempts")) == (200, b"2")
        assert "b" in bed["a"].gateway.ejections()
        second = await bed["a"].infer(headers=headers)
        assert (second.status, second.headers.get(b"x-bridge-attempts")) == (200, b"1")


async def test_a_dead_engine_is_covered_by_the_others(bed: Bed) -> None:
    await bed["b"].engine.stop()
    statuses = {(await bed["a"].infer(headers=session_for(bed, "a", "b"))).status for _ in range(5)}
    assert statuses == {200}


async def test_a_client_is_connected_also_where_the_own_engine_is_not(bed: Bed) -> None:
    own = await bed["a"].ask("GET", "/api/version")
    assert (own.status, own.headers.get(b"x-bridge-node")) == (200, b"a")
    await bed["a"].engine.stop()
    for _ in range(2):  # the second knows that nobody listens there
        answer = await bed["a"].ask("GET", "/api/version")
        assert (answer.status, answer.json()) == (200, own.json())
        assert answer.headers.get(b"x-bridge-node") in (b"b", b"c")
    bed["b"].gateway.drain()
    assert (await bed["b"].ask("HEAD", "/api/version")).headers.get(b"x-bridge-node") == b"c"
    assert (await bed["b"].ask("POST", "/api/me")).status == 503


@pytest.mark.parametrize("state", ["starting", "ready"])
async def test_what_needs_no_slot_is_not_refused_while_the_engine_is_kept_out(
    tmp_path: Path, state: str
) -> None:
    engine = RecordedEngine((ALL,))
    async with mesh(tmp_path, {"a": engine}) as lone:
        fault = "did not generate a token within 15 s" if state == "ready" else ""
        kept_out = msgspec.structs.replace(engine.instance("a/0", state), fault=fault)
        lone["a"].view.publish_local((kept_out,))
        assert (await lone["a"].infer()).status == 503
        assert (await lone["a"].ask("GET", "/api/version")).status == 200
        assert (await lone["a"].ask("GET", "/api/tags")).status == 200
        assert (await lone["a"].ask("POST", "/api/blobs/sha256:" + "0" * 64, b"x")).status == 201
        assert (await lone["a"].ask("POST", "/api/pull", {"model": "m", "stream": False})).status == 200
        lone["a"].gateway.drain()
        assert (await lone["a"].ask("POST", "/api/pull", {"model": "m", "stream": False})).status == 503


async def test_nobody_left_is_an_error_in_the_protocols_shape(bed: Bed) -> None:
    await bed["c"].peer.close()
    native = await bed["a"].infer(model="solo")
    assert (native.status, list(native.json())) == (502, ["error"])
    openai = await bed["a"].infer("/v1/chat/completions", model="solo")
    assert openai.json()["error"]["type"] == "api_error"
    anthropic = await bed["a"].infer("/v1/messages", model="solo", max_tokens=5)
    assert anthropic.json()["error"]["type"] == "api_error"
    bed.publish(node__c=Node("c", "127.0.0.1:1", state="drained"))
    drained = await bed["a"].infer(model="solo")
    assert (drained.status, drained.headers.get(b"retry-after")) == (503, b"1")


def _in_stream_error(path: str, body: bytes) -> Any:
    *_, last = [line for line in body.splitlines() if line.strip()]
    record = json.loads(last.removeprefix(b"data: "))
    if path.startswith("/api/"):
        return record["error"]
    if path == "/v1/messages":
        assert body.rstrip().rpartition(b"\n")[0].endswith(b"event: error")
        assert record["type"] == "error"
    if path == "/v1/responses":
        assert record["type"] == "error"
        return record["message"]
    return record["error"]["message"]


@pytest.mark.parametrize("fault", ["cut", "silent", "torn"])
@pytest.mark.parametrize("entry", ["a", "c"])
@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_without_its_end_is_never_a_success(
    bed: Bed, path: str, entry: str, fault: str
) -> None:
    bed["c"].engine.faults.append(Fault(fault, after=2))
    answer = await bed[entry].infer(path, model="solo", stream=True, **STREAMS[path])
    assert answer.status == 200
    message = _in_stream_error(path, answer.body)
    assert answer.body.count(message.encode()) == 1
    records = [line.removeprefix(b"data: ") for line in answer.body.splitlines()]
    assert all(json.loads(line) for line in records if line[:1] == b"{"), "every record is whole"
    assert [record.outcome.value for record in bed[entry].gateway.records()] == ["broken"]
    await eventually(lambda: idle(bed))


async def test_the_engines_own_error_is_passed_on_once(bed: Bed) -> None:
    bed["c"].engine.faults.append(Fault("error"))
    answer = await bed["a"].infer(model="solo")
    assert answer.body.count(b'"error"') == 1
    assert bed["a"].gateway.records()[-1].outcome.value == "engine_error"


async def test_a_whole_answer_cut_off_is_cut_off_for_the_client(bed: Bed) -> None:
    bed["c"].engine.faults.append(Fault("cut"))
    with pytest.raises(IncompleteResponse):
        await bed["a"].infer(model="solo", stream=False)


async def test_an_owner_cut_mid_stream_is_told_in_the_stream(bed: Bed) -> None:
    bed["c"].engine.faults.append(Fault("hang", after=2))
    running = asyncio.create_task(bed["a"].infer(model="solo"))
    await eventually(lambda: bed["c"].engine.running == 1)
    await bed["c"].peer.close()
    answer = await running
    assert _in_stream_error("/api/chat", answer.body)


# -- who leaves


@pytest.mark.parametrize("entry", ["a", "c"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_the_engine(bed: Bed, entry: str, stream: bool) -> None:
    bed["c"].engine.faults.append(Fault("hang", after=2))
    running = asyncio.create_task(bed[entry].infer(model="solo", stream=stream))
    await eventually(lambda: bed["c"].engine.running == 1)
    running.cancel()
    await eventually(lambda: bed["c"].engine.cancelled == 1)
    await eventually(lambda: idle(bed))
    assert bed[entry].gateway.records()[-1].outcome.value == "cancelled"


@pytest.mark.parametrize("entry", ["a", "c"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_ends_the_request_everywhere(bed: Bed, entry: str, stream: bool) -> None:
    bed["c"].engine.faults.append(Fault("hang", after=2))

    async def reaches_the_engine(timeout_s: float) -> bool:
        nonlocal answer
        headers = {"X-Bridge-Timeout": f"{timeout_s}s"}
        answer = await bed[entry].infer(model="solo", stream=stream, headers=headers)
        return bool(bed["c"].engine.inferences()) and (answer.status == 200 or not stream)

    answer: Answer | None = None
    await within_some_time(reaches_the_engine)
    assert answer is not None
    if stream:
        assert "deadline exceeded" in _in_stream_error("/api/chat", answer.body)
    else:
        assert (answer.status, answer.json()) == (504, {"error": "deadline exceeded"})
    await eventually(lambda: bed["c"].engine.cancelled == len(bed["c"].engine.inferences()))
    await eventually(lambda: idle(bed))


async def test_a_draining_node_finishes_what_runs_and_has_peers_answer_its_clients(bed: Bed) -> None:
    bed["c"].engine.release.clear()
    running = asyncio.create_task(bed["a"].infer(model="solo"))
    await eventually(lambda: bed["c"].engine.running == 1)
    bed["c"].gateway.drain()
    of_its_own = await bed["c"].infer(headers=session_for(bed, "a", "c"))
    assert (of_its_own.status, of_its_own.headers.get(b"x-bridge-node") != b"c") == (200, True)
    nobody_else = await bed["c"].infer(model="solo")
    assert (nobody_else.status, nobody_else.headers.get(b"retry-after")) == (503, b"1")
    assert nobody_else.json() == {"error": "this node is draining"}
    elsewhere = await bed["a"].infer(headers=session_for(bed, "a", "c"))
    assert (elsewhere.status, elsewhere.headers.get(b"x-bridge-node") != b"c") == (200, True)
    assert (bed["c"].gateway.own_work, bed["c"].gateway.in_flight) == (1, 1)
    bed["c"].engine.release.set()
    assert b'"done":true' in (await running).body
    bed["c"].gateway.drain(draining=False)
    assert (await bed["c"].infer(model="solo")).headers.get(b"x-bridge-node") == b"c"


async def test_a_full_queue_is_refused_in_the_protocols_shape(tmp_path: Path) -> None:
    engine = RecordedEngine((ALL,), slots=1)
    async with mesh(tmp_path, {"a": engine}, policy=queue_of(1)) as bed:
        engine.release.clear()
        running = [asyncio.create_task(bed["a"].infer()) for _ in range(2)]
        await eventually(lambda: bed["a"].gateway.in_flight == 2 and engine.running == 1)
        native = await bed["a"].infer()
        assert (native.status, native.headers.get(b"retry-after")) == (503, b"1")
        assert native.json()["error"].startswith("server busy")
        anthropic = await bed["a"].infer("/v1/messages", max_tokens=5)
        assert anthropic.json()["error"]["type"] == "overloaded_error"
        engine.release.set()
        assert {(await one).status for one in running} == {200}


async def test_a_full_node_is_passed_over_for_another(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,), slots=1), "b": RecordedEngine((ALL,), slots=1)}
    async with mesh(tmp_path, engines, policy=queue_of(0)) as bed:
        for engine in engines.values():
            engine.release.clear()
        headers = session_for(bed, "a", "b")
        running = [asyncio.create_task(bed["a"].infer(headers=headers)) for _ in range(2)]
        await eventually(lambda: sum(engine.running for engine in engines.values()) == 2)
        for engine in engines.values():
            engine.release.set()
        assert {(await one).status for one in running} == {200}
        assert served(bed) == {"a": 1, "b": 1}
