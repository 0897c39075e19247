"""The embedded engine's store and scheduler: pulls from a registry that misbehaves, uploads, loads."""

from __future__ import annotations

import datetime as dt
import hashlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridge_core.dialects.errors import ApiError
from bridge_core.model_store.layout import ModelStore
from bridge_core.model_store.registry import Registry as Connection
from bridge_core.names import DEFAULT_HOST, ModelName
from bridge_engine.store.pull import pull
from tests.contract.ollama_target import Engine, ask, engine, model_blob, seeded
from tests.support import eventually

pytestmark = [pytest.mark.llamacpp]


class Registry(http.server.ThreadingHTTPServer):
    """Serves a store as an OCI registry, with one fault at a time."""

    def __init__(self, store: Path) -> None:
        super().__init__(("127.0.0.1", 0), _RegistryHandler)
        self.store = store
        self.cut_after = 0
        self.ignore_ranges = False
        self.damage = False
        self.ranges: list[str] = []

    def handle_error(self, *_: Any) -> None:
        """A client that leaves is part of the tests."""


class _RegistryHandler(http.server.BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        parts = self.path.split("/")  # /v2/<namespace>/<model>/manifests|blobs/<reference>
        if parts[4] == "manifests":
            path = self.server.store / "manifests/registry.ollama.ai/library" / parts[3] / parts[5]
        else:
            path = self.server.store / "blobs" / parts[5].replace(":", "-")
        if not path.is_file():
            self.send_error(404)
            return
        self._send(path.read_bytes(), ranged=parts[4] == "blobs")

    def _send(self, data: bytes, *, ranged: bool) -> None:
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted and not self.server.ignore_ranges:
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        if self.server.damage and ranged:
            data = bytes(len(data))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if self.server.cut_after and ranged and end - start > self.server.cut_after:
            end, self.server.cut_after = start + self.server.cut_after, 0
        self.wfile.write(data[start:end])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> Path:
    return seeded(tmp_path_factory, "registry", "tiny", "tiny-embed")


@pytest.fixture
def registry(source: Path) -> Iterator[Registry]:
    with Registry(source) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _name(registry: Registry, model: str = "tiny") -> ModelName:
    return ModelName.parse(f"127.0.0.1:{registry.server_address[1]}/library/{model}:latest")


def _pulled(store: ModelStore, name: ModelName) -> list[dict[str, Any]]:
    return list(pull(store, name, Connection(name, insecure=True)))


def test_a_pull_brings_the_model_with_progress(tmp_path: Path, registry: Registry) -> None:
    store = ModelStore(tmp_path / "models")
    records = _pulled(store, _name(registry))
    assert records[0] == {"status": "pulling manifest"}
    assert [record["status"] for record in records[-3:]] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    layers = [record for record in records if record["status"].startswith("pulling ") and "digest" in record]
    assert all(record["total"] > 0 for record in layers)
    found = store.find(_name(registry))
    assert found is not None
    for layer in (found.manifest.config, *found.manifest.layers):
        data = store.blob_path(layer.digest).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer.digest


@pytest.mark.parametrize("ignore_ranges", [False, True])
def test_a_pull_goes_on_where_the_connection_broke(
    tmp_path: Path, registry: Registry, ignore_ranges: bool
) -> None:
    registry.cut_after, registry.ignore_ranges = 100_000, ignore_ranges
    store = ModelStore(tmp_path / "models")
    assert _pulled(store, _name(registry))[-1] == {"status": "success"}
    assert bool(registry.ranges) is not ignore_ranges
    assert ignore_ranges != any(wanted.startswith("bytes=100000-") for wanted in registry.ranges)


def test_a_pull_goes_on_from_what_an_earlier_one_left(
    tmp_path: Path, registry: Registry, source: Path
) -> None:
    store = ModelStore(tmp_path / "models")
    digest = model_blob(source, "tiny")
    whole = (source / "blobs" / digest.replace(":", "-")).read_bytes()
    partial = store.blob_path(digest).with_name(store.blob_path(digest).name + "-partial")
    partial.write_bytes(whole[:50_000])
    assert _pulled(store, _name(registry))[-1] == {"status": "success"}
    assert any(wanted.startswith("bytes=50000-") for wanted in registry.ranges)
    assert not partial.exists()


def test_a_damaged_blob_is_refused_and_not_kept(tmp_path: Path, registry: Registry) -> None:
    registry.damage = True
    store = ModelStore(tmp_path / "models")
    with pytest.raises(ApiError, match="digest mismatch"):
        _pulled(store, _name(registry))
    assert store.find(_name(registry)) is None
    assert not list(store.blobs.iterdir())


def test_a_model_that_the_registry_lacks_is_named(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(ApiError, match="pull model manifest: file does not exist"):
        _pulled(ModelStore(tmp_path / "models"), _name(registry, "nope"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: Any) -> Iterator[Engine]:
    models = seeded(tmp_path_factory, "engine", "tiny", "tiny-embed")
    with engine(models, "--max-loaded", "1", "--num-parallel", "2") as started:
        yield started


def _post(running: Engine, path: str, body: dict[str, Any]) -> Any:
    return ask(running.base, "POST", path, json.dumps(body).encode())


def _loaded(running: Engine) -> dict[str, Any]:
    return {one["name"]: one for one in ask(running.base, "GET", "/api/ps").json()["models"]}


def test_the_engine_pulls_over_http(running: Engine, registry: Registry) -> None:
    name = str(_name(registry))
    received = _post(running, "/api/pull", {"model": name, "insecure": True})
    assert received.status == 200
    assert json.loads(received.chunks[-1]) == {"status": "success"}
    body = {"model": name, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    assert _post(running, "/api/generate", body).status == 200
    deleted = ask(running.base, "DELETE", "/api/delete", json.dumps({"model": name}).encode())
    assert deleted.status == 200
    assert _post(running, "/api/generate", {**body, "model": "tiny"}).status == 200


async def test_models_are_loaded_reloaded_evicted_and_expire(running: Engine) -> None:
    short = {"num_predict": 1}
    assert _post(running, "/api/generate", {"model": "tiny", "prompt": "x", "options": short}).status == 200
    assert _loaded(running)["tiny:latest"]["context_length"] == 2048
    other = {"model": "tiny", "prompt": "x", "options": {**short, "num_ctx": 256}}
    assert _post(running, "/api/generate", other).status == 200
    assert _loaded(running)["tiny:latest"]["context_length"] == 256
    assert (
        _post(running, "/api/embed", {"model": "tiny-embed", "input": "x", "keep_alive": "1s"}).status == 200
    )
    assert list(_loaded(running)) == ["tiny-embed:latest"]
    await eventually(lambda: not _loaded(running))


_FAKE_BINARY = """#!{python}
import argparse, signal, xllamacpp
parser = argparse.ArgumentParser()
for name in ("--model", "--host", "--port", "--ctx-size", "--parallel"):
    parser.add_argument(name)
known, _ = parser.parse_known_args()
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.port = known.model, int(known.port)
parameters.hostnames = [known.host]
parameters.n_ctx, parameters.n_parallel = int(known.ctx_size), int(known.parallel)
server = xllamacpp.Server(parameters)
signal.pause()
"""


def test_a_llama_server_binary_serves_instead_of_the_wheel(running: Engine, tmp_path: Path) -> None:
    binary = tmp_path / "llama-server"
    binary.write_text(_FAKE_BINARY.format(python=sys.executable))
    binary.chmod(0o755)
    models = tmp_path / "models"
    models.symlink_to(running.models)
    with engine(models, "--llama-server", str(binary)) as other:
        body = {"model": "tiny", "prompt": "x", "stream": False, "options": {"num_predict": 1}}
        received = _post(other, "/api/generate", body)
        assert received.status == 200
        (runner,) = psutil.Process(other.pid).children()
        assert str(binary) in runner.cmdline()


def test_requests_for_one_model_at_once_share_one_load(running: Engine) -> None:
    results: list[int] = []
    body = {"model": "tiny", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
    threads = [
        threading.Thread(target=lambda: results.append(_post(running, "/api/generate", body).status))
        for _ in range(6)
    ]
    began = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [200] * 6
    lines = [json.loads(line) for line in running.log.read_bytes().splitlines() if line[:2] == b'{"']
    assert sum(one.get("event.action") == "loaded" and one["@timestamp"] >= began for one in lines) <= 1


def test_a_blob_is_taken_once_and_kept_only_when_it_is_whole(running: Engine) -> None:
    data = b"some bytes" * 1000
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert ask(running.base, "HEAD", f"/api/blobs/{digest}").status == 404
    assert ask(running.base, "POST", f"/api/blobs/{digest}", data[:-1]).status == 400
    assert ask(running.base, "HEAD", f"/api/blobs/{digest}").status == 404
    assert ask(running.base, "POST", f"/api/blobs/{digest}", data).status == 201
    assert ask(running.base, "POST", f"/api/blobs/{digest}", data).status == 200
    assert ask(running.base, "HEAD", f"/api/blobs/{digest}").status == 200


def test_a_copy_is_what_it_is_a_copy_of_byte_for_byte(running: Engine) -> None:
    """As Ollama's is: it has the same digest, and a signature of the one is a signature of the other."""
    folder = running.models / "manifests" / DEFAULT_HOST / "library"
    source = folder / "tiny" / "latest"
    written = source.read_bytes()
    source.write_bytes(json.dumps(json.loads(written), indent=3).encode())
    assert _post(running, "/api/copy", {"source": "tiny", "destination": "tiny-same"}).status == 200
    assert (folder / "tiny-same" / "latest").read_bytes() == source.read_bytes()
    source.write_bytes(written)
    assert ask(running.base, "DELETE", "/api/delete", b'{"name": "tiny-same"}').status == 200


def test_deleting_a_model_keeps_the_blobs_that_others_use(running: Engine) -> None:
    weights = model_blob(running.models, "tiny")
    assert _post(running, "/api/copy", {"source": "tiny", "destination": "tiny-copy"}).status == 200
    extra = {"model": "tiny-copy", "from": "tiny", "system": "only here", "stream": False}
    assert _post(running, "/api/create", extra).status == 200
    system = f"sha256:{hashlib.sha256(b'only here').hexdigest()}"
    assert ask(running.base, "HEAD", f"/api/blobs/{system}").status == 200
    assert ask(running.base, "DELETE", "/api/delete", b'{"name": "tiny-copy"}').status == 200
    assert ask(running.base, "HEAD", f"/api/blobs/{system}").status == 404
    assert ask(running.base, "HEAD", f"/api/blobs/{weights}").status == 200


def test_what_a_model_file_says_is_used(running: Engine) -> None:
    body = {"model": "told", "from": "tiny", "system": "Be brief.", "stream": False}
    body["messages"] = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert _post(running, "/api/create", body).status == 200
    ask_for = {"model": "told", "_debug_render_only": True, "messages": [{"role": "user", "content": "x"}]}
    rendered = _post(running, "/api/chat", ask_for).json()["_debug_info"]["rendered_template"]
    turns = [("system", "Be brief."), ("user", "Q"), ("assistant", "A"), ("user", "x")]
    whole = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    assert rendered == whole + "<|im_start|>assistant\n"
    assert _post(running, "/api/show", {"model": "told"}).json()["messages"] == body["messages"]
