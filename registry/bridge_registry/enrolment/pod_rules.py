"""Whether a pod may join by its service account's token: pure.

Rules:
1. Kubernetes says that the token is good, that it was made for this mesh's registries (the audience), of
   which service account it is, and of which pod. A token of no pod, of another account or for another
   audience joins nobody; what the API's own tokens are for is not to be had by them.
2. A pod joins under its own name alone: a token that is stolen can be nobody else.
3. A name that a pod had before is the new pod's: Kubernetes has one pod of a name at a time, and what was
   certified for the one before is revoked; what an admin drained stays drained, for pods die by themselves.
   A name that somebody has by a join token stays theirs.
4. A pod that an admin revoked stays out; the next pod of its name is another one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import Unavailable
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal
from bridge_registry.records import NodeRecord

MOUNTED: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MOST_BYTES: Final = 256 * 1024
"""Of an answer of the API."""
_ACCOUNT: Final = re.compile(r"system:serviceaccount:([a-z0-9-]{1,63}):([a-z0-9.-]{1,253})")
_ALLOWED: Final = re.compile(r"[a-z0-9-]{1,63}:[a-z0-9.-]{1,253}")
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_UID: Final = re.compile(r"[0-9a-f-]{1,64}")


class KubernetesApi(msgspec.Struct, frozen=True):
    """Which API is asked, and whose pods may join.

    Attributes:
        accounts: Service accounts, "namespace:name".
        dns_names: Host names that their pods' certificates may carry.
        address: (host, port); None: as the kubelet told this process.
        folder: Where `token` and `ca.crt` are that this registry asks with; read anew each time.
    """

    accounts: tuple[str, ...]
    dns_names: tuple[str, ...] = ()
    address: tuple[str, int] | None = None
    folder: Path = MOUNTED


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] = {}


class _Status(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] = []
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _Status = _Status()


class Pod(msgspec.Struct, frozen=True):
    """A pod, as Kubernetes vouches for it.

    Attributes:
        account: Its service account, "namespace:name".
        name: Its own.
        uid: Its own, of no other pod ever.
    """

    account: str
    name: str
    uid: str

    @property
    def token_id(self) -> str:
        """What stands in a node's record in the place of a join token's id."""
        return f"pod:{self.account.partition(':')[0]}/{self.uid}"


def audience_of(trust_domain: str) -> str:
    """Whom a token has to be made for."""
    return f"bridge-join.{trust_domain}"


def check_accounts(accounts: Collection[str]) -> tuple[str, ...]:
    """The service accounts whose pods may join, "namespace:name" each.

    Raises:
        ValueError: one is none.
    """
    for one in accounts:
        if not _ALLOWED.fullmatch(one):
            raise ValueError(f"{one!r} is no service account: NAMESPACE:NAME")
    return tuple(accounts)


def request_of(token: str, audience: str) -> bytes:
    """A TokenReview to ask the API."""
    return msgspec.json.encode(
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
    )


def pod_of(answer: bytes, audience: str, accounts: Collection[str]) -> Pod:
    """The pod that an answered TokenReview vouches for (rule 1).

    Raises:
        EnrolmentRefused: it vouches for none that may join.
        Unavailable: it is no TokenReview.
    """
    try:
        status = decode_json(answer, _Review, most=MOST_BYTES).status
    except Undecodable as fault:
        raise Unavailable(f"Kubernetes answered what is no TokenReview: {fault.message}") from fault
    if not status.authenticated:
        raise _refused("Kubernetes does not know the service account's token")
    # An API that knows no audiences names none, and took the token for its own.
    if audience not in status.audiences:
        raise _refused(f"the service account's token was not made for {audience}")
    account = _ACCOUNT.fullmatch(status.user.username)
    name, uid = (status.user.extra.get(key, []) for key in (_POD_NAME, _POD_UID))
    if account is None or ":".join(account.groups()) not in accounts:
        raise EnrolmentRefused(
            JoinRefusal.DENIED,
            f"{status.user.username[:320]!r} may not join this mesh",
            hint="--kubernetes-join of the registry names the service accounts that may",
        )
    if len(name) != 1 or len(uid) != 1 or not _UID.fullmatch(uid[0]):
        raise _refused("the service account's token is bound to no pod")
    return Pod(":".join(account.groups()), name[0], uid[0])


def check_name(pod: Pod, node: str, existing: NodeRecord | None) -> None:
    """Returns when the pod may be this node (rules 2 to 4).

    Raises:
        EnrolmentRefused: it may not.
    """
    if node != pod.name:
        raise EnrolmentRefused(
            JoinRefusal.DENIED,
            f"the token is of the pod {pod.name[:253]!r}, which joins under no other name",
            hint="--name is to be the pod's own",
        )
    if existing is None:
        return
    if existing.token == pod.token_id and existing.state == "revoked":
        raise EnrolmentRefused(
            JoinRefusal.DENIED, f"the node {node} was revoked", hint="delete the pod: the next one may join"
        )
    if existing.token.partition("/")[0] != pod.token_id.partition("/")[0]:
        raise EnrolmentRefused(
            JoinRefusal.TAKEN,
            f"the node name {node} is taken, and not by a pod of this namespace",
            hint=f"`bridgectl nodes {node}` says by whom",
        )


def _refused(message: str) -> EnrolmentRefused:
    return EnrolmentRefused(
        JoinRefusal.UNAUTHENTICATED, message, hint="mount a projected token of this audience into the pod"
    )
