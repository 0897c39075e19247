"""What a gRPC call becomes, and which calls share what was found out about who makes them."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bridge_agent.gateway.grpc_adapter import callers as m
from bridge_agent.gateway.grpc_adapter.callers import Callers
from bridge_agent.gateway.grpc_adapter.faults import CallFault
from bridge_agent.gateway.grpc_adapter.native import call_of, read_call
from bridge_agent.gateway.grpc_adapter.translate import to_call
from bridge_agent.gateway.grpc_adapter.wire import framed
from bridge_wire.v1.inference_pb2 import InferenceRequest

KEY = (b"authorization", b"Bearer one")


def scope(port: int = 1, *headers: tuple[bytes, bytes], version: int = 0x0304) -> dict[str, Any]:
    return {
        "headers": [(b"te", b"trailers"), *headers],
        "client": ("127.0.0.1", port),
        "extensions": {"tls": {"tls_version": version, "client_cert_chain": []}},
    }


def test_who_was_admitted_is_known_again_by_all_that_it_shows() -> None:
    callers = Callers()
    first = callers.of(scope(1, KEY))
    assert callers.of(scope(1, KEY)) is not first  # not admitted yet
    callers.admitted(first)
    assert callers.of(scope(1, KEY)) is first
    for other in (scope(2, KEY), scope(1), scope(1, KEY, KEY), scope(1, (b"api-key", b"Bearer one"))):
        assert callers.of(other) is not first


def test_a_trace_is_of_one_call_alone_and_goes_with_it() -> None:
    callers = Callers()
    parents = [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-%016x-01" % at) for at in (1, 2)]
    plain = to_call("tiny", b"a", {}, stream=False)
    for parent in parents:
        traced = callers.of(scope(1, KEY, parent))
        callers.admitted(traced)
        assert list(traced.request(plain, None).headers)[1:] == [KEY, parent]
    headers = callers.of(scope(1, KEY)).request(plain, None).headers
    assert headers.get(b"traceparent") is None
    assert headers.get(b"authorization") == KEY[1]


def test_who_calls_is_found_out_once_whatever_the_trace() -> None:
    callers = Callers()
    first = callers.of(scope(1, KEY, (b"traceparent", b"00-one")))
    callers.admitted(first)
    first.head.memo["who"] = "ann"
    for later in (scope(1, KEY, (b"traceparent", b"00-two")), scope(1, KEY)):
        assert callers.of(later).head is first.head
    assert len(callers._known) == 1
    other = callers.of(scope(1, (b"authorization", b"Bearer two"), (b"traceparent", b"00-two")))
    assert other.head.memo == {}


def test_what_an_older_tls_shows_counts_for_nothing_and_is_not_kept() -> None:
    callers = Callers()
    shown = callers.of(scope(1, KEY, version=0x0303))
    assert shown.carried == ()
    assert shown.identity is None
    callers.admitted(shown)
    assert callers.of(scope(1, KEY, version=0x0303)) is not shown


def test_what_is_kept_is_bounded() -> None:
    callers = Callers()
    huge = callers.of(scope(1, (b"authorization", b"x" * 5000)))
    callers.admitted(huge)
    assert not callers._known
    for port in range(3000):
        callers.admitted(callers.of(scope(port)))
        assert len(callers._known) <= m._MOST


def test_calls_that_ask_for_nothing_particular_share_their_head() -> None:
    caller = Callers().of(scope(1, KEY))
    one = caller.request(to_call("tiny", b"a", {}, stream=False), None)
    two = caller.request(to_call("tiny", b"bb", {"api": "generate"}, stream=True), None)
    assert one.memo is two.memo
    assert one.headers is two.headers
    assert one.body != two.body
    assert list(one.headers) == [(b"content-type", b"application/json"), KEY]


def test_other_paths_hints_and_deadlines_have_heads_of_their_own() -> None:
    caller = Callers().of(scope(1, KEY))
    plain = caller.request(to_call("tiny", b"a", {}, stream=False), None)
    chat = caller.request(to_call("tiny", b"{}", {"api": "chat"}, stream=False), None)
    hinted = caller.request(to_call("tiny", b"a", {"x-request-id": "r"}, stream=False), None)
    timed = caller.request(to_call("tiny", b"a", {}, stream=False), 1.5)
    memos = [id(request.memo) for request in (plain, chat, hinted, timed)]
    assert len(set(memos)) == 4
    assert chat.target == b"/api/chat"
    assert hinted.headers.get(b"x-request-id") == b"r"
    assert timed.headers.get(b"x-bridge-timeout") == b"1.500"
    assert timed.body == plain.body


def test_what_was_found_out_about_who_calls_counts_for_every_call_and_a_calls_own_for_none_other() -> None:
    traced = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    caller = Callers().of(scope(1, KEY, traced))
    caller.head.memo["who"] = "ann"
    call = to_call("tiny", b"a", {}, stream=False)
    for made in (caller.request(call, None), caller.request(call, 1.5), caller.request(call, 1.5)):
        assert made.memo == {"who": "ann"}
        made.memo["what"] = "generate"
    assert caller.head.memo == {"who": "ann"}


def test_a_large_body_reaches_the_engine_as_it_is_but_for_model_and_stream() -> None:
    image = "QUJD" * 200_000
    message = {"role": "user", "content": 'what "is" it?\\', "images": [image, image]}
    data = json.dumps({"messages": [message], "model": "tiny", "stream": True}).encode()
    made = json.loads(to_call("tiny", data, {"api": "chat"}, stream=False).body)
    assert made == {"messages": [message], "model": "tiny", "stream": False}


def test_a_large_prompt_that_only_looks_like_json_is_a_prompt() -> None:
    prompt = '{"not": "closed' + "\\n\\u00e9 x" * 100_000
    made = json.loads(to_call("tiny", prompt.encode(), {}, stream=True).body)
    assert made == {"prompt": prompt, "model": "tiny", "stream": True}
    with pytest.raises(CallFault, match="not a JSON object"):
        to_call("tiny", prompt.encode(), {"api": "chat"}, stream=True)


async def test_a_large_message_is_read_in_a_thread() -> None:
    prompt = b"x" * (1 << 20)
    data = framed(InferenceRequest(model_name="tiny", input_data=prompt).SerializeToString())
    events = [
        {"type": "http.request", "body": data[at : at + 70_000], "more_body": at + 70_000 < len(data)}
        for at in range(0, len(data), 70_000)
    ]
    given: list[Any] = []

    class Threads(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            given.append(fn)
            return super().submit(fn, *args, **kwargs)

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    asyncio.get_running_loop().set_default_executor(Threads(1))
    call = await call_of(receive, stream=False)
    assert call is not None
    assert json.loads(call.body)["prompt"] == prompt.decode()
    assert given == [read_call]
