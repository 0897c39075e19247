"""What `bridgectl top` draws of a picture. Pure but for rich's drawing."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bridge_core.command.plain_text import one_line
from bridge_core.mesh_picture import MeshPicture, ModelPicture, NodePicture
from bridge_core.quantities import say_span

_STALE_S: Final = 5.0
_STYLES: Final = {"serving": "green", "drained": "yellow", "away": "bold red", "no engine": "bold red"}
_BAR: Final = 10


def screen(picture: MeshPicture, *, rows: int, fault: str = "", now: float | None = None) -> RenderableType:
    """Everything, in about `rows` rows of tables: the busiest nodes and models, and who is in trouble."""
    models = [one for one in picture.models if one.requests_per_s or one.loaded] or list(picture.models)
    models.sort(key=lambda one: (-one.requests_per_s, -one.loaded, one.name))
    for_models = max(3, min(len(models), rows // 3))
    for_nodes = max(3, rows - for_models)
    shown = sorted(picture.nodes, key=_trouble_first)[:for_nodes]
    parts: list[RenderableType] = [_headline(picture)]
    if fault:
        parts.append(Text(f"! {one_line(fault)}: this is what it said last", style="bold red"))
    elif now is not None and now - picture.at_unix > _STALE_S:
        parts.append(
            Text(f"! {say_span(now - picture.at_unix)} old, by this machine's clock", style="yellow")
        )
    parts += [Text(f"! {one_line(one, 300)}", style="yellow") for one in picture.registry.concerns[:3]]
    names = {one.name for one in shown}
    parts.append(_nodes([one for one in picture.nodes if one.name in names]))
    if len(picture.nodes) > len(shown):
        parts.append(Text(f"and {len(picture.nodes) - len(shown)} more nodes", style="dim"))
    parts.append(_models(models[:for_models]))
    if len(models) > for_models:
        parts.append(Text(f"and {len(models) - for_models} more models", style="dim"))
    return Group(*parts)


def _headline(picture: MeshPicture) -> Text:
    states = Counter(one.state for one in picture.nodes)
    counted = ", ".join(f"{count} {state}" for state, count in states.most_common()) or "no nodes yet"
    registry = picture.registry
    leader = f"{registry.leader} leads" if registry.leader else "NOBODY LEADS"
    etcd = f", etcd DOES NOT ANSWER {registry.store_fault}" if registry.store_fault else ""
    at = dt.datetime.fromtimestamp(picture.at_unix, dt.UTC).astimezone()
    rate = sum(one.requests_per_s for one in picture.nodes)
    said = f"{registry.mesh}  {at:%H:%M:%S}  {leader}{etcd}  {counted}  {rate:.1f} requests/s"
    return Text(one_line(said), style="bold red" if etcd or not registry.leader else "bold")


def _nodes(nodes: list[NodePicture]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("NODE", "STATE", "LOAD", "BUSY", "WAIT", "REQ/S", "ERR/S", "IN MEMORY"):
        table.add_column(name, justify="right" if name in {"BUSY", "WAIT", "REQ/S", "ERR/S"} else "left")
    for one in nodes:
        busy = sum(each.in_flight for each in one.instances)
        slots = sum(each.slots for each in one.instances)
        loaded = sorted({name for each in one.instances for name in each.loaded})
        table.add_row(
            one_line(one.name, 40),
            Text(one.state, style=_STYLES.get(one.state, "yellow")),
            _bar(busy, slots),
            f"{busy}/{slots}",
            str(sum(each.queued for each in one.instances) or ""),
            f"{one.requests_per_s:.1f}",
            Text(f"{one.errors_per_s:.1f}" if one.errors_per_s else "", style="red"),
            one_line(", ".join(loaded), 60),
        )
    return table


def _models(models: list[ModelPicture]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("MODEL", "ON", "IN MEMORY", "REQ/S", "ERR/S", "TOKENS/S", "FIRST BYTE P50", "P95"):
        table.add_column(name, justify="left" if name == "MODEL" else "right")
    for one in models:
        table.add_row(
            one_line(one.name, 60),
            str(one.instances),
            str(one.loaded),
            f"{one.requests_per_s:.1f}",
            Text(f"{one.errors_per_s:.1f}" if one.errors_per_s else "", style="red"),
            f"{one.tokens_per_s:.0f}" if one.tokens_per_s else "",
            f"{one.ttft_p50 * 1000:.0f} ms" if one.ttft_p50 else "",
            f"{one.ttft_p95 * 1000:.0f} ms" if one.ttft_p95 else "",
        )
    return table


def _bar(busy: int, slots: int) -> Text:
    share = min(1.0, busy / slots) if slots else 0.0
    full = round(share * _BAR)
    style = "red" if share >= 1.0 else "yellow" if share >= 0.7 else "green"
    return Text.assemble(("█" * full, style), ("░" * (_BAR - full), "dim"))


def _trouble_first(node: NodePicture) -> tuple[bool, float, str]:
    well = node.state in {"serving", "drained", "revoked"} and not node.rejected
    return well, -(node.requests_per_s + node.in_flight), node.name
