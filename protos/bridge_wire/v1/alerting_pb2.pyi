from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AlertingStatusRequest(_message.Message):
    __slots__ = ("rule",)
    RULE_FIELD_NUMBER: _ClassVar[int]
    rule: str
    def __init__(self, rule: _Optional[str] = ...) -> None: ...

class AlertSeries(_message.Message):
    __slots__ = ("node", "instance", "of", "value", "limit", "state", "says", "beyond_seconds")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SAYS_FIELD_NUMBER: _ClassVar[int]
    BEYOND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    node: str
    instance: str
    of: str
    value: float
    limit: float
    state: str
    says: str
    beyond_seconds: float
    def __init__(self, node: _Optional[str] = ..., instance: _Optional[str] = ..., of: _Optional[str] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., state: _Optional[str] = ..., says: _Optional[str] = ..., beyond_seconds: _Optional[float] = ...) -> None: ...

class AlertRuleStatus(_message.Message):
    __slots__ = ("name", "figure", "threshold", "lasting_seconds", "severity", "paused", "watched", "raised", "series")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIGURE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LASTING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    RAISED_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    figure: str
    threshold: str
    lasting_seconds: float
    severity: str
    paused: bool
    watched: int
    raised: int
    series: _containers.RepeatedCompositeFieldContainer[AlertSeries]
    def __init__(self, name: _Optional[str] = ..., figure: _Optional[str] = ..., threshold: _Optional[str] = ..., lasting_seconds: _Optional[float] = ..., severity: _Optional[str] = ..., paused: _Optional[bool] = ..., watched: _Optional[int] = ..., raised: _Optional[int] = ..., series: _Optional[_Iterable[_Union[AlertSeries, _Mapping]]] = ...) -> None: ...

class AlertReceiverStatus(_message.Message):
    __slots__ = ("name", "type", "where", "delivered", "failed", "waiting", "dropped", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    where: str
    delivered: int
    failed: int
    waiting: int
    dropped: int
    reason: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., where: _Optional[str] = ..., delivered: _Optional[int] = ..., failed: _Optional[int] = ..., waiting: _Optional[int] = ..., dropped: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class AlertingStatusResponse(_message.Message):
    __slots__ = ("rules", "receivers")
    RULES_FIELD_NUMBER: _ClassVar[int]
    RECEIVERS_FIELD_NUMBER: _ClassVar[int]
    rules: _containers.RepeatedCompositeFieldContainer[AlertRuleStatus]
    receivers: _containers.RepeatedCompositeFieldContainer[AlertReceiverStatus]
    def __init__(self, rules: _Optional[_Iterable[_Union[AlertRuleStatus, _Mapping]]] = ..., receivers: _Optional[_Iterable[_Union[AlertReceiverStatus, _Mapping]]] = ...) -> None: ...

class TryReceiverRequest(_message.Message):
    __slots__ = ("receiver",)
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    receiver: str
    def __init__(self, receiver: _Optional[str] = ...) -> None: ...

class TryReceiverResponse(_message.Message):
    __slots__ = ("taken", "status", "says")
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SAYS_FIELD_NUMBER: _ClassVar[int]
    taken: bool
    status: int
    says: str
    def __init__(self, taken: _Optional[bool] = ..., status: _Optional[int] = ..., says: _Optional[str] = ...) -> None: ...

class SilenceRequest(_message.Message):
    __slots__ = ("matchers", "seconds", "reason")
    MATCHERS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    matchers: _containers.RepeatedScalarFieldContainer[str]
    seconds: float
    reason: str
    def __init__(self, matchers: _Optional[_Iterable[str]] = ..., seconds: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class AlertSilence(_message.Message):
    __slots__ = ("id", "matchers", "by", "reason", "made_unix", "ends_unix", "silences")
    ID_FIELD_NUMBER: _ClassVar[int]
    MATCHERS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MADE_UNIX_FIELD_NUMBER: _ClassVar[int]
    ENDS_UNIX_FIELD_NUMBER: _ClassVar[int]
    SILENCES_FIELD_NUMBER: _ClassVar[int]
    id: str
    matchers: _containers.RepeatedScalarFieldContainer[str]
    by: str
    reason: str
    made_unix: float
    ends_unix: float
    silences: int
    def __init__(self, id: _Optional[str] = ..., matchers: _Optional[_Iterable[str]] = ..., by: _Optional[str] = ..., reason: _Optional[str] = ..., made_unix: _Optional[float] = ..., ends_unix: _Optional[float] = ..., silences: _Optional[int] = ...) -> None: ...

class SilenceResponse(_message.Message):
    __slots__ = ("silence",)
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    silence: AlertSilence
    def __init__(self, silence: _Optional[_Union[AlertSilence, _Mapping]] = ...) -> None: ...

class SilencesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SilencesResponse(_message.Message):
    __slots__ = ("silences",)
    SILENCES_FIELD_NUMBER: _ClassVar[int]
    silences: _containers.RepeatedCompositeFieldContainer[AlertSilence]
    def __init__(self, silences: _Optional[_Iterable[_Union[AlertSilence, _Mapping]]] = ...) -> None: ...

class UnsilenceRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class UnsilenceResponse(_message.Message):
    __slots__ = ("silence",)
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    silence: AlertSilence
    def __init__(self, silence: _Optional[_Union[AlertSilence, _Mapping]] = ...) -> None: ...
