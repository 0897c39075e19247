"""What is sent to a runner for a request: the rendered prompt, sampling fields, media. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from bridge_core.dialects.errors import ApiError, RunnerFailed
from bridge_core.dialects.values import as_list, as_map
from bridge_engine.options import Options, bounded_predict
from bridge_engine.schema import converted
from bridge_engine.store.model import OpenedModel, parsed_template
from bridge_engine.templates.fault import TemplateFault, TemplateLimit
from bridge_engine.templates.prompt import Template, Values
from bridge_engine.templates.thinking import Tags, ThinkingParser

JSON_GRAMMAR: Final = r"""
root ::= object
object ::= "{" gap ( member ( "," gap member )* )? gap "}"
member ::= string ":" gap value
array ::= "[" gap ( value ( "," gap value )* )? gap "]"
value ::= object | array | string | number | ( "true" | "false" | "null" ) gap
string ::= "\"" char* "\""
char ::= [^"\\\x7F\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} )
number ::= "-"? ( "0" | [1-9] [0-9]* ) ( "." [0-9]+ )? ( [eE] [-+]? [0-9]+ )?
gap ::= [ \t\n]*
"""
"""Any JSON object, without anything after its closing brace."""


def refuse_what_is_not_understood(model: OpenedModel, name: str) -> None:
    """Refuses a model whose prompts cannot be made as its manifest says.

    Raises:
        ApiError: 501; names what is not understood.
    """
    if model.prompts.refusal:
        raise ApiError(501, f"{json.dumps(name)} cannot be used with this engine: {model.prompts.refusal}")


def template_of(model: OpenedModel, override: str = "") -> Template:
    """The model's template, or the request's.

    Raises:
        ApiError: 400; it is not a template.
    """
    try:
        return parsed_template(override or model.template)
    except TemplateFault as fault:
        raise ApiError(400, f"template error: {fault.message}") from fault


def render(template: Template, values: Values) -> str:
    """Renders a prompt.

    Raises:
        ApiError: 400; the template asks for more than one prompt may cost. 500; it does not fit the
            conversation.
    """
    try:
        return template.render(values)
    except TemplateLimit as fault:
        raise ApiError(400, f"template error: {fault.message}") from fault
    except TemplateFault as fault:
        raise ApiError(500, f"template error: {fault.message}") from fault
    except RecursionError as fault:  # of what the model brings with it: what requests bring is bounded
        raise ApiError(400, "template error: the conversation nests too deeply") from fault


def refused_by_weights(fault: ApiError) -> ApiError:
    """What a client reads when the runner could not render: a 400, or a runner's own failure as it is."""
    if isinstance(fault, RunnerFailed) or fault.status not in {400, 500}:
        return fault
    try:
        message = str(msgspec.json.decode(fault.message)["error"]["message"])
    except (msgspec.DecodeError, UnicodeError, RecursionError, KeyError, TypeError):
        message = fault.message
    return ApiError(400, f"the chat template of the weights refuses the conversation: {message[:1000]}")


def with_image_marks(messages: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Puts a mark for each image into its message; returns messages and images in their order."""
    images: list[str] = []
    marked = []
    for message in messages:
        content = message.get("content", "")
        prefix = ""
        for image in message.get("images") or ():
            mark = f"[img-{len(images)}]"
            images.append(image)
            if "[img]" in content:
                content = content.replace("[img]", mark, 1)
            else:
                prefix += mark
        marked.append({**message, "content": prefix + content})
    return marked, images


def conversation(
    model: OpenedModel, messages: Sequence[dict[str, Any]], system: str = ""
) -> list[dict[str, Any]]:
    """The messages of a chat, roles in lower case, with what the model itself brings before them."""
    given = [{**one, "role": str(one.get("role") or "").lower()} for one in messages]
    whole = [*model.messages, *given]
    if model.config.model_family == "qwen3" or model.name.model == "deepseek-r1":
        whole = without_old_thinking(whole)
    system = system or model.system
    if system and (not given or given[0]["role"] != "system"):
        whole.insert(0, {"role": "system", "content": system})
    return whole


def without_old_thinking(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with what an assistant thought before the last question cut from its texts.

    Clients from before thinking was apart send it back in the text, and these models are not used to it.
    """
    users = [number for number, one in enumerate(messages) if one.get("role") == "user"]
    found = list(messages)
    for number, one in enumerate(messages[: users[-1] if users else 0]):
        if one.get("role") == "assistant":
            parser = ThinkingParser(Tags("<think>", "</think>"))
            text = parser.feed(str(one.get("content") or "")).content + parser.finish().content
            found[number] = {**one, "content": text}
    return found


def apply_body(values: Values) -> dict[str, Any]:
    """The body of llama-server's `/apply-template`: the conversation in OpenAI's shape."""
    body: dict[str, Any] = {"messages": [_openai_message(one) for one in values.messages]}
    if values.tools:
        body["tools"] = list(values.tools)
    if values.think is not None:
        # Families call the same switch by different names.
        variables: dict[str, Any] = {"enable_thinking": bool(values.think), "thinking": bool(values.think)}
        if isinstance(values.think, str):
            variables["reasoning_effort"] = values.think
        body["chat_template_kwargs"] = variables
    return body


def _openai_message(message: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message["role"], "content": message.get("content") or ""}
    if message.get("thinking"):
        found["reasoning_content"] = message["thinking"]
    for name, theirs in (("tool_name", "name"), ("tool_call_id", "tool_call_id")):
        if message.get(name):
            found[theirs] = message[name]
    calls = [as_map(call) for call in as_list(message.get("tool_calls"))]
    if calls:
        found["tool_calls"] = [
            {
                "id": str(call.get("id") or f"call_{number}"),
                "type": "function",
                "function": {
                    "name": str(as_map(call.get("function")).get("name") or ""),
                    "arguments": msgspec.json.encode(
                        as_map(as_map(call.get("function")).get("arguments"))
                    ).decode(),
                },
            }
            for number, call in enumerate(calls)
        ]
    return found


def completion_body(
    prompt: str | list[int],
    options: Options,
    *,
    num_ctx: int,
    images: Sequence[str] = (),
    marker: str = "",
    format_: Any = None,
    probabilities: int = 0,
    marks: Sequence[str] = (),
) -> dict[str, Any]:
    """The body of llama-server's `/completion`.

    Raises:
        ApiError: 500 as Ollama answers; `format_` is neither "json" nor a schema. 400; the schema cannot
            be converted.
    """
    body: dict[str, Any] = {
        "prompt": prompt,
        "stream": True,
        "cache_prompt": True,
        # An event after each batch of the prompt: by the one that it cannot send llama-server notices
        # that nobody wants the answer any more. While other requests keep it awake it never looks.
        "return_progress": True,
        "n_predict": bounded_predict(options.num_predict, num_ctx),
        "n_keep": options.num_keep,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "repeat_penalty": options.repeat_penalty,
        "repeat_last_n": options.repeat_last_n,
        "frequency_penalty": options.frequency_penalty,
        "presence_penalty": options.presence_penalty,
        "seed": options.seed,
    }
    if options.stop:
        body["stop"] = list(options.stop)
    if probabilities:
        body["n_probs"] = probabilities
    if marks:
        body["preserved_tokens"] = list(marks)
    if isinstance(format_, dict):
        body["json_schema"] = converted(format_)
    elif format_ == "json":
        body["grammar"] = JSON_GRAMMAR
    elif format_ not in (None, ""):
        quoted = json.dumps(json.dumps(format_))
        raise ApiError(
            500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object', late=True
        )
    if images and isinstance(prompt, str):
        for number in range(len(images)):
            prompt = prompt.replace(f"[img-{number}]", marker, 1)
        body["prompt"] = {"prompt_string": prompt, "multimodal_data": list(images)}
    return body


def logprobs(event: dict[str, Any], *, top: bool) -> list[dict[str, Any]]:
    """The log probabilities of an event in Ollama's shape."""
    return [
        {
            **_token(one),
            **({"top_logprobs": [_token(other) for other in one.get("top_logprobs", ())]} if top else {}),
        }
        for one in event.get("completion_probabilities") or ()
    ]


def _token(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "token": one["token"],
        "logprob": one.get("logprob", one.get("prob", 0.0)),
        "bytes": list(one["token"].encode()),
    }


def metrics(timings: dict[str, Any], *, total_ns: int, load_ns: int) -> dict[str, int]:
    """Durations (nanoseconds) and counts of a finished generation; zeros are left out."""
    found = {
        "total_duration": total_ns,
        "load_duration": load_ns,
        "prompt_eval_count": int(timings.get("prompt_n", 0)) + int(timings.get("cache_n", 0)),
        "prompt_eval_duration": int(float(timings.get("prompt_ms", 0)) * 1e6),
        "eval_count": int(timings.get("predicted_n", 0)),
        "eval_duration": int(float(timings.get("predicted_ms", 0)) * 1e6),
    }
    return {name: value for name, value in found.items() if value}
