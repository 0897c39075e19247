"""What a page may ask for, and from where."""

from __future__ import annotations

import pytest

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.http1.headers import Headers
from bridge_core.http1.request import Request
from bridge_registry.console import act_rules as rules
from bridge_registry.console.clients_page import _clients, _quotas, _usage
from bridge_wire.v1 import alerting_pb2, clients_pb2, quota_pb2
from bridge_wire.v1 import registry_pb2 as pb

OWN = {"host": "127.0.0.1:1", "origin": "http://127.0.0.1:1", "content-type": "application/json"}


def request(fields: dict[str, str], remote: tuple[str, int] | None = ("127.0.0.1", 5)) -> Request:
    found = Request(
        "POST", b"/", Headers([(name.encode(), value.encode()) for name, value in fields.items()])
    )
    found.remote = remote
    return found


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_its_own_page_over_the_loopback_is_heard(address: str) -> None:
    assert rules.unwanted(request(OWN, (address, 1))) == ""
    assert rules.unwanted(request({**OWN, "sec-fetch-site": "Same-Origin"}, (address, 1))) == ""
    assert rules.unwanted(request({**OWN, "content-type": "Application/JSON; charset=utf-8"})) == ""


@pytest.mark.parametrize(
    "remote", [None, ("192.0.2.1", 1), ("10.0.0.1", 1), ("fe80::1%eth0", 1), ("::ffff:10.0.0.1", 1)]
)
def test_from_elsewhere_nothing_is_heard(remote: tuple[str, int] | None) -> None:
    assert "loopback" in rules.unwanted(request(OWN, remote))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("host", "", "Origin"),
        ("origin", "", "Origin"),
        ("origin", "http://127.0.0.1:2", "Origin"),
        ("sec-fetch-site", "same-site", "another site"),
        ("content-type", "text/plain", "JSON"),
        ("content-type", "", "JSON"),
    ],
)
def test_another_page_is_not_heard(field: str, value: str, says: str) -> None:
    fields = {**OWN, field: value}
    assert says in rules.unwanted(request({name: one for name, one in fields.items() if one}))


def test_an_act_is_one_call() -> None:
    acts = {
        b'{"act": "drain", "node": "n1", "drained": true}': (
            "Drain",
            pb.DrainRequest(node_name="n1", drained=True),
        ),
        b'{"act": "rollout", "name": "r", "verb": "abort"}': (
            "CommandRollout",
            pb.CommandRolloutRequest(name="r", verb="abort"),
        ),
        b'{"act": "rollback", "revision": 7}': ("Rollback", pb.RollbackRequest(revision=7)),
        b'{"act": "silence", "matchers": ["disk", "node=n1"], "seconds": 60, "reason": "known"}': (
            "Silence",
            alerting_pb2.SilenceRequest(matchers=["disk", "node=n1"], seconds=60, reason="known"),
        ),
        b'{"act": "unsilence", "id": "ab12"}': ("Unsilence", alerting_pb2.UnsilenceRequest(id="ab12")),
    }
    for body, wanted in acts.items():
        assert rules.call_of(rules.act_of(body)) == wanted
    assert {name for name, _ in acts.values()} == {*rules.CALLS, *rules.ALERTING_CALLS}


def test_what_became_of_it_is_said() -> None:
    back = rules.Rollback(7)
    silence = alerting_pb2.AlertSilence(id="ab12", ends_unix=3700.0)
    assert rules.outcome(rules.Silence((), 60.0, "r"), alerting_pb2.SilenceResponse(silence=silence)) == (
        True,
        "Nobody is told until 1970-01-01T01:01:40.000Z (silence ab12).",
    )
    assert rules.outcome(rules.Unsilence("ab12"), None) == (True, "The silence ab12 is over.")
    assert rules.outcome(rules.Drain("n1", drained=False), pb.DrainResponse()) == (
        True,
        "n1 is in service again.",
    )
    done = pb.ApplyResponse(revision=9, changed=["ModelRoute/chat"], warnings=["nobody serves it"])
    assert rules.outcome(back, done) == (True, "Revision 9 brings back 7. nobody serves it.")
    assert rules.outcome(back, pb.ApplyResponse()) == (True, "Nothing differs from revision 7.")
    refused = pb.ApplyResponse(faults=[pb.Fault(file="mesh", message="not known")])
    assert rules.outcome(back, refused) == (False, "Nothing was brought back: mesh: not known")


def test_clients_usage_and_quotas_are_bounded_sorted_and_added_up() -> None:
    many = [clients_pb2.ClientInfo(name=f"c{n:03}", last_used_unix=n) for n in range(250)]
    shown = _clients(clients_pb2.ListClientsResponse(clients=many))
    assert (len(shown), shown[0]["name"], shown[-1]["name"]) == (200, "c249", "c050")
    day = {
        "principal": "app",
        "model": "m",
        "requests": 1,
        "refused": 2,
        "prompt_tokens": 3,
        "output_tokens": 4,
    }
    uses = [quota_pb2.UseOfModel(day=n, **day) for n in range(2)]  # type: ignore[arg-type]  # test shorthand
    uses.append(quota_pb2.UseOfModel(principal="big", model="m", output_tokens=99))
    found = _usage(quota_pb2.UsageResponse(uses=uses))
    assert [one["who"] for one in found] == ["big", "app"]
    assert [found[1][name] for name in ("requests", "refused", "prompt", "output")] == [2, 4, 6, 8]
    buckets = [
        quota_pb2.BucketUse(
            bucket=quota_pb2.Bucket(quota=f"q{n}", resource="PROMPT_TOKENS"), used=n, amount=10
        )
        for n in range(3)
    ]
    full = _quotas(quota_pb2.QuotaUseResponse(buckets=buckets))
    assert [(one["quota"], one["what"], one["used"], one["limit"]) for one in full] == [
        *((f"q{n}", "prompt tokens", n, 10) for n in (2, 1, 0))
    ]


@pytest.mark.parametrize(("more", "taken"), [(0, True), (1, False)])
def test_an_act_has_so_many_bytes_at_most(more: int, *, taken: bool) -> None:
    body = b'{"act": "rollback", "revision": 7}'
    body += b" " * (4096 - len(body) + more)
    if taken:
        assert rules.act_of(body) == rules.Rollback(7)
    else:
        with pytest.raises(Undecodable):
            rules.act_of(body)


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        (b'{"act": "rollback", "revision": 1}', True),
        (b'{"act": "rollback", "revision": 0}', False),
        (b'{"act": "rollback", "revision": 9223372036854775807}', True),
        (b'{"act": "rollback", "revision": 9223372036854775808}', False),
        (b'{"act": "drain", "drained": true, "node": "%b"}' % (b"n" * 253), True),
        (b'{"act": "drain", "drained": true, "node": "%b"}' % (b"n" * 254), False),
        (b'{"act": "drain", "drained": true, "node": "n"}', True),
        (b'{"act": "drain", "drained": true, "node": ""}', False),
    ],
)
def test_numbers_and_names_are_bounded(body: bytes, *, taken: bool) -> None:
    if taken:
        rules.act_of(body)
    else:
        with pytest.raises(Undecodable):
            rules.act_of(body)


@pytest.mark.parametrize(("length", "taken"), [(200, True), (201, False)])
def test_a_code_is_bounded(length: int, *, taken: bool) -> None:
    body = b'{"code": "%b"}' % (b"c" * length)
    if taken:
        assert decode_json(body, rules.Asked)
    else:
        with pytest.raises(Undecodable):
            decode_json(body, rules.Asked)
