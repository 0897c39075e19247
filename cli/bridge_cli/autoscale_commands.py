"""`bridgectl autoscale`: on how many instances models are in memory, and why."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import msgspec
import typer

from bridge_cli.output import JsonOption, columns, print_json, say, say_aside
from bridge_cli.where import Where, asks_registry
from bridge_core.command.plain_text import one_line

_TIMEOUT_S: Final = 15.0

autoscale = typer.Typer(help="Models on as many instances as they need.", no_args_is_help=True)


class HolderReport(msgspec.Struct, frozen=True):
    """An instance that has a scaled model on disk; see scaling.proto."""

    instance: str
    part: str
    way: str
    slots: int
    in_flight: int
    queued: int
    loaded: bool
    available: bool
    known: bool
    node_class: str
    since_unix: int


class PolicyReport(msgspec.Struct, frozen=True):
    """A policy and where it stands; see scaling.proto."""

    policy: str
    model: str
    min: int
    max: int
    wanted: int
    unmet: int
    floor: int
    needed_slots: float
    queued: float
    target: float
    reason: str
    paused: bool
    lead_seconds: dict[str, float]
    last_out_unix: int
    last_in_unix: int
    instances: tuple[HolderReport, ...]

    def count(self, part: str) -> int:
        """Instances of a part."""
        return sum(one.part == part for one in self.instances)

    @property
    def utilization(self) -> float:
        """Needed slots, of those of the active instances."""
        slots = sum(one.slots for one in self.instances if one.part == "active")
        return self.needed_slots / slots if slots else 0.0


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.add_typer(autoscale, name="autoscale")


@autoscale.command("status")
@asks_registry
def status_command(*, as_json: JsonOption = False, where: Where) -> None:
    """Show each AutoscalePolicy: how many instances there are, how many it wants, and why."""
    found = _asked("", where)
    if as_json:
        print_json(found)
        return
    if not found:
        say_aside("There are no AutoscalePolicies: mesh_config/autoscale.yaml shows what one looks like.")
        return
    rows: list[tuple[str, ...]] = [
        ("POLICY", "MODEL", "ACTIVE", "WANTED", "LOADING", "WARM", "SLOTS", "WAITING", "WHY")
    ]
    rows += [
        (
            one.policy,
            one.model,
            f"{one.count('active')} of {one.min}-{one.max}",
            f"{one.wanted}" + (f" ({one.unmet} more than there can be)" if one.unmet else ""),
            str(one.count("loading")),
            str(one.count("warm")),
            f"{one.utilization:.0%}",
            f"{one.queued:.0f}",
            one.reason,
        )
        for one in found
    ]
    for line in columns(rows):
        say(line)


@autoscale.command("explain")
@asks_registry
def explain_command(
    policy: Annotated[str, typer.Argument(help="The AutoscalePolicy's name.")],
    *,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Show every instance that could hold the model: what it does now, and what adding it would cost."""
    if not policy:  # to a registry that is all of them
        raise typer.BadParameter("the name of an AutoscalePolicy; `bridgectl autoscale status` lists them")
    (found,) = _asked(policy, where)
    if as_json:
        print_json(found)
        return
    for line in explanation(found, time.time()):
        say(one_line(line))


def explanation(one: PolicyReport, now: float) -> list[str]:
    """The lines that `explain` prints."""
    from bridge_core.quantities import say_span

    paused = "; it is paused" if one.paused else ""
    waits = f"{one.target:.0%} are the target; {one.queued:.0f} requests wait"
    lines = [
        f"{one.policy} keeps {one.model} on {one.min} to {one.max} instances{paused}",
        f"  wanted    {one.wanted}: {one.reason}",
        f"  slots     {one.needed_slots:.1f} needed, {one.utilization:.0%} of the active ones, {waits}",
    ]
    if one.floor:
        lines.append(f"  forecast  at least {one.floor} at this time of day")
    if one.unmet:
        lines.append(f"  unmet     {one.unmet}: no instance is there for them; the outside can bring more")
    for what, at in (("out", one.last_out_unix), ("in", one.last_in_unix)):
        if at:
            lines.append(f"  last {what:5}{say_span(max(0.0, now - at))} ago")
    rows = [("  INSTANCE", "IS", "CLASS", "SLOTS", "RUNS", "WAIT", "TO ADD IT", "")]
    order = ["active", "loading", "warm", "idle"]
    for holder in sorted(one.instances, key=lambda found: (order.index(found.part), found.instance)):
        way = "" if holder.part == "active" else holder.way
        if way and way in one.lead_seconds:
            way += f", {one.lead_seconds[way]:.1f} s"
        faults = [] if holder.available else ["not available"]
        if not holder.known:
            faults.append("does not report")
        rows.append(
            (
                f"  {holder.instance}",
                holder.part,
                holder.node_class,
                str(holder.slots),
                str(holder.in_flight),
                str(holder.queued),
                way,
                "; ".join(faults),
            )
        )
    return [*lines, *columns(rows)]


def _asked(policy: str, where: Where) -> list[PolicyReport]:
    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import scaling_pb2 as wire
        from bridge_wire.v1.scaling_pb2_grpc import ScalingStub

        desk = ScalingStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        return await desk.Autoscaling(wire.AutoscalingRequest(policy=policy), timeout=_TIMEOUT_S)

    return [report_of(one) for one in where.call(work).policies]


def report_of(message: Any) -> PolicyReport:
    """What a message says."""
    return PolicyReport(
        instances=tuple(
            HolderReport(*(getattr(one, field) for field in HolderReport.__struct_fields__))
            for one in message.instances
        ),
        lead_seconds=dict(message.lead_seconds),
        **{
            field: getattr(message, field)
            for field in PolicyReport.__struct_fields__
            if field not in {"instances", "lead_seconds"}
        },
    )
