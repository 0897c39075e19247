"""`/api/generate` and `/api/chat`: from a request to a stream of native records."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

import msgspec

from bridge_core.dialects.errors import ApiError, RunnerFailed
from bridge_core.dialects.values import as_map
from bridge_core.large_json import LARGE
from bridge_engine import bounds, requests
from bridge_engine.catalog import Catalog, in_full
from bridge_engine.images import settle_images, size_of_images
from bridge_engine.json_watch import JsonWatch
from bridge_engine.native import Json
from bridge_engine.options import Options, merge, runner_options, truncated_prompt
from bridge_engine.pools import CORES, Pool
from bridge_engine.prompt_rules import Reading
from bridge_engine.prompting import (
    apply_body,
    completion_body,
    conversation,
    logprobs,
    metrics,
    refuse_what_is_not_understood,
    refused_by_weights,
    render,
    template_of,
    with_image_marks,
)
from bridge_engine.runner.process import Runner
from bridge_engine.runner.scheduler import Scheduler
from bridge_engine.store.details import timestamp
from bridge_engine.store.model import OpenedModel
from bridge_engine.templates.call_styles import CallStyle, FramedCallParser
from bridge_engine.templates.functions import Dates
from bridge_engine.templates.prompt import Template, Values
from bridge_engine.templates.thinking import ThinkingParser, infer_tags
from bridge_engine.templates.tool_calls import Found, ToolCallParser

_MOST_PROBABILITIES: Final = 20
_RENDER_S: Final = 10.0  # for a template that the weights carry: it may have been written to never end
_SCHEMA_LEFT: Final = (
    "invalid format: the runner could not hold the answer to the schema; say it in a simpler way"
)
_TOO_LONG: Final = (
    "the prompt does not fit the context length that the model is loaded with; shorten it, or raise num_ctx"
)


class GenerationRequest(msgspec.Struct, kw_only=True):
    """What both routes have in common, checked.

    Attributes:
        name: The model as the client spelled it; answers repeat it.
        started: When it came, on the clock of `time.perf_counter_ns`.
    """

    name: str
    model: OpenedModel
    body: Json
    options: Options
    keep_alive: float | None
    think: bool | str | None
    started: int
    load_ns: int = 0

    @property
    def shift(self) -> bool:
        """Whether the context may be shifted when it is full."""
        default = not self.model.header.architecture.startswith("deepseek2")
        return bool(self.body.get("shift", default))

    @property
    def truncate(self) -> bool:
        """Whether a prompt that is too long may be cut."""
        return bool(self.body.get("truncate", True))

    @property
    def probabilities(self) -> int:
        """How many candidates a token to ask for; 0 for none."""
        return max(1, self.body.get("top_logprobs", 0)) if self.body.get("logprobs") else 0


class Prepared(msgspec.Struct, kw_only=True):
    """A prompt with what is needed to read the answer to it."""

    prompt: str
    images: Sequence[str] = ()
    thinking: ThinkingParser | None = None
    tools: ToolCallParser | FramedCallParser | None = None
    marks: Sequence[str] = ()


class Generation:
    """The two generative calls; see `native.NativeApi`."""

    def __init__(self, catalog: Catalog, scheduler: Scheduler, decode: Pool) -> None:
        self._catalog = catalog
        self._scheduler = scheduler
        self._decode = decode
        self._leading_bos: dict[str, str] = {}

    async def generate(self, body: Json) -> AsyncIterator[Json]:
        """`POST /api/generate`."""
        await self._settle_images(body)
        request = await self._request(body, missing=f"model '{body.get('model', '')}' not found")
        self._check_generate(request)
        empty = {"response": ""}
        if not body.get("prompt") and request.keep_alive == 0:
            yield self._unload(request, empty)
            return
        async with self._runner(request) as runner:
            if not body.get("prompt"):
                yield self._loaded(request, empty)
                return
            prepared = await self._prepare_generate(request, runner)
            if body.get("_debug_render_only"):
                yield self._rendered(request, prepared, empty)
                return
            said: list[str] = []
            async with contextlib.aclosing(self._complete(request, runner, prepared)) as records:
                async for record, text, final in records:
                    said.append(text)
                    if final and not body.get("raw"):
                        record["context"] = await _tokens(runner, prepared.prompt + "".join(said))
                    yield _ordered(request.name, record)

    async def chat(self, body: Json) -> AsyncIterator[Json]:
        """`POST /api/chat`."""
        if not body.get("model"):
            raise ApiError(400, "model is required")
        await self._settle_images(body)
        request = await self._request(body, missing=f"model '{body['model']}' not found")
        self._check_chat(request)
        empty = {"message": {"role": "assistant", "content": ""}}
        if not body.get("messages") and request.keep_alive == 0:
            yield self._unload(request, empty)
            return
        async with self._runner(request) as runner:
            if not body.get("messages"):
                yield self._loaded(request, empty)
                return
            prepared = await self._prepare_chat(request, runner)
            if body.get("_debug_render_only"):
                yield self._rendered(request, prepared, {"message": {"role": "", "content": ""}})
                return
            async with contextlib.aclosing(self._complete(request, runner, prepared)) as records:
                async for record, _, _ in records:
                    yield _ordered(request.name, _as_message(record))

    # -- checking

    async def _settle_images(self, body: Json) -> None:
        if size_of_images(body) > LARGE:
            await self._decode.run(settle_images, body)
        else:
            settle_images(body)

    async def _request(self, body: Json, *, missing: str) -> GenerationRequest:
        started = time.perf_counter_ns()
        keep_alive = requests.keep_alive(body.get("keep_alive"))
        think = requests.think(body.get("think"))
        if not 0 <= body.get("top_logprobs", 0) <= _MOST_PROBABILITIES:
            raise ApiError(400, "top_logprobs must be between 0 and 20")
        model = await self._catalog.find(body.get("model", ""), missing=missing)
        return GenerationRequest(
            name=body.get("model", ""),
            model=model,
            body=body,
            options=Options(),
            keep_alive=keep_alive,
            think=think,
            started=started,
        )

    def _check_generate(self, request: GenerationRequest) -> None:
        body = request.body
        if body.get("raw") and (body.get("template") or body.get("system") or body.get("context")):
            raise ApiError(400, "raw mode does not support template, system, or context")
        can = request.model.capabilities
        if "completion" not in can:
            raise ApiError(400, f'"{request.name}" does not support generate')
        if body.get("suffix") and "insert" not in can:
            raise ApiError(400, f"{in_full(request.model)} does not support insert")
        if body.get("prompt") and not body.get("raw"):
            refuse_what_is_not_understood(request.model, request.name)
        self._settle_thinking(request)
        self._settle_options(request)

    def _check_chat(self, request: GenerationRequest) -> None:
        body = request.body
        can = request.model.capabilities
        if "completion" not in can:
            raise ApiError(400, f'"{request.name}" does not support chat')
        if body.get("tools") and "tools" not in can:
            raise ApiError(400, f"{in_full(request.model)} does not support tools")
        if body.get("messages"):
            refuse_what_is_not_understood(request.model, request.name)
        self._settle_thinking(request)
        self._settle_options(request)

    def _settle_thinking(self, request: GenerationRequest) -> None:
        can_think = "thinking" in request.model.capabilities
        if request.think and not can_think:
            if not request.body.get("_relax_thinking"):
                raise ApiError(400, f'"{request.name}" does not support thinking')
            request.think = None
        if request.think is None and can_think:
            request.think = True

    def _settle_options(self, request: GenerationRequest) -> None:
        merged = merge(request.model.options, request.body.get("options") or {})
        request.options = bounds.bounded(merged, CORES)

    # -- answers without generating

    def _unload(self, request: GenerationRequest, empty: Json) -> Json:
        self._scheduler.expire(request.model)
        return _ordered(request.name, {**empty, "done": True, "done_reason": "unload"})

    def _loaded(self, request: GenerationRequest, empty: Json) -> Json:
        return _ordered(request.name, {**empty, "done": True, "done_reason": "load"})

    def _rendered(self, request: GenerationRequest, prepared: Prepared, empty: Json) -> Json:
        about: Json = {"rendered_template": prepared.prompt}
        if prepared.images:
            about["image_count"] = len(prepared.images)
        return _ordered(request.name, {**empty, "done": False, "_debug_info": about})

    # -- prompts

    @contextlib.asynccontextmanager
    async def _runner(self, request: GenerationRequest) -> AsyncIterator[Runner]:
        wanted = runner_options(request.options, shift=request.shift)
        async with self._scheduler.use(request.model, wanted, request.keep_alive) as runner:
            request.load_ns = time.perf_counter_ns() - request.started
            yield runner

    async def _prepare_generate(self, request: GenerationRequest, runner: Runner) -> Prepared:
        body = request.body
        images = body.get("images") or []
        if body.get("raw"):
            marks = "".join(f"[img-{number}]" for number in range(len(images)))
            return Prepared(prompt=marks + body["prompt"], images=images)
        own = body.get("template", "")
        template = None if request.model.prompts.jinja and not own else template_of(request.model, own)
        if body.get("suffix") and template is not None:
            values = Values(prompt=body["prompt"], suffix=body["suffix"], think=request.think, dates=_dates())
            return Prepared(prompt=render(template, values))
        turn = {"role": "user", "content": body["prompt"], "images": images}
        messages = conversation(request.model, [turn], body.get("system", ""))
        marked, images = with_image_marks(messages)
        values = Values(messages=marked, think=request.think, dates=_dates())
        prompt = await _prompt(runner, template, values)
        if body.get("context"):
            bounds.check_tokens(body["context"], request.model.vocabulary)
            prompt = await _text(runner, body["context"]) + prompt
        reading = Reading(infer_tags(template)) if own and template else request.model.prompts.reading
        return Prepared(
            prompt=prompt, images=images, thinking=_thinking(request, reading, prompt), marks=reading.marks
        )

    async def _prepare_chat(self, request: GenerationRequest, runner: Runner) -> Prepared:
        body = request.body
        template = None if request.model.prompts.jinja else template_of(request.model)
        messages = conversation(request.model, body["messages"])
        tools = body.get("tools") or []

        async def rendered(first: int) -> Prepared:
            kept = [one for one in messages[:first] if one.get("role") == "system"] + messages[first:]
            marked, images = with_image_marks(kept)
            values = Values(messages=marked, tools=tools, think=request.think, dates=_dates())
            return Prepared(prompt=await _prompt(runner, template, values), images=images)

        prepared = await rendered(0)
        if request.truncate and len(prepared.prompt.encode()) >= runner.spec.num_ctx:
            low, high = 0, len(messages) - 1
            while low < high:  # the fewest of the oldest messages that must go
                middle = (low + high) // 2
                if len(await _tokens(runner, (await rendered(middle)).prompt)) <= runner.spec.num_ctx:
                    high = middle
                else:
                    low = middle + 1
            prepared = await rendered(low)
        reading = request.model.prompts.reading
        prepared.thinking = _thinking(request, reading, prepared.prompt)
        prepared.marks = reading.marks
        if tools:
            prepared.tools = _calls(reading.calls, tools)
        return prepared

    async def _fitted(
        self, request: GenerationRequest, runner: Runner, prepared: Prepared
    ) -> str | list[int]:
        """The prompt as it is sent: cut where it is too long and may be cut."""
        prompt = prepared.prompt
        if request.model.stored.digest in self._leading_bos:
            prompt = self._without_bos(request.model, prompt)
        else:  # the whole vocabulary is read for it
            prompt = await self._decode.run(self._without_bos, request.model, prompt)
        num_ctx = runner.spec.num_ctx
        bounds.check_text(prompt, num_ctx)
        if not request.truncate or prepared.images or len(prompt.encode()) < num_ctx:
            return prompt
        tokens = await _tokens(runner, prompt, special=True)
        if len(tokens) > num_ctx - 1 and not request.shift:
            raise ApiError(400, _TOO_LONG, late=True)
        cut = truncated_prompt(tokens, num_ctx, request.options.num_keep, adds_bos=request.model.adds_bos)
        return prompt if cut is None else cut

    def _without_bos(self, model: OpenedModel, prompt: str) -> str:
        """A prompt must not begin with the token that the tokeniser adds by itself."""
        if not model.adds_bos or not prompt.startswith(("<", "[")):
            return prompt
        known = self._leading_bos.get(model.stored.digest)
        if known is None:
            tokens = model.header.array("tokenizer.ggml.tokens")
            number = model.header.metadata.get("tokenizer.ggml.bos_token_id", -1)
            known = str(tokens[number]) if isinstance(number, int) and 0 <= number < len(tokens) else ""
            self._leading_bos[model.stored.digest] = known
        return prompt.removeprefix(known) if known else prompt

    # -- generating

    async def _complete(
        self, request: GenerationRequest, runner: Runner, prepared: Prepared
    ) -> AsyncGenerator[tuple[Json, str, bool]]:
        """Yields records without their head, the raw text of each, and whether it is the last."""
        body = completion_body(
            await self._fitted(request, runner, prepared),
            request.options,
            num_ctx=runner.spec.num_ctx,
            images=prepared.images,
            marker=runner.marker,
            format_=request.body.get("format"),
            probabilities=request.probabilities,
            marks=prepared.marks,
        )
        reader = _Reader(prepared)
        watch = JsonWatch() if "json_schema" in body else None
        unsaid = ""  # text held back from records still counts for the context
        async with contextlib.aclosing(runner.stream("/completion", body)) as events:
            async for event in events:
                text = event.get("content") or ""
                if watch is not None and not watch.feed(text):
                    raise ApiError(400, _SCHEMA_LEFT, late=True)
                unsaid += text
                final = bool(event.get("stop"))
                record = reader.read(text, final=final)
                if request.probabilities and not final:
                    found = logprobs(event, top=bool(request.body.get("top_logprobs")))
                    if found:
                        record["logprobs"] = found
                if final:
                    yield self._finished(request, event, record), unsaid, True
                    return
                if record["response"] or len(record) > 1:
                    yield {**record, "done": False}, unsaid, False
                    unsaid = ""
        raise RunnerFailed("unexpected EOF")

    def _finished(self, request: GenerationRequest, event: Json, record: Json) -> Json:
        reason = "length" if event.get("stop_type") == "limit" else "stop"
        total = time.perf_counter_ns() - request.started
        counts = metrics(event.get("timings") or {}, total_ns=total, load_ns=request.load_ns)
        return {**record, "done": True, "done_reason": reason, **counts}


class _Reader:
    """Parts the text into answer, thinking and tool calls."""

    def __init__(self, prepared: Prepared) -> None:
        self._thinking = prepared.thinking
        self._tools = prepared.tools
        self._calls = 0

    def read(self, text: str, *, final: bool) -> Json:
        thinking = ""
        if self._thinking is not None:
            part = self._thinking.feed(text)
            thinking, text = part.thinking, part.content
            if final:
                rest = self._thinking.finish()
                thinking, text = thinking + rest.thinking, text + rest.content
        record: Json = {"response": text}
        if self._tools is not None:
            found = self._tools.feed(text)
            last = self._tools.finish() if final else Found((), "")
            record["response"] = found.content + last.content
            calls = found.calls + last.calls
            if calls:
                record["tool_calls"] = [self._call(call.name, call.arguments) for call in calls]
        if thinking:
            record["thinking"] = thinking
        return record

    def _call(self, name: str, arguments: Json) -> Json:
        self._calls += 1
        function = {"index": self._calls - 1, "name": name, "arguments": arguments}
        return {"id": f"call_{secrets.token_hex(4)}", "function": function}


def _calls(calls: CallStyle | str, tools: Sequence[Json]) -> ToolCallParser | FramedCallParser | None:
    if isinstance(calls, CallStyle):
        return FramedCallParser(calls, tools)
    names = [str(as_map(as_map(tool).get("function")).get("name") or "") for tool in tools]
    return ToolCallParser(calls, names) if calls else None


async def _prompt(runner: Runner, template: Template | None, values: Values) -> str:
    """The prompt, rendered here, or by the runner with the template of the weights."""
    if template is not None:
        return render(template, values)
    try:
        async with asyncio.timeout(_RENDER_S):
            answer = await runner.call("/apply-template", apply_body(values))
        return str(answer["prompt"])
    except TimeoutError:
        runner.fail("the chat template of the weights does not end")
        raise ApiError(400, "the chat template of the weights does not end") from None
    except ApiError as fault:
        raise refused_by_weights(fault) from fault


def _thinking(request: GenerationRequest, reading: Reading, prompt: str) -> ThinkingParser | None:
    tags = reading.tags
    if not request.think or tags is None:
        return None
    return ThinkingParser(tags, opened=prompt.rstrip().endswith(tags.opening))


def _ordered(name: str, record: Json) -> Json:
    return {"model": name, "created_at": timestamp(time.time_ns()), **record}


def _as_message(record: Json) -> Json:
    """A record of `generate` as one of `chat`."""
    message = {"role": "assistant", "content": record.pop("response")}
    for name in ("thinking", "tool_calls"):
        if name in record:
            message[name] = record.pop(name)
    return {"message": message, **record}


async def _tokens(runner: Runner, text: str, *, special: bool = False) -> list[int]:
    bounds.check_text(text, runner.spec.num_ctx)
    answer = await runner.call("/tokenize", {"content": text, "add_special": special})
    tokens: list[int] = answer["tokens"]
    return tokens


async def _text(runner: Runner, tokens: list[int]) -> str:
    answer = await runner.call("/detokenize", {"tokens": tokens})
    return str(answer["content"])


def _dates() -> Dates:
    """What `currentDate` and `yesterdayDate` of a template say now."""
    today = dt.datetime.now().astimezone().date()
    return Dates(today.isoformat(), (today - dt.timedelta(days=1)).isoformat())
