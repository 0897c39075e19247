"""What the external metrics API answers: a table for what it says, properties for what it must never do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_registry.external_metrics.metric_rules import (
    FRESH_S,
    METRICS,
    Figures,
    PolicyFigures,
    answer,
    quantity,
    refusal,
    selected,
)

NOW = 1_800_000_000.0
ROOT = "/apis/external.metrics.k8s.io"
CHAT = PolicyFigures("chat", "llama3:latest", wanted=3, unmet=1, needed_slots=8.25, queued=0.5)
CODE = PolicyFigures("code", "coder:latest", wanted=1)
KNOWN = Figures((CHAT, CODE), NOW - 1, "")
WANTED = "bridge_scaling_wanted_instances"


def asked(metric: str = WANTED, selector: str = "", namespace: str = "bridge", **more: Any) -> Any:
    given_ = {"figures": KNOWN, "namespaces": frozenset({"bridge"}), "now": NOW, **more}
    return answer(f"{ROOT}/v1beta1/namespaces/{namespace}/{metric}", selector, **given_)


def values(*arguments: Any, **more: Any) -> list[str]:
    code, document = asked(*arguments, **more)
    assert code == 200, document
    return [one["value"] for one in document["items"]]


def test_a_value_for_each_policy_as_kubernetes_writes_it() -> None:
    """Frozen: what a HorizontalPodAutoscaler decodes."""
    assert asked(selector="policy=chat") == (
        200,
        {
            "kind": "ExternalMetricValueList",
            "apiVersion": "external.metrics.k8s.io/v1beta1",
            "metadata": {},
            "items": [
                {
                    "metricName": "bridge_scaling_wanted_instances",
                    "metricLabels": {"policy": "chat", "model": "llama3:latest"},
                    "timestamp": "2027-01-15T07:59:59Z",
                    "value": "3",
                }
            ],
        },
    )
    assert values("bridge_scaling_needed_slots") == ["8250m", "0"]
    assert values("bridge_scaling_unmet_instances") == ["1", "0"]
    assert values("bridge_scaling_queued_requests") == ["500m", "0"]


def test_what_there_is_to_find() -> None:
    def found(path: str) -> Any:
        return answer(path, "", Figures(), frozenset(), NOW)

    version = {"groupVersion": "external.metrics.k8s.io/v1beta1", "version": "v1beta1"}
    group = {"name": "external.metrics.k8s.io", "versions": [version], "preferredVersion": version}
    assert found("/apis") == (200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
    assert found(ROOT) == (200, {"kind": "APIGroup", "apiVersion": "v1", **group})
    code, resources = found(f"{ROOT}/v1beta1")
    assert (code, resources["groupVersion"]) == (200, "external.metrics.k8s.io/v1beta1")
    assert [one["name"] for one in resources["resources"]] == list(METRICS)
    assert {(one["namespaced"], *one["verbs"]) for one in resources["resources"]} == {(True, "get")}


@pytest.mark.parametrize(
    ("selector", "policies"),
    [
        ("", "chat code"),
        ("policy=chat", "chat"),
        ("policy==code", "code"),
        ("policy in (chat,code)", "chat code"),
        (" policy in ( chat , other ) , model=llama3:latest", "chat"),
        ("policy=chat,model=coder:latest", ""),
        ("policy=chat,policy=code", ""),
        ("policy=none", ""),
        ("model=coder:latest", "code"),
    ],
)
def test_selectors_choose_by_policy_and_model(selector: str, policies: str) -> None:
    code, document = asked(selector=selector)
    assert code == 200
    assert " ".join(one["metricLabels"]["policy"] for one in document["items"]) == policies


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ("policy!=chat", "cannot be read from 'policy!=chat'"),
        ("policy", "cannot be read"),
        ("!policy", "cannot be read"),
        ("policy notin (chat)", "cannot be read"),
        ("policy=chat code", "cannot be read"),
        ("tenant=a", "no label 'tenant'"),
        ("policy=chat,,", "cannot be read from ','"),
        ("policy=" + "a" * 5000, "longer than 4096"),
    ],
)
def test_a_selector_that_would_have_to_be_guessed_at_is_refused(selector: str, says: str) -> None:
    code, document = asked(selector=selector)
    assert (code, document["reason"]) == (400, "BadRequest")
    assert says in document["message"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (f"{ROOT}/v1beta1/namespaces/bridge/cpu", "there is no metric 'cpu'"),
        (f"{ROOT}/v1beta1/namespaces/other/{WANTED}", "no metrics are served in the namespace 'other'"),
        (f"{ROOT}/v1beta1/{WANTED}", "there is no "),
        (f"{ROOT}/v1/namespaces/bridge/{WANTED}", "there is no "),
        (f"{ROOT}/v1beta1/namespaces/bridge/{WANTED}/more", "there is no "),
        ("/metrics", "there is no '/metrics' here"),
        ("/openapi/v2", "there is no "),
        (f"{ROOT}x", "there is no "),
    ],
)
def test_what_there_is_not(path: str, says: str) -> None:
    code, document = answer(path, "", KNOWN, frozenset({"bridge"}), NOW)
    assert (code, document["kind"], document["code"], document["reason"]) == (404, "Status", 404, "NotFound")
    assert says in document["message"]


def test_every_namespace_has_them_where_none_is_named() -> None:
    assert values(namespace="other", namespaces=frozenset()) == ["3", "1"]


def test_what_is_not_known_is_not_told() -> None:
    code, document = asked(figures=Figures())
    assert (code, document["reason"]) == (503, "ServiceUnavailable")
    assert "no registry was asked yet" in document["message"]
    for age, known in ((0.0, 200), (FRESH_S, 200), (FRESH_S + 0.1, 503), (-0.1, 503)):
        assert asked(figures=Figures((CHAT,), NOW - age, "it hung up"))[0] == known
    assert "it hung up" in asked(figures=Figures((CHAT,), NOW - 99, "it hung up"))[1]["message"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (3.0, "3"), (0.0004, "0"), (0.0006, "1m"), (2.5, "2500m"), (-1.0, "0"), (1e6, "1000000")],
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value) == text


@given(st.text(max_size=60))
def test_no_selector_is_half_read(text: str) -> None:
    """What is taken names known labels alone, and says the same when it is written out again."""
    try:
        found = selected(text)
    except ValueError:
        return
    assert found.keys() <= {"policy", "model"}
    again = ",".join(f"{key} in ({','.join(sorted(values_))})" for key, values_ in found.items() if values_)
    assert selected(again) == {key: values_ for key, values_ in found.items() if values_}


@given(st.text(max_size=80), st.text(max_size=40))
def test_whatever_is_asked_for_has_an_answer(path: str, selector: str) -> None:
    for whole in (path, f"{ROOT}/{path}", f"{ROOT}/v1beta1/namespaces/bridge/{path}"):
        code, document = answer(whole, selector, KNOWN, frozenset({"bridge"}), NOW)
        assert code in {200, 400, 404}
        assert document["apiVersion"]


def test_a_refusal_is_a_status() -> None:
    said = {"status": "Failure", "message": "no", "reason": "Forbidden", "code": 403}
    assert refusal(403, "no") == (403, {"kind": "Status", "apiVersion": "v1", "metadata": {}, **said})
