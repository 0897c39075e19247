"""What a decision by access policies costs, with a thousand of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.results import record, table
from bridge_core.identity.principal import Principal
from bridge_core.names import canonical
from bridge_core.policy.engine import PolicyBook
from bridge_core.policy.facts import Facts
from bridge_core.policy.statements import AccessPolicy, Condition, Resource, Subject
from bridge_core.security_settings import SecuritySettings

POLICIES = 1000
ROUNDS = 15
ANN = Principal("client", "ann", "spiffe://m/client/ann", ("g7", "g400"), {"department": "finance"})
FACTS = Facts(1.8e9, "10.1.2.3", 4096.0)


def policy(_folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """Measures, and writes it down."""
    named = [_policy(at, f"model-{at}") for at in range(POLICIES)]
    globs = [_policy(at, f"model-{at}*") for at in range(POLICIES)]
    asking = [_policy(at, f"model-{at}", _asking(at)) for at in range(POLICIES)]
    all_of_one = [_policy(at, "model-7", _asking(at)) for at in range(POLICIES)]
    rows = []
    for what, policies in (
        ("names, no conditions about the request", named),
        ("patterns, no conditions about the request", globs),
        ("names, each with two conditions about the request", asking),
        ("all about one model, each with two such conditions, none holds", all_of_one),
    ):
        book = PolicyBook(policies, SecuritySettings())
        rights = book.rights(ANN)
        name = canonical("model-7")

        def again(rights: Any = rights, name: str = name) -> None:
            rights.decide("predict", "Model", name, FACTS)

        fresh = iter(canonical(f"model-{at}:new") for at in range(10_000_000))

        def first(rights: Any = rights, fresh: Any = fresh) -> None:
            rights.decide("predict", "Model", next(fresh), FACTS)

        compiled = min(_time(lambda policies=policies: PolicyBook(policies, SecuritySettings()), 1, 5))  # type: ignore[misc]
        rows.append(
            (
                what,
                _says(_time(again, 20 if policies is all_of_one else 5000, ROUNDS)),
                _says(_time(first, 100, 5)),
                f"{compiled * 1e3:.1f} ms",
            )
        )
    head = ("1,000 policies", "a decision, µs, best / median", "of a model never asked about", "compiled in")
    note = (
        "A principal with two groups and an attribute. What hangs on no request is decided once for a "
        "principal, an action and a model, and then looked up. The last row is the worst that policies can "
        "be: a thousand that are all about one model and one group, each asked about each request."
    )
    record("policy", "Access policies", command, versions, f"{note}\n\n{table(head, rows)}")


def _policy(at: int, model: str, conditions: tuple[Condition, ...] = ()) -> AccessPolicy:
    subjects = (Subject("Group", "g7" if conditions else f"g{at % 500}"), Subject("User", f"user-{at}"))
    department = Condition("department", "In", ("finance", "risk"))
    return AccessPolicy(
        f"policy-{at:04}",
        subjects,
        (Resource(("Model",), (model,)),),
        ("predict", "embed"),
        (department, *conditions),
        "Deny" if at % 10 == 9 else "Allow",
    )


def _asking(at: int) -> tuple[Condition, ...]:
    return Condition("num_ctx", "Lt", (str(8192 + at),)), Condition("network", "CIDR", ("192.168.0.0/16",))


def _time(work: Callable[[], Any], count: int, rounds: int) -> list[float]:
    """Seconds of one, in each round."""
    found = []
    for _ in range(rounds):
        began = perf_counter()
        for _ in range(count):
            work()
        found.append((perf_counter() - began) / count)
    return found


def _says(times: list[float]) -> str:
    return f"{min(times) * 1e6:.2f} / {statistics.median(times) * 1e6:.2f}"
