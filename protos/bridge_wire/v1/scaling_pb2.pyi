from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AutoscalingRequest(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: str
    def __init__(self, policy: _Optional[str] = ...) -> None: ...

class AutoscalingResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[AutoscaleStatus]
    def __init__(self, policies: _Optional[_Iterable[_Union[AutoscaleStatus, _Mapping]]] = ...) -> None: ...

class ScaledInstance(_message.Message):
    __slots__ = ("instance", "part", "way", "slots", "in_flight", "queued", "loaded", "available", "known", "node_class", "since_unix")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    NODE_CLASS_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_FIELD_NUMBER: _ClassVar[int]
    instance: str
    part: str
    way: str
    slots: int
    in_flight: int
    queued: int
    loaded: bool
    available: bool
    known: bool
    node_class: str
    since_unix: int
    def __init__(self, instance: _Optional[str] = ..., part: _Optional[str] = ..., way: _Optional[str] = ..., slots: _Optional[int] = ..., in_flight: _Optional[int] = ..., queued: _Optional[int] = ..., loaded: _Optional[bool] = ..., available: _Optional[bool] = ..., known: _Optional[bool] = ..., node_class: _Optional[str] = ..., since_unix: _Optional[int] = ...) -> None: ...

class AutoscaleStatus(_message.Message):
    __slots__ = ("policy", "model", "min", "max", "wanted", "unmet", "floor", "needed_slots", "queued", "target", "reason", "paused", "lead_seconds", "instances", "last_out_unix", "last_in_unix")
    class LeadSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    UNMET_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    NEEDED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    LEAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    LAST_OUT_UNIX_FIELD_NUMBER: _ClassVar[int]
    LAST_IN_UNIX_FIELD_NUMBER: _ClassVar[int]
    policy: str
    model: str
    min: int
    max: int
    wanted: int
    unmet: int
    floor: int
    needed_slots: float
    queued: float
    target: float
    reason: str
    paused: bool
    lead_seconds: _containers.ScalarMap[str, float]
    instances: _containers.RepeatedCompositeFieldContainer[ScaledInstance]
    last_out_unix: int
    last_in_unix: int
    def __init__(self, policy: _Optional[str] = ..., model: _Optional[str] = ..., min: _Optional[int] = ..., max: _Optional[int] = ..., wanted: _Optional[int] = ..., unmet: _Optional[int] = ..., floor: _Optional[int] = ..., needed_slots: _Optional[float] = ..., queued: _Optional[float] = ..., target: _Optional[float] = ..., reason: _Optional[str] = ..., paused: _Optional[bool] = ..., lead_seconds: _Optional[_Mapping[str, float]] = ..., instances: _Optional[_Iterable[_Union[ScaledInstance, _Mapping]]] = ..., last_out_unix: _Optional[int] = ..., last_in_unix: _Optional[int] = ...) -> None: ...
