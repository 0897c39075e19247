from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HealthReason(_message.Message):
    __slots__ = ("aspect", "code", "level", "text", "since_unix")
    ASPECT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_FIELD_NUMBER: _ClassVar[int]
    aspect: str
    code: str
    level: str
    text: str
    since_unix: float
    def __init__(self, aspect: _Optional[str] = ..., code: _Optional[str] = ..., level: _Optional[str] = ..., text: _Optional[str] = ..., since_unix: _Optional[float] = ...) -> None: ...

class InstanceCounts(_message.Message):
    __slots__ = ("requests", "errors", "stream_errors", "ttft_buckets", "ttft_seconds", "tokens", "generating_seconds")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    STREAM_ERRORS_FIELD_NUMBER: _ClassVar[int]
    TTFT_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    TTFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    requests: int
    errors: int
    stream_errors: int
    ttft_buckets: _containers.RepeatedScalarFieldContainer[int]
    ttft_seconds: float
    tokens: int
    generating_seconds: float
    def __init__(self, requests: _Optional[int] = ..., errors: _Optional[int] = ..., stream_errors: _Optional[int] = ..., ttft_buckets: _Optional[_Iterable[int]] = ..., ttft_seconds: _Optional[float] = ..., tokens: _Optional[int] = ..., generating_seconds: _Optional[float] = ...) -> None: ...

class InstanceHealth(_message.Message):
    __slots__ = ("instance", "reasons", "counts")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    reasons: _containers.RepeatedCompositeFieldContainer[HealthReason]
    counts: InstanceCounts
    def __init__(self, instance: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[HealthReason, _Mapping]]] = ..., counts: _Optional[_Union[InstanceCounts, _Mapping]] = ...) -> None: ...

class Gauge(_message.Message):
    __slots__ = ("name", "of", "value", "limit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    of: str
    value: float
    limit: float
    def __init__(self, name: _Optional[str] = ..., of: _Optional[str] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ...) -> None: ...

class GoldenToken(_message.Message):
    __slots__ = ("text", "margin")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    text: str
    margin: float
    def __init__(self, text: _Optional[str] = ..., margin: _Optional[float] = ...) -> None: ...

class GoldenAnswer(_message.Message):
    __slots__ = ("instance", "model", "round", "question", "tokens", "fault", "took_seconds")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    TOOK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    model: str
    round: int
    question: int
    tokens: _containers.RepeatedCompositeFieldContainer[GoldenToken]
    fault: str
    took_seconds: float
    def __init__(self, instance: _Optional[str] = ..., model: _Optional[str] = ..., round: _Optional[int] = ..., question: _Optional[int] = ..., tokens: _Optional[_Iterable[_Union[GoldenToken, _Mapping]]] = ..., fault: _Optional[str] = ..., took_seconds: _Optional[float] = ...) -> None: ...

class InstancesRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class InstanceVerdict(_message.Message):
    __slots__ = ("instance", "node", "level", "out", "reasons", "compared")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    OUT_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    instance: str
    node: str
    level: str
    out: bool
    reasons: _containers.RepeatedCompositeFieldContainer[HealthReason]
    compared: str
    def __init__(self, instance: _Optional[str] = ..., node: _Optional[str] = ..., level: _Optional[str] = ..., out: _Optional[bool] = ..., reasons: _Optional[_Iterable[_Union[HealthReason, _Mapping]]] = ..., compared: _Optional[str] = ...) -> None: ...

class NodeGauges(_message.Message):
    __slots__ = ("node", "gauges")
    NODE_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    node: str
    gauges: _containers.RepeatedCompositeFieldContainer[Gauge]
    def __init__(self, node: _Optional[str] = ..., gauges: _Optional[_Iterable[_Union[Gauge, _Mapping]]] = ...) -> None: ...

class InstancesResponse(_message.Message):
    __slots__ = ("instances", "nodes")
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[InstanceVerdict]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeGauges]
    def __init__(self, instances: _Optional[_Iterable[_Union[InstanceVerdict, _Mapping]]] = ..., nodes: _Optional[_Iterable[_Union[NodeGauges, _Mapping]]] = ...) -> None: ...

class AlertsRequest(_message.Message):
    __slots__ = ("past",)
    PAST_FIELD_NUMBER: _ClassVar[int]
    past: bool
    def __init__(self, past: _Optional[bool] = ...) -> None: ...

class Alert(_message.Message):
    __slots__ = ("id", "name", "severity", "node", "instance", "summary", "since_unix", "ended_unix", "command", "well", "silenced")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    WELL_FIELD_NUMBER: _ClassVar[int]
    SILENCED_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    severity: str
    node: str
    instance: str
    summary: str
    since_unix: float
    ended_unix: float
    command: str
    well: str
    silenced: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., severity: _Optional[str] = ..., node: _Optional[str] = ..., instance: _Optional[str] = ..., summary: _Optional[str] = ..., since_unix: _Optional[float] = ..., ended_unix: _Optional[float] = ..., command: _Optional[str] = ..., well: _Optional[str] = ..., silenced: _Optional[str] = ...) -> None: ...

class AlertsResponse(_message.Message):
    __slots__ = ("alerts",)
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    alerts: _containers.RepeatedCompositeFieldContainer[Alert]
    def __init__(self, alerts: _Optional[_Iterable[_Union[Alert, _Mapping]]] = ...) -> None: ...
