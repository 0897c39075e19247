"""The official clients read what the translators write."""

import json

import anthropic
import httpx2
import openai
import pytest
from pydantic import BaseModel

from bridge_core.dialects import Stamp, refusal, translate
from bridge_core.dialects.errors import ApiError

STAMP = Stamp(1795469785, "0123456789abcdef" * 4)
CALL = {"id": "c1", "function": {"index": 0, "name": "add", "arguments": {"a": 1, "b": "<2>"}}}
TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}


def record(done=False, logprobs=None, **message):
    found = {"model": "m", "message": {"role": "assistant", "content": "", **message}, "done": done}
    if logprobs:
        found["logprobs"] = logprobs
    if done:
        found |= {"done_reason": "stop", "prompt_eval_count": 7, "eval_count": 5}
    return found


class Engine:
    """Answers native requests with the given records, through the translators."""

    def __init__(self, *records, fails=None):
        self.records = records
        self.fails = fails
        self.seen = None

    def __call__(self, request):
        path = request.url.path
        try:
            exchange = translate(path, request.read(), STAMP)
        except ApiError as fault:
            return self._reply(refusal(path, fault.status, fault.message, STAMP))
        self.seen = exchange.native
        if self.fails:
            return self._reply(exchange.failure(*self.fails))
        if not exchange.native["stream"]:
            return self._reply(exchange.whole(self._merged()))
        stream = exchange.stream()
        pieces = [stream.feed(one) for one in self.records]
        headers = {name.decode(): value.decode() for name, value in exchange.stream_headers}
        return httpx2.Response(200, headers=headers, content=b"".join([*pieces, stream.finish()]))

    def _merged(self):
        merged = dict(self.records[-1])
        if "message" in merged:
            messages = [one["message"] for one in self.records]
            merged["message"] = {"role": "assistant", "content": "".join(one["content"] for one in messages)}
            merged["message"]["thinking"] = "".join(one.get("thinking", "") for one in messages)
            merged["message"]["tool_calls"] = [call for one in messages for call in one.get("tool_calls", ())]
        return merged

    @staticmethod
    def _reply(reply):
        return httpx2.Response(reply.status, headers={"Content-Type": reply.content_type}, content=reply.body)


@pytest.fixture
def openai_client():
    made = []

    def make(engine):
        http = httpx2.Client(transport=httpx2.MockTransport(engine))
        made.append(openai.OpenAI(base_url="http://x/v1", api_key="k", http_client=http, max_retries=0))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def anthropic_client():
    made = []

    def make(engine):
        http = httpx2.Client(transport=httpx2.MockTransport(engine))
        made.append(anthropic.Anthropic(base_url="http://x", api_key="k", http_client=http, max_retries=0))
        return made[-1]

    yield make
    for client in made:
        client.close()


SAID = (record(thinking="hm"), record(content="It is "), record(content="<Paris>"), record(done=True))
CALLED = (record(content="so "), record(tool_calls=[CALL]), record(done=True))
BROKEN = (*SAID[:-1], {"error": "the runner died"})
ASK = [{"role": "user", "content": "x"}]


def test_openai_chat(openai_client):
    answer = openai_client(Engine(*SAID)).chat.completions.create(model="m", messages=ASK)
    assert answer.choices[0].message.content == "It is <Paris>"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 12


def test_openai_chat_streamed(openai_client):
    chunks = list(
        openai_client(Engine(*SAID)).chat.completions.create(
            model="m", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "It is <Paris>"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.prompt_tokens == 7


def test_openai_tools(openai_client):
    engine = Engine(*CALLED)
    tools = [{"type": "function", "function": TOOL}]
    answer = openai_client(engine).chat.completions.create(model="m", messages=ASK, tools=tools)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == (
        "c1",
        "add",
        {"a": 1, "b": "<2>"},
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    assert engine.seen["tools"] == tools


def test_openai_tools_streamed(openai_client):
    tools = [{"type": "function", "function": TOOL}]
    with openai_client(Engine(*CALLED)).chat.completions.stream(
        model="m", messages=ASK, tools=tools
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert answer.choices[0].message.tool_calls[0].function.name == "add"
    assert answer.choices[0].finish_reason == "tool_calls"


def test_openai_structured_output(openai_client):
    class Age(BaseModel):
        age: int

    engine = Engine(record(content='{"age": 5}'), record(done=True))
    answer = openai_client(engine).chat.completions.parse(model="m", messages=ASK, response_format=Age)
    assert answer.choices[0].message.parsed == Age(age=5)
    assert engine.seen["format"]["properties"]["age"]["type"] == "integer"


def test_openai_logprobs(openai_client):
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    answer = openai_client(Engine(record(done=True, logprobs=[token]))).chat.completions.create(
        model="m", messages=ASK, logprobs=True
    )
    assert answer.choices[0].logprobs.content[0].logprob == -0.5


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_openai_embeddings(openai_client, encoding):
    engine = Engine({"model": "m", "embeddings": [[0.5, -0.25], [1.0, 0.1]], "prompt_eval_count": 3})
    more = {"encoding_format": encoding} if encoding else {}
    answer = openai_client(engine).embeddings.create(model="m", input=["a", "b"], dimensions=2, **more)
    assert engine.seen == {"model": "m", "input": ["a", "b"], "dimensions": 2, "stream": False}
    vector = answer.data[0].embedding
    if encoding == "base64":
        assert vector == "AAAAPwAAgL4="
    else:
        assert vector == [0.5, -0.25]


def test_openai_completions(openai_client):
    records = [{"model": "m", "response": "Par", "done": False}]
    records.append({"model": "m", "response": "is", "done": True, "done_reason": "length", "eval_count": 2})
    chunks = list(openai_client(Engine(*records)).completions.create(model="m", prompt="x", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Paris"
    assert chunks[-1].choices[0].finish_reason == "length"


def test_openai_responses(openai_client):
    answer = openai_client(Engine(*SAID)).responses.create(model="m", input="x")
    assert answer.output_text == "It is <Paris>"
    assert [item.type for item in answer.output] == ["reasoning", "message"]


def test_openai_responses_streamed(openai_client):
    tools = [{"type": "function", **TOOL}]
    engine = Engine(record(thinking="hm"), *CALLED)
    with openai_client(engine).responses.stream(model="m", input="x", tools=tools) as stream:
        events = list(stream)
        answer = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
    assert answer.output_text == "so "
    assert answer.usage.total_tokens == 12


def test_openai_errors_are_the_clients_own_kinds(openai_client):
    with pytest.raises(openai.NotFoundError, match="model 'm' not found"):
        openai_client(Engine(fails=(404, "model 'm' not found"))).chat.completions.create(
            model="m", messages=ASK
        )
    with pytest.raises(openai.BadRequestError, match="too short"):
        openai_client(Engine()).chat.completions.create(model="m", messages=[])


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.chat.completions.create(model="m", messages=ASK, stream=True),
        lambda client: client.completions.create(model="m", prompt="x", stream=True),
        lambda client: client.responses.create(model="m", input="x", stream=True),
    ],
)
def test_openai_raises_when_a_stream_breaks(openai_client, ask):
    with pytest.raises(openai.APIError, match="the runner died"):
        list(ask(openai_client(Engine(*BROKEN))))


def test_anthropic_messages(anthropic_client):
    answer = anthropic_client(Engine(*SAID)).messages.create(model="m", max_tokens=9, messages=ASK)
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.content[1].text == "It is <Paris>"
    assert answer.stop_reason == "end_turn"


def test_anthropic_streamed(anthropic_client):
    client = anthropic_client(Engine(*SAID[:-1], record(tool_calls=[CALL]), SAID[-1]))
    tools = [{"name": "add", "input_schema": {"type": "object"}}]
    with client.messages.stream(model="m", max_tokens=9, messages=ASK, tools=tools) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
    assert answer.content[2].input == {"a": 1, "b": "<2>"}
    assert answer.stop_reason == "tool_use"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 5)


def test_anthropic_errors_are_the_clients_own_kinds(anthropic_client):
    with pytest.raises(anthropic.NotFoundError, match="model 'm' not found"):
        anthropic_client(Engine(fails=(404, "model 'm' not found"))).messages.create(
            model="m", max_tokens=9, messages=ASK
        )
    with pytest.raises(anthropic.BadRequestError, match="messages is required"):
        anthropic_client(Engine()).messages.create(model="m", max_tokens=9, messages=[])


def test_anthropic_raises_when_a_stream_breaks(anthropic_client):
    client = anthropic_client(Engine(*BROKEN))
    with (
        pytest.raises(anthropic.APIError, match="the runner died"),
        client.messages.stream(model="m", max_tokens=9, messages=ASK) as stream,
    ):
        list(stream)
