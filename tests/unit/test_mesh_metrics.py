"""The mesh in one summary for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from bridge_core.counts import BOUNDS, Counts
from bridge_core.mesh_picture import InstancePicture, MeshPicture, NodePicture, RegistryPicture
from bridge_registry.console.mesh_metrics import mesh_metrics

ENGINE = InstancePicture("n1/0", "ready", "llamacpp", 4, 3, 2)
NODES = (
    NodePicture("n1", "serving", instances=(ENGINE,)),
    NodePicture("n2", "away"),
    NodePicture("n3", "drained"),
)
PICTURE = MeshPicture(0.0, RegistryPicture("lab", "r1", "1", True, "r1"), NODES)
TINY = "registry.ollama.ai/library/tiny:latest"


def page(picture: MeshPicture | None, totals: dict[str, Counts]) -> list[str]:
    class Figures:
        def collect(self) -> list[Metric]:
            return list(mesh_metrics(picture, totals))

    registry = CollectorRegistry()
    registry.register(Figures())  # type: ignore[arg-type]  # as far as it is asked
    return generate_latest(registry).decode().splitlines()


def test_what_the_mesh_is_and_does() -> None:
    fast, slow = [0] * 58, [0] * 58
    fast[4], slow[57] = 3, 1
    ttft = tuple(a + b for a, b in zip(fast, slow, strict=True))
    lines = page(PICTURE, {TINY: Counts(5, 1, 1, ttft, 9.0, 70, 2.0), "(other)": Counts(2)})
    for line in (
        'bridge_mesh_nodes{state="serving"} 1.0',
        'bridge_mesh_nodes{state="away"} 1.0',
        'bridge_mesh_nodes{state="revoked"} 0.0',
        'bridge_mesh_node_up{node="n1"} 1.0',
        'bridge_mesh_node_up{node="n2"} 0.0',
        'bridge_mesh_node_up{node="n3"} 1.0',
        'bridge_mesh_in_flight{instance="n1/0"} 3.0',
        'bridge_mesh_waiting{instance="n1/0"} 2.0',
        'bridge_mesh_slots{instance="n1/0"} 4.0',
        'bridge_mesh_requests_total{model="tiny:latest"} 5.0',
        'bridge_mesh_requests_failed_total{model="tiny:latest"} 2.0',
        'bridge_mesh_tokens_total{model="tiny:latest"} 70.0',
        'bridge_mesh_requests_total{model="(other)"} 2.0',
        f'bridge_mesh_first_byte_seconds_bucket{{le="{BOUNDS[0]}",model="tiny:latest"}} 0.0',
        f'bridge_mesh_first_byte_seconds_bucket{{le="{BOUNDS[4]}",model="tiny:latest"}} 3.0',
        f'bridge_mesh_first_byte_seconds_bucket{{le="{BOUNDS[56]}",model="tiny:latest"}} 3.0',
        'bridge_mesh_first_byte_seconds_bucket{le="+Inf",model="tiny:latest"} 4.0',
        'bridge_mesh_first_byte_seconds_sum{model="tiny:latest"} 9.0',
    ):
        assert line in lines


def test_nothing_is_said_before_the_first_picture_or_by_who_does_not_lead() -> None:
    deaf = MeshPicture(0.0, RegistryPicture("lab", "r1", "1", False, "r2"), NODES)
    for picture in (None, deaf):
        assert [line for line in page(picture, {"m": Counts(1)}) if "bridge_mesh" in line] == []
