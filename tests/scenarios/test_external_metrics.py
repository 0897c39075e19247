"""The external metrics adapter over a registry that leads: who is answered, and with what."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
import trustme

from bridge_registry.external_metrics import adapter
from bridge_registry.external_metrics.reader import FiguresReader
from tests.fakes.store import FakeEtcd
from tests.fleet_bed import Fleet, apply
from tests.metrics_bed import ApiServer, options, write_server, write_viewer
from tests.registry_bed import Bed
from tests.support import eventually

WANTED = "/apis/external.metrics.k8s.io/v1beta1/namespaces/bridge/bridge_scaling_wanted_instances"


class Cluster:
    """An adapter, and the CAs of the cluster that it is in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca, self.front = trustme.CA(), trustme.CA()
        self.front.cert_pem.write_to_path(str(folder / "front.pem"))
        self.tls = write_server(self.ca, folder / "tls")

    @contextlib.asynccontextmanager
    async def serving(self, client: Path, *registries: str) -> AsyncIterator[int]:
        """The adapter's port."""
        ready, stop = self.folder / "ready.json", asyncio.Event()
        found = options(self.tls, client, self.folder / "front.pem", *registries, ready_file=ready)
        async with asyncio.TaskGroup() as group:
            group.create_task(adapter.serve(found, stop))
            await eventually(ready.exists)
            yield int(json.loads(ready.read_text())["listen"].rpartition(":")[2])
            stop.set()

    def server(self, port: int, name: str = "front-proxy-client", ca: trustme.CA | None = None) -> ApiServer:
        return ApiServer(port, self.ca, (ca or self.front).issue_cert("api.test", common_name=name))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "cluster").mkdir()
    return Cluster(tmp_path / "cluster")


async def test_the_api_server_reads_what_policies_want_and_nobody_else_does(
    bed: Bed, etcd: FakeEtcd, cluster: Cluster
) -> None:
    viewer = await write_viewer(bed, cluster.folder / "viewer")
    async with contextlib.AsyncExitStack() as stack:
        fleet = Fleet(bed, etcd)
        await fleet.begin(stack)
        await apply(bed)
        await fleet.until(lambda: len(fleet.holders.active) == 1)
        # The first of the registries is not there: the next one is asked.
        port = await stack.enter_async_context(cluster.serving(viewer, "127.0.0.1:1", bed.address))
        server = cluster.server(port)

        async def told(path: str = WANTED, **more: str | None) -> tuple[int, dict[str, object]]:
            return await asyncio.to_thread(server.get, path, **more)  # type: ignore[arg-type]

        async def known() -> bool:
            await fleet.step()
            return (await told())[0] == 200

        await eventually(known, 30)
        code, found = await told(f"{WANTED}?labelSelector=policy%3Dp")
        assert code == 200
        (item,) = found["items"]  # type: ignore[misc]
        assert item["metricLabels"] == {"policy": "p", "model": "m"}
        assert item["value"] == "1"
        assert (await told(f"{WANTED}?labelSelector=policy%3Dq"))[1]["items"] == []
        assert (await told(f"{WANTED}?labelSelector=policy%21%3Dq"))[0] == 400
        assert (await told("/metrics"))[0] == 404
        assert (await told(method="POST"))[0] == 405
        assert (await told(user=None))[0] == 403
        impostor = cluster.server(port, "somebody")
        code, says = await asyncio.to_thread(impostor.get, WANTED)
        assert (code, "another name" in says["message"]) == (403, True)
        for stranger in (
            cluster.server(port, ca=trustme.CA()),
            cluster.server(port, ca=cluster.ca),
            ApiServer(port, cluster.ca, None),
        ):
            with pytest.raises(OSError, match=r".*"):
                await asyncio.to_thread(stranger.get, WANTED)


async def test_without_a_registry_that_leads_the_figures_are_not_made_up(bed: Bed, cluster: Cluster) -> None:
    viewer = await write_viewer(bed, cluster.folder / "viewer")
    (viewer / "ca.pem").write_bytes(cluster.ca.cert_pem.bytes())  # of no mesh
    async with cluster.serving(viewer, bed.address) as port:
        server = cluster.server(port)

        async def why() -> str:
            code, found = await asyncio.to_thread(server.get, WANTED)
            assert code == 503
            return str(found["message"])

        async def said() -> bool:
            return "not a registry of this mesh" in await why()

        await eventually(said, 30)


async def test_a_registry_that_answers_is_asked_on_when_its_connection_is_renewed(
    bed: Bed, tmp_path: Path
) -> None:
    viewer = await write_viewer(bed, tmp_path / "viewer")
    identity = (viewer / "tls.crt", viewer / "tls.key", viewer / "ca.pem")
    read: list[float] = []

    def clock() -> float:
        read.append(float(len(read)))
        return read[-1]

    # A connection is used for three looks at the clock, one before and one behind each answer.
    reader = FiguresReader((bed.address, "127.0.0.1:1"), *identity, clock=clock, every_s=0.001, channel_s=3.0)
    task = asyncio.create_task(reader.run())
    await eventually(lambda: not reader.figures.fault)  # until then the load is not known
    with structlog.testing.capture_logs() as logs:
        later = reader.figures.at + 20
        await eventually(lambda: reader.figures.at > later)
        task.cancel()
    assert [one for one in logs if one["event"] == "figures_not_read"] == []
