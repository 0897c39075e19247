"""What is posted to an Alertmanager, read back from a real one (Debian's `prometheus-alertmanager`)."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_core.errors import BridgeError
from bridge_core.http1 import Pool
from bridge_registry.alerts.alert_rules import Alert, Seen
from bridge_registry.alerts.delivery_rules import Message, ReceiverPlan
from bridge_registry.alerts.message_rules import body_of
from bridge_registry.alerts.posting import Answer, post
from tests.ports import free_port
from tests.support import eventually

PROGRAM = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no alertmanager on PATH"),
    pytest.mark.timeout(300),
]

CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    config, found = tmp_path / "alertmanager.yml", free_port()
    config.write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        f"--config.file={config}",
        f"--storage.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{found}",
        "--cluster.listen-address=",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield found
    finally:
        process.terminate()
        await process.wait()


async def known(port: int) -> list[Any]:
    pool = Pool(("127.0.0.1", port))
    try:
        async with pool.request("GET", "/api/v2/alerts") as response:
            return list(json.loads(await response.read(1 << 20)))
    finally:
        await pool.close()


async def test_an_alert_is_there_with_its_labels_and_gone_when_it_is_over(port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}/api/v2/alerts"
    plan = ReceiverPlan("am", "alertmanager", url, group_by="mesh", private=True)
    hostile = "x\x1b[2J\n\u202e" + "é"
    seen = Seen(
        "full", "critical", "n1", "", f"node n1: {hostile}", "bridgectl alerting explain full", "n1 ok",
        of=hostile, rule=True, labels={"team": "storage"}, runbook="https://wiki.example/disk",
    )  # fmt: skip
    now = time.time()
    lasting = Alert(seen, now - 60.0, now)

    async def told(*alerts: Alert) -> Answer | None:
        body = msgspec.json.encode(body_of(plan, Message("mesh", alerts), "lab.example", time.time()))
        try:
            return await post(plan, body, tmp_path)
        except BridgeError:  # it starts still
            return None

    answer = await eventually(lambda: told(lasting), 120.0)
    assert answer is not None
    assert answer.taken, answer
    (there,) = await known(port)
    assert there["labels"] == {
        "alertname": "full", "severity": "critical", "mesh": "lab.example", "node": "n1", "team": "storage",
        "of": "x\\x1b[2J\\x0a\\u202eé",
    }  # fmt: skip
    assert there["annotations"]["command"] == "bridgectl alerting explain full"
    assert there["annotations"]["runbook"] == "https://wiki.example/disk"
    assert there["status"]["state"] in {"active", "unprocessed"}
    answer = await told(msgspec.structs.replace(lasting, ended=now - 1.0))
    assert answer is not None
    assert answer.taken
    assert await known(port) == []
