from bridge_wire.v1 import health_pb2 as _health_pb2
from bridge_wire.v1 import console_pb2 as _console_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HelloRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("trust_domain", "server_time_unix_ms", "version", "nonce")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    server_time_unix_ms: int
    version: str
    nonce: bytes
    def __init__(self, trust_domain: _Optional[str] = ..., server_time_unix_ms: _Optional[int] = ..., version: _Optional[str] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class NodeFacts(_message.Message):
    __slots__ = ("labels", "peer_address", "version")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.ScalarMap[str, str]
    peer_address: str
    version: str
    def __init__(self, labels: _Optional[_Mapping[str, str]] = ..., peer_address: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("token", "node_name", "csr_pem", "facts")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    token: str
    node_name: str
    csr_pem: bytes
    facts: NodeFacts
    def __init__(self, token: _Optional[str] = ..., node_name: _Optional[str] = ..., csr_pem: _Optional[bytes] = ..., facts: _Optional[_Union[NodeFacts, _Mapping]] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("certificate_chain_pem", "trust_bundle_pem", "trust_domain", "node_name", "issuers_pem")
    CERTIFICATE_CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_PEM_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    ISSUERS_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_chain_pem: bytes
    trust_bundle_pem: bytes
    trust_domain: str
    node_name: str
    issuers_pem: bytes
    def __init__(self, certificate_chain_pem: _Optional[bytes] = ..., trust_bundle_pem: _Optional[bytes] = ..., trust_domain: _Optional[str] = ..., node_name: _Optional[str] = ..., issuers_pem: _Optional[bytes] = ...) -> None: ...

class EtcdAccess(_message.Message):
    __slots__ = ("endpoints",)
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, endpoints: _Optional[_Iterable[str]] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("identity", "etcd", "snapshot")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    ETCD_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    identity: Identity
    etcd: EtcdAccess
    snapshot: SnapshotUpdate
    def __init__(self, identity: _Optional[_Union[Identity, _Mapping]] = ..., etcd: _Optional[_Union[EtcdAccess, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotUpdate, _Mapping]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr_pem", "facts")
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    facts: NodeFacts
    def __init__(self, csr_pem: _Optional[bytes] = ..., facts: _Optional[_Union[NodeFacts, _Mapping]] = ...) -> None: ...

class RenewExpiredRequest(_message.Message):
    __slots__ = ("csr_pem", "facts", "certificate_pem", "nonce", "signature")
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    facts: NodeFacts
    certificate_pem: bytes
    nonce: bytes
    signature: bytes
    def __init__(self, csr_pem: _Optional[bytes] = ..., facts: _Optional[_Union[NodeFacts, _Mapping]] = ..., certificate_pem: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("identity",)
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    identity: Identity
    def __init__(self, identity: _Optional[_Union[Identity, _Mapping]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotVersion(_message.Message):
    __slots__ = ("epoch", "revision")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    revision: int
    def __init__(self, epoch: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class SnapshotAck(_message.Message):
    __slots__ = ("have", "rejected")
    HAVE_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    have: SnapshotVersion
    rejected: str
    def __init__(self, have: _Optional[_Union[SnapshotVersion, _Mapping]] = ..., rejected: _Optional[str] = ...) -> None: ...

class SnapshotEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class SnapshotUpdate(_message.Message):
    __slots__ = ("version", "base", "entries", "removed", "digest", "ring_digest", "secrets")
    class SecretsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    version: SnapshotVersion
    base: SnapshotVersion
    entries: _containers.RepeatedCompositeFieldContainer[SnapshotEntry]
    removed: _containers.RepeatedScalarFieldContainer[str]
    digest: bytes
    ring_digest: bytes
    secrets: _containers.ScalarMap[str, bytes]
    def __init__(self, version: _Optional[_Union[SnapshotVersion, _Mapping]] = ..., base: _Optional[_Union[SnapshotVersion, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[SnapshotEntry, _Mapping]]] = ..., removed: _Optional[_Iterable[str]] = ..., digest: _Optional[bytes] = ..., ring_digest: _Optional[bytes] = ..., secrets: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class InstanceLoad(_message.Message):
    __slots__ = ("instance", "in_flight", "queued", "slots")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    in_flight: int
    queued: int
    slots: int
    def __init__(self, instance: _Optional[str] = ..., in_flight: _Optional[int] = ..., queued: _Optional[int] = ..., slots: _Optional[int] = ...) -> None: ...

class BackendLoad(_message.Message):
    __slots__ = ("route", "backend", "requests", "errors", "stream_errors", "ttft_buckets", "ttft_seconds", "tokens", "generating_seconds")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    STREAM_ERRORS_FIELD_NUMBER: _ClassVar[int]
    TTFT_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    TTFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    route: str
    backend: str
    requests: int
    errors: int
    stream_errors: int
    ttft_buckets: _containers.RepeatedScalarFieldContainer[int]
    ttft_seconds: float
    tokens: int
    generating_seconds: float
    def __init__(self, route: _Optional[str] = ..., backend: _Optional[str] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., stream_errors: _Optional[int] = ..., ttft_buckets: _Optional[_Iterable[int]] = ..., ttft_seconds: _Optional[float] = ..., tokens: _Optional[int] = ..., generating_seconds: _Optional[float] = ...) -> None: ...

class ProbeResult(_message.Message):
    __slots__ = ("rollout", "round", "instance", "passed", "detail")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    round: int
    instance: str
    passed: bool
    detail: str
    def __init__(self, rollout: _Optional[str] = ..., round: _Optional[int] = ..., instance: _Optional[str] = ..., passed: _Optional[bool] = ..., detail: _Optional[str] = ...) -> None: ...

class SilentPeer(_message.Message):
    __slots__ = ("node", "since_unix")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_FIELD_NUMBER: _ClassVar[int]
    node: str
    since_unix: int
    def __init__(self, node: _Optional[str] = ..., since_unix: _Optional[int] = ...) -> None: ...

class ScaledModelLoad(_message.Message):
    __slots__ = ("model", "asked", "ttft_buckets", "ttft_seconds")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    TTFT_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    TTFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    asked: int
    ttft_buckets: _containers.RepeatedScalarFieldContainer[int]
    ttft_seconds: float
    def __init__(self, model: _Optional[str] = ..., asked: _Optional[int] = ..., ttft_buckets: _Optional[_Iterable[int]] = ..., ttft_seconds: _Optional[float] = ...) -> None: ...

class LoadReport(_message.Message):
    __slots__ = ("instances", "backends", "probes", "began_unix_ms", "in_flight", "snapshot", "silent_peers", "clients_used_unix", "trusts", "health", "gauges", "golden", "now_unix", "scaled_models", "version", "speaks", "models")
    class ClientsUsedUnixEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class SpeaksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SILENT_PEERS_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_USED_UNIX_FIELD_NUMBER: _ClassVar[int]
    TRUSTS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_FIELD_NUMBER: _ClassVar[int]
    SCALED_MODELS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SPEAKS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[InstanceLoad]
    backends: _containers.RepeatedCompositeFieldContainer[BackendLoad]
    probes: _containers.RepeatedCompositeFieldContainer[ProbeResult]
    began_unix_ms: int
    in_flight: int
    snapshot: SnapshotVersion
    silent_peers: _containers.RepeatedCompositeFieldContainer[SilentPeer]
    clients_used_unix: _containers.ScalarMap[str, int]
    trusts: _containers.RepeatedScalarFieldContainer[str]
    health: _containers.RepeatedCompositeFieldContainer[_health_pb2.InstanceHealth]
    gauges: _containers.RepeatedCompositeFieldContainer[_health_pb2.Gauge]
    golden: _containers.RepeatedCompositeFieldContainer[_health_pb2.GoldenAnswer]
    now_unix: float
    scaled_models: _containers.RepeatedCompositeFieldContainer[ScaledModelLoad]
    version: str
    speaks: _containers.ScalarMap[str, int]
    models: _containers.RepeatedCompositeFieldContainer[_console_pb2.ModelLoad]
    def __init__(self, instances: _Optional[_Iterable[_Union[InstanceLoad, _Mapping]]] = ..., backends: _Optional[_Iterable[_Union[BackendLoad, _Mapping]]] = ..., probes: _Optional[_Iterable[_Union[ProbeResult, _Mapping]]] = ..., began_unix_ms: _Optional[int] = ..., in_flight: _Optional[int] = ..., snapshot: _Optional[_Union[SnapshotVersion, _Mapping]] = ..., silent_peers: _Optional[_Iterable[_Union[SilentPeer, _Mapping]]] = ..., clients_used_unix: _Optional[_Mapping[str, int]] = ..., trusts: _Optional[_Iterable[str]] = ..., health: _Optional[_Iterable[_Union[_health_pb2.InstanceHealth, _Mapping]]] = ..., gauges: _Optional[_Iterable[_Union[_health_pb2.Gauge, _Mapping]]] = ..., golden: _Optional[_Iterable[_Union[_health_pb2.GoldenAnswer, _Mapping]]] = ..., now_unix: _Optional[float] = ..., scaled_models: _Optional[_Iterable[_Union[ScaledModelLoad, _Mapping]]] = ..., version: _Optional[str] = ..., speaks: _Optional[_Mapping[str, int]] = ..., models: _Optional[_Iterable[_Union[_console_pb2.ModelLoad, _Mapping]]] = ...) -> None: ...

class LoadReportSummary(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("ttl_seconds", "uses", "node_name", "labels", "dns_names")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DNS_NAMES_FIELD_NUMBER: _ClassVar[int]
    ttl_seconds: int
    uses: int
    node_name: str
    labels: _containers.ScalarMap[str, str]
    dns_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ttl_seconds: _Optional[int] = ..., uses: _Optional[int] = ..., node_name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., dns_names: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("token", "id", "expires_unix")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_FIELD_NUMBER: _ClassVar[int]
    token: str
    id: str
    expires_unix: int
    def __init__(self, token: _Optional[str] = ..., id: _Optional[str] = ..., expires_unix: _Optional[int] = ...) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TokenInfo(_message.Message):
    __slots__ = ("id", "expires_unix", "uses_left", "node_name", "labels", "created_by", "dns_names")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_FIELD_NUMBER: _ClassVar[int]
    USES_LEFT_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    DNS_NAMES_FIELD_NUMBER: _ClassVar[int]
    id: str
    expires_unix: int
    uses_left: int
    node_name: str
    labels: _containers.ScalarMap[str, str]
    created_by: str
    dns_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., expires_unix: _Optional[int] = ..., uses_left: _Optional[int] = ..., node_name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., created_by: _Optional[str] = ..., dns_names: _Optional[_Iterable[str]] = ...) -> None: ...

class ListTokensResponse(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[TokenInfo]
    def __init__(self, tokens: _Optional[_Iterable[_Union[TokenInfo, _Mapping]]] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RevokeTokenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConfigFile(_message.Message):
    __slots__ = ("name", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("files", "prune")
    FILES_FIELD_NUMBER: _ClassVar[int]
    PRUNE_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[ConfigFile]
    prune: bool
    def __init__(self, files: _Optional[_Iterable[_Union[ConfigFile, _Mapping]]] = ..., prune: _Optional[bool] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("file", "line", "path", "message")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    path: str
    message: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., path: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ApplyResponse(_message.Message):
    __slots__ = ("revision", "changed", "faults", "removed", "warnings")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    changed: _containers.RepeatedScalarFieldContainer[str]
    faults: _containers.RepeatedCompositeFieldContainer[Fault]
    removed: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, revision: _Optional[int] = ..., changed: _Optional[_Iterable[str]] = ..., faults: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., removed: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class DiffResponse(_message.Message):
    __slots__ = ("unified_diff", "faults", "warnings")
    UNIFIED_DIFF_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    unified_diff: str
    faults: _containers.RepeatedCompositeFieldContainer[Fault]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, unified_diff: _Optional[str] = ..., faults: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class GetConfigRequest(_message.Message):
    __slots__ = ("kind", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ConfigDocument(_message.Message):
    __slots__ = ("kind", "name", "yaml", "revision")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    YAML_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    yaml: str
    revision: int
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., yaml: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class GetConfigResponse(_message.Message):
    __slots__ = ("documents",)
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[ConfigDocument]
    def __init__(self, documents: _Optional[_Iterable[_Union[ConfigDocument, _Mapping]]] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class Revision(_message.Message):
    __slots__ = ("number", "author", "applied_unix", "changed", "unified_diff", "restores")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    APPLIED_UNIX_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    UNIFIED_DIFF_FIELD_NUMBER: _ClassVar[int]
    RESTORES_FIELD_NUMBER: _ClassVar[int]
    number: int
    author: str
    applied_unix: int
    changed: _containers.RepeatedScalarFieldContainer[str]
    unified_diff: str
    restores: int
    def __init__(self, number: _Optional[int] = ..., author: _Optional[str] = ..., applied_unix: _Optional[int] = ..., changed: _Optional[_Iterable[str]] = ..., unified_diff: _Optional[str] = ..., restores: _Optional[int] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("revisions",)
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.RepeatedCompositeFieldContainer[Revision]
    def __init__(self, revisions: _Optional[_Iterable[_Union[Revision, _Mapping]]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("node_name", "drained")
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    node_name: str
    drained: bool
    def __init__(self, node_name: _Optional[str] = ..., drained: _Optional[bool] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("node_name",)
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    node_name: str
    def __init__(self, node_name: _Optional[str] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RolloutsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RolloutsResponse(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[RolloutStatus]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[RolloutStatus, _Mapping]]] = ...) -> None: ...

class CommandRolloutRequest(_message.Message):
    __slots__ = ("name", "verb")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    name: str
    verb: str
    def __init__(self, name: _Optional[str] = ..., verb: _Optional[str] = ...) -> None: ...

class RolloutEvent(_message.Message):
    __slots__ = ("at_unix", "what")
    AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    at_unix: int
    what: str
    def __init__(self, at_unix: _Optional[int] = ..., what: _Optional[str] = ...) -> None: ...

class RolloutSide(_message.Message):
    __slots__ = ("backend", "share", "requests", "error_rate", "stream_error_rate", "ttft_p50", "ttft_p95", "tokens_per_second")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    STREAM_ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    TTFT_P50_FIELD_NUMBER: _ClassVar[int]
    TTFT_P95_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    backend: str
    share: float
    requests: int
    error_rate: float
    stream_error_rate: float
    ttft_p50: float
    ttft_p95: float
    tokens_per_second: float
    def __init__(self, backend: _Optional[str] = ..., share: _Optional[float] = ..., requests: _Optional[int] = ..., error_rate: _Optional[float] = ..., stream_error_rate: _Optional[float] = ..., ttft_p50: _Optional[float] = ..., ttft_p95: _Optional[float] = ..., tokens_per_second: _Optional[float] = ...) -> None: ...

class RolloutStatus(_message.Message):
    __slots__ = ("name", "route", "phase", "step", "steps", "elapsed_seconds", "hold_seconds", "reason", "stable", "canary", "events")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HOLD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    route: str
    phase: str
    step: int
    steps: int
    elapsed_seconds: float
    hold_seconds: float
    reason: str
    stable: RolloutSide
    canary: RolloutSide
    events: _containers.RepeatedCompositeFieldContainer[RolloutEvent]
    def __init__(self, name: _Optional[str] = ..., route: _Optional[str] = ..., phase: _Optional[str] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., elapsed_seconds: _Optional[float] = ..., hold_seconds: _Optional[float] = ..., reason: _Optional[str] = ..., stable: _Optional[_Union[RolloutSide, _Mapping]] = ..., canary: _Optional[_Union[RolloutSide, _Mapping]] = ..., events: _Optional[_Iterable[_Union[RolloutEvent, _Mapping]]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("name", "state", "peer_address", "instances", "certificate_expires_unix", "acknowledged", "rejected", "in_flight", "reports", "safe_to_stop", "version", "began_unix", "heard_unix", "models", "silent_peers", "speaks")
    class SpeaksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_UNIX_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    SAFE_TO_STOP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_FIELD_NUMBER: _ClassVar[int]
    HEARD_UNIX_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    SILENT_PEERS_FIELD_NUMBER: _ClassVar[int]
    SPEAKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    peer_address: str
    instances: _containers.RepeatedScalarFieldContainer[str]
    certificate_expires_unix: int
    acknowledged: SnapshotVersion
    rejected: str
    in_flight: int
    reports: bool
    safe_to_stop: bool
    version: str
    began_unix: int
    heard_unix: int
    models: _containers.RepeatedScalarFieldContainer[str]
    silent_peers: _containers.RepeatedCompositeFieldContainer[SilentPeer]
    speaks: _containers.ScalarMap[str, int]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., peer_address: _Optional[str] = ..., instances: _Optional[_Iterable[str]] = ..., certificate_expires_unix: _Optional[int] = ..., acknowledged: _Optional[_Union[SnapshotVersion, _Mapping]] = ..., rejected: _Optional[str] = ..., in_flight: _Optional[int] = ..., reports: _Optional[bool] = ..., safe_to_stop: _Optional[bool] = ..., version: _Optional[str] = ..., began_unix: _Optional[int] = ..., heard_unix: _Optional[int] = ..., models: _Optional[_Iterable[str]] = ..., silent_peers: _Optional[_Iterable[_Union[SilentPeer, _Mapping]]] = ..., speaks: _Optional[_Mapping[str, int]] = ...) -> None: ...

class CertificateLife(_message.Message):
    __slots__ = ("kind", "name", "begins_unix", "ends_unix")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BEGINS_UNIX_FIELD_NUMBER: _ClassVar[int]
    ENDS_UNIX_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    begins_unix: int
    ends_unix: int
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., begins_unix: _Optional[int] = ..., ends_unix: _Optional[int] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("certificates", "trust_domain", "version", "nodes", "leader", "store_fault", "concerns", "registry", "registry_version", "leader_name", "leader_address", "now_unix", "speaks")
    class SpeaksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    STORE_FAULT_FIELD_NUMBER: _ClassVar[int]
    CONCERNS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEADER_NAME_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_FIELD_NUMBER: _ClassVar[int]
    SPEAKS_FIELD_NUMBER: _ClassVar[int]
    certificates: _containers.RepeatedCompositeFieldContainer[CertificateLife]
    trust_domain: str
    version: SnapshotVersion
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    leader: bool
    store_fault: str
    concerns: _containers.RepeatedScalarFieldContainer[str]
    registry: str
    registry_version: str
    leader_name: str
    leader_address: str
    now_unix: int
    speaks: _containers.ScalarMap[str, int]
    def __init__(self, certificates: _Optional[_Iterable[_Union[CertificateLife, _Mapping]]] = ..., trust_domain: _Optional[str] = ..., version: _Optional[_Union[SnapshotVersion, _Mapping]] = ..., nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., leader: _Optional[bool] = ..., store_fault: _Optional[str] = ..., concerns: _Optional[_Iterable[str]] = ..., registry: _Optional[str] = ..., registry_version: _Optional[str] = ..., leader_name: _Optional[str] = ..., leader_address: _Optional[str] = ..., now_unix: _Optional[int] = ..., speaks: _Optional[_Mapping[str, int]] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("accept_store",)
    ACCEPT_STORE_FIELD_NUMBER: _ClassVar[int]
    accept_store: bool
    def __init__(self, accept_store: _Optional[bool] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("reason", "nodes", "documents", "revocations", "tokens", "removed")
    REASON_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    nodes: int
    documents: int
    revocations: int
    tokens: int
    removed: int
    def __init__(self, reason: _Optional[str] = ..., nodes: _Optional[int] = ..., documents: _Optional[int] = ..., revocations: _Optional[int] = ..., tokens: _Optional[int] = ..., removed: _Optional[int] = ...) -> None: ...
