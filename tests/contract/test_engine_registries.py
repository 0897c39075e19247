"""Pulls and pushes against a registry: tokens, redirects, plain HTTP, and uploads in parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_core.dialects.errors import ApiError
from bridge_core.model_store.layout import ModelStore
from bridge_core.model_store.registry import Registry, refuse_plain
from bridge_core.names import ModelName
from bridge_engine.seed import seed
from bridge_engine.store.pull import pull
from bridge_engine.store.push import push
from tests.contract.ollama_target import Engine, ask, engine, seeded
from tests.fakes.oci_registry import OciRegistry, oci_registry

TINY = ModelName.parse("tiny")


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> ModelStore:
    return ModelStore(seeded(tmp_path_factory, "source", "tiny"))


@pytest.fixture
def registry() -> Iterator[OciRegistry]:
    with oci_registry() as started:
        yield started


def _name(registry: OciRegistry) -> ModelName:
    return ModelName.parse(f"{registry.host}/team/tiny:v1")


def _pushed(source: ModelStore, registry: OciRegistry) -> list[dict[str, Any]]:
    name = _name(registry)
    found = source.find(TINY)
    assert found is not None
    source.write_manifest(name, found.manifest)
    try:
        return list(push(source, name, Registry(name, insecure=True)))
    finally:
        source.manifest_path(name).unlink()


def _pulled(store: ModelStore, registry: OciRegistry) -> list[dict[str, Any]]:
    name = _name(registry)
    return list(pull(store, name, Registry(name, insecure=True)))


@pytest.mark.parametrize("wants_token", [False, True])
def test_what_was_pushed_can_be_pulled(
    source: ModelStore, registry: OciRegistry, tmp_path: Path, wants_token: bool
) -> None:
    registry.wants_token = wants_token
    records = _pushed(source, registry)
    assert records[0] == {"status": "retrieving manifest"}
    assert records[-2:] == [{"status": "pushing manifest"}, {"status": "success"}]
    parts = [record for record in records if record["status"].startswith("pushing ") and "digest" in record]
    assert all(record["completed"] <= record["total"] for record in parts)
    store = ModelStore(tmp_path / "models")
    assert _pulled(store, registry)[-1] == {"status": "success"}
    pulled, original = store.find(_name(registry)), source.find(TINY)
    assert pulled is not None
    assert original is not None
    assert pulled.digest == original.digest


def test_a_push_sends_only_what_the_registry_lacks(source: ModelStore, registry: OciRegistry) -> None:
    _pushed(source, registry)
    registry.seen.clear()
    assert _pushed(source, registry)[-1] == {"status": "success"}
    assert {method for method, _, _ in registry.seen} == {"HEAD", "PUT"}


def test_a_token_that_ended_is_fetched_again(
    source: ModelStore, registry: OciRegistry, tmp_path: Path
) -> None:
    _pushed(source, registry)
    registry.wants_token, registry.expire_after = True, 4
    assert _pulled(ModelStore(tmp_path / "models"), registry)[-1] == {"status": "success"}
    assert sum(path.startswith("/token") for _, path, _ in registry.seen) == 2


def test_a_token_does_not_follow_a_redirect_to_another_host(
    source: ModelStore, registry: OciRegistry, tmp_path: Path
) -> None:
    _pushed(source, registry)
    with oci_registry() as storage:
        storage.blobs = registry.blobs
        registry.wants_token, registry.blob_redirect = True, f"http://{storage.host}"
        assert _pulled(ModelStore(tmp_path / "models"), registry)[-1] == {"status": "success"}
        assert storage.seen
        assert not any(credentials for _, _, credentials in storage.seen)


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.1:1/token",
        "file:///etc/passwd",
        "ftp://x/",
        "//evil",
        "",
        "http://[::1",
        "https://127.0.0.1:1/",
    ],
)
def test_a_realm_elsewhere_without_tls_is_not_asked(
    source: ModelStore, registry: OciRegistry, tmp_path: Path, realm: str
) -> None:
    registry.wants_token, registry.realm = True, realm or "nonsense"
    with pytest.raises(ApiError, match="401 Unauthorized; the registry wants a login"):
        _pulled(ModelStore(tmp_path / "models"), registry)


@pytest.mark.parametrize("token", ["", "a\r\nX-Evil: 1", "ü", "x" * 20_000])
def test_a_token_that_is_none_is_not_sent(registry: OciRegistry, tmp_path: Path, token: str) -> None:
    registry.wants_token, registry.token = True, token
    with pytest.raises(ApiError, match="401"):
        _pulled(ModelStore(tmp_path / "models"), registry)
    assert not any(credentials for _, _, credentials in registry.seen)


def test_a_registry_that_never_takes_its_own_token_is_given_up(registry: OciRegistry, tmp_path: Path) -> None:
    registry.wants_token, registry.token = True, "stale"
    with pytest.raises(ApiError, match="401"):
        _pulled(ModelStore(tmp_path / "models"), registry)
    assert len(registry.seen) == 3


@pytest.mark.parametrize("manifest", [b"\xff\xfe", b'{"config":"\xff"}', b"[" * 5000, b"{}", b"null"])
def test_a_manifest_that_cannot_be_read_is_named(
    registry: OciRegistry, tmp_path: Path, manifest: bytes
) -> None:
    registry.manifests["team/tiny:v1"] = manifest
    with pytest.raises(ApiError, match="pull model manifest: not a manifest"):
        _pulled(ModelStore(tmp_path / "models"), registry)


def test_a_refused_part_ends_the_push_with_its_reason(source: ModelStore, registry: OciRegistry) -> None:
    registry.part_most = 10
    with pytest.raises(ApiError, match=r'push to "http://127.0.0.1:\d+/v2/team/tiny": 416'):
        _pushed(source, registry)
    assert not registry.manifests


def test_plain_http_must_be_asked_for() -> None:
    with pytest.raises(ApiError, match="insecure protocol http"):
        refuse_plain("HTTP://registry.test/x/y", insecure=False)
    refuse_plain("http://registry.test/x/y", insecure=True)
    refuse_plain("registry.test/x/y", insecure=False)


@pytest.mark.llamacpp
def test_the_engine_pushes_and_pulls(registry: OciRegistry, tmp_path: Path) -> None:
    models = tmp_path / "models"
    seed(models, ["tiny"], tmp_path.parent / "seed-cache")
    with engine(models) as running:
        name = str(_name(registry))
        assert _post(running, "/api/copy", {"source": "tiny", "destination": name}).status == 200
        pushed = _post(running, "/api/push", {"model": name, "insecure": True})
        assert json.loads(pushed.chunks[-1]) == {"status": "success"}
        for path in ("/api/push", "/api/pull"):
            refused = _post(running, path, {"model": f"http://{name}", "stream": False})
            assert refused.status == 500
            assert "insecure protocol http" in refused.json()["error"]
        assert _post(running, "/api/push", {}).json() == {"error": "model is required"}
        pulled = _post(running, "/api/pull", {"model": f"http://{name}", "insecure": True})
        assert json.loads(pulled.chunks[-1]) == {"status": "success"}


@pytest.mark.llamacpp
def test_show_gives_back_all_that_create_was_given(tmp_path: Path) -> None:
    models = tmp_path / "models"
    seed(models, ["tiny"], tmp_path.parent / "seed-cache")
    with engine(models) as running:
        asked = {
            "model": "made",
            "from": "tiny",
            "template": "{{ .Prompt }}",
            "renderer": "r1",
            "parser": "p1",
        }
        assert _post(running, "/api/create", {**asked, "system": "Be\nbrief."}).status == 200
        lines = _post(running, "/api/show", {"model": "made"}).json()["modelfile"].splitlines()
        assert "TEMPLATE {{ .Prompt }}" in lines
        assert "RENDERER r1" in lines
        assert "PARSER p1" in lines
        assert 'SYSTEM "Be' in lines


def _post(running: Engine, path: str, body: Any) -> Any:
    return ask(running.base, "POST", path, json.dumps(body).encode())
