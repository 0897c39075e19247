"""What admins ask the policies before somebody is refused by them."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

from collections.abc import Callable, Iterable

from bridge_core.config import access_policy, load, mesh_settings
from bridge_core.config.documents import IdentityProviderDocument, MeshDocument, ModelAccessPolicyDocument
from bridge_core.errors import BridgeError
from bridge_core.policy.engine import PolicyBook
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.publication.hub import Hub
from bridge_registry.rpc.gate import Context, Gate
from bridge_registry.traffic import access_rules
from bridge_wire.v1 import policy_pb2 as pb
from bridge_wire.v1 import policy_pb2_grpc as rpc
from bridge_wire.v1.registry_pb2 import ConfigFile


class PoliciesService(rpc.PoliciesServicer):
    """See policy.proto.

    Args:
        gate: Admits calls.
        table: Whom the mesh knows.
        hub: What is published.
        trust_domain: The mesh.
        clock: Unix seconds.
    """

    def __init__(
        self, gate: Gate, table: MeshTable, hub: Hub, trust_domain: str, clock: Callable[[], float]
    ) -> None:
        self._gate = gate
        self._table = table
        self._hub = hub
        self._trust_domain = trust_domain
        self._clock = clock

    async def TestAccess(self, request: pb.TestAccessRequest, context: Context) -> pb.TestAccessResponse:
        """See policy.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            book = self._book(request.files)
            of_request, attributes = access_rules.split(request.facts)
            who = access_rules.subject(request.subject, tuple(request.groups), attributes, self._known())
            kind, name = access_rules.resource(request.resource_kind, request.resource)
            facts = access_rules.facts(of_request, self._clock())
            verdict = book.decide(who, access_rules.action(request.action), kind, name, facts)
            return pb.TestAccessResponse(
                allowed=verdict.allowed,
                policy=verdict.policy,
                reason=verdict.reason,
                shadowed=verdict.shadowed,
                open=verdict.by_node,
            )

    def _known(self) -> access_rules.Known:
        clients = {name: record.client for name, record in self._table.clients.items()}
        providers = (
            one for one in self._table.documents.values() if isinstance(one, IdentityProviderDocument)
        )
        clusters = frozenset(one.metadata.name for one in providers if one.spec.kubernetes)
        return access_rules.Known(self._trust_domain, clients, self._hub.current.admins, clusters)

    def _book(self, files: Iterable[ConfigFile]) -> PolicyBook:
        """The policies in force, or those of files.

        Raises:
            BridgeError: the files are at fault; each fault a line.
        """
        current = self._hub.current
        given = [(file.name, file.text) for file in files]
        if not given:
            return PolicyBook(current.policies, current.mesh.security)
        loaded = load(given, trust_domain=self._trust_domain, applied=self._table.texts)
        if loaded.faults:
            raise BridgeError("\n".join(map(str, loaded.faults)))
        parsed = [document.parsed for document in loaded.documents]
        security = current.mesh.security
        for one in parsed:
            if isinstance(one, MeshDocument):
                security = mesh_settings(one.spec, self._trust_domain).security
        policies = (access_policy(one) for one in parsed if isinstance(one, ModelAccessPolicyDocument))
        return PolicyBook(policies, security)
