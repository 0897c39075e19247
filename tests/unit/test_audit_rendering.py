"""Requests are in the audit's words the same whether they are rendered together or one by one."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec

from bridge_agent.audit.input_keys import InputKeys
from bridge_agent.audit.rendering import Rendering, audited, audited_together
from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_core.audit.entries import AuditRecord, BegunRecord, Entry
from bridge_core.identity.principal import Principal
from bridge_core.security_settings import AuditSettings
from bridge_core.snapshot import EMPTY, MESH_KEY, MeshConfig, Snapshot, Version, encode_entry


def _any_record(rng: Random) -> RequestRecord:
    """One in which each field may have its default, and may not."""

    def word() -> str:
        return rng.choice(["", "a", "tiny:latest", "owner/0"])

    def after() -> float:
        return rng.choice([0.0, rng.uniform(0.0, 9.0)])

    began = rng.uniform(1.0, 1e6)
    decision = Decision(word(), (), True, route=word(), backend=word(), key=rng.randbytes(rng.choice([0, 8])))
    return RequestRecord(
        word(),
        Caller(Principal("client", "x", word()), rng.choice([*ListenerKind]), word()),
        "POST",
        word(),
        word(),
        rng.randrange(100, 600),
        rng.choice([*Outcome]),
        began,
        rng.choice([0.0, began + after()]),
        rng.choice([0.0, began + after()]),
        began + after(),
        rng.choice([None, decision]),
        word(),
        tuple([FailedAttempt(word(), 0.0, Failure.CUT, word()) for _ in range(rng.randrange(3))]),
        rng.randrange(5),
        rng.randrange(5),
        waited=after(),
        tokens=rng.randrange(5),
        reason=word(),
        prompt_tokens=rng.randrange(5),
        quota=word(),
        rule=word(),
        shadowed=tuple([word() for _ in range(rng.randrange(3))]),
        remote=rng.choice([None, ("127.0.0.1", 1), ("::1", 2)]),
    )


def test_together_they_are_as_one_by_one() -> None:
    rng = Random(7)
    records = [_any_record(rng) for _ in range(300)]
    ats = [1.8e9 + at for at in range(len(records))]
    digests = [f"d{at}" for at in range(len(records))]
    hashes = [f"h{at}" for at in range(len(records))]
    assert audited_together(records, ats, "n", digests, (hashes, "key")) == [
        audited(record, ats[at], node="n", digest=digests[at], input_hash=hashes[at], input_key="key")
        for at, record in enumerate(records)
    ]


def _rendering(folder: Path, snapshot: Snapshot = EMPTY, told: list[AuditRecord] | None = None) -> Rendering:
    seen = [] if told is None else [lambda _, made: told.append(made)]
    return Rendering("n", InputKeys(folder), lambda: snapshot, seen=seen)


def _record() -> RequestRecord:
    caller = Caller(Principal("local", "n", "local"), ListenerKind.LOCAL)
    times = (1.0, 1.1, 1.2, 1.3)
    return RequestRecord(
        "r1", caller, "POST", "/api/chat", "m", 200, Outcome.OK, *times, None, "a/0", (), 2, 3
    )


def _without_time(entries: list[Entry]) -> list[Entry]:
    return [msgspec.structs.replace(one, at=0.0) for one in entries]


def test_a_batch_is_rendered_as_each_of_it(tmp_path: Path) -> None:
    rendering, batch = _rendering(tmp_path), [(_record(), b"one"), (_record(), b"two")]
    made = rendering.together(batch)
    assert made is not None
    assert _without_time(made) == _without_time([*rendering(*batch[0]), *rendering(*batch[1])])
    hashed = [one.input for one in made if isinstance(one, AuditRecord)]
    assert len(set(hashed)) == 2


def test_what_is_no_plain_request_is_asked_for_by_itself(tmp_path: Path) -> None:
    plain = (_record(), b"one")
    assert _rendering(tmp_path).together([plain, (_record(), None)]) is None
    assert _rendering(tmp_path).together([plain, (_record(), b"")]) is None
    assert _rendering(tmp_path).together([plain, (BegunRecord(1.0, "x"), b"x")]) is None
    assert _rendering(tmp_path, told=[]).together([plain]) is None
    mesh = encode_entry(MeshConfig(audit=AuditSettings(content=True)))
    assert _rendering(tmp_path, Snapshot(Version(1, 1), {MESH_KEY: mesh})).together([plain]) is None


def test_records_of_two_keys_are_not_hashed_together(tmp_path: Path) -> None:
    keys = InputKeys(tmp_path)
    assert keys.hashed_all([b"a", b"b"], 5.0, 19.9, 10.0) is None
    assert keys.hashed_all([b"a", b"b"], 10.0, 20.0, 10.0) is None
    one, other = keys.hashed(b"a", 10.0, 10.0), keys.hashed(b"b", 10.0, 10.0)
    assert keys.hashed_all([b"a", b"b"], 10.0, 19.9, 10.0) == ([one[0], other[0]], one[1])
