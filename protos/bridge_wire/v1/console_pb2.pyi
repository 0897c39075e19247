from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SignInRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SignInResponse(_message.Message):
    __slots__ = ("code", "seconds", "admin_port", "registry", "role")
    CODE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_PORT_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    code: str
    seconds: int
    admin_port: int
    registry: str
    role: str
    def __init__(self, code: _Optional[str] = ..., seconds: _Optional[int] = ..., admin_port: _Optional[int] = ..., registry: _Optional[str] = ..., role: _Optional[str] = ...) -> None: ...

class LookRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LookResponse(_message.Message):
    __slots__ = ("picture",)
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    picture: bytes
    def __init__(self, picture: _Optional[bytes] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("after", "follow")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    after: int
    follow: bool
    def __init__(self, after: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class MeshEvent(_message.Message):
    __slots__ = ("id", "at_unix", "kind", "level", "subject", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: int
    at_unix: float
    kind: str
    level: str
    subject: str
    text: str
    def __init__(self, id: _Optional[int] = ..., at_unix: _Optional[float] = ..., kind: _Optional[str] = ..., level: _Optional[str] = ..., subject: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ModelLoad(_message.Message):
    __slots__ = ("model", "requests", "errors", "stream_errors", "ttft_buckets", "ttft_seconds", "tokens", "generating_seconds")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    STREAM_ERRORS_FIELD_NUMBER: _ClassVar[int]
    TTFT_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    TTFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    requests: int
    errors: int
    stream_errors: int
    ttft_buckets: _containers.RepeatedScalarFieldContainer[int]
    ttft_seconds: float
    tokens: int
    generating_seconds: float
    def __init__(self, model: _Optional[str] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., stream_errors: _Optional[int] = ..., ttft_buckets: _Optional[_Iterable[int]] = ..., ttft_seconds: _Optional[float] = ..., tokens: _Optional[int] = ..., generating_seconds: _Optional[float] = ...) -> None: ...
