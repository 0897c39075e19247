from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Resource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESOURCE_UNSPECIFIED: _ClassVar[Resource]
    REQUESTS: _ClassVar[Resource]
    PROMPT_TOKENS: _ClassVar[Resource]
    OUTPUT_TOKENS: _ClassVar[Resource]
    CONCURRENCY: _ClassVar[Resource]
RESOURCE_UNSPECIFIED: Resource
REQUESTS: Resource
PROMPT_TOKENS: Resource
OUTPUT_TOKENS: Resource
CONCURRENCY: Resource

class Bucket(_message.Message):
    __slots__ = ("quota", "of", "begins_unix_ms", "resource")
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    BEGINS_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    quota: str
    of: str
    begins_unix_ms: int
    resource: Resource
    def __init__(self, quota: _Optional[str] = ..., of: _Optional[str] = ..., begins_unix_ms: _Optional[int] = ..., resource: _Optional[_Union[Resource, str]] = ...) -> None: ...

class Cell(_message.Message):
    __slots__ = ("bucket", "used", "wanted", "limit")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    bucket: Bucket
    used: int
    wanted: int
    limit: int
    def __init__(self, bucket: _Optional[_Union[Bucket, _Mapping]] = ..., used: _Optional[int] = ..., wanted: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class UseOfModel(_message.Message):
    __slots__ = ("principal", "groups", "model", "day", "requests", "refused", "prompt_tokens", "output_tokens")
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    principal: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    model: str
    day: int
    requests: int
    refused: int
    prompt_tokens: int
    output_tokens: int
    def __init__(self, principal: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., model: _Optional[str] = ..., day: _Optional[int] = ..., requests: _Optional[int] = ..., refused: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ...) -> None: ...

class CellReport(_message.Message):
    __slots__ = ("sequence", "acknowledged", "began_unix_ms", "cells", "uses")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    acknowledged: int
    began_unix_ms: int
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    uses: _containers.RepeatedCompositeFieldContainer[UseOfModel]
    def __init__(self, sequence: _Optional[int] = ..., acknowledged: _Optional[int] = ..., began_unix_ms: _Optional[int] = ..., cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., uses: _Optional[_Iterable[_Union[UseOfModel, _Mapping]]] = ...) -> None: ...

class CellGrant(_message.Message):
    __slots__ = ("bucket", "limit", "others")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    bucket: Bucket
    limit: int
    others: int
    def __init__(self, bucket: _Optional[_Union[Bucket, _Mapping]] = ..., limit: _Optional[int] = ..., others: _Optional[int] = ...) -> None: ...

class CellGrants(_message.Message):
    __slots__ = ("sequence", "answered", "cells")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    answered: int
    cells: _containers.RepeatedCompositeFieldContainer[CellGrant]
    def __init__(self, sequence: _Optional[int] = ..., answered: _Optional[int] = ..., cells: _Optional[_Iterable[_Union[CellGrant, _Mapping]]] = ...) -> None: ...

class UsageRequest(_message.Message):
    __slots__ = ("principal", "group", "model", "from_day", "to_day")
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    principal: str
    group: str
    model: str
    from_day: int
    to_day: int
    def __init__(self, principal: _Optional[str] = ..., group: _Optional[str] = ..., model: _Optional[str] = ..., from_day: _Optional[int] = ..., to_day: _Optional[int] = ...) -> None: ...

class UsageResponse(_message.Message):
    __slots__ = ("uses",)
    USES_FIELD_NUMBER: _ClassVar[int]
    uses: _containers.RepeatedCompositeFieldContainer[UseOfModel]
    def __init__(self, uses: _Optional[_Iterable[_Union[UseOfModel, _Mapping]]] = ...) -> None: ...

class QuotaUseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BucketUse(_message.Message):
    __slots__ = ("bucket", "amount", "used", "nodes", "shadow", "window_ms")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    bucket: Bucket
    amount: int
    used: int
    nodes: int
    shadow: bool
    window_ms: int
    def __init__(self, bucket: _Optional[_Union[Bucket, _Mapping]] = ..., amount: _Optional[int] = ..., used: _Optional[int] = ..., nodes: _Optional[int] = ..., shadow: _Optional[bool] = ..., window_ms: _Optional[int] = ...) -> None: ...

class QuotaUseResponse(_message.Message):
    __slots__ = ("buckets",)
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    buckets: _containers.RepeatedCompositeFieldContainer[BucketUse]
    def __init__(self, buckets: _Optional[_Iterable[_Union[BucketUse, _Mapping]]] = ...) -> None: ...
