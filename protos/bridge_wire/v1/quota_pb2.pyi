from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Bucket(_message.Message):
    __slots__ = ("quota", "of", "begins")
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    BEGINS_FIELD_NUMBER: _ClassVar[int]
    quota: str
    of: str
    begins: int
    def __init__(self, quota: _Optional[str] = ..., of: _Optional[str] = ..., begins: _Optional[int] = ...) -> None: ...

class Amounts(_message.Message):
    __slots__ = ("requests", "prompt_tokens", "output_tokens", "concurrency")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    requests: int
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    def __init__(self, requests: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., concurrency: _Optional[int] = ...) -> None: ...

class CellUse(_message.Message):
    __slots__ = ("bucket", "used", "wanted")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    bucket: Bucket
    used: Amounts
    wanted: Amounts
    def __init__(self, bucket: _Optional[_Union[Bucket, _Mapping]] = ..., used: _Optional[_Union[Amounts, _Mapping]] = ..., wanted: _Optional[_Union[Amounts, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("cells", "uses", "began_unix_ms")
    CELLS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedCompositeFieldContainer[CellUse]
    uses: _containers.RepeatedCompositeFieldContainer[UseOfModel]
    began_unix_ms: int
    def __init__(self, cells: _Optional[_Iterable[_Union[CellUse, _Mapping]]] = ..., uses: _Optional[_Iterable[_Union[UseOfModel, _Mapping]]] = ..., began_unix_ms: _Optional[int] = ...) -> None: ...

class CellGrant(_message.Message):
    __slots__ = ("bucket", "granted", "left")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    bucket: Bucket
    granted: Amounts
    left: Amounts
    def __init__(self, bucket: _Optional[_Union[Bucket, _Mapping]] = ..., granted: _Optional[_Union[Amounts, _Mapping]] = ..., left: _Optional[_Union[Amounts, _Mapping]] = ...) -> None: ...

class CellGrants(_message.Message):
    __slots__ = ("cells",)
    CELLS_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedCompositeFieldContainer[CellGrant]
    def __init__(self, cells: _Optional[_Iterable[_Union[CellGrant, _Mapping]]] = ...) -> None: ...

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
