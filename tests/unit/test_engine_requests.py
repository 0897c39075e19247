"""How the embedded engine reads requests: Go's JSON rules, options, durations, hosts."""

from __future__ import annotations

import contextlib
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import decode
from bridge_core.route_rules import Match, match
from bridge_engine import requests
from bridge_engine.native import merged
from bridge_engine.options import (
    Options,
    bounded_predict,
    merge,
    prompt_limit,
    runner_options,
    truncated_prompt,
)
from bridge_engine.prompt_rules import PromptPlan
from bridge_engine.prompting import with_image_marks
from bridge_engine.runner.planning import plan, serves
from bridge_engine.runner.spec import RunnerSpec


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b'{"model":"a","prompt":"x"}', {"model": "a", "prompt": "x"}),
        (b'{"model":"a","model":"b"}', {"model": "b"}),
        (b'{"model":"a","Model":"b"}', {"model": "b"}),
        (b'{"Model":"b","model":"a"}', {"model": "a"}),
        (b'{"mo\\u0064el":"a"}', {"model": "a"}),
        (b'{"MODEL":"a","no_such":1}', {"model": "a"}),
        (b'{"model":"a"} trailing', {"model": "a"}),
        (b'{"model":"a"}{"model":"b"}', {"model": "a"}),
        (b' \n{"model":null}', {}),
        (b'{"model":"\xff\xfe"}', {"model": "��"}),
        (b'{"model":"\xe2\x82"}', {"model": "��"}),
        (b'{"model":"\\ud800x"}', {"model": "�x"}),
        (b'{"options":{"Num_Ctx":1,"num_ctx":2}}', {"options": {"Num_Ctx": 1, "num_ctx": 2}}),
        (b"null", {}),
    ],
)
def test_bodies_are_read_by_gos_rules(body: bytes, read: dict[str, Any]) -> None:
    assert decode(body, requests.GENERATE) == read


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b"  \n", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"model": ', "unexpected EOF"),
        (b'{"model": "a', "unexpected EOF"),
        (b"{x}", "invalid character"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (
            b'{"model":5}',
            "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string",
        ),
        (
            b'{"stream":1}',
            "json: cannot unmarshal number into Go struct field GenerateRequest.stream of type bool",
        ),
        (
            b'{"top_logprobs":true}',
            "cannot unmarshal bool into Go struct field GenerateRequest.top_logprobs of type int",
        ),
        (
            b'{"context":["a"]}',
            "cannot unmarshal string into Go struct field GenerateRequest.context of type int",
        ),
        (b'{"model":NaN}', "invalid character"),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(ApiError, match=re.escape(message)) as fault:
        decode(body, requests.GENERATE)
    assert fault.value.status == 400


DEEP = b"[" * 900 + b"]" * 900


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"format":%s}' % DEEP, "exceeded max depth"),
        (b'{"Format":%s}' % DEEP, "exceeded max depth"),
        (b'{"ignored":%s}' % DEEP, "exceeded max depth"),
        (b'{"format":' + b"[" * 1_000_000, "exceeded max depth"),
        (b'{"format":' + b'{"a":' * 1_000_000, "exceeded max depth"),
        (b'{"options":{"num_ctx":%s}}' % (b"9" * 5000), "cannot unmarshal number"),
        (b'{"options":{"num_ctx":1e400}}', "cannot unmarshal number"),
        (b'{"context":[%s]}' % (b"9" * 30), "cannot unmarshal number"),
    ],
)
def test_depth_and_numbers_are_bounded(body: bytes, message: str) -> None:
    with pytest.raises(ApiError, match=message) as fault:
        decode(body, requests.GENERATE)
    assert fault.value.status == 400


def test_numbers_too_large_for_an_option_are_refused() -> None:
    read = decode(b'{"options":{"num_ctx":%s,"seed":4294967295}}' % (b"9" * 30), requests.GENERATE)
    with pytest.raises(ApiError, match='option "num_ctx" must be of type integer'):
        merge(Options(), read["options"])
    assert merge(Options(), {"seed": read["options"]["seed"]}).seed == 4294967295


@given(st.binary(max_size=200))
def test_no_body_breaks_the_reader(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        json.dumps(decode(body, requests.CHAT))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (-1, requests.FOREVER),
        (90, 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("-1s", requests.FOREVER),
    ],
)
def test_keep_alive(value: Any, seconds: float | None) -> None:
    assert requests.keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["soon", "5", "", "5 m", True, [1]])
def test_what_is_no_keep_alive_is_refused(value: Any) -> None:
    with pytest.raises(ApiError):
        requests.keep_alive(value)


def test_options_are_laid_over_each_other() -> None:
    model = merge(Options(), {"temperature": 0, "stop": ["a"], "no_such": 1})
    asked = merge(model, {"num_ctx": 128.0, "temperature": None})
    assert (asked.temperature, asked.stop, asked.num_ctx, asked.top_k) == (0.0, ("a",), 128, 40)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("temperature", "hot", "float32"),
        ("num_ctx", "1", "integer"),
        ("stop", "a", "array"),
        ("use_mmap", 1, "boolean"),
    ],
)
def test_options_of_another_type_are_refused(name: str, value: Any, kind: str) -> None:
    with pytest.raises(ApiError, match=f'option "{name}" must be of type {kind}') as fault:
        merge(Options(), {name: value})
    assert fault.value.status == 500


def planned(values: dict[str, Any], *, shift: bool = True, port: int = 0) -> RunnerSpec:
    model: Any = SimpleNamespace(
        trained_context=2048,
        capabilities=["completion"],
        header=SimpleNamespace(architecture="llama"),
        weights="w.gguf",
        projectors=(),
        adapters=(),
        prompts=PromptPlan(),
    )
    options = runner_options(merge(Options(), values), shift=shift)
    return plan(model, options, parallel=2, context_length=4096, llama_server="", port=port)


@pytest.mark.parametrize(
    "values", [{"temperature": 0, "seed": 5}, {"num_ctx": 2048}, {"num_ctx": 1 << 20}, {"num_batch": 512}]
)
def test_a_request_that_would_start_the_same_runner_reloads_nothing(values: dict[str, Any]) -> None:
    assert serves(planned({}), planned(values, port=9))
    assert serves(planned(values), planned({}))


@pytest.mark.parametrize(
    "values", [{"num_ctx": 128}, {"num_gpu": 0}, {"num_thread": 2}, {"use_mmap": False}, {"num_batch": 64}]
)
def test_a_request_that_needs_another_runner_reloads(values: dict[str, Any]) -> None:
    assert not serves(planned({}), planned(values))
    assert not serves(planned({}), planned({}, shift=False))


@given(st.integers(0, 4000), st.integers(2, 600), st.integers(-1, 700), st.booleans())
def test_a_prompt_is_cut_in_its_middle(size: int, num_ctx: int, keep: int, adds_bos: bool) -> None:
    tokens = list(range(size))
    cut = truncated_prompt(tokens, num_ctx, keep, adds_bos=adds_bos)
    if size <= num_ctx - 1:
        assert cut is None
        return
    assert cut is not None
    assert len(cut) <= num_ctx - 1 or num_ctx == 2
    assert cut == sorted(set(cut))
    assert len(cut) == prompt_limit(num_ctx, min((size if keep < 0 else keep) + adds_bos, num_ctx - 1))


def test_the_recorded_prompt_is_cut_to_the_recorded_length() -> None:
    cut = truncated_prompt(list(range(2051)), 256, 4, adds_bos=True)
    assert cut is not None
    assert len(cut) == 131
    assert cut[:6] == [0, 1, 2, 3, 4, 1925]


def test_open_ended_generation_is_bounded() -> None:
    assert [bounded_predict(n, 100) for n in (-1, 0, -2, 7, 5000)] == [1000, 1000, 1000, 7, 1000]


def test_images_are_marked_where_the_text_says_or_before_it() -> None:
    messages = [
        {"role": "user", "content": "see [img] and", "images": ["A", "B"]},
        {"role": "user", "content": "x"},
    ]
    marked, images = with_image_marks(messages)
    assert images == ["A", "B"]
    assert [one["content"] for one in marked] == ["[img-1]see [img-0] and", "x"]


def test_paths_lead_to_routes() -> None:
    routes: dict[str, dict[str, int]] = {
        "/api/tags": {"GET": 1},
        "/api/blobs/": {"HEAD": 2},
        "/v1/models/": {"GET": 3},
    }
    assert match(routes, "GET", "/api/tags") == (1, Match(("GET",)))
    assert match(routes, "HEAD", "/api/blobs/sha256:ab") == (2, Match(("HEAD",), "sha256:ab"))
    assert match(routes, "GET", "/v1/models/a/b:c") == (3, Match(("GET",), "a/b:c"))
    for path in ("/API/tags", "/api/blobs/a/b", "/api", "/api/blobs/", "/nope/", "/v1/models//"[:-1]):
        assert match(routes, "POST", path) == (None, Match()), path


@pytest.mark.parametrize(
    ("method", "path", "status", "where"),
    [
        ("GET", "//api/tags", 307, "/api/tags"), ("POST", "/api/./nope", 307, "/api/nope"),
        ("GET", "/api//tags/", 307, "/api/tags/"), ("GET", "/..", 307, "/"),
        ("GET", "/a/../api", 307, "/api"),
        ("GET", "/api/tags/", 301, "/api/tags"), ("POST", "/api/chat/", 307, "/api/chat"),
        ("HEAD", "/api/blobs/sha256:ab/", 307, "/api/blobs/sha256:ab"),
        ("GET", "/v1/models/", 301, "/v1/models"),
        ("GET", "/v1/models/x/", 301, "/v1/models/x"),
    ],
)  # fmt: skip
def test_paths_that_are_nearly_routes_are_redirected(method: str, path: str, status: int, where: str) -> None:
    routes = {
        "/": {"GET": 0}, "/api/tags": {"HEAD": 1, "GET": 1}, "/api/chat": {"POST": 1},
        "/api/blobs/": {"POST": 2, "HEAD": 2}, "/v1/models": {"GET": 3}, "/v1/models/": {"GET": 3},
    }  # fmt: skip
    assert match(routes, method, path) == (None, Match((), "", where, status))


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/chat", ("POST",)), ("GET", "/api/chat/", ()), ("PUT", "/api/blobs/x", ("HEAD", "POST")),
        ("DELETE", "/api/tags", ("HEAD", "GET")), ("OPTIONS", "/nope", ()), ("OPTIONS", "*", ()),
    ],
)  # fmt: skip
def test_other_methods_are_named(method: str, path: str, allow: tuple[str, ...]) -> None:
    both = {"POST": 2, "HEAD": 2}
    routes = {"/api/tags": {"HEAD": 1, "GET": 1}, "/api/chat": {"POST": 1}, "/api/blobs/": both}
    assert match(routes, method, path)[1].allow == allow
    assert match(routes, method, path)[1].redirect == ""


@given(st.text(alphabet="/.ab:%", max_size=12))
def test_a_redirect_leads_to_a_path_that_is_not_redirected_again_for_the_same_reason(path: str) -> None:
    routes = {"/": {"GET": 0}, "/a": {"GET": 1}, "/a/b": {"GET": 1}, "/v1/models/": {"GET": 2}}
    steps = 0
    while where := match(routes, "GET", path)[1].redirect:
        assert where.startswith("/")
        assert not where.startswith("//"), "that would be another host"
        path, steps = where, steps + 1
        assert steps <= 2


async def test_records_are_merged_into_one() -> None:
    async def records() -> Any:
        yield {"model": "m", "message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False}
        yield {"model": "m", "message": {"role": "assistant", "content": "a"}, "done": False, "logprobs": [1]}
        yield {
            "model": "m",
            "message": {"role": "assistant", "content": "b", "tool_calls": [2]},
            "done": True,
            "eval_count": 3,
        }

    message = {"role": "assistant", "content": "ab", "thinking": "hm", "tool_calls": [2]}
    assert await merged(records()) == {
        "model": "m",
        "message": message,
        "done": True,
        "eval_count": 3,
        "logprobs": [1],
    }
