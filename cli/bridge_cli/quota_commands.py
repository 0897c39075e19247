"""`bridgectl quota list` and `bridgectl usage`: what is used of quotas now, and what was used by day."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from bridge_cli.output import JsonOption, columns, print_json, say, say_aside
from bridge_cli.where import Where, asks_registry

if TYPE_CHECKING:
    from bridge_core.quotas import Quota

_TIMEOUT_S: Final = 15.0
_DAY_S: Final = 86_400
_MOST_DAYS: Final = 40

quotas = typer.Typer(help="Quotas, and what is used of them.", no_args_is_help=True)


class BucketReport(msgspec.Struct, frozen=True):
    """What is used of one bucket now.

    Attributes:
        quota: Its quota.
        of: Whose use it counts; empty: everybody's.
        resource: Of what.
        used: Used and reserved, by all nodes.
        limit: The quota's.
        nodes: How many nodes used it.
        resets_unix: When its window ends; 0: it has none.
        shadow: Nothing is refused for it.
    """

    quota: str
    of: str
    resource: str
    used: int
    limit: int
    nodes: int
    resets_unix: float
    shadow: bool


class UsageReport(msgspec.Struct, frozen=True):
    """What somebody used of a model on a day."""

    day: str
    principal: str
    groups: tuple[str, ...]
    model: str
    requests: int
    refused: int
    prompt_tokens: int
    output_tokens: int


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.add_typer(quotas, name="quota")
    app.command("usage")(usage_command)


@quotas.command("list")
@asks_registry
def list_command(*, as_json: JsonOption = False, where: Where) -> None:
    """Show what is used of each quota now, of each client or group that it counts."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import quota_pb2 as wire
        from bridge_wire.v1 import registry_pb2
        from bridge_wire.v1.quota_pb2_grpc import QuotaAdminStub

        desk = QuotaAdminStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        used = await desk.Use(wire.QuotaUseRequest(), timeout=_TIMEOUT_S)
        asked = registry_pb2.GetConfigRequest(kind="Quota")
        return used.buckets, (await stub.GetConfig(asked, timeout=_TIMEOUT_S)).documents

    buckets, documents = where.call(work)
    applied = _applied((document.name, document.yaml) for document in documents)
    reports = bucket_reports(buckets, applied)
    if as_json:
        print_json(reports)
        return
    if not reports:
        say_aside("There are no quotas: mesh_config/quotas.yaml shows what one looks like.")
        return
    rows = [("QUOTA", "OF", "WHAT", "USED", "LIMIT", "NODES", "RESETS IN", "")]
    for one in reports:
        resets = _span(one.resets_unix - time.time()) if one.resets_unix else ""
        rows.append(
            (
                one.quota,
                _short(one.of) or "all",
                one.resource.replace("_", " "),
                f"{one.used:,}",
                f"{one.limit:,}",
                str(one.nodes or ""),
                resets,
                "shadow" if one.shadow else "",
            )
        )
    for line in columns(rows):
        say(line)


@asks_registry
def usage_command(
    *,
    client: Annotated[
        str, typer.Option("--client", help="Only this client's: its name, or its whole identity.")
    ] = "",
    group: Annotated[str, typer.Option("--group", help="Only of clients of this group.")] = "",
    model: Annotated[str, typer.Option("--model", help="Only of this model or route.")] = "",
    days: Annotated[
        int, typer.Option("--days", min=1, max=_MOST_DAYS, help="So many UTC days back, today included.")
    ] = 7,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Show what was used by client, model and UTC day."""
    today = int(time.time()) // _DAY_S

    async def work(stub: Any) -> Any:
        from bridge_core.names import canonical_or_same
        from bridge_wire.v1 import quota_pb2 as wire
        from bridge_wire.v1.quota_pb2_grpc import QuotaAdminStub

        desk = QuotaAdminStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        request = wire.UsageRequest(
            principal=client,
            group=group,
            model=canonical_or_same(model) if model else "",
            from_day=today - days + 1,
            to_day=today + 1,  # where a node's clock is ahead
        )
        return await desk.Usage(request, timeout=_TIMEOUT_S)

    reports = usage_reports(where.call(work).uses)
    if as_json:
        print_json(reports)
        return
    if not reports:
        say_aside("Nothing was counted. Requests over the loopback count only where a quota is about them.")
        return
    rows: list[tuple[str, ...]] = [
        ("DAY", "CLIENT", "MODEL", "REQUESTS", "REFUSED", "PROMPT TOKENS", "OUTPUT TOKENS")
    ]
    for one in reports:
        counts = (one.requests, one.refused, one.prompt_tokens, one.output_tokens)
        rows.append((one.day, _short(one.principal), one.model, *(f"{count:,}" for count in counts)))
    for line in columns(rows):
        say(line)


def bucket_reports(buckets: Iterable[Any], applied: Mapping[str, Quota]) -> list[BucketReport]:
    """What is used of each quota, with those that nobody used yet."""
    from bridge_core.quotas import RESOURCES

    found = [
        BucketReport(
            one.bucket.quota,
            one.bucket.of,
            RESOURCES[one.bucket.resource - 1],
            one.used,
            one.amount,
            one.nodes,
            (one.bucket.begins_unix_ms + one.window_ms) / 1000 if one.bucket.begins_unix_ms else 0.0,
            one.shadow,
        )
        for one in buckets
        if 1 <= one.bucket.resource <= len(RESOURCES)
    ]
    now = time.time()
    found = [one for one in found if not one.resets_unix or one.resets_unix > now]
    there = {(one.quota, one.resource) for one in found}
    for quota in applied.values():
        for resource in RESOURCES:
            amount = quota.amount(resource)
            if amount and (quota.name, resource) not in there:
                found.append(BucketReport(quota.name, "-", resource, 0, amount, 0, 0.0, quota.shadow))
    order: list[str] = list(RESOURCES)
    return sorted(found, key=lambda one: (one.quota, one.of, order.index(one.resource), one.resets_unix))


def usage_reports(uses: Iterable[Any]) -> list[UsageReport]:
    """What was used, by day, client and model."""
    from bridge_core.names import display_or_same

    return [
        UsageReport(
            dt.date.fromordinal(dt.date(1970, 1, 1).toordinal() + one.day).isoformat(),
            one.principal,
            tuple(one.groups),
            display_or_same(one.model),
            one.requests,
            one.refused,
            one.prompt_tokens,
            one.output_tokens,
        )
        for one in uses
    ]


def _applied(documents: Iterable[tuple[str, str]]) -> dict[str, Quota]:
    from bridge_core.config import load
    from bridge_core.config.convert import quota
    from bridge_core.config.documents import QuotaDocument

    loaded = load(list(documents), alone=True).documents
    return {one.name: quota(one.parsed) for one in loaded if isinstance(one.parsed, QuotaDocument)}


def _short(principal: str) -> str:
    """`spiffe://<mesh>/client/ann` as `ann`, other kinds with theirs."""
    kind, _, name = principal.partition("://")[2].partition("/")[2].partition("/")
    if not name:
        return principal
    return name if kind == "client" else f"{kind}/{name}"


def _span(seconds: float) -> str:
    from bridge_core.quantities import say_span

    return say_span(seconds)
