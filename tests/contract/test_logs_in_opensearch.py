"""The lines in a real OpenSearch or Elasticsearch: every panel is answered, none is empty.

`BRIDGE_TEST_OPENSEARCH` names one (http://127.0.0.1:9200), to which a data stream is added and removed again.
`BRIDGE_TEST_FLUENTD` names a Fluentd, as it is called; without, lines are put in as Fluentd would.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.audit.rendering import audited
from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_agent.telemetry.request_log_rules import request_document
from bridge_core.identity.principal import Principal
from bridge_core.logs.ecs_rules import Source, dropped_document, event_document, line_of
from tests.search_panels import body_of
from tests.support import eventually
from tools.logging_files import FOLDER, saved_objects

URL = os.environ.get("BRIDGE_TEST_OPENSEARCH", "")
FLUENTD = os.environ.get("BRIDGE_TEST_FLUENTD", "")
NOW = time.time()

pytestmark = pytest.mark.skipif(
    not URL, reason="NOT RUN AGAINST A REAL OPENSEARCH: BRIDGE_TEST_OPENSEARCH names none"
)


def _ask(method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> dict[str, Any]:
    asked = urllib.request.Request(f"{URL}{path}", body, {"content-type": kind}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except urllib.error.HTTPError as fault:
        raise AssertionError(f"{method} {path}: {fault.read()[:2000]!r}") from fault


def _lines() -> list[bytes]:
    """A line of each kind, from two nodes."""
    found = []
    caller = Caller(Principal("client", "alice", "client:alice"), ListenerKind.TLS)
    cut = FailedAttempt("n2/0", 100.0, Failure.CUT, "the connection ended")
    for node in ("n1", "n2"):
        source = Source("bridge-agent", node, "1", 1)
        record = RequestRecord(
            "r1",
            caller,
            "POST",
            "/api/chat",
            "m:latest",
            200,
            Outcome.OK,
            100.0,
            100.1,
            100.2,
            101.0,
            None,
            f"{node}/0",
            (),
            9,
            9,
            tokens=5,
        )
        failed = msgspec.structs.replace(record, status=502, outcome=Outcome.FAILED, failed=(cut,))
        found += [line_of(request_document(one, audited(one, NOW - 60), source)) for one in (record, failed)]
        try:
            {}["x"]
        except KeyError as fault:
            event = {"event": "http_app_failed", "request_id": "r1", "exc_info": fault, "count": 3}
            found.append(line_of(event_document(event, level="error", at=NOW, source=source)))
        found.append(
            line_of(
                event_document(
                    {"event": "http_app_failed", "count": "many"}, level="info", at=NOW, source=source
                )
            )
        )
        found.append(line_of(dropped_document({"info": 3, "request": 4}, NOW, source)))
    return found


@pytest.fixture(scope="module")
def stream() -> Iterator[str]:
    """The index template, and a data stream of its own."""
    name = f"logs-bridge-test{secrets.token_hex(4)}"
    template = json.loads((FOLDER / "opensearch" / "index-template.json").read_bytes())
    template |= {"index_patterns": [name], "priority": 900}  # beside the one that may be there
    _ask("PUT", f"/_index_template/{name}", json.dumps(template).encode())
    yield name
    _ask("DELETE", f"/_data_stream/{name}")
    _ask("DELETE", f"/_index_template/{name}")


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """What is to be found."""
    return [*_lines(), b"an engine's own words \xff\n"]


def _put(stream: str, lines: list[bytes], folder: Path) -> subprocess.Popen[bytes] | None:
    """Has them put in; the Fluentd that does so."""
    if FLUENTD:
        (folder / "agent.log").write_bytes(b"".join(lines))
        (folder / "state").mkdir()
        names = {
            "BRIDGE_LOGS": f"{folder}/*.log",
            "SEARCH_URL": URL,
            "STATE": f"{folder}/state",
            "STREAM": stream,
        }
        argv = [*shlex.split(FLUENTD), "-c", str(FOLDER / "fluentd" / "fluent.conf")]
        with (folder / "fluentd.out").open("wb") as said:
            return subprocess.Popen(argv, env={**os.environ, **names}, stdout=said, stderr=said)
    raw = {"@timestamp": int(NOW * 1000), "event.dataset": "bridge.raw", "message": "words"}
    documents = [*lines[:-1], json.dumps(raw).encode() + b"\n"]
    body = b"".join(b'{"create":{}}\n' + one for one in documents)
    assert not _ask("POST", f"/{stream}/_bulk", body, "application/x-ndjson")["errors"]
    return None


async def test_every_panel_is_answered_and_none_is_empty(
    stream: str, lines: list[bytes], tmp_path: Path
) -> None:
    process = _put(stream, lines, tmp_path)
    try:

        def all_there() -> bool:
            _ask("POST", f"/{stream}/_refresh")
            return bool(_ask("GET", f"/{stream}/_count")["count"] == len(lines))

        await eventually(all_there, 120)
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
    for saved in saved_objects():
        if saved["type"] not in ("visualization", "search"):
            continue
        answer = _ask("POST", f"/{stream}/_search", json.dumps(body_of(saved)).encode())
        assert answer["_shards"]["failed"] == 0, saved["id"]
        assert answer["hits"]["total"]["value"] > 0, saved["id"]
        for found in answer.get("aggregations", {}).values():
            assert found["buckets"], saved["id"]
    heatmap = next(one for one in saved_objects() if one["id"] == "bridge-requests-heatmap")
    answer = _ask("POST", f"/{stream}/_search", json.dumps(body_of(heatmap)).encode())
    assert answer["hits"]["total"]["value"] == 4
