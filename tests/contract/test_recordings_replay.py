"""Everything a real Ollama was recorded answering, asked again.

Runs against the embedded engine; against a real Ollama where BRIDGE_TEST_OLLAMA names a binary; and
against any running server (a sidecar) where BRIDGE_TEST_TARGET is its address. Compared are status,
content type, keys, error texts, number and kinds of records, and why an answer ended. What may
differ, and why, is in DIFFERENCES; nothing else may.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.ollama_target import (
    Received,
    ask,
    engine,
    model_blob,
    more_like_the_last,
    real_ollama,
    seeded,
    upload,
)

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(300)]

RECORDINGS = Path(__file__).parent / "recordings"
FILES = ("meta", "show", "generate", "chat", "embed", "openai", "anthropic", "store")
RECORDED_GGUF = "sha256:b7f5804e59c9b7fc105cef457cda055acff1b2eda1735575c6a8cf1a75e04026"

# (file, case) or (file, "*"): what is not compared -> why.
_OTHER_WEIGHTS = "tiny's random weights are not those recorded: its text ends elsewhere"
_NO_REGISTRY = "why the registry cannot be reached depends on the network; here a closed proxy says so"
_PRIVATE_NAMES = "a name that others in the network answer for is none of this machine's (http_access)"
_WHOLE = ("status", "content-type", "first", "last", "reason", "kinds", "vary", "error")
DIFFERENCES: dict[tuple[str, str], dict[str, str]] = {
    ("generate", "num_predict negative capped"): {"reason": _OTHER_WEIGHTS},
    ("generate", "runs into num_ctx while generating"): {"reason": _OTHER_WEIGHTS},
    ("meta", "Host x.internal"): dict.fromkeys(_WHOLE, _PRIVATE_NAMES),
    ("store", "create from missing"): {"error": _NO_REGISTRY},
    ("store", "pull no network"): {"error": _NO_REGISTRY},
    ("store", "pull no network non-stream"): {"error": _NO_REGISTRY},
}

COMPARED_HEADERS = ("content-type", "allow", "location", "vary", "cache-control")


def _cases() -> list[Any]:
    return [
        pytest.param(file, case, id=f"{file}-{case['case'].replace(' ', '_')}")
        for file in FILES
        for case in json.loads((RECORDINGS / f"{file}.json").read_text())
    ]


class Target:
    """A server to ask, and what stands for the recordings' own blobs there."""

    def __init__(self, base: str, gguf: str) -> None:
        self.base = base
        self.gguf = gguf

    def replay(self, case: dict[str, Any]) -> Received:
        request = case.get("request") or {"method": "POST", "path": f"/api/blobs/{RECORDED_GGUF}"}
        body = request.get("body", "")
        if isinstance(body, dict):
            body = base64.b64decode(body["base64"]) if "base64" in body else json.dumps(body).encode()
        else:
            body = body.encode()
        body = body.replace(RECORDED_GGUF.encode(), self.gguf.encode())
        path = request["path"].replace(RECORDED_GGUF, self.gguf)
        return ask(
            self.base, request["method"], path, body, request.get("headers"), host=request.get("host", "")
        )


def _targets() -> list[Any]:
    reason = "BRIDGE_TEST_OLLAMA names no binary: NOT compared with a real Ollama"
    real = pytest.mark.skipif(not os.environ.get("BRIDGE_TEST_OLLAMA"), reason=reason)
    if os.environ.get("BRIDGE_TEST_TARGET"):
        return [pytest.param("target")]
    return [pytest.param("engine"), pytest.param("ollama", marks=[pytest.mark.ollama, real])]


@pytest.fixture(scope="module", params=_targets())
def target(request: Any, tmp_path_factory: Any) -> Iterator[Target]:
    if request.param == "target":
        base = os.environ["BRIDGE_TEST_TARGET"]
        models = Path(os.environ["BRIDGE_TEST_TARGET_MODELS"])
        yield _prepared(base, models)
        return
    models = seeded(tmp_path_factory, request.param, "smollm2:135m", "tiny", "tiny-embed")
    if request.param == "engine":
        with engine(models) as running:
            yield _prepared(running.base, models)
    else:
        with real_ollama(models, os.environ["BRIDGE_TEST_OLLAMA"]) as base:
            yield _prepared(base, models)


def _prepared(base: str, models: Path) -> Target:
    """A target with what the recordings found there: another model, and a blob that is no model."""
    body = {
        "model": "smol-tpl",
        "from": "smollm2:135m",
        "template": "{{ .Prompt }}{{ .Response }}",
        "stream": False,
    }
    assert ask(base, "POST", "/api/create", json.dumps(body).encode()).status == 200
    upload(base, b"not a gguf")
    return Target(base, model_blob(models, "tiny"))


@pytest.fixture(scope="module")
def texts() -> Iterator[dict[str, tuple[str, str]]]:
    """What was said at temperature 0, here and when it was recorded."""
    found: dict[str, tuple[str, str]] = {}
    yield found
    equal = sum(ours == theirs for ours, theirs in found.values())
    print(f"\n{equal} of {len(found)} texts at temperature 0 are the recorded ones")
    for name, (ours, theirs) in found.items():
        if ours != theirs:
            print(f"  {name}: {ours!r} instead of {theirs!r}")


@pytest.mark.parametrize(("file", "case"), _cases())
def test_answers_as_recorded(
    target: Target, texts: dict[str, tuple[str, str]], file: str, case: dict[str, Any]
) -> None:
    received = target.replay(case)
    if cut_for_repeating(received):
        pytest.skip("a real Ollama breaks off what says one token 30 times: tiny's random weights do here")
    skipped = {**DIFFERENCES.get((file, "*"), {}), **DIFFERENCES.get((file, case["case"]), {})}
    assert received.complete
    recorded = Recording(case)
    ours, theirs = facts(received), recorded.facts()
    for aspect in theirs.keys() | ours.keys():
        if aspect not in skipped:
            assert ours.get(aspect) == theirs.get(aspect), f"{aspect}: {received.body[:600]!r}"
    if recorded.deterministic:
        said = (text_of(received.body), text_of(recorded.body))
        texts[f"{file}: {case['case']}"] = said
        if said[0] == said[1] and "records" not in skipped:
            assert len(records_of(received.body)) == recorded.records


def cut_for_repeating(received: Received) -> bool:
    """Whether an answer stops within one token's repetition without its last record.

    Ollama does so by design (llm/llama_server.go, "token repeat limit reached"); the embedded engine
    goes on, as the recorded answers do.
    """
    if not received.body.startswith(b'{"model"') or b'"done":true' in received.body:
        return False
    said = "".join(json.loads(line).get("response", "") for line in received.body.splitlines())
    return len(said) >= 30 and len(set(said[-30:])) == 1


def test_most_texts_are_the_recorded_ones(target: Target, texts: dict[str, tuple[str, str]]) -> None:
    if len(texts) < 20:
        pytest.skip("runs after all recordings were replayed")
    equal = sum(ours == theirs for ours, theirs in texts.values())
    # Near ties between two tokens are decided by how the prompt was cut into batches.
    assert equal >= 0.85 * len(texts), f"{equal} of {len(texts)} texts on {target.base}"


class Recording:
    """One recorded case."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        kept = [chunk for chunk in case["chunks"] if not more_like_the_last(chunk)]
        self.body = "".join(kept).encode()
        self.left_out = sum(more_like_the_last(chunk) for chunk in case["chunks"])

    @property
    def records(self) -> int:
        return len(records_of(self.body)) + self.left_out

    @property
    def deterministic(self) -> bool:
        """Whether the text can be compared: the same weights, temperature 0, nothing left out."""
        body = (self.case.get("request") or {}).get("body")
        if not isinstance(body, dict) or body.get("model") != "smollm2:135m" or self.left_out:
            return False
        zero = (body.get("options") or {}).get("temperature") == 0 or body.get("temperature") == 0
        return zero and bool(text_of(self.body))

    def facts(self) -> dict[str, Any]:
        headers = {name.lower(): value for name, value in self.case["headers"].items()}
        status = int(self.case["status"].split()[1])
        method = (self.case.get("request") or {}).get("method")
        return facts(Received(status, headers, [self.body] if method != "HEAD" else [], complete=True))


def facts(received: Received) -> dict[str, Any]:
    """What of an answer is compared."""
    found: dict[str, Any] = {"status": received.status}
    for name in COMPARED_HEADERS:
        if name in received.headers:
            found[name] = received.headers[name].lower()
    found |= {key: value for key, value in received.headers.items() if key.startswith("access-control-")}
    records = records_of(received.body)
    if not records and received.body:
        found["text"] = received.body.strip()
        return found
    if records:
        found["first"] = shape(records[0])
        found["last"] = shape(records[-1])
        found["kinds"] = list(dict.fromkeys(kind(record) for record in records))
        found["error"] = error_of(records[-1])
        found["reason"] = [record.get("done_reason") for record in records if record.get("done_reason")]
        found["usage"] = counts(records[-1])
    return found


def records_of(body: bytes) -> list[Any]:
    """The JSON values of a body: one, a line each, or the data of server-sent events."""
    found = []
    for line in body.decode("utf-8", "replace").split("\n"):
        text = line.removeprefix("data: ").strip()
        if not text or text.startswith("event: "):
            continue
        if text == "[DONE]":
            found.append({"[DONE]": True})
            continue
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            return []
    return found


def kind(record: Any) -> Any:
    """What sort of record it is: an event's type, or which keys it has."""
    if isinstance(record, dict):
        return record.get("type") or ",".join(sorted(record))
    return type(record).__name__


def shape(value: Any) -> Any:
    """Keys and types, values left out; a list is the shapes of its elements, each once."""
    if isinstance(value, dict):
        if value.keys() == {"general.architecture"} | value.keys() and "general.file_type" in value:
            return {key: type(value[key]).__name__ for key in sorted(value)}
        return {key: shape(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        shapes = []
        for item in value:
            one = shape(item)
            if one not in shapes:
                shapes.append(one)
        return shapes
    if isinstance(value, bool) or value is None:
        return value
    return "number" if isinstance(value, int | float) else type(value).__name__


def error_of(record: Any) -> Any:
    error = record.get("error") if isinstance(record, dict) else None
    message = error.get("message", error) if isinstance(error, dict) else error
    # Where the models directory is differs from machine to machine.
    return re.sub(r"open \S*/(blobs|manifests)/", r"open /models/\1/", message) if message else message


def counts(record: Any) -> Any:
    """How many tokens the prompt had: the tokeniser and the template agree, or they do not."""
    if not isinstance(record, dict):
        return None
    usage = record.get("usage") or {}
    return record.get("prompt_eval_count") or usage.get("prompt_tokens") or usage.get("input_tokens")


def text_of(body: bytes) -> str:
    """All text that an answer says, in whatever protocol."""
    said = []
    for record in records_of(body):
        said.append(record.get("response") or "" if isinstance(record.get("response"), str) else "")
        message = record.get("message")
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            said.append(message["content"])
        for choice in record.get("choices") or ():
            said.append(choice.get("text") or "")
            said.append((choice.get("message") or choice.get("delta") or {}).get("content") or "")
        if isinstance(record.get("content"), list):
            said += [part.get("text") or "" for part in record["content"]]
        delta = record.get("delta")
        if isinstance(delta, str) and str(record.get("type", "")).endswith("output_text.delta"):
            said.append(delta)
        elif isinstance(delta, dict):
            said.append(delta.get("text") or "")
        for item in record.get("output") or ():
            said += [part.get("text") or "" for part in item.get("content") or ()]
    return "".join(said)
