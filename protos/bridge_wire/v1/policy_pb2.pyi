from bridge_wire.v1 import registry_pb2 as _registry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TestAccessRequest(_message.Message):
    __slots__ = ("subject", "action", "resource", "resource_kind", "facts", "files", "groups")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_KIND_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    subject: str
    action: str
    resource: str
    resource_kind: str
    facts: _containers.ScalarMap[str, str]
    files: _containers.RepeatedCompositeFieldContainer[_registry_pb2.ConfigFile]
    groups: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, subject: _Optional[str] = ..., action: _Optional[str] = ..., resource: _Optional[str] = ..., resource_kind: _Optional[str] = ..., facts: _Optional[_Mapping[str, str]] = ..., files: _Optional[_Iterable[_Union[_registry_pb2.ConfigFile, _Mapping]]] = ..., groups: _Optional[_Iterable[str]] = ...) -> None: ...

class TestAccessResponse(_message.Message):
    __slots__ = ("allowed", "policy", "reason", "shadowed", "open")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHADOWED_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    policy: str
    reason: str
    shadowed: _containers.RepeatedScalarFieldContainer[str]
    open: bool
    def __init__(self, allowed: _Optional[bool] = ..., policy: _Optional[str] = ..., reason: _Optional[str] = ..., shadowed: _Optional[_Iterable[str]] = ..., open: _Optional[bool] = ...) -> None: ...
